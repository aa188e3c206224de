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

/// Code of a magnitude in [0, largest], for formats of 8 bits. The number 2^(e + 23 - fraction), e the exponent but at
/// least the format's least one, has one step of the format as its last bit: adding it rounds the magnitude to steps,
/// ties to even. An even number of steps is an even code, since a binade holds an even number of steps.
template <typename Format>
__device__ __forceinline__ u32 encode_magnitude(float magnitude) {
  constexpr u32 kLeast = static_cast<u32>(127 + Format::kLeastExponent) << 23;
  const u32 exponent = max(__float_as_uint(magnitude) & 0x7f800000u, kLeast);
  const u32 rounder = exponent + (static_cast<u32>(23 - Format::kFraction) << 23);
  const u32 steps = __float_as_uint(__fadd_rn(magnitude, __uint_as_float(rounder))) - rounder;
  return steps + ((exponent - kLeast) >> (23 - Format::kFraction));
}

template <typename Format>
__device__ __forceinline__ u32 encode(float value) {
  const u32 sign = __float_as_uint(value) >> 31 << Format::kSign;
  const u32 number = encode_magnitude<Format>(fminf(fabsf(value), Format::kLargest)) | sign;
  return value != value ? Format::kNan : number;
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

/// One code of 8 bits.
template <typename Format, bool kHardware>
__device__ __forceinline__ u32 encode_fp8(float value) {
  if constexpr (kHardware) {
    return convert_fp8x2<Format>(value, 0.0f) & 0xffu;
  } else {
    return encode<Format>(value);
  }
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

/// A number whose last bit is 1: what is added to it is rounded to an integer, ties to even, and lies in the low bits.
inline constexpr float kIntegerRounder = 0x1.8p23f;
inline constexpr u32 kIntegerRounderBits = 0x4b400000u;

/// The magnitude codes' numbers 0, 0.5, 1, 1.5, 2, 3, 4, 6 are where min(2a, a + 2, a / 2 + 4) is 0, 1, ... 7: of the
/// three, each rounded once to an integer, the least is the code. Their bits order like the numbers, and targets have a
/// minimum of three integers. Requires: 0 <= a < 7.
__device__ __forceinline__ u32 e2m1_magnitude_and_rounder(float a) {
  const int low = __float_as_int(__fmaf_rn(a, 2.0f, kIntegerRounder));
  const int middle = __float_as_int(__fadd_rn(a, kIntegerRounder + 2.0f));
  const int high = __float_as_int(__fmaf_rn(a, 0.5f, kIntegerRounder + 4.0f));
  return static_cast<u32>(min(min(low, middle), high));
}

/// One code of e2m1, of a product with a positive multiplier, as the functions below give eight. Requires: no NaN.
__device__ __forceinline__ u32 round_e2m1(float value, float multiplier) {
  const float magnitude = fminf(__fmul_rn(fabsf(value), multiplier), E2m1::kLargest);
  return (e2m1_magnitude_and_rounder(magnitude) - kIntegerRounderBits) | (__float_as_uint(value) >> 28 & 8u);
}

/// Byte `kByte` of each of four words.
template <int kByte>
__device__ __forceinline__ u32 gather_bytes(u32 a, u32 b, u32 c, u32 d) {
  constexpr u32 kPair = kByte | (4 + kByte) << 4;
  return __byte_perm(__byte_perm(a, b, kPair), __byte_perm(c, d, kPair), 0x5410);
}

/// Eight integers below 16, each with the rounder's bits above, become nibbles: sums are modulo 2^32, so the rounders'
/// bits go with one subtraction.
struct NibblePacker {
  u32 sum = 0;
  __device__ __forceinline__ void add(int position, u32 integer_and_rounder) {
    sum += integer_and_rounder << (4 * position);
  }
  __device__ __forceinline__ u32 nibbles() const {
    return sum - (kIntegerRounderBits + (kIntegerRounderBits << 4) + (kIntegerRounderBits << 8));  // << 12 is 0
  }
};

/// Eight codes of e2m1 in software, of products with a positive multiplier. kInRange: none reaches 7.
template <bool kInRange>
__device__ __forceinline__ u32 round_e2m1x8(const float* v, float multiplier) {
  u32 pairs[4];  // two magnitudes in the low byte; the rounders' bits stay above it
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    u32 magnitude[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float product = __fmul_rn(fabsf(v[2 * i + j]), multiplier);
      magnitude[j] = e2m1_magnitude_and_rounder(kInRange ? product : fminf(product, E2m1::kLargest));
    }
    pairs[i] = magnitude[0] + (magnitude[1] << 4);
  }
  const auto word = [&](int i) { return __float_as_uint(v[i]); };
  const u32 even = gather_bytes<3>(word(0), word(2), word(4), word(6));  // each with a sign on top
  const u32 odd = gather_bytes<3>(word(1), word(3), word(5), word(7));
  const u32 magnitudes = gather_bytes<0>(pairs[0], pairs[1], pairs[2], pairs[3]);
  return magnitudes | (even >> 4 & 0x08080808u) | (odd & 0x80808080u);
}

/// Eight codes of e2m1, of products with a positive multiplier. Requires: no NaN but positive ones, which become 7.
template <bool kHardware>
__device__ __forceinline__ u32 encode_e2m1x8(const float* v, float multiplier) {
  if constexpr (kHardware) {
    float scaled[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) scaled[i] = __fmul_rn(v[i], multiplier);
    u32 codes;
    asm("{\n"
        ".reg .b8 b0, b1, b2, b3;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b0, %2, %1;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b1, %4, %3;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b2, %6, %5;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b3, %8, %7;\n"
        "mov.b32 %0, {b0, b1, b2, b3};\n"
        "}"
        : "=r"(codes)
        : "f"(scaled[0]), "f"(scaled[1]), "f"(scaled[2]), "f"(scaled[3]), "f"(scaled[4]), "f"(scaled[5]),
          "f"(scaled[6]), "f"(scaled[7]));
    return codes;
  } else {
    return round_e2m1x8<false>(v, multiplier);
  }
}

}  // namespace moesaic::codec
