// SPDX-License-Identifier: Apache-2.0
// 16-bit numbers of the fast path, one at a time: nearest even, subnormals kept, NaN stays NaN, overflow to infinity.
#pragma once

#include <bit>
#include <cstdint>

namespace moesaic::cpu {

/// Type of activations and weights of the fast path; indexes tables of kernels.
enum class Io : int { kBf16 = 0, kFp16 = 1 };

inline float bf16_to_float(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

inline std::uint16_t float_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

inline float half_to_float(std::uint16_t bits) {
  const std::uint32_t magnitude = (bits & 0x7fffu) << 13;
  // The exponents' bias differs by 112; the product is exact for normal and subnormal numbers alike.
  std::uint32_t result = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  if (magnitude >= 0x0f800000u) result = magnitude | 0x7f800000u;
  return std::bit_cast<float>(result | static_cast<std::uint32_t>(bits & 0x8000u) << 16);
}

inline std::uint16_t float_to_half(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65520 and up round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the spacing is 2^-24 = the last place of 0.5: adding 0.5 lets the FPU round.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline float to_float(std::uint16_t bits, Io io) { return io == Io::kBf16 ? bf16_to_float(bits) : half_to_float(bits); }
inline std::uint16_t from_float(float value, Io io) {
  return io == Io::kBf16 ? float_to_bf16(value) : float_to_half(value);
}

}  // namespace moesaic::cpu
