// SPDX-License-Identifier: Apache-2.0
// Number formats of PTX, written from their definitions: 16-bit floats, and FP8 as `cvt.rn.satfinite` gives it.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "simulator/program.h"

namespace moesaic::sim {

inline float from_bf16(u16 bits) { return std::bit_cast<float>(static_cast<u32>(bits) << 16); }
inline float from_fp16(u16 bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }

/// To nearest, ties to even.
inline u16 to_bf16(float value) {
  const u32 bits = std::bit_cast<u32>(value);
  if (std::isnan(value)) return 0x7fff;
  return static_cast<u16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline u16 to_fp16(float value) {
  if (std::isnan(value)) return 0x7fff;
  return std::bit_cast<u16>(static_cast<_Float16>(value));
}

/// `fma.rn.bf16x2` rounds once: to odd at FP32, which keeps what rounding to bf16 needs.
inline u16 fma_bf16(u16 a, u16 b, u16 c) {
  const double exact = static_cast<double>(from_bf16(a)) * from_bf16(b) + from_bf16(c);
  float odd = static_cast<float>(exact);
  if (std::isfinite(odd) && static_cast<double>(odd) != exact) {
    if (std::fabs(static_cast<double>(odd)) > std::fabs(exact)) odd = std::nextafterf(odd, 0.0f);
    odd = std::bit_cast<float>(std::bit_cast<u32>(odd) | 1u);
  }
  return to_bf16(odd);
}

/// FP8 with `kExponent` exponent bits and the largest finite value `most`; what is larger becomes `most`, NaN 0x7f.
template <int kExponent>
u8 to_fp8(float value, double most) {
  constexpr int kMantissa = 7 - kExponent, kBias = (1 << (kExponent - 1)) - 1;
  if (std::isnan(value)) return 0x7f;
  const u8 sign = std::signbit(value) ? 0x80 : 0;
  const double size = std::fmin(std::fabs(static_cast<double>(value)), most);
  int exponent = 0;
  std::frexp(size, &exponent);
  exponent = size == 0 ? 1 - kBias : std::max(exponent - 1, 1 - kBias);
  const double unit = std::ldexp(1.0, exponent - kMantissa);
  const int steps = static_cast<int>(std::nearbyint(std::fmin(size / unit, 1e9)));  // ties to even
  const int code = ((exponent + kBias - 1) << kMantissa) + steps;  // a carry goes into the exponent by itself
  return static_cast<u8>(sign | code);
}
inline u8 to_e4m3(float value) { return to_fp8<4>(value, 448.0); }
inline u8 to_e5m2(float value) { return to_fp8<5>(value, 57344.0); }

/// An exact result to FP32, towards minus infinity and towards zero.
inline float round_down(double exact) {
  const float near = static_cast<float>(exact);
  return static_cast<double>(near) > exact ? std::nextafterf(near, -INFINITY) : near;
}
inline float round_to_zero(double exact) {
  const float near = static_cast<float>(exact);
  return std::fabs(static_cast<double>(near)) > std::fabs(exact) ? std::nextafterf(near, 0.0f) : near;
}

}  // namespace moesaic::sim
