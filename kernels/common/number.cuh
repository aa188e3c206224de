// SPDX-License-Identifier: Apache-2.0
// 16-bit element types in device text: conversion to and from FP32, round to nearest even.
#pragma once

#include "kernels/abi/params.h"

namespace moesaic {

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

template <int kIo>
__device__ __forceinline__ float to_float(u16 bits) {
  static_assert(kIo == abi::kIoBf16 || kIo == abi::kIoFp16);
  if constexpr (kIo == abi::kIoBf16) {
    return __uint_as_float(static_cast<u32>(bits) << 16);
  } else {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }
}

/// Two values in one register, `low` in the low half.
template <int kIo>
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 bits;
  if constexpr (kIo == abi::kIoBf16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  }
  return bits;
}

template <int kIo>
__device__ __forceinline__ float2 unpack(u32 bits) {
  return {to_float<kIo>(static_cast<u16>(bits & 0xffff)), to_float<kIo>(static_cast<u16>(bits >> 16))};
}

template <int kIo>
__device__ __forceinline__ u16 from_float(float value) {
  return static_cast<u16>(pack<kIo>(value, 0.0f) & 0xffff);
}

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

/// One element of a tensor whose type is known at run time only.
__device__ __forceinline__ float load_source(const void* data, int type, long long index) {
  if (type == abi::kSourceF32) return static_cast<const float*>(data)[index];
  const u16 bits = static_cast<const u16*>(data)[index];
  return type == abi::kSourceBf16 ? to_float<abi::kIoBf16>(bits) : to_float<abi::kIoFp16>(bits);
}

}  // namespace moesaic
