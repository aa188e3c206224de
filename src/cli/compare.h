// SPDX-License-Identifier: Apache-2.0
// How far a layer's output is from the expected one.
#pragma once

#include <cstdint>
#include <span>

namespace moesaic::cli {

/// What exact mode is held to: FP64 from the stored values is within 6e-7 of outputs that a model library recorded.
inline constexpr double kExactRowL2 = 1e-5;

/// Errors of `got` against `want`, both [rows, cols]. A NaN or infinity on one side alone makes its error infinite; the
/// same non-finite value on both sides counts as equal. A row of zeros is met by zeros only.
struct Comparison {
  double relative_l2 = 0;   // over all elements
  double worst_row_l2 = 0;  // the largest relative L2 of one row
  std::int64_t worst_row = -1;
  double max_abs = 0;
  std::int64_t max_row = -1, max_col = -1;

  /// NaN never passes.
  bool within(double row_l2) const { return worst_row_l2 <= row_l2; }
};

/// Requires: both spans have rows * cols elements.
Comparison compare_rows(std::span<const float> got, std::span<const float> want, std::int64_t rows, std::int64_t cols);

/// Rows of [rows, cols] whose ids are not the same in the same order.
std::int64_t rows_that_differ(std::span<const std::int32_t> got, std::span<const std::int32_t> want, std::int64_t rows,
                              std::int64_t cols);

}  // namespace moesaic::cli
