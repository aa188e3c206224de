// SPDX-License-Identifier: Apache-2.0
// Weights to measure with: random codes and scales in a recipe's own format, made in a fraction of a second.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "moesaic/moe.h"

namespace moesaic::cli {

/// Matrices and vectors of numbers of size about 0.02; codes and scales are valid. Memory lives as long as this object.
class BenchMatrices {
 public:
  /// In the format that the recipe's weights have.
  MatrixView matrix(const std::string& recipe, const Int4Groups& int4, std::int64_t rows, std::int64_t cols);
  VectorView vector(std::int64_t size);

 private:
  std::vector<std::uint8_t>& keep(std::int64_t bytes);

  std::deque<std::vector<std::uint8_t>> storage_;
};

/// Every expert is a view of the same numbers; preparing gives each memory of its own. Outputs are finite.
class BenchWeights {
 public:
  BenchWeights(const MoeConfig& config, bool biases);

  /// Views of host memory that lives as long as this object.
  const MoeWeights& views() const noexcept { return views_; }

 private:
  ExpertWeights expert(const std::string& recipe, std::int64_t intermediate, bool biases);

  const MoeConfig config_;
  BenchMatrices memory_;
  MoeWeights views_;
};

/// Random bf16 or fp16 numbers of size about 0.02.
std::vector<std::uint16_t> bench_numbers(std::size_t count, DType dtype);

}  // namespace moesaic::cli
