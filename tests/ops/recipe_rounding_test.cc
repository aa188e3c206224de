// SPDX-License-Identifier: Apache-2.0
// Where the oracle rounds: with identity matrices for weights a layer does nothing but round its activations, once
// before GEMM 1 and once before GEMM 2, so its output must be what the quantiser makes of x, twice.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "moesaic/quantize.h"
#include "tables/recipe_table.h"

namespace moesaic {
namespace {

constexpr int kSize = 128;  // hidden and intermediate
constexpr int kTokens = 5;

// x [kTokens, kSize] quantised and decoded by public formats alone.
std::vector<double> rounded(const std::string& recipe, const std::vector<double>& x, float static_scale) {
  const std::optional<QuantSpec> spec = activation_spec(recipe, static_scale != 0.0f);
  std::vector<double> result(x.size());
  if (!spec) {
    for (std::size_t i = 0; i < x.size(); ++i) result[i] = cpu::round_to(x[i], tables::get_recipe(recipe).io);
    return result;
  }
  const QuantSizes sizes = quant_sizes(*spec, kTokens, kSize);
  const std::vector<float> values(x.begin(), x.end());
  std::vector<std::uint8_t> codes(sizes.code_bytes), scales(sizes.scale_bytes);
  std::vector<float> row_scales(kTokens), decoded(x.size());
  const float global = spec->format == QuantFormat::kNvfp4 ? 1.0f / static_scale : static_scale;
  QuantizeRun run;
  run.x = TensorView(values.data(), DType::kF32, {kTokens, kSize});
  run.codes = TensorView(codes.data(), DType::kU8, {kTokens, sizes.code_bytes / kTokens});
  run.scales = TensorView(scales.data(), DType::kU8, {sizes.scale_bytes});
  run.global_scale = TensorView(&global, DType::kF32, {1});
  run.row_scales = TensorView(row_scales.data(), DType::kF32, {kTokens});
  cpu::oracle_quantize(*spec, run, nullptr);
  run.x = TensorView(decoded.data(), DType::kF32, {kTokens, kSize});
  cpu::oracle_dequantize(*spec, run);
  return {decoded.begin(), decoded.end()};
}

struct IdentityLayer {
  MoeConfig config;
  std::vector<float> identity = std::vector<float>(kSize * kSize, 0.0f);
  OwnedWeights owned;

  IdentityLayer(const std::string& recipe, float input_scale, float down_scale) {
    config.hidden = config.intermediate = kSize;
    config.num_experts = config.top_k = 1;
    config.router = false;
    config.recipe = recipe;
    config.activation.kind = ActivationKind::kIdentity;
    for (int i = 0; i < kSize; ++i) identity[i * kSize + i] = 1.0f;
    ExpertWeights expert;
    expert.gate = expert.down = {identity.data(), DType::kF32, kSize, kSize, kSize, 1};
    MoeWeights weights;
    weights.experts = {expert};
    owned = convert_weights(config, weights);
    owned.weights.experts[0].input_scale = input_scale;
    owned.weights.experts[0].down_input_scale = down_scale;
  }

  std::vector<double> run(const std::vector<float>& x) const {
    const std::vector<std::int32_t> ids(kTokens, 0);
    const std::vector<float> ones(kTokens, 1.0f);
    std::vector<double> y(x.size(), NAN);
    MoeRun run;
    run.x = TensorView(x.data(), DType::kF32, {kTokens, kSize});
    run.out = TensorView(y.data(), DType::kF64, {kTokens, kSize});
    run.topk_ids = TensorView(ids.data(), DType::kI32, {kTokens, 1});
    run.topk_weights = TensorView(ones.data(), DType::kF32, {kTokens, 1});
    reference_moe(config, owned.weights, ReferenceMode::kOracle, run);
    return y;
  }
};

class RecipeRounding : public ::testing::TestWithParam<std::string> {};

TEST_P(RecipeRounding, ActivationsAreRoundedTwiceAndNothingElseIs) {
  for (const auto& [input_scale, down_scale] : {std::pair{0.0f, 0.0f}, std::pair{0.013f, 0.021f}}) {
    const IdentityLayer layer(GetParam(), input_scale, down_scale);
    std::mt19937 random(11);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> x(kTokens * kSize);
    for (float& value : x) value = normal(random);
    std::vector<double> wanted(x.begin(), x.end());
    for (double& value : wanted) value = cpu::round_to(value, tables::get_recipe(GetParam()).io);
    wanted = rounded(GetParam(), rounded(GetParam(), wanted, input_scale), down_scale);
    const std::vector<double> got = layer.run(x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      // An identity in int4 or fp4 is exact but for its scale's own rounding.
      ASSERT_NEAR(got[i], wanted[i], 1e-6 * std::fabs(wanted[i])) << i;
    }
  }
}

std::vector<std::string> recipes_with_exact_identity() {
  std::vector<std::string> names;
  for (const tables::RecipeRow& row : tables::kRecipeTable) {
    // int4 has no code for its own maximum: 1 becomes 7 / 7.5.
    if (row.weight.number != tables::Number::kInt4) names.push_back(row.name);
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Recipes, RecipeRounding, ::testing::ValuesIn(recipes_with_exact_identity()),
                         [](const auto& info) { return info.param; });

TEST(RecipeRounding, ALayerUsesTheLargestStaticScale) {
  IdentityLayer one("fp8_tensor", 0.02f, 0.04f);
  IdentityLayer two("fp8_tensor", 0.02f, 0.04f);
  two.config.num_experts = 2;
  two.owned.weights.experts.push_back(two.owned.weights.experts[0]);
  two.owned.weights.experts[0].input_scale = two.owned.weights.experts[0].down_input_scale = 0.01f;
  std::vector<float> x(kTokens * kSize);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.37f * static_cast<float>(i % 23) - 4.0f;
  EXPECT_EQ(one.run(x), two.run(x));
  // One expert without: every token has a scale of its own, and that shows.
  two.owned.weights.experts[0].input_scale = 0.0f;
  EXPECT_NE(one.run(x), two.run(x));
}

}  // namespace
}  // namespace moesaic
