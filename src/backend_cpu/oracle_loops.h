// SPDX-License-Identifier: Apache-2.0
// Plain loops that the oracle's layer and its products have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "moesaic/tensor.h"
#include "tables/given_codes.h"

namespace moesaic::cpu {

/// body(0) .. body(count - 1), each once, on all cores.
void for_each_index(std::int64_t count, const std::function<void(std::int64_t)>& body);

/// sum a[i] b[i].
double dot(const double* a, const double* b, std::int64_t size);

/// Row `row` of a matrix in FP64, rounded to `type` where it is stored as numbers of another one.
std::vector<double> load_row(const MatrixView& matrix, std::int64_t row, DType type);

/// Rows of codes that the caller has quantised.
struct GivenRows {
  tables::GivenCodes form;    // of all rows
  const std::uint8_t* codes;  // [rows][cols], or 4 bits [rows][cols / 2]
  TensorView scale;           // one a row or one for all, or [rows][blocks]
  TensorView row_scale;
  std::int64_t cols;
  bool columns_first;  // scales [blocks][rows]
};
/// Values of row `row`, [cols].
void decode_given_row(const GivenRows& given, std::int64_t row, double* to);

/// 0 where there is no bias.
double bias_at(const VectorView& bias, std::int64_t index);

/// Rounds once to the tensor's type.
void store(const TensorView& tensor, std::int64_t index, double value);

}  // namespace moesaic::cpu
