// SPDX-License-Identifier: Apache-2.0
// Weights that the fuzzers of layers and of products choose: views that are right, or wrong in one way.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "fuzz/choices.h"
#include "moesaic/quantize.h"

namespace moesaic::testing {

/// A matrix in the recipe's format, then perhaps something else.
inline MatrixView choose_matrix(Choices& c, const std::string& recipe, const Int4Groups& int4, std::int64_t rows,
                                std::int64_t cols) {
  MatrixView v{numbers().middle() + 64 * c.below(4), DType::kBF16, rows, cols, cols, 1};
  const std::optional<QuantSpec> spec = weight_spec(recipe, int4);
  if (!spec) {
    v.dtype = c.of({DType::kBF16, DType::kF16, DType::kF32});
    if (c.rarely()) v.row_stride = c.of<std::int64_t>({1, 0, -cols, 2 * cols});
    if (c.rarely()) v.col_stride = c.of<std::int64_t>({rows, 0, -1, 2});
  } else {
    const QuantTraits traits = quant_traits(*spec);
    v.dtype = DType::kU8;
    Quantization& q = v.quantization;
    q.codes = traits.codes;
    q.scale_format = traits.scales;
    q.scales = numbers().middle();
    q.block_rows = traits.block_rows == 0 ? rows : traits.block_rows;
    q.block_cols = traits.block_cols == 0 ? cols : traits.block_cols;
    q.scale_col_stride = 1;
    q.scale_row_stride = (cols + q.block_cols - 1) / std::max<std::int64_t>(q.block_cols, 1);
    if (int4.zero_points && q.codes == CodeFormat::kInt4) q.zeros = numbers().middle();
  }
  if (!c.rarely()) return v;
  Quantization& q = v.quantization;
  switch (c.below(12)) {
    case 0:
      v.data = nullptr;
      break;
    case 1:
      v.data = static_cast<const char*>(v.data) + 1;
      break;
    case 2:
      v.dtype = static_cast<DType>(c.below(9));
      break;
    case 3:
      v.rows += c.of({1, -1});
      break;
    case 4:
      v.cols = c.of<std::int64_t>({0, -1, cols + 1, std::int64_t{1} << 40});
      break;
    case 5:
      q.codes = static_cast<CodeFormat>(c.below(7));
      break;
    case 6:
      q.order = static_cast<NibbleOrder>(c.below(6));
      break;
    case 7:
      q.scale_format = static_cast<ScaleFormat>(c.below(7));
      break;
    case 8:
      q.scales = c.flag() ? nullptr : numbers().middle() + 1;
      break;
    case 9:
      q.block_rows = c.of<std::int64_t>({0, -1, 1, 128});
      break;
    case 10:
      q.block_cols = c.of<std::int64_t>({0, -1, 1, 16, 32, 128});
      break;
    default:
      q.zeros = numbers().middle() + 3;
      q.zero_order = static_cast<NibbleOrder>(c.below(5));
      break;
  }
  return v;
}

/// Mostly empty.
inline VectorView choose_vector(Choices& c, std::int64_t size) {
  if (!c.rarely()) return {};
  VectorView v{numbers().middle(), c.of({DType::kF32, DType::kBF16, DType::kF16}), size, c.of<std::int64_t>({1, 2, 0})};
  if (c.rarely()) v.size += c.of({1, -1});
  if (c.rarely()) v.dtype = static_cast<DType>(c.below(9));
  if (c.rarely()) v.data = numbers().middle() + 1;
  return v;
}

}  // namespace moesaic::testing
