// SPDX-License-Identifier: Apache-2.0
// How far a layer's output is from the expected one.
#include "cli/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moesaic::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double difference(double got, double want) {
  if (std::isfinite(got) && std::isfinite(want)) return std::abs(got - want);
  bool same = (std::isnan(got) && std::isnan(want)) || got == want;
  return same ? 0 : kInfinity;
}

double relative(double difference_square, double want_square) {
  if (difference_square == 0) return 0;
  return want_square == 0 ? kInfinity : std::sqrt(difference_square / want_square);
}

}  // namespace

Comparison compare_rows(std::span<const float> got, std::span<const float> want, std::int64_t rows, std::int64_t cols) {
  Comparison result;
  double all_difference = 0, all_want = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    double row_difference = 0, row_want = 0;
    for (std::int64_t col = 0; col < cols; ++col) {
      auto at = static_cast<std::size_t>(row * cols + col);
      double d = difference(got[at], want[at]);
      if (d > result.max_abs || result.max_row < 0) {
        result.max_abs = d;
        result.max_row = row;
        result.max_col = col;
      }
      row_difference += d * d;
      if (std::isfinite(want[at])) row_want += double{want[at]} * want[at];
    }
    double error = relative(row_difference, row_want);
    if (error > result.worst_row_l2 || result.worst_row < 0) {
      result.worst_row_l2 = error;
      result.worst_row = row;
    }
    all_difference += row_difference;
    all_want += row_want;
  }
  result.relative_l2 = relative(all_difference, all_want);
  return result;
}

std::int64_t rows_that_differ(std::span<const std::int32_t> got, std::span<const std::int32_t> want, std::int64_t rows,
                              std::int64_t cols) {
  std::int64_t differing = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    auto begin = static_cast<std::ptrdiff_t>(row * cols), end = begin + static_cast<std::ptrdiff_t>(cols);
    if (!std::equal(got.begin() + begin, got.begin() + end, want.begin() + begin)) ++differing;
  }
  return differing;
}

}  // namespace moesaic::cli
