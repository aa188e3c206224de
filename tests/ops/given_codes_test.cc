// SPDX-License-Identifier: Apache-2.0
// x that the caller has quantised: the same bits as from its numbers, on the oracle and on the CPU's fast path; what is
// refused.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "moesaic/quantize.h"
#include "support/dispatched_rows.h"
#include "support/expect_error.h"
#include "support/given_codes.h"
#include "support/guarded_memory.h"
#include "tables/kernel_table.h"

namespace moesaic {
namespace {

using testing::coded_rows;
using testing::CodedRows;
using testing::expect_error;
using testing::HostArray;
using testing::HostLayer;

constexpr int kHidden = 160, kTokens = 9;

MoeConfig config_of(const std::string& recipe) {
  MoeConfig c;
  c.recipe = recipe;
  // A ragged block of 128, whole ones of 32.
  c.hidden = kHidden, c.intermediate = 96, c.num_experts = 6, c.top_k = 2, c.max_tokens = 64;
  c.shared.intermediate = 32;
  return c;
}

/// A layer with weights of its recipe, and static scales of all experts where `static_scale` is not 0.
struct Layer {
  HostLayer host;
  OwnedWeights owned;

  Layer(std::mt19937& rng, const MoeConfig& config, float static_scale = 0.0f) {
    MoeConfig numbers = config;
    numbers.recipe = "bf16";
    numbers.shared.recipe.clear();
    host = testing::random_layer(rng, numbers, {.biases = true});
    host.config = config;
    owned = convert_weights(config, host.weights);
    for (ExpertWeights& expert : owned.weights.experts) expert.input_scale = expert.down_input_scale = static_scale;
    owned.weights.shared.input_scale = owned.weights.shared.down_input_scale = static_scale;
  }

  std::vector<float> fast(MoeRun run, std::int64_t outputs) const {
    const FusedMoe layer = FusedMoe::create(host.config);
    const bool dispatched = is_dispatched(run);
    const std::int64_t rows = outputs / host.config.hidden;
    testing::GuardedMemory prepared(layer.prepared_bytes()),
        workspace(dispatched ? layer.dispatched_workspace_bytes(rows) : layer.workspace_bytes(rows));
    layer.prepare(owned.weights, prepared.data());
    std::vector<float> y(static_cast<std::size_t>(outputs), std::nanf(""));
    run.out.data = y.data();
    run.out.dtype = DType::kF32;
    run.prepared = prepared.data();
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    layer.run(run);
    EXPECT_TRUE(workspace.intact());
    return y;
  }
  std::vector<double> reference(MoeRun run, std::int64_t outputs, ReferenceMode mode) const {
    std::vector<double> y(static_cast<std::size_t>(outputs), std::nan(""));
    run.out.data = y.data();
    run.out.dtype = DType::kF64;
    reference_moe(host.config, owned.weights, mode, run);
    return y;
  }
};

struct Input {
  HostArray x, logits;
  explicit Input(std::mt19937& rng, int tokens = kTokens)
      : x(testing::random_array(rng, std::int64_t{tokens} * kHidden, DType::kBF16, 1.0)),
        logits(testing::random_array(rng, tokens * 6, DType::kF32, 1.0)) {}

  MoeRun run() const {
    MoeRun run;
    const std::int64_t tokens = logits.size() / 6;
    run.x = TensorView(x.bytes.data(), DType::kBF16, {tokens, kHidden});
    run.router_logits = TensorView(logits.bytes.data(), DType::kF32, {tokens, 6});
    run.out = TensorView(static_cast<void*>(nullptr), DType::kF32, {tokens, kHidden});
    return run;
  }
};

class GivenCodes : public ::testing::TestWithParam<const char*> {
 protected:
  std::mt19937 rng_{testing::fresh_seed()};
  std::vector<float> static_scales() const {
    const bool has_static = tables::takes_static_scales(tables::get_recipe(GetParam()));
    return has_static ? std::vector<float>{0.0f, 0.013f} : std::vector<float>{0.0f};
  }
};

TEST_P(GivenCodes, GiveTheBitsOfTheirNumbers) {
  for (const float scale : static_scales()) {
    const Layer layer(rng_, config_of(GetParam()), scale);
    const Input input(rng_);
    MoeRun numbers = input.run(), codes = numbers;
    const CodedRows coded = coded_rows(GetParam(), input.x, kTokens, kHidden, scale);
    coded.give(codes);
    const std::int64_t outputs = input.x.size();
    const auto oracle = layer.reference(numbers, outputs, ReferenceMode::kOracle);
    EXPECT_EQ(layer.reference(codes, outputs, ReferenceMode::kOracle), oracle);
    const auto fast = layer.fast(numbers, outputs);
    EXPECT_EQ(layer.fast(codes, outputs), fast);
    if (!coded.row_scales.empty()) {  // one for all, and the same one for each
      const std::vector<float> each(kTokens, coded.row_scales[0]);
      codes.x_row_scale = TensorView(each.data(), DType::kF32, {kTokens});
      EXPECT_EQ(layer.fast(codes, outputs) == fast, scale != 0.0f);
    }
  }
}

TEST_P(GivenCodes, MoreThanAChunkOfTokens) {
  MoeConfig c = config_of(GetParam());
  c.max_tokens = 1100;
  const Layer layer(rng_, c);
  const Input input(rng_, 1100);
  MoeRun numbers = input.run(), codes = numbers;
  const CodedRows coded = coded_rows(GetParam(), input.x, 1100, kHidden, 0.0f);
  coded.give(codes);
  EXPECT_EQ(layer.fast(codes, input.x.size()), layer.fast(numbers, input.x.size()));
}

TEST_P(GivenCodes, ExactModeTakesWhatTheyAreWorth) {
  const Layer layer(rng_, config_of(GetParam()));
  const Input input(rng_);
  MoeRun codes = input.run();
  const CodedRows coded = coded_rows(GetParam(), input.x, kTokens, kHidden, 0.0f);
  coded.give(codes);
  const QuantSpec spec = activation_spec(GetParam(), false).value();
  std::vector<float> decoded(static_cast<std::size_t>(input.x.size()));
  QuantizeRun dequantize;
  dequantize.x = TensorView(decoded.data(), DType::kF32, {kTokens, kHidden});
  dequantize.codes = codes.x;
  dequantize.scales = codes.x_scale;
  const QuantSizes sizes = quant_sizes(spec, kTokens, kHidden);
  dequantize.scales.rank = 2;
  dequantize.scales.shape = {sizes.scale_rows, sizes.scale_cols};
  dequantize.row_scales = codes.x_row_scale;
  Quantizer::create(spec, {}).dequantize(dequantize);
  MoeRun numbers = input.run();
  numbers.x = dequantize.x;
  const auto wanted = layer.reference(numbers, input.x.size(), ReferenceMode::kExact);
  const auto got = layer.reference(codes, input.x.size(), ReferenceMode::kExact);
  double rms = 0.0;
  for (const double y : wanted) rms += y * y / static_cast<double>(wanted.size());
  // Decoded numbers are rounded to fp32.
  for (std::size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(got[i], wanted[i], 1e-6 * std::sqrt(rms)) << i;
}

TEST_P(GivenCodes, OfDispatchedRows) {
  for (const float scale : static_scales()) {
    const Layer layer(rng_, config_of(GetParam()), scale);
    for (const bool masked : {false, true}) {
      testing::DispatchedRows rows = testing::random_rows(rng_, layer.host.config, {3, 0, 5, 1, 2, 4}, masked);
      MoeRun numbers = rows.run(nullptr, DType::kF32), codes = numbers;
      const CodedRows coded = coded_rows(GetParam(), rows.x, rows.count(), kHidden, scale);
      coded.give(codes);
      const std::int64_t outputs = rows.x.size();
      if (masked) codes.x = TensorView(codes.x.data, DType::kU8, {6, 5, codes.x.shape[1]});
      const auto oracle = layer.reference(numbers, outputs, ReferenceMode::kOracle);
      const auto fast = layer.fast(numbers, outputs);
      EXPECT_EQ(layer.reference(codes, outputs, ReferenceMode::kOracle), oracle);
      EXPECT_EQ(layer.fast(codes, outputs), fast);
      if (!masked) continue;
      // Scales in the form of x.
      const auto split = [](TensorView& t) {
        if (t.empty() || t.shape[0] != 30) return;
        const TensorView three(t.data, t.dtype, {6, 5, t.shape[1]});
        t.shape = three.shape;
        ++t.rank;
      };
      split(codes.x_scale);
      split(codes.x_row_scale);
      EXPECT_EQ(layer.reference(codes, outputs, ReferenceMode::kOracle), oracle);
      EXPECT_EQ(layer.fast(codes, outputs), fast);
    }
  }
}

std::vector<const char*> recipes_with_codes() {
  std::vector<const char*> names;
  for (const tables::RecipeRow& row : tables::kRecipeTable) {
    if (tables::quantises_activations(row)) names.push_back(row.name);
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Recipes, GivenCodes, ::testing::ValuesIn(recipes_with_codes()),
                         [](const auto& info) { return std::string(info.param); });

class RefusedCodes : public ::testing::Test {
 protected:
  RefusedCodes() : coded_(coded_rows("mxfp8", input_.x, kTokens, kHidden, 0.0f)) {}

  /// What `change` makes of a run that is right is refused by the layer and by the reference, and nothing is written.
  void expect_refused(const MoeConfig& config, const std::function<void(MoeRun&)>& change,
                      const std::vector<std::string>& words) {
    const Layer layer(rng_, config);
    const FusedMoe moe = FusedMoe::create(config);
    std::vector<float> y(kTokens * kHidden, -7.0f);
    MoeRun run = input_.run();
    run.out.data = y.data();
    coded_.give(run);
    change(run);
    expect_error(ErrorKind::kInvalidArgument, words, [&] { moe.run(run); });
    expect_error(ErrorKind::kInvalidArgument, words,
                 [&] { reference_moe(config, layer.owned.weights, ReferenceMode::kOracle, run); });
    EXPECT_EQ(y, std::vector<float>(y.size(), -7.0f));
  }

  std::mt19937 rng_{testing::fresh_seed()};
  Input input_{rng_};
  CodedRows coded_;
};

TEST_F(RefusedCodes, WrongTensors) {
  const MoeConfig mxfp8 = config_of("mxfp8");
  expect_refused(mxfp8, [](MoeRun& r) { r.x_scale = {}; }, {"fused_moe: x_scale is empty", "u8 [9, 5]"});
  expect_refused(mxfp8, [](MoeRun& r) { r.x_scale.dtype = DType::kF32; }, {"x_scale is f32", "u8 [9, 5]"});
  expect_refused(mxfp8, [](MoeRun& r) { r.x.shape[1] = 80; }, {"x is u8 [9, 80]", "u8 [9, 160]"});
  expect_refused(mxfp8, [](MoeRun& r) { r.x_row_scale = r.router_logits; }, {"x_row_scale", "only NVFP4"});
  expect_refused(mxfp8, [&](MoeRun& r) { r.x = input_.run().x; }, {"x_scale is u8 [9, 5]", "x is numbers"});
  expect_refused(config_of("bf16"), [](MoeRun&) {}, {"x is u8 [9, 160]", "recipe bf16 has 16-bit activations"});
  expect_refused(config_of("nvfp4"), [](MoeRun&) {}, {"x is u8 [9, 160]", "u8 [9, 80]"});
}

TEST_F(RefusedCodes, WhatCodesCannotServe) {
  const auto unchanged = [](MoeRun&) {};
  expect_refused(config_of("mxfp8"), [](MoeRun& r) { r.router_logits = {}; },
                 {"router_logits", "topk_ids", "cannot be projected"});
  MoeConfig gated = config_of("mxfp8");
  gated.shared.gated = true;
  expect_refused(gated, unchanged, {"x is u8", "the shared experts' gate is a projection of x"});
  for (const char* shared : {"bf16", "fp8_channel", "nvfp4"}) {
    MoeConfig other = config_of("mxfp8");
    other.shared.recipe = shared;
    expect_refused(other, unchanged, {"x is u8", std::string("shared experts of recipe ") + shared, "mxfp8"});
  }
}

TEST_F(RefusedCodes, SharedExpertsOfTheSameActivationsAreServed) {
  MoeConfig c = config_of("mxfp8");
  c.shared.recipe = "mxfp8_mxfp4";
  const Layer layer(rng_, c);
  MoeRun codes = input_.run();
  coded_.give(codes);
  EXPECT_EQ(layer.fast(codes, input_.x.size()), layer.fast(input_.run(), input_.x.size()));
}

}  // namespace
}  // namespace moesaic
