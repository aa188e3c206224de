// SPDX-License-Identifier: Apache-2.0
// Conversion of weights between recipes: the result fits, is near what it was made of, and what fitted stays a view.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "moesaic/quantize.h"
#include "support/expect_error.h"
#include "tables/recipe_table.h"

namespace moesaic {
namespace {

struct SmallLayer {
  MoeConfig config;
  std::vector<std::vector<float>> memory;
  MoeWeights weights;

  SmallLayer() {
    config.hidden = 128;
    config.intermediate = 160;  // 128x128 blocks are ragged
    config.num_experts = 2;
    config.top_k = 1;
    config.router = false;
    config.shared.intermediate = 128;
    std::mt19937 random(7);
    for (int e = 0; e < 2; ++e) weights.experts.push_back(expert(config.intermediate, random));
    weights.shared = expert(config.shared.intermediate, random);
  }

  ExpertWeights expert(int intermediate, std::mt19937& random) {
    ExpertWeights expert;
    expert.gate = matrix(intermediate, config.hidden, random);
    expert.up = matrix(intermediate, config.hidden, random);
    expert.down = matrix(config.hidden, intermediate, random);
    expert.input_scale = 0.5f;
    expert.down_input_scale = 0.25f;
    return expert;
  }

  MatrixView matrix(int rows, int cols, std::mt19937& random) {
    std::normal_distribution<float> normal(0.0f, 0.02f);
    memory.emplace_back(static_cast<std::size_t>(rows) * cols);
    for (float& value : memory.back()) value = normal(random);
    return {memory.back().data(), DType::kF32, rows, cols, cols, 1};
  }
};

double relative_error(const MatrixView& got, const MatrixView& wanted) {
  double difference = 0, norm = 0;
  for (std::int64_t r = 0; r < wanted.rows; ++r) {
    for (std::int64_t c = 0; c < wanted.cols; ++c) {
      const double exact = cpu::matrix_element(wanted, r, c), d = cpu::matrix_element(got, r, c) - exact;
      difference += d * d;
      norm += exact * exact;
    }
  }
  return std::sqrt(difference / norm);
}

// Rounding errors of normally distributed numbers: half a step of a uniform error, by the format's significant bits.
double bound_of(const tables::Operand& weight) {
  switch (weight.number) {
    case tables::Number::kE4m3:
      return 0.035;
    case tables::Number::kE2m1:
      return 0.16;
    case tables::Number::kInt4:
      return 0.13;
    default:
      return 0.003;
  }
}

std::vector<std::string> recipe_names() {
  std::vector<std::string> names;
  for (const tables::RecipeRow& row : tables::kRecipeTable) names.push_back(row.name);
  return names;
}

class ConvertWeights : public ::testing::TestWithParam<std::string> {};

TEST_P(ConvertWeights, FitsIsNearAndIsDoneOnce) {
  SmallLayer layer;
  layer.config.recipe = GetParam();
  for (const Int4Groups int4 : {Int4Groups{32, false}, Int4Groups{32, true}}) {
    layer.config.int4 = int4;
    const OwnedWeights made = convert_weights(layer.config, layer.weights);
    const double bound = bound_of(tables::get_recipe(GetParam()).weight);
    const bool fitted = fits_recipe(GetParam(), int4, layer.weights.shared.gate);
    for (const auto& [got, wanted] : {std::pair(made.weights.experts[1], layer.weights.experts[1]),
                                      std::pair(made.weights.shared, layer.weights.shared)}) {
      for (MatrixView ExpertWeights::*matrix : {&ExpertWeights::gate, &ExpertWeights::up, &ExpertWeights::down}) {
        EXPECT_TRUE(fits_recipe(GetParam(), int4, got.*matrix));
        const double error = relative_error(got.*matrix, wanted.*matrix);
        EXPECT_LE(error, bound);
        if (!fitted) {
          EXPECT_GE(error, bound / 100) << "was anything rounded?";
        }
      }
      EXPECT_EQ(got.input_scale, fitted ? 0.5f : 0.0f);
      EXPECT_EQ(got.down_input_scale, fitted ? 0.25f : 0.0f);
    }
    const OwnedWeights again = convert_weights(layer.config, made.weights);
    EXPECT_EQ(again.weights.experts[0].down.data, made.weights.experts[0].down.data);
    EXPECT_EQ(again.weights.shared.up.data, made.weights.shared.up.data);
  }
}

TEST_P(ConvertWeights, SharedExpertsFollowTheirOwnRecipe) {
  SmallLayer layer;
  layer.config.recipe = GetParam();
  layer.config.shared.recipe = "fp8_block";
  const OwnedWeights made = convert_weights(layer.config, layer.weights);
  EXPECT_TRUE(fits_recipe("fp8_block", {}, made.weights.shared.down));
  EXPECT_TRUE(fits_recipe(GetParam(), {}, made.weights.experts[0].down));
}

INSTANTIATE_TEST_SUITE_P(Recipes, ConvertWeights, ::testing::ValuesIn(recipe_names()),
                         [](const auto& info) { return info.param; });

TEST(ConvertWeights, ZeroMatricesAndRefusals) {
  SmallLayer layer;
  for (auto& memory : layer.memory) memory.assign(memory.size(), 0.0f);
  for (const std::string& recipe : recipe_names()) {
    layer.config.recipe = recipe;
    const OwnedWeights made = convert_weights(layer.config, layer.weights);
    for (std::int64_t c = 0; c < layer.config.hidden; ++c) {
      EXPECT_EQ(cpu::matrix_element(made.weights.experts[0].gate, 3, c), 0.0) << recipe;
    }
  }
  layer.config.recipe = "bf16_int4";
  layer.config.int4.size = 128;  // K of `down` is 160
  EXPECT_THROW(convert_weights(layer.config, layer.weights), Error);
  layer.config.recipe = "fp9";
  EXPECT_THROW(convert_weights(layer.config, layer.weights), Error);
  // Before memory is taken for it.
  layer.config.recipe = "nvfp4";
  layer.weights.experts[1].down.cols = std::int64_t{1} << 40;
  testing::expect_error(ErrorKind::kInvalidArgument, {"convert_weights: weights.experts[1].down", "1099511627776"},
                        [&] { convert_weights(layer.config, layer.weights); });
}

// 16-bit recipes: every element is the nearest number of the type.
TEST(ConvertWeights, DequantisesByRoundingOnce) {
  SmallLayer layer;
  layer.config.recipe = "nvfp4";
  const OwnedWeights small = convert_weights(layer.config, layer.weights);
  layer.config.recipe = "bf16";
  const OwnedWeights plain = convert_weights(layer.config, small.weights);
  const MatrixView from = small.weights.experts[0].up, to = plain.weights.experts[0].up;
  ASSERT_EQ(to.dtype, DType::kBF16);
  for (std::int64_t r = 0; r < from.rows; ++r) {
    for (std::int64_t c = 0; c < from.cols; ++c) {
      const double fp32 = static_cast<float>(cpu::matrix_element(from, r, c));
      ASSERT_EQ(cpu::matrix_element(to, r, c), cpu::round_to(fp32, DType::kBF16));
    }
  }
}

}  // namespace
}  // namespace moesaic
