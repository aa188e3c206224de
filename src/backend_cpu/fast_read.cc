// SPDX-License-Identifier: Apache-2.0
// Elements of stored matrices: numbers, codes in any order of nibbles, scales, zero points.
#include "backend_cpu/fast_read.h"

#include <algorithm>

#include "moesaic/quantize.h"

namespace moesaic::cpu {
namespace {

std::uint8_t nibble(const void* data, std::int64_t index) {
  return static_cast<const std::uint8_t*>(data)[index >> 1] >> (4 * (index & 1)) & 15;
}

// Index of nibble (row, 0) and the step to (row, col) for words along C; see NibbleOrder.
std::int64_t nibble_position(NibbleOrder order, std::int64_t row_stride, std::int64_t col_stride, std::int64_t row,
                             std::int64_t col) {
  constexpr int kAwqPosition[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of row r % 8: rows lie 0 2 4 6 1 3 5 7
  switch (order) {
    case NibbleOrder::kLinear:
      break;
    case NibbleOrder::kWordsAlongC:
      return (col >> 3) * 8 * row_stride + 8 * row + (col & 7);
    case NibbleOrder::kWordsAlongR:
      return (row >> 3) * 8 * row_stride + 8 * col + (row & 7);
    case NibbleOrder::kAwq:
      return col * col_stride + (row & ~std::int64_t{7}) + kAwqPosition[row & 7];
  }
  return row * row_stride + col * col_stride;
}

void read_nibbles(const MatrixView& m, std::int64_t row, std::uint8_t* to) {
  const NibbleOrder order = m.quantization.order;
  const std::int64_t start = nibble_position(order, m.row_stride, m.col_stride, row, 0);
  if (order == NibbleOrder::kWordsAlongC) {
    for (std::int64_t c = 0; c < m.cols; ++c) {
      to[c] = nibble(m.data, start + (c >> 3) * 8 * m.row_stride + (c & 7));
    }
    return;
  }
  const std::int64_t step = order == NibbleOrder::kWordsAlongR ? 8 : m.col_stride;
  for (std::int64_t c = 0; c < m.cols; ++c) to[c] = nibble(m.data, start + c * step);
}

}  // namespace

float read_float(const void* data, DType type, std::int64_t index) {
  if (type == DType::kF32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return type == DType::kBF16 ? bf16_to_float(bits) : half_to_float(bits);
}

void read_numbers(const MatrixView& matrix, std::int64_t row, Io io, std::uint16_t* to) {
  const std::int64_t start = row * matrix.row_stride;
  if (matrix.dtype == (io == Io::kBf16 ? DType::kBF16 : DType::kF16)) {
    const auto* from = static_cast<const std::uint16_t*>(matrix.data) + start;
    for (std::int64_t c = 0; c < matrix.cols; ++c) to[c] = from[c * matrix.col_stride];
    return;
  }
  for (std::int64_t c = 0; c < matrix.cols; ++c) {
    to[c] = from_float(read_float(matrix.data, matrix.dtype, start + c * matrix.col_stride), io);
  }
}

void read_codes(const MatrixView& matrix, std::int64_t row, std::uint8_t* to) {
  const CodeFormat format = matrix.quantization.codes;
  if (format == CodeFormat::kE2M1 || format == CodeFormat::kInt4) return read_nibbles(matrix, row, to);
  const auto* from = static_cast<const std::uint8_t*>(matrix.data) + row * matrix.row_stride;
  for (std::int64_t c = 0; c < matrix.cols; ++c) to[c] = from[c * matrix.col_stride];
}

double read_scale(const Quantization& q, std::int64_t row, std::int64_t col) {
  if (q.scales == nullptr) return 1.0;
  const std::int64_t index = row / q.block_rows * q.scale_row_stride + col / q.block_cols * q.scale_col_stride;
  switch (q.scale_format) {
    case ScaleFormat::kF32:
      return read_float(q.scales, DType::kF32, index);
    case ScaleFormat::kBF16:
      return read_float(q.scales, DType::kBF16, index);
    case ScaleFormat::kF16:
      return read_float(q.scales, DType::kF16, index);
    case ScaleFormat::kE4M3:
      return e4m3_to_float(static_cast<const std::uint8_t*>(q.scales)[index]);
    case ScaleFormat::kE8M0:
      break;
  }
  return e8m0_to_float(static_cast<const std::uint8_t*>(q.scales)[index]);
}

int read_zero(const Quantization& q, std::int64_t row, std::int64_t col) {
  if (q.zeros == nullptr) return 8;
  const std::int64_t index =
      nibble_position(q.zero_order, q.zero_row_stride, q.zero_col_stride, row / q.block_rows, col / q.block_cols);
  return nibble(q.zeros, index) + q.zero_offset;
}

std::int64_t scale_row_in_group(const TensorView& group_offsets, std::int64_t row) {
  const auto* offsets = static_cast<const std::int32_t*>(group_offsets.data);
  const std::int64_t group = std::upper_bound(offsets + 1, offsets + group_offsets.shape[0], row) - offsets - 1;
  if (group + 1 == group_offsets.shape[0]) return -1;
  return grouped_scale_row(offsets[group], group) + row - offsets[group];
}

}  // namespace moesaic::cpu
