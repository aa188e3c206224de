// SPDX-License-Identifier: Apache-2.0
// Weighted sum over a token's slots, shared experts added: FP32 in slot order, one rounding at the end.
// Blocks of one token and 4 * threads columns; reads rows [rows][cols] f32 as float4, writes 4 columns a thread.
#pragma once

#include "kernels/common/activation.cuh"
#include "kernels/common/ptx.cuh"

namespace moesaic::warp {

template <int kIo>
__device__ __forceinline__ void store_columns(const abi::WeightedSumParams& p, long long index, float4 sum) {
  if (p.out_f32) {
    *reinterpret_cast<float4*>(static_cast<float*>(p.out) + index) = sum;
  } else {
    uint2 bits = {pack<kIo>(sum.x, sum.y), pack<kIo>(sum.z, sum.w)};
    *reinterpret_cast<uint2*>(static_cast<u16*>(p.out) + index) = bits;
  }
}

/// Requires: cols a multiple of 4. grid = (tokens, div_up(cols, 4 * threads)).
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void weighted_sum(const abi::WeightedSumParams& p) {
  const int token = blockIdx.x;
  const float gate = p.shared_gate != nullptr ? sigmoid(p.shared_gate[token]) : 1.0f;
  const int col = 4 * (blockIdx.y * blockDim.x + threadIdx.x);
  if (col >= p.cols) return;
  float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
  for (int slot = 0; slot < p.top_k; ++slot) {
    const int row = p.slot_row[token * p.top_k + slot];
    if (row < 0) continue;
    const float weight = p.weights != nullptr ? p.weights[token * p.top_k + slot] : 1.0f;
    const float4 v = *reinterpret_cast<const float4*>(p.rows + static_cast<long long>(row) * p.cols + col);
    sum = {fmaf(weight, v.x, sum.x), fmaf(weight, v.y, sum.y), fmaf(weight, v.z, sum.z), fmaf(weight, v.w, sum.w)};
  }
  const long long index = static_cast<long long>(token) * p.cols + col;
  if (p.shared != nullptr) {
    const float4 v = *reinterpret_cast<const float4*>(p.shared + index);
    sum = {fmaf(gate, v.x, sum.x), fmaf(gate, v.y, sum.y), fmaf(gate, v.z, sum.z), fmaf(gate, v.w, sum.w)};
  }
  store_columns<kConfig.io>(p, index, sum);
}

}  // namespace moesaic::warp
