// SPDX-License-Identifier: Apache-2.0
// act(x) of a matrix: a thread makes four neighbouring outputs of a row, whose types are run-time fields.
#pragma once

#include "kernels/common/activation.cuh"

namespace moesaic {

/// Four elements from `index`, `step` apart; those from `valid` on are 0. `whole`: neighbours, all valid and aligned.
__device__ __forceinline__ float4 load_four(const void* data, int type, long long index, int step, int valid,
                                            bool whole) {
  if (whole && type == abi::kSourceF32)
    return *reinterpret_cast<const float4*>(static_cast<const float*>(data) + index);
  if (whole) {
    const uint2 bits = *reinterpret_cast<const uint2*>(static_cast<const u16*>(data) + index);
    const bool bf16 = type == abi::kSourceBf16;
    const float2 low = bf16 ? unpack<abi::kIoBf16>(bits.x) : unpack<abi::kIoFp16>(bits.x);
    const float2 high = bf16 ? unpack<abi::kIoBf16>(bits.y) : unpack<abi::kIoFp16>(bits.y);
    return {low.x, low.y, high.x, high.y};
  }
  return {load_source(data, type, index), valid > 1 ? load_source(data, type, index + step) : 0.0f,
          valid > 2 ? load_source(data, type, index + 2 * step) : 0.0f,
          valid > 3 ? load_source(data, type, index + 3 * step) : 0.0f};
}

__device__ __forceinline__ void store_one(void* data, int type, long long index, float value) {
  if (type == abi::kSourceF32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<u16*>(data)[index] =
        type == abi::kSourceBf16 ? from_float<abi::kIoBf16>(value) : from_float<abi::kIoFp16>(value);
  }
}

__device__ __forceinline__ void store_four(void* data, int type, long long index, int valid, bool whole, float4 v) {
  if (whole && type == abi::kSourceF32) {
    *reinterpret_cast<float4*>(static_cast<float*>(data) + index) = v;
  } else if (whole) {
    const bool bf16 = type == abi::kSourceBf16;
    const uint2 bits = {bf16 ? pack<abi::kIoBf16>(v.x, v.y) : pack<abi::kIoFp16>(v.x, v.y),
                        bf16 ? pack<abi::kIoBf16>(v.z, v.w) : pack<abi::kIoFp16>(v.z, v.w)};
    *reinterpret_cast<uint2*>(static_cast<u16*>(data) + index) = bits;
  } else {
    store_one(data, type, index, v.x);
    if (valid > 1) store_one(data, type, index + 1, v.y);
    if (valid > 2) store_one(data, type, index + 2, v.z);
    if (valid > 3) store_one(data, type, index + 3, v.w);
  }
}

/// One thread for every four outputs of a row.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void activate_rows(const abi::ActivateParams& p) {
  const u32 piece = blockIdx.x * blockDim.x + threadIdx.x;
  if (piece >= p.pieces) return;
  const u32 row = piece / p.row_pieces;
  const int col = static_cast<int>(piece % p.row_pieces) * abi::kActivateWidth;
  const int valid = p.cols - col;
  const bool whole = p.aligned != 0;
  const long long source = static_cast<long long>(row) * p.row_stride + static_cast<long long>(col) * p.step;
  const float4 g = load_four(p.x, p.type, source + p.gate_offset, p.step, valid, whole);
  float4 u = {0.0f, 0.0f, 0.0f, 0.0f};
  if (p.gated) u = load_four(p.x, p.type, source + p.up_offset, p.step, valid, whole);
  const ActivationParams a = {p.kind, p.alpha, p.beta, p.limit};
  const float4 h = {activate(a, g.x, u.x), activate(a, g.y, u.y), activate(a, g.z, u.z), activate(a, g.w, u.w)};
  store_four(p.out, p.out_type, static_cast<long long>(row) * p.cols + col, valid, whole, h);
}

}  // namespace moesaic
