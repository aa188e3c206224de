// SPDX-License-Identifier: Apache-2.0
// Prepared codes -> mma operands, in registers. Layouts and what scales mean: kernels/abi/params.h. Exact: codes and
// powers of two or e4m3 block scales multiply without rounding; other scales are left to sums.
#pragma once

#include "kernels/common/ptx.cuh"

namespace moesaic::warp {

/// Weight operands of 16 rows x 32 k: two mma steps.
struct Fragment {
  u32 step[2][4];
};

/// Products of pairs of bf16 numbers. (The instruction without a sum came with SM90.)
__device__ __forceinline__ u32 multiply_bf16x2(u32 a, u32 b) {
  u32 product;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
  return product;
}
__device__ __forceinline__ u32 subtract_bf16x2(u32 a, u32 b) {
  u32 difference;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(difference) : "r"(b), "r"(0xbf80bf80u), "r"(a));
  return difference;
}

/// Byte `index` of a word in both halves of another.
__device__ __forceinline__ u32 byte_pair(u32 word, int index) { return __byte_perm(word, 0, 0x4040u + 0x101u * index); }

/// How scale bytes become pairs of bf16 multipliers: byte * factor + offset, in both halves.
struct ByteScales {
  u32 factor, offset;
  __device__ __forceinline__ u32 pair(u32 word, int index) const { return byte_pair(word, index) * factor + offset; }
};
__device__ __forceinline__ ByteScales byte_scales(int block_scale) {
  constexpr u32 kOffset = static_cast<u32>(abi::kNvfp4Exponent) << 7;
  if (block_scale == abi::kScaleE4m3) return {1u << 4, kOffset | kOffset << 16};
  return {1u << 7, 0};
}

/// Four e4m3 codes -> the two registers of a row in one step, times a scale.
__device__ __forceinline__ void decode_e4m3(u32 word, u32 scale, u32& first, u32& second) {
  constexpr u32 kMagnitude = 0x07f007f0u, kSign = 0x80008000u;
  first = multiply_bf16x2((word >> 4 & kMagnitude) | (word & kSign), scale);
  second = multiply_bf16x2((word << 4 & kMagnitude) | (word << 8 & kSign), scale);
}

/// Eight e2m1 codes (abi::e2m1_half in both halves) -> the registers of a row in two steps, times a scale.
__device__ __forceinline__ void decode_e2m1(u32 word, u32 scale, u32 (&pairs)[4]) {
  constexpr u32 kCode = 0x81c081c0u;
  pairs[0] = multiply_bf16x2(word & kCode, scale);
  pairs[1] = multiply_bf16x2(word << 3 & kCode, scale);
  pairs[2] = multiply_bf16x2(word << 6 & kCode, scale);
  pairs[3] = multiply_bf16x2((word << 1 & 0x80008000u) | (word >> 5 & 0x01000100u) | (word >> 4 & 0x00c000c0u), scale);
}

/// a & b | c in one instruction: of two constants the compiler makes two.
__device__ __forceinline__ u32 and_or(u32 a, u32 b, u32 c) {
  u32 result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

/// Eight int4 codes -> code - zero point, `zero` being 128 + zero point in both halves: code + 128 has the code in the
/// last bits of its fraction.
__device__ __forceinline__ void decode_int4(u32 word, u32 zero, u32 (&pairs)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) pairs[j] = subtract_bf16x2(and_or(word >> 4 * j, 0x000f000fu, 0x43004300u), zero);
}

/// 128 + byte `index`, in both halves.
__device__ __forceinline__ u32 int4_zero(u32 word, int index) { return byte_pair(word, index) + 0x43004300u; }
inline constexpr u32 kInt4Zeros = 0x08080808u;  // where none are stored
inline constexpr u32 kE4m3One = static_cast<u32>(abi::kE4m3Exponent) << 7 | static_cast<u32>(abi::kE4m3Exponent) << 23;

/// 16 rows x 32 k of e4m3; `scales`: multipliers of rows g and g + 8.
__device__ __forceinline__ Fragment e4m3_fragment(const uint4& codes, const u32 (&scales)[2]) {
  Fragment f;
  decode_e4m3(codes.x, scales[0], f.step[0][0], f.step[0][2]);
  decode_e4m3(codes.y, scales[1], f.step[0][1], f.step[0][3]);
  decode_e4m3(codes.z, scales[0], f.step[1][0], f.step[1][2]);
  decode_e4m3(codes.w, scales[1], f.step[1][1], f.step[1][3]);
  return f;
}

/// 16 rows x 32 k of 4-bit codes: `low`, `high` are the words of rows g and g + 8; `factors`: what their decoding
/// needs.
template <int kWeights>
__device__ __forceinline__ Fragment half_unit_fragment(u32 low, u32 high, const u32 (&factors)[2]) {
  u32 rows[2][4];
  if constexpr (kWeights == abi::kWeightsE2m1) {
    decode_e2m1(low, factors[0], rows[0]);
    decode_e2m1(high, factors[1], rows[1]);
  } else {
    decode_int4(low, factors[0], rows[0]);
    decode_int4(high, factors[1], rows[1]);
  }
  Fragment f;
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    f.step[step][0] = rows[0][2 * step];
    f.step[step][1] = rows[1][2 * step];
    f.step[step][2] = rows[0][2 * step + 1];
    f.step[step][3] = rows[1][2 * step + 1];
  }
  return f;
}

/// Two steps of one token tile; `x`: the lane's 8 elements.
template <int kIo>
__device__ __forceinline__ void multiply(const Fragment& w, const uint4& x, float (&sums)[4]) {
  ptx::mma_16816<kIo>(sums, w.step[0][0], w.step[0][1], w.step[0][2], w.step[0][3], x.x, x.y);
  ptx::mma_16816<kIo>(sums, w.step[1][0], w.step[1][1], w.step[1][2], w.step[1][3], x.z, x.w);
}

/// int4: what its scales are, and bytes of those of a row block for one group.
template <bool kFloatScales>
inline constexpr int kGroupScaleBytes = abi::kBlockRows*(kFloatScales ? 4 : 2);
__device__ __forceinline__ int group_scale_bytes(const abi::GemmParams& p) {
  return p.block_scale == abi::kScaleGroupFloat ? kGroupScaleBytes<true> : kGroupScaleBytes<false>;
}
/// Scales of rows g and g + 8: two halves of the first word, or two words.
template <bool kFloatScales>
__device__ __forceinline__ float2 group_scales(u32 first, u32 second) {
  if constexpr (kFloatScales) return {__uint_as_float(first), __uint_as_float(second)};
  return unpack<abi::kIoFp16>(first);
}

/// sums[i] += part[i] * scale of its row (i / 2: g, g + 8).
__device__ __forceinline__ void add_scaled(const float (&part)[4], const float2& scales, float (&sums)[4]) {
  sums[0] = fmaf(part[0], scales.x, sums[0]);
  sums[1] = fmaf(part[1], scales.x, sums[1]);
  sums[2] = fmaf(part[2], scales.y, sums[2]);
  sums[3] = fmaf(part[3], scales.y, sums[3]);
}

/// Whether sums are kept apart for each block of K and multiplied by its scales in FP32.
__device__ constexpr bool has_partial_sums(int weights) {
  return weights == abi::kWeightsE4m3Block || weights == abi::kWeightsInt4;
}

/// Bytes of a row block's scales for one unit of K, of the kinds that have them for each unit.
template <int kWeights>
__device__ __forceinline__ int unit_scale_bytes(const abi::GemmParams& p) {
  if constexpr (kWeights == abi::kWeightsE4m3) return 16;
  return p.block_scale == abi::kScaleE4m3 ? 64 : 32;
}

/// Groups of K that have an int4 scale.
__device__ __forceinline__ int int4_groups(const abi::GemmParams& p) { return (p.k - 1 >> p.group_shift) + 1; }

/// Offset of a lane's scale among those of a unit.
template <int kWeights>
__device__ __forceinline__ int lane_scale_offset(const abi::GemmParams& p, int lane) {
  const int g = lane / 4;
  if constexpr (kWeights == abi::kWeightsE4m3) return 2 * g;
  if (kWeights == abi::kWeightsE2m1 && p.block_scale == abi::kScaleE4m3) return 8 * g + lane % 4 / 2 * 4;
  return 4 * g;
}

}  // namespace moesaic::warp
