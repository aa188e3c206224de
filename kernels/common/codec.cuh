// SPDX-License-Identifier: Apache-2.0
// Number formats of 4 and 8 bits: FP32 to code (nearest, ties to the even code, saturating, sign of zero kept, NaN to
// 0x7F or 7) and back. Software everywhere; conversion instructions where the target has them, with the same results.
// Arithmetic is by the _rn intrinsics: the compiler neither fuses nor flushes them.
#pragma once

#include "kernels/common/number.cuh"

namespace moesaic::codec {

struct E2m1 {
  static constexpr int kFraction = 1, kLeastExponent = 0, kSign = 3;
  static constexpr float kLargest = 6.0f;  // 1.5 * 2^2
  static constexpr int kTopExponent = 2;
  static constexpr u32 kNan = 0x7;
};
struct E4m3 {
  static constexpr int kFraction = 3, kLeastExponent = -6, kSign = 7;
  static constexpr float kLargest = 448.0f;  // 1.75 * 2^8
  static constexpr int kTopExponent = 8;
  static constexpr u32 kNan = 0x7f;
};
struct E5m2 {
  static constexpr int kFraction = 2, kLeastExponent = -14, kSign = 7;
  static constexpr float kLargest = 57344.0f;  // 1.75 * 2^15
  static constexpr int kTopExponent = 15;
  static constexpr u32 kNan = 0x7f;
};

inline constexpr float kLargestFloat = 3.402823466e+38f;
inline constexpr u32 kInfinityBits = 0x7f800000u, kNanBits = 0x7fc00000u;

__device__ __forceinline__ float power_of_two(int exponent) {
  return __uint_as_float(static_cast<u32>(exponent + 127) << 23);  // exponents of normal numbers
}

/// Code of a magnitude in [0, largest]. The number 2^(e + 23 - fraction), e the exponent but at least the format's
/// least one, has one step of the format as its last bit: adding it rounds the magnitude to steps, ties to even. An
/// even number of steps is an even code, since a binade holds an even number of steps.
template <typename Format>
__device__ __forceinline__ u32 encode_magnitude(float magnitude) {
  constexpr u32 kLeast = static_cast<u32>(127 + Format::kLeastExponent) << 23;
  const u32 exponent = max(__float_as_uint(magnitude) & 0x7f800000u, kLeast);
  const u32 rounder = exponent + (static_cast<u32>(23 - Format::kFraction) << 23);
  const u32 steps = __float_as_uint(__fadd_rn(magnitude, __uint_as_float(rounder))) - rounder;
  return steps + ((exponent - kLeast) >> (23 - Format::kFraction));
}

/// Requires: not NaN (which would become the largest number with its own sign).
template <typename Format>
__device__ __forceinline__ u32 encode_number(float value) {
  const u32 sign = __float_as_uint(value) >> 31 << Format::kSign;
  return encode_magnitude<Format>(fminf(fabsf(value), Format::kLargest)) | sign;
}

template <typename Format>
__device__ __forceinline__ u32 encode(float value) {
  return value != value ? Format::kNan : encode_number<Format>(value);
}

/// Magnitude bits become an FP32 number 2^(126 + least exponent) too small, subnormal ones included; the product is
/// exact.
template <typename Format>
__device__ __forceinline__ float decode(u32 code) {
  constexpr u32 kMagnitude = (1u << Format::kSign) - 1;
  const u32 magnitude = code & kMagnitude;
  const float value =
      __fmul_rn(__uint_as_float(magnitude << (23 - Format::kFraction)), power_of_two(126 + Format::kLeastExponent));
  u32 bits = __float_as_uint(value) | (code >> Format::kSign & 1u) << 31;
  if constexpr (Format::kFraction == 3) {
    if (magnitude == 0x7f) bits = kNanBits;
  } else if constexpr (Format::kFraction == 2) {
    if (magnitude >= 0x7c) bits = magnitude == 0x7c ? (bits & 0x80000000u) | kInfinityBits : kNanBits;
  }
  return __uint_as_float(bits);
}

/// 2^(byte - 127); 255 is NaN.
__device__ __forceinline__ float decode_e8m0(u32 byte) {
  return __uint_as_float(byte == 0 ? 0x00400000u : byte == 255 ? kNanBits : byte << 23);
}

// --- several codes in a register, the first value in the lowest bits ------------------------------------------------

template <typename Format>
__device__ __forceinline__ u32 convert_fp8x2(float low, float high) {
  u16 codes;
  if constexpr (Format::kFraction == 3) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  }
  return codes;
}

/// Four codes of 8 bits. The instruction gives a NaN the code 0x7F whatever its sign.
template <typename Format, bool kHardware>
__device__ __forceinline__ u32 encode_fp8x4(float a, float b, float c, float d) {
  if constexpr (kHardware) {
    return convert_fp8x2<Format>(a, b) | convert_fp8x2<Format>(c, d) << 16;
  } else {
    return encode<Format>(a) | encode<Format>(b) << 8 | encode<Format>(c) << 16 | encode<Format>(d) << 24;
  }
}

/// Eight codes of e2m1. Requires: no NaN but positive ones, which become 7.
template <bool kHardware>
__device__ __forceinline__ u32 encode_e2m1x8(const float* v) {
  u32 codes = 0;
  if constexpr (kHardware) {
    asm("{\n"
        ".reg .b8 b0, b1, b2, b3;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b0, %2, %1;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b1, %4, %3;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b2, %6, %5;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b3, %8, %7;\n"
        "mov.b32 %0, {b0, b1, b2, b3};\n"
        "}"
        : "=r"(codes)
        : "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "f"(v[4]), "f"(v[5]), "f"(v[6]), "f"(v[7]));
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) codes |= encode_number<E2m1>(v[i]) << (4 * i);
  }
  return codes;
}

// --- maxima ---------------------------------------------------------------------------------------------------------

/// The larger one; NaN when either is.
__device__ __forceinline__ float max_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
__device__ __forceinline__ float min_nan(float a, float b) {
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

}  // namespace moesaic::codec
