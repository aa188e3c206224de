// SPDX-License-Identifier: Apache-2.0
// From a block's maximum to its scale and to what its values are multiplied by: the operations of docs/numerics.md, one
// IEEE operation each.
#pragma once

#include "kernels/common/codec.cuh"

namespace moesaic {

/// A byte scale. `zero`: all codes of the block are 0.
struct ByteScale {
  u32 byte;
  float multiplier;
  bool zero;
};

__device__ __forceinline__ float reciprocal_at_most_largest(float value) {
  return min_nan(__frcp_rn(value), codec::kLargestFloat);
}

/// What NVFP4 makes of an encode scale, once for all its blocks.
struct EncodeScale {
  float sixth;    // fl(scale * fl(1 / 6))
  float inverse;  // fl(1 / scale)
};
__device__ __forceinline__ EncodeScale encode_scale(float global) {
  return {__fmul_rn(global, 0x1.555556p-3f), __frcp_rn(global)};
}

template <bool kHardware>
__device__ __forceinline__ ByteScale nvfp4_scale(float amax, const EncodeScale& global) {
  const float scaled = __fmul_rn(amax, global.sixth);
  const u32 byte = codec::encode_fp8<codec::E4m3, kHardware>(min_nan(scaled, codec::E4m3::kLargest));
  const float stored = __fmul_rn(__uint_as_float(byte << 20), 0x1p120f);  // decoded; NaN's is not used
  const float multiplier = fminf(__frcp_rn(__fmul_rn(stored, global.inverse)), codec::kLargestFloat);
  return {byte, multiplier, byte == 0 || byte == codec::E4m3::kNan};
}

/// Encode scale of a row whose scale is `row_scale`.
__device__ __forceinline__ float nvfp4_row_global(float row_scale) { return reciprocal_at_most_largest(row_scale); }
__device__ __forceinline__ float nvfp4_row_scale(float amax) {
  return __fdiv_rn(min_nan(amax, codec::kLargestFloat), 2688.0f);
}

/// MX: the smallest power of two with which the maximum does not exceed the format's largest number, or the OCP floor
/// rule. Adding to the bits carries into the exponent exactly when the maximum's fraction exceeds the largest number's.
template <typename Format>
__device__ __forceinline__ ByteScale mx_scale(float amax, bool floor) {
  constexpr u32 kFraction = Format::kFraction == 1 ? 0x400000u : 0x600000u;  // of 1.5 and 1.75
  const u32 bits = __float_as_uint(amax);
  const int exponent = static_cast<int>((bits + (floor ? 0u : 0x7fffffu - kFraction)) >> 23);
  const int byte = amax != amax ? 255 : bits == codec::kInfinityBits ? 254 : max(exponent - Format::kTopExponent, 0);
  // 2^(127 - byte); byte 254 asks for a subnormal one.
  const u32 multiplier = byte >= 254 ? 0x00400000u : static_cast<u32>(254 - byte) << 23;
  return {static_cast<u32>(byte), __uint_as_float(multiplier), byte == 255};
}

/// An FP32 scale. `zero` as above.
struct FloatScale {
  float stored, multiplier;
  bool zero;
};

__device__ __forceinline__ FloatScale fp8_scale(float amax) {
  if (amax != amax) return {__uint_as_float(codec::kNanBits), 0.0f, true};
  const float bounded = fminf(amax, codec::kLargestFloat);
  const float multiplier = bounded == 0.0f ? 1.0f : fminf(__fdiv_rn(448.0f, bounded), codec::kLargestFloat);
  return {__frcp_rn(multiplier), multiplier, false};
}

__device__ __forceinline__ FloatScale fp8_static_scale(float given) {
  return {given, __frcp_rn(given), given != given};
}

}  // namespace moesaic
