// SPDX-License-Identifier: Apache-2.0
// Forms of codes by recipe, and the tensors that are refused.
#include "tables/given_codes.h"

#include <gtest/gtest.h>

#include "tables/kernel_table.h"
#include "tests/support/expect_error.h"

namespace moesaic::tables {
namespace {

using testing::expect_error;

TEST(GivenCodes, ExistForRecipesThatQuantiseActivations) {
  for (const RecipeRow& row : kRecipeTable) {
    EXPECT_EQ(given_codes(row.name, 3, 128).has_value(), quantises_activations(row)) << row.name;
  }
}

TEST(GivenCodes, ShapesFollowFromTheFormat) {
  const auto form = [](const char* recipe, bool e5m2 = false) { return given_codes(recipe, 5, 160, e5m2).value(); };
  EXPECT_EQ(form("fp8_channel").format, QuantFormat::kFp8Row);
  EXPECT_EQ(form("fp8_channel").codes, (GivenTensor{DType::kU8, 2, {5, 160}}));
  EXPECT_EQ(form("fp8_channel").scale, (GivenTensor{DType::kF32, 1, {5, 0}}));
  EXPECT_FALSE(form("fp8_channel").common_scale);
  EXPECT_TRUE(form("fp8_tensor").common_scale);
  EXPECT_EQ(form("fp8_block").scale, (GivenTensor{DType::kF32, 2, {5, 2}}));
  EXPECT_EQ(form("mxfp8").scale, (GivenTensor{DType::kU8, 2, {5, 5}}));
  EXPECT_EQ(form("mxfp8").format, QuantFormat::kMxfp8);
  EXPECT_EQ(form("mxfp8_mxfp4", true).format, QuantFormat::kMxfp8E5m2);
  EXPECT_EQ(form("fp8_block", true).format, QuantFormat::kFp8Block1x128) << "e5m2 is a choice of MX alone";
  EXPECT_EQ(form("nvfp4").codes, (GivenTensor{DType::kU8, 2, {5, 80}}));
  EXPECT_EQ(form("nvfp4").scale, (GivenTensor{DType::kU8, 2, {5, 10}}));
  EXPECT_TRUE(form("nvfp4").row_scale);
  EXPECT_FALSE(form("mxfp8").row_scale);
}

class GivenTensors : public ::testing::Test {
 protected:
  void check(const char* recipe) const {
    check_given_codes("op", recipe, given_codes(recipe, 2, 32), x, x_scale, x_row_scale);
  }
  void expect_refused(const char* recipe, const std::vector<std::string>& words) const {
    expect_error(ErrorKind::kInvalidArgument, words, [&] { check(recipe); });
  }
  alignas(16) unsigned char memory[256] = {};
  TensorView x{memory, DType::kU8, {2, 32}}, x_scale, x_row_scale;
};

TEST_F(GivenTensors, RefusedByName) {
  expect_refused("mxfp8", {"op: x_scale is empty", "u8 [2, 1]"});
  x_scale = {memory, DType::kF32, {2, 1}};
  expect_refused("mxfp8", {"x_scale is f32 [2, 1]", "u8 [2, 1]"});
  x_scale = {memory, DType::kU8, {2, 1}};
  check("mxfp8");
  x_row_scale = {memory, DType::kF32, {2}};
  expect_refused("mxfp8", {"x_row_scale is f32 [2]", "only NVFP4"});
  expect_refused("nvfp4", {"x is u8 [2, 32]", "u8 [2, 16]"});
  x = {memory, DType::kU8, {2, 16}};
  x_scale = {memory, DType::kU8, {2, 2}};
  check("nvfp4");
  x_row_scale = {memory, DType::kF32, {1}};
  check("nvfp4");
  x_row_scale = {};
  expect_refused("nvfp4", {"x_row_scale is empty", "f32 [2] or [1]"});
  x_row_scale = {memory + 2, DType::kF32, {2}};
  expect_refused("nvfp4", {"x_row_scale", "a multiple of 4 bytes"});
  x_row_scale = {static_cast<void*>(nullptr), DType::kF32, {2}};
  expect_refused("nvfp4", {"x_row_scale is a null pointer"});
}

TEST_F(GivenTensors, OneScaleForAllIsOfStaticRecipes) {
  x_scale = {memory, DType::kF32, {1}};
  check("fp8_tensor");
  expect_refused("fp8_channel", {"x_scale is f32 [1]", "f32 [2]"});
  x_scale = {memory, DType::kF32, {2}};
  check("fp8_tensor");
  check("fp8_channel");
}

TEST_F(GivenTensors, CodesWhereNumbersBelongAndScalesOfNumbers) {
  expect_refused("bf16_mxfp4", {"x is u8 [2, 32]", "bf16 numbers", "bf16_mxfp4", "fp8_tensor, fp8_channel"});
  x.dtype = DType::kBF16;
  check("mxfp8");
  check("bf16");
  x_scale = {memory, DType::kU8, {2, 1}};
  expect_refused("mxfp8", {"x_scale is u8 [2, 1]", "numbers"});
  expect_refused("bf16", {"x_scale is u8 [2, 1]", "numbers"});
}

}  // namespace
}  // namespace moesaic::tables
