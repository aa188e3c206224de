// SPDX-License-Identifier: Apache-2.0
// Plain loops that the oracle's layer and its products have in common.
#include "backend_cpu/oracle_loops.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "backend_cpu/backend_cpu.h"
#include "tables/quant_table.h"

namespace moesaic::cpu {

void for_each_index(std::int64_t count, const std::function<void(std::int64_t)>& body) {
  const std::int64_t workers = std::min<std::int64_t>(count, std::max(1u, std::thread::hardware_concurrency()));
  std::atomic<std::int64_t> next{0};
  const auto work = [&] {
    for (std::int64_t i = next++; i < count; i = next++) body(i);
  };
  std::vector<std::thread> threads;
  for (std::int64_t i = 1; i < workers; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

double dot(const double* a, const double* b, std::int64_t size) {
  // Eight partial sums: one chain of FP64 additions would make real layers take minutes.
  double partial[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    for (int lane = 0; lane < 8; ++lane) partial[lane] += a[i + lane] * b[i + lane];
  }
  for (int lane = 0; i < size; ++i, ++lane) partial[lane] += a[i] * b[i];
  return ((partial[0] + partial[1]) + (partial[2] + partial[3])) +
         ((partial[4] + partial[5]) + (partial[6] + partial[7]));
}

std::vector<double> load_row(const MatrixView& matrix, std::int64_t row, DType type) {
  std::vector<double> values(static_cast<std::size_t>(matrix.cols));
  const bool rounded = type != DType::kF64 && matrix.dtype != type && !matrix.quantized();
  for (std::int64_t col = 0; col < matrix.cols; ++col) {
    const double value = matrix_element(matrix, row, col);
    values[col] = rounded ? round_to(value, type) : value;
  }
  return values;
}

void decode_given_row(const GivenRows& given, std::int64_t row, double* to) {
  const QuantTraits traits = quant_traits({given.form.format});
  const std::int64_t rows = given.form.codes.shape[0], blocks = given.form.scale.shape[1];
  double row_scale = 1.0;
  if (given.form.row_scale) {
    const bool common = given.row_scale.num_elements() == 1;
    row_scale = static_cast<const float*>(given.row_scale.data)[common ? 0 : row];
  }
  for (std::int64_t c = 0; c < given.cols; ++c) {
    const std::int64_t at = row * given.cols + c;
    std::uint8_t code = 0;
    if (tables::code_bits(traits.codes) == 8) {
      code = given.codes[at];
    } else {
      code = c % 2 == 0 ? given.codes[at / 2] & 15 : given.codes[at / 2] >> 4;
    }
    std::int64_t scale = given.form.common_scale && given.scale.num_elements() == 1 ? 0 : row;
    if (traits.block_cols > 0) {
      const std::int64_t block = c / traits.block_cols;
      scale = given.columns_first ? block * rows + row : row * blocks + block;
    }
    to[c] = decode_code(traits.codes, code) * decode_scale(traits.scales, given.scale.data, scale) * row_scale;
  }
}

double bias_at(const VectorView& bias, std::int64_t index) {
  return bias.empty() ? 0.0 : load_element(bias.data, bias.dtype, index * bias.stride);
}

void store(const TensorView& tensor, std::int64_t index, double value) {
  switch (tensor.dtype) {
    case DType::kF64:
      static_cast<double*>(tensor.data)[index] = value;
      return;
    case DType::kF32:
      static_cast<float*>(tensor.data)[index] = static_cast<float>(value);
      return;
    default:
      static_cast<std::uint16_t*>(tensor.data)[index] = encode_16bit(value, tensor.dtype);
      return;
  }
}

}  // namespace moesaic::cpu
