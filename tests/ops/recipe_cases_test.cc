// SPDX-License-Identifier: Apache-2.0
// The cases that GPUs are held to: they cover what they should, are legal layers, and the CPU's fast path passes some
// of them, so that a case which fails on a GPU is the GPU's.
#include "support/recipe_cases.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "support/guarded_memory.h"
#include "support/pairwise.h"
#include "support/published_layer.h"

namespace moesaic::testing {
namespace {

TEST(Pairwise, EveryAllowedPairOccursAndNoOther) {
  const std::vector<int> levels = {3, 4, 2, 5};
  const auto forbidden = [](int a, int i, int b, int j) { return a == 1 && b == 3 && j > i + 1; };
  std::set<std::tuple<int, int, int, int>> seen;
  for (const std::vector<int>& row : pairwise_design(levels, forbidden)) {
    for (int a = 0; a < 4; ++a) {
      for (int b = a + 1; b < 4; ++b)
        seen.insert({a, row[static_cast<std::size_t>(a)], b, row[static_cast<std::size_t>(b)]});
    }
  }
  for (int a = 0; a < 4; ++a) {
    for (int b = a + 1; b < 4; ++b) {
      for (int i = 0; i < levels[static_cast<std::size_t>(a)]; ++i) {
        for (int j = 0; j < levels[static_cast<std::size_t>(b)]; ++j) {
          EXPECT_EQ(seen.count({a, i, b, j}) == 1, !forbidden(a, i, b, j)) << a << " " << i << " " << b << " " << j;
        }
      }
    }
  }
}

TEST(RecipeCases, CoverRecipesWithActivationsAndTokens) {
  std::set<std::pair<std::string, int>> activations, tokens;
  std::set<std::string> names;
  for (const RecipeCase& c : recipe_cases()) {
    activations.insert({c.recipe->name, static_cast<int>(c.activation.kind)});
    tokens.insert({c.recipe->name, c.tokens});
    EXPECT_TRUE(names.insert(c.name()).second) << c.name() << " occurs twice";
    EXPECT_LE(c.top_k, c.experts) << c.name();
  }
  EXPECT_EQ(activations.size(), 11u * tables::kNumRecipes);
  EXPECT_EQ(tokens.size(), 10u * tables::kNumRecipes);
}

CaseOutput run_on_cpu(const RecipeCase& c, const MoeConfig& config, const MoeWeights& weights, const CaseInput& input) {
  const FusedMoe moe = FusedMoe::create(config);
  GuardedMemory prepared(moe.prepared_bytes()), workspace(moe.workspace_bytes(c.tokens));
  moe.prepare(weights, prepared.data());
  const auto elements = static_cast<std::size_t>(c.tokens) * static_cast<std::size_t>(c.hidden);
  CaseOutput output;
  output.y = {c.out_type(), std::vector<unsigned char>(elements * dtype_size(c.out_type()), 0xff)};
  output.ids.assign(static_cast<std::size_t>(c.tokens * c.top_k), -1);
  output.weights.assign(output.ids.size(), 0.0f);
  MoeRun run;
  run.x = TensorView(input.x.bytes.data(), input.x.dtype, {c.tokens, c.hidden});
  run.router_logits = TensorView(input.logits.data(), DType::kF32, {c.tokens, c.experts});
  run.out = TensorView(output.y.bytes.data(), output.y.dtype, {c.tokens, c.hidden});
  run.topk_ids_out = TensorView(output.ids.data(), DType::kI32, {c.tokens, c.top_k});
  run.topk_weights_out = TensorView(output.weights.data(), DType::kF32, {c.tokens, c.top_k});
  run.prepared = prepared.data();
  run.workspace = workspace.data();
  run.workspace_bytes = workspace.size();
  moe.run(run);
  EXPECT_TRUE(prepared.intact() && workspace.intact());
  return output;
}

TEST(RecipeCases, FastPathIsRight) {
  const std::vector<RecipeCase> cases = recipe_cases();
  for (std::size_t i = 0; i < cases.size(); i += 8) {
    const RecipeCase& c = cases[i];
    SCOPED_TRACE(c.name());
    const cpu::RandomLayer layer = make_layer(c);
    const CaseInput input = make_input(c);
    expect_right(c, layer.config, layer.weights, input, run_on_cpu(c, layer.config, layer.weights, input));
  }
}

// What the GPU tier makes of published models, with sizes that a CPU can have.
TEST(RecipeCases, PublishedLayersOfSmallerSizesAreRight) {
  for (const auto& [name, format] : std::vector<std::pair<const char*, PublishedFormat>>{
           {"deepseek-v3", {"fp8_block", false}}, {"gpt-oss-120b", {"bf16_mxfp4", true}}}) {
    SCOPED_TRACE(name);
    tables::ModelRow model = tables::get_model(name);
    model.hidden = model.hidden / 320 * 32;
    model.intermediate = model.intermediate / 320 * 32;
    model.shared_intermediate = model.shared_intermediate / 320 * 32;
    model.num_experts = 16;
    PublishedLayer layer(model, format, 1);
    RecipeCase c;
    c.recipe = &tables::get_recipe(format.recipe);
    c.tokens = 200;
    c.hidden = model.hidden;
    c.experts = model.num_experts;
    c.top_k = model.top_k;
    CaseInput input = make_input(c);
    const CaseOutput output = run_on_cpu(c, layer.config, layer.weights, input);
    expect_right(c, layer.config, layer.weights, input, output);
    for (const ExpertWeights& expert : layer.weights.experts) {
      double sum = 0;
      for (std::int64_t row = 0; row < expert.up.rows; ++row) {
        for (std::int64_t col = 0; col < expert.up.cols; ++col) {
          const double value = cpu::matrix_element(expert.up, row, col);
          sum += value * value;
        }
      }
      EXPECT_NEAR(std::sqrt(sum / static_cast<double>(expert.up.rows)), 1.0, 0.4) << "size of a sum";
    }
  }
}

// The comparison itself: a wrong number, expert or rounding is seen.
TEST(RecipeCases, WrongResultsAreSeen) {
  const std::vector<RecipeCase> cases = recipe_cases();
  const auto found = std::find_if(cases.begin(), cases.end(), [](const RecipeCase& c) {
    return c.tokens == 33 && c.f32_out && c.recipe->name == std::string("bf16_mxfp4");
  });
  ASSERT_NE(found, cases.end());
  const cpu::RandomLayer layer = make_layer(*found);
  const CaseInput input = make_input(*found);
  const CaseOutput right = run_on_cpu(*found, layer.config, layer.weights, input);
  const auto fails = [&](auto change) {
    std::vector<float> y = to_floats(right.y);
    CaseOutput wrong = right;
    change(y, wrong);
    wrong.y = to_array(y, DType::kF32);
    ::testing::TestPartResultArray results;
    {
      const ::testing::ScopedFakeTestPartResultReporter reporter(
          ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ALL_THREADS, &results);
      expect_right(*found, layer.config, layer.weights, input, wrong);
    }
    return results.size() > 0;
  };
  EXPECT_FALSE(fails([](std::vector<float>&, CaseOutput&) {}));
  EXPECT_TRUE(fails([](std::vector<float>& y, CaseOutput&) { y[5] += 0.5f; }));
  EXPECT_TRUE(fails([](std::vector<float>& y, CaseOutput&) { y[7] = NAN; }));
  EXPECT_TRUE(fails([](std::vector<float>& y, CaseOutput&) { std::fill(y.begin(), y.end(), 0.0f); }));
  EXPECT_TRUE(fails([](std::vector<float>&, CaseOutput& o) { o.ids[0] = -1; }));
  EXPECT_TRUE(fails([](std::vector<float>& y, CaseOutput&) {
    for (float& v : y) v *= 1.01f;
  }));
}

}  // namespace
}  // namespace moesaic::testing
