// SPDX-License-Identifier: Apache-2.0
// What every recipe's layer promises on a GPU beside right numbers: tokens do not see each other, experts are prepared
// one by one, x may be codes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend_cuda/device_weights.h"
#include "moesaic/quantize.h"
#include "support/device_layer.h"
#include "support/quant_case.h"
#include "support/recipe_cases.h"
#include "tables/given_codes.h"
#include "tables/kernel_table.h"

namespace moesaic {
namespace {

using testing::CaseInput;
using testing::DeviceLayer;
using testing::DeviceOutput;
using testing::HostArray;
using testing::LayerInput;
using testing::RecipeCase;

constexpr Device kGpu{DeviceType::kCuda, 0};

class DeviceRecipe : public ::testing::TestWithParam<const tables::RecipeRow*> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
  }

  RecipeCase case_of(int tokens) const {
    RecipeCase c;
    c.seed = testing::fresh_seed();
    c.recipe = GetParam();
    c.int4 = {32, true};
    c.tokens = tokens;
    c.experts = 6;
    c.top_k = 2;
    c.biases = true;
    const int multiple = std::max(8, testing::depth_multiple(c.recipe->name, c.int4));
    c.hidden = (136 + multiple - 1) / multiple * multiple;
    c.intermediate = (72 + multiple - 1) / multiple * multiple;
    c.shared.intermediate = c.intermediate;
    return c;
  }
  static cpu::RandomLayer layer_on_gpu(const RecipeCase& c) {
    cpu::RandomLayer layer = testing::make_layer(c);
    layer.config.device = kGpu;
    return layer;
  }
};

void set_value(HostArray& x, int index, float value) {
  const HostArray one = testing::to_array({value}, x.dtype);
  std::memcpy(x.bytes.data() + static_cast<std::size_t>(index) * one.bytes.size(), one.bytes.data(), one.bytes.size());
}

/// Row `t` of [T, cols].
template <typename T>
std::vector<T> row(const std::vector<T>& all, int t, std::size_t cols) {
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(t) * cols);
  return {begin, begin + static_cast<std::ptrdiff_t>(cols)};
}
template <typename T>
void set_row(std::vector<T>& all, int t, const std::vector<T>& values) {
  std::copy(values.begin(), values.end(),
            all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(t) * values.size()));
}

TEST_P(DeviceRecipe, NanAndInfinityStayInTheirToken) {
  for (const int tokens : {12, 300}) {
    const RecipeCase c = case_of(tokens);
    const cpu::RandomLayer layer = layer_on_gpu(c);
    const DeviceLayer device(layer.weights, layer.config);
    const CaseInput input = testing::make_input(c);
    HostArray x = input.x;
    set_value(x, 7 * c.hidden + 3, std::numeric_limits<float>::quiet_NaN());
    set_value(x, 11 * c.hidden + 5, -std::numeric_limits<float>::infinity());
    const DeviceOutput clean = device.run_into(DType::kF32, {input.x, input.logits, {}, {}}),
                       dirty = device.run_into(DType::kF32, {x, input.logits, {}, {}});
    const std::vector<float> before = testing::to_floats(clean.y), after = testing::to_floats(dirty.y);
    const auto hidden = static_cast<std::size_t>(c.hidden);
    for (int t = 0; t < tokens; ++t) {
      const std::vector<float> now = row(after, t, hidden);
      if (t == 7) {
        EXPECT_TRUE(std::all_of(now.begin(), now.end(), [](float v) { return std::isnan(v); }));
      } else {
        EXPECT_EQ(now == row(before, t, hidden), t != 11) << "token " << t << " of " << tokens;
      }
    }
  }
}

TEST_P(DeviceRecipe, TokenDoesNotDependOnTheBatch) {
  for (const int tokens : {24, 300}) {
    const RecipeCase c = case_of(tokens);
    RecipeCase other = c;
    other.seed += 1;
    other.load = testing::Load::kSkewed;  // other tokens go to other experts, in tiles of other lengths
    const cpu::RandomLayer layer = layer_on_gpu(c);
    const DeviceLayer device(layer.weights, layer.config);
    const CaseInput input = testing::make_input(c);
    CaseInput around = testing::make_input(other);
    const std::size_t row_bytes = static_cast<std::size_t>(c.hidden) * dtype_size(c.recipe->io);
    const auto experts = static_cast<std::size_t>(c.experts);
    const std::vector<int> kept = {0, 3, tokens / 2, tokens - 1};
    for (const int t : kept) {  // at another place, too
      set_row(around.x.bytes, tokens - 1 - t, row(input.x.bytes, t, row_bytes));
      set_row(around.logits, tokens - 1 - t, row(input.logits, t, experts));
    }
    const DeviceOutput first = device.run_into(DType::kF32, {input.x, input.logits, {}, {}}),
                       second = device.run_into(DType::kF32, {around.x, around.logits, {}, {}});
    EXPECT_NE(first.y.bytes, second.y.bytes);
    for (const int t : kept) {
      const std::size_t out_bytes = static_cast<std::size_t>(c.hidden) * 4;
      EXPECT_EQ(row(first.y.bytes, t, out_bytes), row(second.y.bytes, tokens - 1 - t, out_bytes))
          << "token " << t << " of " << tokens;
    }
  }
}

TEST_P(DeviceRecipe, BatchInvariantTokenIsTheSameInEveryBatch) {
  const RecipeCase c = case_of(700);
  cpu::RandomLayer layer = layer_on_gpu(c);
  layer.config.batch_invariant = true;
  const DeviceLayer device(layer.weights, layer.config);
  const CaseInput all = testing::make_input(c);
  const DeviceOutput together = device.run_into(DType::kF32, {all.x, all.logits, {}, {}});
  const std::size_t row_bytes = static_cast<std::size_t>(c.hidden) * dtype_size(c.recipe->io);
  const std::size_t out_bytes = static_cast<std::size_t>(c.hidden) * 4;
  for (const int tokens : {1, 9, 130}) {
    HostArray x = all.x;
    x.bytes.resize(static_cast<std::size_t>(tokens) * row_bytes);
    std::vector<float> logits = all.logits;
    logits.resize(static_cast<std::size_t>(tokens * c.experts));
    const DeviceOutput few = device.run_into(DType::kF32, {x, logits, {}, {}});
    for (int t = 0; t < tokens; ++t) {
      EXPECT_EQ(row(few.y.bytes, t, out_bytes), row(together.y.bytes, t, out_bytes))
          << "token " << t << " of " << tokens;
    }
  }
}

TEST_P(DeviceRecipe, ExpertByExpertIsTheWholeLayer) {
  RecipeCase c = case_of(4);
  c.static_scales = tables::takes_static_scales(*c.recipe);
  RecipeCase other = c;
  other.seed += 1;
  const cpu::RandomLayer wanted = layer_on_gpu(c), old = layer_on_gpu(other);
  const FusedMoe layer = FusedMoe::create(wanted.config);
  const cuda::DeviceWeights uploads(kGpu, wanted.weights), old_uploads(kGpu, old.weights);
  MoeWeights mixed = uploads.views();
  mixed.experts = old_uploads.views().experts;
  // Larger ones everywhere: they must be gone when the last expert is replaced.
  for (ExpertWeights& expert : mixed.experts) expert.input_scale *= 2.0f;
  const auto bytes_of = [](const cuda::DeviceBuffer& buffer) {
    std::vector<unsigned char> bytes(buffer.size());
    buffer.download(bytes.data(), bytes.size());
    return bytes;
  };
  cuda::DeviceBuffer whole(kGpu, layer.prepared_bytes()), memory(kGpu, layer.prepared_bytes());
  whole.fill(0xff);
  memory.fill(0xff);
  const cuda::Stream stream(kGpu);
  layer.prepare(uploads.views(), whole.data(), stream.get());
  layer.prepare(mixed, memory.data(), stream.get());
  stream.synchronize();
  EXPECT_NE(bytes_of(memory), bytes_of(whole));
  for (const int e : {5, 0, 3, 1, 4, 2}) {
    layer.prepare_expert(e, uploads.views().experts[static_cast<std::size_t>(e)], memory.data(), stream.get());
  }
  stream.synchronize();
  EXPECT_EQ(bytes_of(memory), bytes_of(whole));
}

/// The scale that all experts' tokens are quantised by, or 0.
float common_input_scale(const MoeWeights& weights) {
  float largest = 0.0f;
  for (const ExpertWeights& expert : weights.experts) largest = std::max(largest, expert.input_scale);
  return largest;
}

/// x as a caller quantises it: by `static_scale`, or 0: each token by a scale of its own.
LayerInput coded_input(const RecipeCase& c, const CaseInput& input, float static_scale) {
  const tables::GivenCodes form = tables::given_codes(c.recipe->name, c.tokens, c.hidden).value();
  const bool nvfp4 = form.format == QuantFormat::kNvfp4Row;
  testing::QuantCase quantised;
  quantised.spec.format = static_scale == 0.0f ? form.format : nvfp4 ? QuantFormat::kNvfp4 : QuantFormat::kFp8Static;
  quantised.dtype = c.recipe->io;
  quantised.rows = c.tokens;
  quantised.cols = c.hidden;
  // NVFP4's is multiplied by, fp8's divided by.
  testing::QuantBuffers buffers = testing::quant_buffers(quantised, nvfp4 ? 1.0f / static_scale : static_scale);
  Quantizer::create(quantised.spec, {}).quantize(testing::quant_run(quantised, input.x, buffers));
  LayerInput coded;
  coded.logits = input.logits;
  coded.codes = buffers.codes;
  coded.scale = buffers.scales;
  if (form.row_scale) coded.row_scale = static_scale == 0.0f ? buffers.row_scales : std::vector<float>{static_scale};
  if (static_scale != 0.0f && !nvfp4) {
    coded.scale.resize(sizeof(float));
    std::memcpy(coded.scale.data(), &static_scale, sizeof(float));
  }
  return coded;
}

TEST_P(DeviceRecipe, CodesOfTheCallerGiveWhatOwnCodesGive) {
  for (const bool static_scales : {false, true}) {
    if (static_scales && !tables::takes_static_scales(*GetParam())) continue;
    RecipeCase c = case_of(40);
    c.static_scales = static_scales;
    c.shared = {};  // theirs would have a static scale of their own
    if (!tables::given_codes(c.recipe->name, c.tokens, c.hidden)) return;  // 16-bit activations
    const cpu::RandomLayer layer = layer_on_gpu(c);
    const DeviceLayer device(layer.weights, layer.config);
    const CaseInput input = testing::make_input(c);
    const DeviceOutput own = device.run_into(DType::kF32, {input.x, input.logits, {}, {}});
    const DeviceOutput given = device.run_into(DType::kF32, coded_input(c, input, common_input_scale(layer.weights)));
    EXPECT_TRUE(given.guard_intact);
    EXPECT_EQ(given.y.bytes, own.y.bytes) << (static_scales ? "static scale" : "scales of tokens");
    testing::expect_right(c, layer.config, layer.weights, input, {given.y, given.ids, given.weights});
  }
}

INSTANTIATE_TEST_SUITE_P(All, DeviceRecipe, ::testing::ValuesIn([] {
                           std::vector<const tables::RecipeRow*> rows;
                           for (const tables::RecipeRow& row : tables::kRecipeTable) rows.push_back(&row);
                           return rows;
                         }()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace moesaic
