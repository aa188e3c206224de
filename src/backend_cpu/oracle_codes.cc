// SPDX-License-Identifier: Apache-2.0
// The oracle's own codes: small floating-point formats by their definition, and elements of quantised matrices.
#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "backend_cpu/backend_cpu.h"

namespace moesaic::cpu {
namespace {

// Sign, exponent and fraction fields of a code; what the largest exponent means differs by format.
struct Layout {
  int exponent_bits, fraction_bits, bias;
  int largest;  // magnitude code of the largest finite number
};
constexpr Layout kE4M3Layout{4, 3, 7, 0x7E}, kE5M2Layout{5, 2, 15, 0x7B}, kE2M1Layout{2, 1, 1, 0x7};

const Layout& layout_of(CodeFormat format) {
  switch (format) {
    case CodeFormat::kE4M3:
      return kE4M3Layout;
    case CodeFormat::kE5M2:
      return kE5M2Layout;
    case CodeFormat::kE2M1:
      return kE2M1Layout;
    default:
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("code format has value {}, wanted e4m3, e5m2 or e2m1", static_cast<int>(format)));
  }
}

// Value of a magnitude code: fraction with or without the hidden one, times the power of its exponent.
double magnitude_value(const Layout& layout, int code) {
  const int exponent = code >> layout.fraction_bits;
  const int fraction = code & ((1 << layout.fraction_bits) - 1);
  const int significand = exponent == 0 ? fraction : fraction + (1 << layout.fraction_bits);
  return std::ldexp(significand, std::max(exponent, 1) - layout.bias - layout.fraction_bits);
}

int sign_bit(const Layout& layout) { return layout.exponent_bits + layout.fraction_bits; }

// Position of r % 8 in the nibbles of an AWQ word, which hold rows 0 2 4 6 1 3 5 7.
std::int64_t awq_position(std::int64_t r) { return r % 2 == 0 ? r / 2 : 4 + r / 2; }

std::int64_t nibble_index(NibbleOrder order, std::int64_t row_stride, std::int64_t col_stride, std::int64_t r,
                          std::int64_t c) {
  switch (order) {
    case NibbleOrder::kLinear:
      return r * row_stride + c * col_stride;
    case NibbleOrder::kWordsAlongC:
      return (c / 8 * row_stride + r) * 8 + c % 8;
    case NibbleOrder::kWordsAlongR:
      return (r / 8 * row_stride + c) * 8 + r % 8;
    case NibbleOrder::kAwq:
      return c * col_stride + r / 8 * 8 + awq_position(r % 8);
  }
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("nibble order has value {}, wanted an enumerator", static_cast<int>(order)));
}

std::uint8_t nibble_at(const void* data, std::int64_t index) {
  const std::uint8_t byte = static_cast<const std::uint8_t*>(data)[index / 2];
  return index % 2 == 0 ? byte % 16 : byte / 16;
}

double decode_element(const MatrixView& m, std::int64_t row, std::int64_t col) {
  const Quantization& q = m.quantization;
  if (q.codes == CodeFormat::kE4M3 || q.codes == CodeFormat::kE5M2) {
    return decode_code(q.codes, static_cast<const std::uint8_t*>(m.data)[row * m.row_stride + col * m.col_stride]);
  }
  const std::uint8_t code = nibble_at(m.data, nibble_index(q.order, m.row_stride, m.col_stride, row, col));
  if (q.codes == CodeFormat::kE2M1) return decode_code(q.codes, code);
  double zero = 8;
  if (q.zeros != nullptr) {
    zero = q.zero_offset + nibble_at(q.zeros, nibble_index(q.zero_order, q.zero_row_stride, q.zero_col_stride,
                                                           row / q.block_rows, col / q.block_cols));
  }
  return code - zero;
}

}  // namespace

double decode_code(CodeFormat format, std::uint8_t code) {
  if (format == CodeFormat::kInt4) return code;
  const Layout& layout = layout_of(format);
  const int magnitude = code & ((1 << sign_bit(layout)) - 1);
  const bool negative = (code >> sign_bit(layout) & 1) != 0;
  double value = magnitude_value(layout, magnitude);
  if (magnitude > layout.largest) {
    value = format == CodeFormat::kE5M2 && magnitude == 0x7C ? HUGE_VAL : std::nan("");
  }
  return negative ? -value : value;
}

double decode_scale(ScaleFormat format, const void* scales, std::int64_t index) {
  switch (format) {
    case ScaleFormat::kF32:
      return load_element(scales, DType::kF32, index);
    case ScaleFormat::kBF16:
      return load_element(scales, DType::kBF16, index);
    case ScaleFormat::kF16:
      return load_element(scales, DType::kF16, index);
    case ScaleFormat::kE4M3:
      return decode_code(CodeFormat::kE4M3, static_cast<const std::uint8_t*>(scales)[index]);
    case ScaleFormat::kE8M0: {
      const std::uint8_t byte = static_cast<const std::uint8_t*>(scales)[index];
      return byte == 255 ? std::nan("") : std::ldexp(1.0, byte - 127);
    }
  }
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("scale format has value {}, wanted an enumerator", static_cast<int>(format)));
}

std::uint8_t encode_code(CodeFormat format, double value) {
  const Layout& layout = layout_of(format);
  if (std::isnan(value)) return format == CodeFormat::kE2M1 ? 0x7 : 0x7F;
  const int sign = std::signbit(value) ? 1 << sign_bit(layout) : 0;
  const double magnitude = std::fabs(value);
  int below = layout.largest;  // the largest code whose value is at most `magnitude`
  while (magnitude_value(layout, below) > magnitude) --below;
  if (below == layout.largest) return static_cast<std::uint8_t>(sign | below);
  const double down = magnitude - magnitude_value(layout, below), up = magnitude_value(layout, below + 1) - magnitude;
  const bool to_next = up < down || (up == down && below % 2 == 1);
  return static_cast<std::uint8_t>(sign | (to_next ? below + 1 : below));
}

double matrix_element(const MatrixView& matrix, std::int64_t row, std::int64_t col) {
  const Quantization& q = matrix.quantization;
  if (q.codes == CodeFormat::kNone) {
    return load_element(matrix.data, matrix.dtype, row * matrix.row_stride + col * matrix.col_stride);
  }
  double scale = 1.0;
  if (q.scales != nullptr) {
    const std::int64_t index = row / q.block_rows * q.scale_row_stride + col / q.block_cols * q.scale_col_stride;
    scale = decode_scale(q.scale_format, q.scales, index);
  }
  return decode_element(matrix, row, col) * scale * q.multiplier;
}

}  // namespace moesaic::cpu
