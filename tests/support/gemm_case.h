// SPDX-License-Identifier: Apache-2.0
// Products for tests: random weights in a recipe's format, rows of groups, codes of rows, in host memory.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "moesaic/gemm.h"
#include "support/random_layer.h"

namespace moesaic::testing {

/// Weights of all groups with the memory under their views.
struct HostGemm {
  GemmConfig config;
  std::vector<GemmWeights> weights;
  std::vector<std::unique_ptr<std::vector<unsigned char>>> storage;
};
HostGemm random_gemm(std::mt19937& rng, const GemmConfig& config, bool biases);

/// How a run says which rows are a group's.
enum class Grouping { kNone, kOffsets, kCounts };

/// Rows of x (N(0, 1) in the recipe's type) with, between groups' rows or behind them, rows of nobody that are NaN.
struct GemmRows {
  Grouping grouping;
  int groups;
  std::int64_t rows, k;
  HostArray x;                        // [rows, k]
  std::vector<std::int32_t> numbers;  // offsets or counts
  std::vector<bool> used;             // [rows]: a group's

  /// A run of these rows from host memory, [rows, n] of `type` at `out`.
  GemmRun run(void* out, DType type, std::int64_t n) const;
};
GemmRows random_gemm_rows(std::mt19937& rng, const GemmConfig& config, const std::vector<int>& counts,
                          Grouping grouping);

/// The codes and scales that the recipe's own quantiser makes of x.
struct GemmCodes {
  std::vector<unsigned char> codes, scales;
  std::vector<float> row_scales;

  /// Gives them to a run instead of its numbers, the 1 x 128 scales in the order of `major`.
  void give(const GemmConfig& config, ScaleMajor major, GemmRun& run);
};
GemmCodes quantise_rows(const GemmConfig& config, const GemmRows& rows);
/// Sizes of `codes` seen as a run's: x [groups, max, ...] with counts.
std::int64_t code_columns(const GemmConfig& config);

/// The rows that are a group's, of [rows, cols] values.
template <typename T>
std::vector<T> used_rows(const GemmRows& rows, const std::vector<T>& values, std::int64_t cols) {
  std::vector<T> kept;
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    if (!rows.used[static_cast<std::size_t>(r)]) continue;
    kept.insert(kept.end(), values.begin() + r * cols, values.begin() + (r + 1) * cols);
  }
  return kept;
}

/// How near a result of that type must be: the recipe table's bound for the same roundings and another order of sums.
const tables::Tolerance& gemm_tolerance(DType out);

}  // namespace moesaic::testing
