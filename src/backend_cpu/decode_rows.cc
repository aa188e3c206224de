// SPDX-License-Identifier: Apache-2.0
// Rows of stored matrices as fp32, for converting from one format to another: tables of codes, one scale a block.
#include "backend_cpu/decode_rows.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "backend_cpu/backend_cpu.h"

namespace moesaic::cpu {
namespace {

using CodeTable = std::array<float, 256>;

CodeTable make_table(CodeFormat format) {
  CodeTable table{};
  const int codes = format == CodeFormat::kE2M1 ? 16 : 256;
  for (int code = 0; code < codes; ++code) {
    table[code] = static_cast<float>(decode_code(format, static_cast<std::uint8_t>(code)));
  }
  return table;
}

const CodeTable& code_table(CodeFormat format) {
  static const CodeTable e4m3 = make_table(CodeFormat::kE4M3), e5m2 = make_table(CodeFormat::kE5M2),
                         e2m1 = make_table(CodeFormat::kE2M1);
  return format == CodeFormat::kE4M3 ? e4m3 : format == CodeFormat::kE5M2 ? e5m2 : e2m1;
}

// Row-major codes of floating-point formats, block by block; others go element by element.
bool decode_linear(const MatrixView& m, std::int64_t row, float* to) {
  const Quantization& q = m.quantization;
  const bool four_bits = q.codes == CodeFormat::kE2M1;
  if (q.codes == CodeFormat::kInt4 || q.scales == nullptr || m.col_stride != 1) return false;
  if (four_bits && (q.order != NibbleOrder::kLinear || m.row_stride % 2 != 0)) return false;
  const CodeTable& table = code_table(q.codes);
  const auto* codes = static_cast<const std::uint8_t*>(m.data) + row * m.row_stride / (four_bits ? 2 : 1);
  for (std::int64_t begin = 0; begin < m.cols; begin += q.block_cols) {
    const std::int64_t end = std::min(m.cols, begin + q.block_cols);
    const std::int64_t index = row / q.block_rows * q.scale_row_stride + begin / q.block_cols * q.scale_col_stride;
    // Rounded once: codes times scale is exact in FP64.
    const double scale = decode_scale(q.scale_format, q.scales, index) * q.multiplier;
    for (std::int64_t c = begin; c < end; ++c) {
      const int code = four_bits ? codes[c / 2] >> (c % 2 * 4) & 15 : codes[c];
      to[c] = static_cast<float>(table[code] * scale);
    }
  }
  return true;
}

}  // namespace

void decode_row(const MatrixView& matrix, std::int64_t row, float* to) {
  if (matrix.quantized() && decode_linear(matrix, row, to)) return;
  for (std::int64_t c = 0; c < matrix.cols; ++c) to[c] = static_cast<float>(matrix_element(matrix, row, c));
}

}  // namespace moesaic::cpu
