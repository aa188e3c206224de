// SPDX-License-Identifier: Apache-2.0
// The fast path against the oracle for all recipes: formats and orders of weights, ragged blocks, static scales, shared
// experts of another recipe. Seeds are fixed: where two codes are equally near, the order of a sum may decide, and one
// code of h is more than the tolerance of a row of a hundred.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_kernels.h"
#include "backend_cpu/fast_layout.h"
#include "backend_cpu/fast_threads.h"
#include "moesaic/quantize.h"
#include "quantized_layer.h"
#include "tables/recipe_table.h"
#include "tables/stored_matrix.h"

namespace moesaic::cpu {
namespace {

class Recipes : public ::testing::TestWithParam<const tables::RecipeRow*> {
 protected:
  ~Recipes() override {
    use_kernels(nullptr);
    limit_threads(0);
  }
  std::string recipe() const { return GetParam()->name; }
  bool int4() const { return GetParam()->weight.number == tables::Number::kInt4; }
  LayerShape shape(int hidden, int intermediate) const {
    LayerShape shape;
    shape.recipe = recipe();
    shape.hidden = hidden;
    shape.intermediate = intermediate;
    shape.num_experts = 4;
    shape.top_k = 2;
    shape.stored = DType::kF32;
    return shape;
  }
  std::mt19937 random_{17};
};

std::string describe(const RandomLayer& layer, std::int64_t tokens) {
  const MoeConfig& c = layer.config;
  return c.recipe + " T " + std::to_string(tokens) + " H " + std::to_string(c.hidden) + " I " +
         std::to_string(c.intermediate) + " int4 " + std::to_string(c.int4.size) +
         (c.int4.zero_points ? " zeros" : "") + (c.int4.f32_scales ? " f32" : "") + " shared " +
         std::to_string(c.shared.intermediate) + " " + c.shared.recipe + " " + fast_target();
}

void expect_near(const RandomLayer& layer, const Input& input) {
  SCOPED_TRACE(describe(layer, input.tokens));
  const tables::RecipeRow& recipe = tables::get_recipe(layer.config.recipe);
  const Outcome oracle = run_reference(layer, ReferenceMode::kOracle, input, recipe.io);
  const Outcome fast = run_fast(layer, input, recipe.io);
  EXPECT_EQ(fast.ids, oracle.ids);
  const tables::Tolerance& tolerance = recipe.tolerance;
  const Distance near = distance(fast, oracle, layer.config.hidden, tolerance.element_rel, tolerance.element_rms);
  EXPECT_LE(near.row_l2, tolerance.oracle_row_l2);
  EXPECT_LE(near.element, 1.0);
  if (input.tokens < 7) return;
  // Without the output's rounding nearly all rows differ by the order of FP32 sums only.
  const Distance unrounded =
      distance(run_fast(layer, input, DType::kF32), run_reference(layer, ReferenceMode::kOracle, input, DType::kF64),
               layer.config.hidden, tolerance.element_rel, tolerance.element_rms);
  EXPECT_LE(unrounded.median_row_l2, tolerance.oracle_row_l2 / 10);
}

TEST_P(Recipes, MatchTheOracleOnEveryInstructionSet) {
  constexpr int kShapes[][2] = {{96, 160}, {160, 32}, {288, 224}};
  constexpr int kInt4Shapes[][2] = {{128, 384}, {256, 128}, {384, 256}};
  for (const FastKernels* kernels : available_kernels()) {
    use_kernels(kernels);
    int round = 0;
    for (const std::int64_t tokens : {1, 3, 13, 65}) {
      const auto& [hidden, intermediate] = int4() ? kInt4Shapes[round % 3] : kShapes[round % 3];
      LayerShape wanted = shape(hidden, intermediate);
      wanted.biases = round % 2 == 1;
      wanted.weights_on_input = round == 2;
      wanted.activation.kind = round == 3 ? ActivationKind::kRelu2 : ActivationKind::kSwiglu;
      const RandomLayer layer = quantized_layer(wanted, {32 << round % 3, round % 2 == 1}, random_);
      expect_near(layer, random_input(layer.config, tokens, random_));
      if (int4()) {
        const RandomLayer wide = quantized_layer(wanted, {32 << round % 3, round % 2 == 1, true}, random_);
        expect_near(wide, random_input(wide.config, tokens, random_));
      }
      ++round;
    }
  }
}

TEST_P(Recipes, NoTokens) {
  const RandomLayer layer = quantized_layer(shape(128, 128), {}, random_);
  EXPECT_TRUE(run_fast(layer, random_input(layer.config, 0, random_), DType::kF32).y.empty());
}

TEST_P(Recipes, StaticScales) {
  LayerShape wanted = shape(160, 96);
  wanted.shared.intermediate = 64;
  RandomLayer layer = quantized_layer(wanted, {}, random_);
  const Input input = random_input(layer.config, 13, random_);
  const Outcome without = run_fast(layer, input, DType::kF32);
  give_input_scales(layer.weights, random_);
  expect_near(layer, input);
  const bool has_static = GetParam()->activation.scale == tables::Scale::kTensorStatic ||
                          GetParam()->activation.scale == tables::Scale::kE4m3x16;
  EXPECT_EQ(run_fast(layer, input, DType::kF32).y != without.y, has_static);
  // One expert without: scales per token again, for all; the shared experts keep theirs.
  layer.weights.experts[2].input_scale = 0.0f;
  expect_near(layer, input);
  layer.weights.shared.input_scale = layer.weights.shared.down_input_scale = 0.0f;
  EXPECT_EQ(run_fast(layer, input, DType::kF32).y, without.y);
}

TEST_P(Recipes, SharedExpertsOfAnotherRecipe) {
  for (const tables::RecipeRow& other : tables::kRecipeTable) {
    if (other.io != GetParam()->io) continue;
    LayerShape wanted = shape(128, 96);
    wanted.shared = {64, true, other.name};
    const RandomLayer layer = quantized_layer(wanted, {32, true}, random_);
    expect_near(layer, random_input(layer.config, 7, random_));
  }
}

TEST_P(Recipes, TokenDoesNotDependOnBatchOrThreads) {
  LayerShape wanted = shape(160, 96);
  wanted.shared.intermediate = 32;
  const RandomLayer layer = quantized_layer(wanted, {32, true}, random_);
  const std::int64_t tokens = 77;
  const Input batch = random_input(layer.config, tokens, random_);
  for (const FastKernels* kernels : available_kernels()) {
    use_kernels(kernels);
    limit_threads(0);
    const Outcome together = run_fast(layer, batch, DType::kF32);
    limit_threads(1);
    EXPECT_EQ(run_fast(layer, batch, DType::kF32).y, together.y);
    for (const std::int64_t token : {0, 40, 76}) {
      Input alone;
      alone.tokens = 1;
      alone.x.assign(batch.x.begin() + token * 160, batch.x.begin() + (token + 1) * 160);
      const std::vector<double> row(together.y.begin() + token * 160, together.y.begin() + (token + 1) * 160);
      EXPECT_EQ(run_fast(layer, alone, DType::kF32).y, row) << kernels->name << " token " << token;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Recipes, ::testing::ValuesIn([] {
                           std::vector<const tables::RecipeRow*> rows;
                           for (const tables::RecipeRow& row : tables::kRecipeTable) rows.push_back(&row);
                           return rows;
                         }()),
                         [](const auto& info) { return std::string(info.param->name); });

// A stored NaN, in a code or a scale, makes its output row NaN for every token that uses the expert, and only that.
TEST(QuantizedWeights, NanStaysInItsRow) {
  std::mt19937 random(18);
  for (const char* recipe : {"fp8_tensor", "fp8_channel", "fp8_block", "mxfp8", "nvfp4", "bf16_mxfp4", "bf16_int4"}) {
    SCOPED_TRACE(recipe);
    LayerShape shape;
    shape.recipe = recipe;
    shape.hidden = 128;
    shape.intermediate = 64;
    shape.num_experts = shape.top_k = 1;
    shape.stored = DType::kF32;
    RandomLayer layer = quantized_layer(shape, {}, random);
    const Input input = random_input(layer.config, 3, random);
    const Outcome clean = run_fast(layer, input, DType::kF32);
    // Row 5 of the down projection, alone in its block of scales but for 128x128.
    MatrixView& down = layer.weights.experts[0].down;
    const Quantization& q = down.quantization;
    if (q.codes == CodeFormat::kE4M3) {
      static_cast<std::uint8_t*>(const_cast<void*>(down.data))[5 * down.row_stride + 9 * down.col_stride] = 0xff;
    } else if (q.scale_format == ScaleFormat::kE4M3 || q.scale_format == ScaleFormat::kE8M0) {
      static_cast<std::uint8_t*>(const_cast<void*>(q.scales))[5 * q.scale_row_stride] = 0xff;
    } else if (q.scale_format == ScaleFormat::kF32) {
      static_cast<float*>(const_cast<void*>(q.scales))[5 * q.scale_row_stride] = NAN;
    } else {
      static_cast<std::uint16_t*>(const_cast<void*>(q.scales))[5 * q.scale_row_stride] = 0x7fff;
    }
    const Outcome got = run_fast(layer, input, DType::kF32);
    const Outcome oracle = run_reference(layer, ReferenceMode::kOracle, input, DType::kF32);
    for (std::size_t i = 0; i < got.y.size(); ++i) {
      ASSERT_EQ(std::isnan(got.y[i]), i % 128 == 5) << i;
      ASSERT_EQ(std::isnan(oracle.y[i]), i % 128 == 5) << i;
      ASSERT_TRUE(i % 128 == 5 || got.y[i] == clean.y[i]) << i;
    }
  }
}

// K that is no multiple of the panels' 8, with blocks that end early: where scales are fp32 numbers or there are none.
TEST(QuantizedWeights, RaggedDepth) {
  std::mt19937 random(21);
  for (const char* recipe : {"bf16", "fp16", "fp8_tensor", "fp8_channel", "fp8_block"}) {
    LayerShape shape;
    shape.recipe = recipe;
    shape.hidden = 133;
    shape.intermediate = 259;
    shape.stored = DType::kF32;
    for (const FastKernels* kernels : available_kernels()) {
      use_kernels(kernels);
      const RandomLayer layer = quantized_layer(shape, {}, random);
      expect_near(layer, random_input(layer.config, 5, random));
    }
  }
  use_kernels(nullptr);
}

// Scales at both ends of their range are decoded, not flushed.
TEST(QuantizedWeights, ScalesOfEverySize) {
  for (const int exponent : {-127, -100, 0, 100}) {
    LayerShape shape;
    shape.recipe = "bf16_mxfp4";
    shape.hidden = shape.intermediate = 32;
    shape.num_experts = shape.top_k = 1;
    shape.stored = DType::kF32;
    shape.activation.kind = ActivationKind::kIdentity;
    std::mt19937 random(19);
    RandomLayer layer = quantized_layer(shape, {}, random);
    const MatrixView& down = layer.weights.experts[0].down;
    auto* bytes = static_cast<std::uint8_t*>(const_cast<void*>(down.quantization.scales));
    std::fill_n(bytes, 32, static_cast<std::uint8_t>(exponent + 127));
    const Input input = random_input(layer.config, 2, random);
    const Outcome got = run_fast(layer, input, DType::kF32);
    const Outcome wanted = run_reference(layer, ReferenceMode::kOracle, input, DType::kF64);
    for (std::size_t i = 0; i < got.y.size(); ++i) {
      ASSERT_NEAR(got.y[i], wanted.y[i], std::ldexp(1e-5, exponent) + 3e-45) << exponent;
    }
  }
}

TEST(QuantizedWeights, RefusesInt4ScalesThat16BitsDoNotHold) {
  std::mt19937 random(20);
  LayerShape shape;
  shape.recipe = "bf16_int4";
  shape.hidden = shape.intermediate = 32;
  shape.stored = DType::kF32;
  RandomLayer layer = quantized_layer(shape, {}, random);
  std::vector<float> scales(32, 1.0f + 0x1p-20f);
  Quantization& q = layer.weights.experts[1].down.quantization;
  q.scale_format = ScaleFormat::kF32;
  q.scales = scales.data();
  q.scale_row_stride = q.scale_col_stride = 1;
  Buffer prepared(fast_prepared_bytes(layer.config));
  try {
    fast_prepare(layer.config, layer.weights, prepared.data());
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("int4 scales"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("int4.f32_scales"), std::string::npos) << error.what();
  }
}

// A weight is code - zero point times its scale, rounded once: what is left where the two are equal is 0, not the
// rounding of their products with the scale.
TEST(QuantizedWeights, KeepsInt4ScalesThat16BitsDoNotHold) {
  std::mt19937 random(21);
  LayerShape shape;
  shape.recipe = "bf16_int4";
  shape.hidden = shape.intermediate = 32;
  shape.stored = DType::kF32;
  RandomLayer layer = quantized_layer(shape, {32, true, true}, random);
  std::vector<float> scales(32);
  for (std::size_t i = 0; i < scales.size(); ++i)
    scales[i] = std::ldexp(1.0f + 0x1.a5a5a6p-2f, static_cast<int>(i) - 16);
  std::vector<std::uint8_t> codes(32 * 32 / 2, 0xbb), zeros(32 / 2, 0xaa);  // 11 - 10, but for rows of 10 - 10
  for (std::size_t row = 0; row < 32; row += 4)
    std::fill_n(codes.begin() + static_cast<std::ptrdiff_t>(row) * 16, 16, 0xaa);
  for (ExpertWeights& expert : layer.weights.experts) {
    expert.down = MatrixView{codes.data(), DType::kU8, 32, 32, 32, 1};
    expert.down.quantization = tables::stored_quantization(*weight_spec(shape.recipe, layer.config.int4), 32, 32);
    Quantization& q = expert.down.quantization;
    q.scales = scales.data();
    q.scale_format = ScaleFormat::kF32;
    q.zeros = zeros.data();
    q.zero_row_stride = q.zero_col_stride = 1;
  }
  const Input input = random_input(layer.config, 3, random);
  const Outcome got = run_fast(layer, input, DType::kF32);
  const Outcome wanted = run_reference(layer, ReferenceMode::kOracle, input, DType::kF64);
  for (std::size_t i = 0; i < got.y.size(); ++i) {
    if (i % 32 % 4 == 0) {
      ASSERT_EQ(got.y[i], 0.0) << i;
    } else {
      ASSERT_NE(wanted.y[i], 0.0) << i;
      ASSERT_NEAR(got.y[i], wanted.y[i], 1e-5 * std::fabs(wanted.y[i])) << i;
    }
  }
}

}  // namespace
}  // namespace moesaic::cpu
