// SPDX-License-Identifier: Apache-2.0
// Weights to measure with: random codes and scales in a recipe's own format, made in a fraction of a second.
#pragma once

#include <deque>
#include <vector>

#include "moesaic/moe.h"

namespace moesaic::cli {

/// Every expert is a view of the same numbers, of size about 0.02; preparing gives each memory of its own. Codes and
/// scales are valid and outputs finite.
class BenchWeights {
 public:
  BenchWeights(const MoeConfig& config, bool biases);

  /// Views of host memory that lives as long as this object.
  const MoeWeights& views() const noexcept { return views_; }

 private:
  ExpertWeights expert(const std::string& recipe, std::int64_t intermediate, bool biases);
  MatrixView matrix(const std::string& recipe, std::int64_t rows, std::int64_t cols);
  VectorView vector(std::int64_t size);
  std::vector<std::uint8_t>& keep(std::int64_t bytes);

  const MoeConfig config_;
  MoeWeights views_;
  std::deque<std::vector<std::uint8_t>> storage_;
};

/// Random bf16 or fp16 numbers of size about 0.02.
std::vector<std::uint16_t> bench_numbers(std::size_t count, DType dtype);

}  // namespace moesaic::cli
