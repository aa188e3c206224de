// SPDX-License-Identifier: Apache-2.0
// The oracle's own numbers: decoding of stored elements to FP64, and rounding of FP64 to a stored type in one step.
#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "backend_cpu/backend_cpu.h"

namespace moesaic::cpu {
namespace {

template <typename T>
T element_at(const void* data, std::int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

double decode_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  double magnitude;
  if (exponent == 0x1f) {
    magnitude = fraction != 0 ? std::nan("") : HUGE_VAL;
  } else if (exponent == 0) {
    magnitude = fraction * 0x1p-24;
  } else {
    magnitude = std::bit_cast<double>(static_cast<std::uint64_t>(exponent - 15 + 1023) << 52 |
                                      static_cast<std::uint64_t>(fraction) << 42);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Nearest value with `precision` significant bits (hidden one included), ties to even; below 2^min_exponent the
// spacing stays that of 2^min_exponent. FP64 goes there directly: going through FP32 would round twice.
double round_binary(double value, int precision, int min_exponent, double largest) {
  if (value == 0.0 || !std::isfinite(value)) return value;
  const int exponent = std::max(std::ilogb(value), min_exponent);
  const double spacing = std::ldexp(1.0, exponent - (precision - 1));
  const double rounded = std::nearbyint(value / spacing) * spacing;
  return std::fabs(rounded) > largest ? std::copysign(HUGE_VAL, value) : rounded;
}

}  // namespace

double load_element(const void* data, DType dtype, std::int64_t index) {
  switch (dtype) {
    case DType::kF64:
      return element_at<double>(data, index);
    case DType::kF32:
      return element_at<float>(data, index);
    case DType::kBF16:
      return std::bit_cast<float>(static_cast<std::uint32_t>(element_at<std::uint16_t>(data, index)) << 16);
    case DType::kF16:
      return decode_half(element_at<std::uint16_t>(data, index));
    default:
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("load_element: type {}, wanted f64, f32, bf16 or f16", dtype_name(dtype)));
  }
}

double round_to(double value, DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return value;
    case DType::kF32:
      return static_cast<float>(value);
    case DType::kBF16:
      return round_binary(value, 8, -126, 0x1.fep127);
    case DType::kF16:
      return round_binary(value, 11, -14, 65504.0);
    default:
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("round_to: type {}, wanted f64, f32, bf16 or f16", dtype_name(dtype)));
  }
}

std::uint16_t encode_16bit(double value, DType dtype) {
  const double rounded = round_to(value, dtype);
  const std::uint16_t sign = std::signbit(rounded) ? 0x8000 : 0;
  const int fraction_bits = dtype == DType::kBF16 ? 7 : 10;
  const int bias = dtype == DType::kBF16 ? 127 : 15;
  const auto infinity = static_cast<std::uint16_t>((2 * bias + 1) << fraction_bits);
  if (std::isnan(rounded)) return static_cast<std::uint16_t>(infinity | 1 << (fraction_bits - 1));
  if (std::isinf(rounded)) return static_cast<std::uint16_t>(sign | infinity);
  const double magnitude = std::fabs(rounded);
  const int exponent = magnitude == 0.0 ? 1 - bias : std::max(std::ilogb(magnitude), 1 - bias);
  // In units of the last place; a normal number's hidden bit carries into the exponent field.
  const double units = std::ldexp(magnitude, fraction_bits - exponent);
  const int code = static_cast<int>(units) + ((exponent + bias - 1) << fraction_bits);
  return static_cast<std::uint16_t>(sign | code);
}

}  // namespace moesaic::cpu
