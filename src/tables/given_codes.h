// SPDX-License-Identifier: Apache-2.0
// THE list of what x is made of where a caller has quantised it: for every recipe, shapes and types of codes and
// scales.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "moesaic/quantize.h"

namespace moesaic::tables {

/// A dense tensor of one or two dimensions.
struct GivenTensor {
  DType dtype;
  int rank;
  std::array<std::int64_t, 2> shape;

  bool operator==(const GivenTensor&) const = default;
};

/// Rows of codes with their scales. Number (r, c) is code * scale, with `row_scale` * x_row_scale.
struct GivenCodes {
  QuantFormat format;  // kFp8Row (every row's scale, or one for all), kFp8Block1x128, kMxfp8, kMxfp8E5m2, kNvfp4Row
  GivenTensor codes;   // u8 [rows, cols], or 4 bits [rows, cols / 2]
  GivenTensor scale;   // [rows], or [rows, blocks]
  bool common_scale;   // `scale` may be [1]
  bool row_scale;      // and x_row_scale f32 [rows] or [1]
};

/// What codes of a recipe's activations [rows, cols] are given as; `e5m2`: MX codes are e5m2. std::nullopt: the recipe
/// has 16-bit activations.
std::optional<GivenCodes> given_codes(const std::string& recipe, std::int64_t rows, std::int64_t cols,
                                      bool e5m2 = false);

/// Throws Error(kInvalidArgument) that begins with `operation` on tensors that are not that.
void check_given_codes(const char* operation, const GivenCodes& form, const TensorView& x, const TensorView& x_scale,
                       const TensorView& x_row_scale);

/// The same for an op whose x is of `recipe`, codes or numbers: of numbers, only that they have no scales. The numbers
/// themselves are the caller's to check.
void check_given_codes(const char* operation, const std::string& recipe, const std::optional<GivenCodes>& form,
                       const TensorView& x, const TensorView& x_scale, const TensorView& x_row_scale);

}  // namespace moesaic::tables
