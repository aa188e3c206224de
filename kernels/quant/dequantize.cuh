// SPDX-License-Identifier: Apache-2.0
// Codes and scales of any format -> bf16, fp16 or fp32: the exact product of code and block scale, for NVFP4 divided by
// the global scale or times the row's in one operation, then rounded to the type.
// A thread makes one unit of 16 elements. grid.x = total units / threads, rounded up.
#pragma once

#include "kernels/common/codec.cuh"
#include "kernels/common/scale_layout.cuh"

namespace moesaic::quant {

/// The codes of a unit: nibbles in x, y or bytes in x, y, z, w.
__device__ __forceinline__ uint4 read_codes(const abi::DequantizeParams& p, bool nibbles, long long at, int count) {
  const unsigned char* from = p.codes + (nibbles ? at / 2 : at);
  if (p.aligned) {
    if (!nibbles) return __ldg(reinterpret_cast<const uint4*>(from));
    const uint2 half = __ldg(reinterpret_cast<const uint2*>(from));
    return {half.x, half.y, 0, 0};
  }
  u32 words[4] = {0, 0, 0, 0};
  const int bytes = nibbles ? 8 : count;
#pragma unroll
  for (int i = 0; i < abi::kUnit; ++i) {
    if (i < bytes) words[i / 4] |= static_cast<u32>(from[i]) << 8 * (i % 4);
  }
  return {words[0], words[1], words[2], words[3]};
}

/// The scale of a unit's block as a number.
__device__ __forceinline__ float block_scale(const abi::DequantizeParams& p, int row, int unit) {
  const int col = unit >> p.block_shift;
  const float* floats = static_cast<const float*>(p.scales);
  const long long linear = static_cast<long long>(row) * p.shape.cols + col;
  switch (p.format) {
    case abi::kQuantNvfp4:
    case abi::kQuantNvfp4Row:
    case abi::kQuantMxfp4:
    case abi::kQuantMxfp8:
    case abi::kQuantMxfp8E5m2: {
      const int at = scale_row(p.shape, row);
      if (at < 0) return __uint_as_float(codec::kNanBits);  // in no group
      const u32 byte = static_cast<const unsigned char*>(p.scales)[scale_index(p.shape, at, col)];
      return p.format <= abi::kQuantNvfp4Row ? codec::decode<codec::E4m3>(byte) : codec::decode_e8m0(byte);
    }
    case abi::kQuantFp8Row:
      return floats[row];
    case abi::kQuantFp8Block1x128:
      return floats[linear];
    case abi::kQuantFp8Block128x128:
      return floats[static_cast<long long>(row / abi::kTile) * p.shape.cols + col];
    case abi::kQuantInt4:
      return to_float<abi::kIoBf16>(static_cast<const u16*>(p.scales)[linear]);
    default:
      return floats[0];
  }
}

/// Values of the codes, exact.
__device__ __forceinline__ void decode_unit(const abi::DequantizeParams& p, const uint4& codes, float zero,
                                            float (&v)[abi::kUnit]) {
  const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
  for (int i = 0; i < abi::kUnit; ++i) {
    const u32 nibble = words[i / 8] >> 4 * (i % 8) & 0xf, byte = words[i / 4] >> 8 * (i % 4) & 0xff;
    switch (p.format) {
      case abi::kQuantNvfp4:
      case abi::kQuantNvfp4Row:
      case abi::kQuantMxfp4:
        v[i] = codec::decode<codec::E2m1>(nibble);
        break;
      case abi::kQuantInt4:
        v[i] = static_cast<float>(static_cast<int>(nibble)) - zero;
        break;
      case abi::kQuantMxfp8E5m2:
        v[i] = codec::decode<codec::E5m2>(byte);
        break;
      default:
        v[i] = codec::decode<codec::E4m3>(byte);
    }
  }
}

template <int kIo>
__device__ __forceinline__ void write_16bit(const abi::DequantizeParams& p, long long at, int count,
                                            const float (&v)[abi::kUnit]) {
  u16* to = static_cast<u16*>(p.x) + at;
  if (p.aligned) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float* w = v + 8 * i;
      reinterpret_cast<uint4*>(to)[i] = {pack<kIo>(w[0], w[1]), pack<kIo>(w[2], w[3]), pack<kIo>(w[4], w[5]),
                                         pack<kIo>(w[6], w[7])};
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < abi::kUnit; ++i) {
    if (i < count) to[i] = from_float<kIo>(v[i]);
  }
}

__device__ __forceinline__ void write_values(const abi::DequantizeParams& p, long long at, int count,
                                             const float (&v)[abi::kUnit]) {
  if (p.source == abi::kSourceBf16) return write_16bit<abi::kIoBf16>(p, at, count, v);
  if (p.source == abi::kSourceFp16) return write_16bit<abi::kIoFp16>(p, at, count, v);
  float* to = static_cast<float*>(p.x) + at;
  if (p.aligned) {
#pragma unroll
    for (int i = 0; i < 4; ++i) reinterpret_cast<float4*>(to)[i] = {v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]};
    return;
  }
#pragma unroll
  for (int i = 0; i < abi::kUnit; ++i) {
    if (i < count) to[i] = v[i];
  }
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void dequantize(const abi::DequantizeParams& p) {
  const long long number = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (number >= p.total_units) return;
  const u32 row = divide(static_cast<u32>(number), p.units);
  const int unit = static_cast<int>(static_cast<u32>(number) - row * p.units.divisor);
  const long long at = static_cast<long long>(row) * p.cols + unit * abi::kUnit;
  const int count = min(p.cols - unit * abi::kUnit, abi::kUnit);
  const bool nibbles = p.format <= abi::kQuantMxfp4 || p.format == abi::kQuantInt4;
  const uint4 codes = read_codes(p, nibbles, at, count);
  const float scale = block_scale(p, static_cast<int>(row), unit);
  float zero = 8.0f;
  if (p.zeros != nullptr) {
    zero = static_cast<float>(p.zeros[static_cast<long long>(row) * p.shape.cols + (unit >> p.block_shift)]);
  }
  float v[abi::kUnit];
  decode_unit(p, codes, zero, v);
#pragma unroll
  for (int i = 0; i < abi::kUnit; ++i) v[i] = __fmul_rn(v[i], scale);
  if (p.format == abi::kQuantNvfp4) {
    const float global = *p.global_scale;
#pragma unroll
    for (int i = 0; i < abi::kUnit; ++i) v[i] = __fdiv_rn(v[i], global);
  } else if (p.format == abi::kQuantNvfp4Row) {
    const float row_scale = p.row_scales[row];
#pragma unroll
    for (int i = 0; i < abi::kUnit; ++i) v[i] = __fmul_rn(v[i], row_scale);
  }
  write_values(p, at, count, v);
}

}  // namespace moesaic::quant
