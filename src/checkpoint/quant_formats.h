// SPDX-License-Identifier: Apache-2.0
// THE list of formats of weights in checkpoints: which tensors a module has in each, of which type and shape, and how
// they become a view. A new format is one row, and a reader of its config in quant_config.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/quant_config.h"
#include "checkpoint/stored_part.h"
#include "moesaic/tensor.h"

namespace moesaic::checkpoint {

/// What a tensor of a module is for.
enum class Part : std::uint8_t { kCodes, kScales, kGlobalScale, kInputScale, kZeros, kGroupIndex, kShape };
inline constexpr std::size_t kNumParts = 7;

using StoredParts = std::array<StoredPart, kNumParts>;

/// A module's matrix [rows, cols], or those of all experts on top of each other, experts * rows.
struct MatrixExtent {
  std::int64_t rows = 0, cols = 0;
  std::int64_t experts = 1;
};

/// Whether a module has a tensor, by its config.
enum class Presence : std::uint8_t { kNo, kMaybe, kYes };

struct PartRow {
  Part part;
  const char* suffix;                 // of the module's name
  std::array<const char*, 3> dtypes;  // that are read; nullptr ends the list
  std::vector<Shape> (*shapes)(const Scheme&, const MatrixExtent&);
  Presence (*presence)(const Scheme&);
};

struct FormatRow {
  StoredFormat format;
  const char* name;    // for people
  const char* layout;  // of the codes
  const char* recipe;  // with quantised activations, and without; nullptr: no layer computes that
  const char* weight_only_recipe;
  bool fused;                        // one tensor for all experts
  int rows_multiple, cols_multiple;  // what the packing needs; int4 groups come on top
  bool global_scale_divides;         // global scales are divisors
  std::span<const PartRow> parts;
  MatrixView (*view)(const Scheme&, const StoredParts&, const MatrixExtent&);
};

const FormatRow& format_row(StoredFormat format);

/// The recipe of a layer whose experts are stored so. Throws Error(kUnsupported) where none computes that.
const char* recipe_of(const Scheme& scheme, const std::string& where);

/// Why a matrix of that extent cannot be stored so; "" when it can.
std::string extent_problem(const FormatRow& row, const Scheme& scheme, const MatrixExtent& extent);

/// The view of a module's matrix. Throws Error: kIo for scales that are no numbers, kUnsupported for a changed order
/// of K.
MatrixView matrix_of(const FormatRow& row, const Scheme& scheme, const StoredParts& parts, const MatrixExtent& extent);

/// The multiplier of activation codes that the module's parts hold; 0: none.
float input_scale_of(const FormatRow& row, const StoredParts& parts);

/// Every `step`-th row of a matrix, `count` of them from row `first`. The view must have a scale for every row.
MatrixView rows_of(const MatrixView& matrix, std::int64_t first, std::int64_t step, std::int64_t count);

}  // namespace moesaic::checkpoint
