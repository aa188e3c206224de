// SPDX-License-Identifier: Apache-2.0
// Encodes a unit of 16 values times a multiplier and stores its codes; stores byte scales, padding included.
#pragma once

#include "kernels/common/code_scale.cuh"
#include "kernels/quant/read.cuh"

namespace moesaic::quant {

/// 16 codes of 4 bits. Rows of 4-bit formats are whole units.
__device__ __forceinline__ void write_nibbles(const abi::QuantizeParams& p, const Unit& unit, const uint2& codes) {
  unsigned char* to = p.codes + (static_cast<long long>(unit.row) * p.cols + unit.col) / 2;
  if (p.aligned) {
    *reinterpret_cast<uint2*>(to) = codes;
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = static_cast<unsigned char>((i < 4 ? codes.x : codes.y) >> 8 * (i % 4));
}

/// 16 codes of e2m1. `amax`: no value is larger. Scales are chosen so that the largest product is about 6, and only a
/// scale that saturates, or lost digits, lets one reach 7: nearly all units do without a bound for each element.
template <bool kHardware>
__device__ __forceinline__ uint2 encode_nibbles(const float (&v)[kUnit], float amax, float multiplier) {
  if (!kHardware && __fmul_rn(amax, multiplier) < 7.0f) {
    return {codec::round_e2m1x8<true>(v, multiplier), codec::round_e2m1x8<true>(v + 8, multiplier)};
  }
  return {codec::encode_e2m1x8<kHardware>(v, multiplier), codec::encode_e2m1x8<kHardware>(v + 8, multiplier)};
}

template <bool kHardware>
__device__ __forceinline__ void write_e2m1(const abi::QuantizeParams& p, const Unit& unit, const float (&v)[kUnit],
                                           float amax, const ByteScale& scale) {
  if (unit.count == 0) return;
  uint2 codes = encode_nibbles<kHardware>(v, amax, scale.multiplier);
  if (scale.zero) codes = {0, 0};
  write_nibbles(p, unit, codes);
}

__device__ __forceinline__ void write_bytes(const abi::QuantizeParams& p, const Unit& unit, const uint4& codes) {
  unsigned char* to = p.codes + static_cast<long long>(unit.row) * p.cols + unit.col;
  if (p.aligned) {
    *reinterpret_cast<uint4*>(to) = codes;
    return;
  }
  const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
  for (int i = 0; i < kUnit; ++i) {
    if (i < unit.count) to[i] = static_cast<unsigned char>(words[i / 4] >> 8 * (i % 4));
  }
}

template <typename Format, bool kHardware>
__device__ __forceinline__ uint4 encode_bytes(const float (&v)[kUnit], float multiplier) {
  u32 words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    words[i] = codec::encode_fp8x4<Format, kHardware>(
        __fmul_rn(v[4 * i], multiplier), __fmul_rn(v[4 * i + 1], multiplier), __fmul_rn(v[4 * i + 2], multiplier),
        __fmul_rn(v[4 * i + 3], multiplier));
  }
  return {words[0], words[1], words[2], words[3]};
}

/// 16 codes of e4m3, 16 bytes.
template <bool kHardware>
__device__ __forceinline__ void write_e4m3(const abi::QuantizeParams& p, const Unit& unit, const float (&v)[kUnit],
                                           float multiplier, bool zero) {
  if (unit.count == 0) return;
  uint4 codes = encode_bytes<codec::E4m3, kHardware>(v, multiplier);
  if (zero) codes = {0, 0, 0, 0};
  write_bytes(p, unit, codes);
}

/// The byte scale of a unit's block, 0 where the layout is padded. Requires: one lane of a block calls it.
__device__ __forceinline__ void write_byte_scale(const abi::QuantizeParams& p, const Unit& unit, u32 byte) {
  const int row = scale_row(p.shape, unit.row);
  if (row < 0) return;
  const long long at = scale_index(p.shape, row, unit.col / kUnit >> p.block_shift);
  static_cast<unsigned char*>(p.scales)[at] = static_cast<unsigned char>(unit.count > 0 ? byte : 0);
}

}  // namespace moesaic::quant
