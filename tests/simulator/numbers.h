// SPDX-License-Identifier: Apache-2.0
// Number formats of PTX, written from their definitions: 16-bit floats, and FP8 as `cvt.rn.satfinite` gives it.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "simulator/program.h"

namespace moesaic::sim {

inline float from_bf16(u16 bits) { return std::bit_cast<float>(static_cast<u32>(bits) << 16); }
inline float from_fp16(u16 bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float size = std::ldexp(static_cast<float>(exponent == 0 ? fraction : fraction + 1024), std::max(exponent, 1) - 25);
  if (exponent == 31) size = fraction == 0 ? INFINITY : NAN;
  return (bits & 0x8000) != 0 ? -size : size;
}

/// A finite size of at most the format's largest number, rounded to `kMantissa` bits of fraction, ties to even: the
/// code without its sign. What rounds up beyond gives the code behind the largest.
template <int kExponent, int kMantissa>
int round_size(double size) {
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  int exponent = 0;
  std::frexp(size, &exponent);
  exponent = size == 0 ? 1 - kBias : std::max(exponent - 1, 1 - kBias);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, kMantissa - exponent)));
  return ((exponent + kBias - 1) << kMantissa) + steps;  // a carry goes into the exponent by itself
}

/// To nearest, ties to even.
inline u16 to_bf16(float value) {
  const u32 bits = std::bit_cast<u32>(value);
  if (std::isnan(value)) return 0x7fff;
  return static_cast<u16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline u16 to_fp16(float value) {
  if (std::isnan(value)) return 0x7fff;
  const double size =
      std::fmin(std::fabs(static_cast<double>(value)), 65536.0);  // the code behind the largest: infinity
  return static_cast<u16>((std::signbit(value) ? 0x8000 : 0) | std::min(round_size<5, 10>(size), 0x7c00));
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
  if (std::isnan(value)) return 0x7f;
  const double size = std::fmin(std::fabs(static_cast<double>(value)), most);
  return static_cast<u8>((std::signbit(value) ? 0x80 : 0) | round_size<kExponent, 7 - kExponent>(size));
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
