// SPDX-License-Identifier: Apache-2.0
// Router and shared-gate projections: FP32 result, operands as stored (no rounding), FP32 fused multiply-add.
//
// tile_tokens 8: one warp per weight row and eight tokens, lanes along K; for few tokens. Larger tiles: blocks of
// tile_tokens x tile_rows through shared memory, each thread 4 x 4 sums.
#pragma once

#include "kernels/common/ptx.cuh"

namespace moesaic::warp {

/// Eight consecutive weights as FP32. Requires k a multiple of 8 (16-byte aligned rows).
__device__ __forceinline__ void load_eight(const void* data, int type, long long index, float (&out)[8]) {
  if (type == abi::kSourceF32) {
    const float4* v = reinterpret_cast<const float4*>(static_cast<const float*>(data) + index);
    const float4 a = v[0], b = v[1];
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    return;
  }
  const uint4 bits = *reinterpret_cast<const uint4*>(static_cast<const u16*>(data) + index);
  const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = type == abi::kSourceBf16 ? unpack<abi::kIoBf16>(words[i]) : unpack<abi::kIoFp16>(words[i]);
    out[2 * i] = pair.x;
    out[2 * i + 1] = pair.y;
  }
}

MOESAIC_HD constexpr int source_type_of(int io) { return io == abi::kIoBf16 ? abi::kSourceBf16 : abi::kSourceFp16; }

/// grid = (div_up(rows, warps), div_up(tokens, 8)).
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void project_few(const abi::ProjectParams& p) {
  constexpr int kTokens = kConfig.tile_tokens;
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.x * (abi::threads(kConfig) / 32) + threadIdx.x / 32;
  const int first = blockIdx.y * kTokens;
  if (row >= p.rows) return;
  float sums[kTokens] = {};
  for (int k = lane * 8; k < p.k; k += 256) {
    float w[8];
    load_eight(p.weight, p.weight_type, static_cast<long long>(row) * p.k + k, w);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (first + t >= p.tokens) break;
      float x[8];
      load_eight(p.x, source_type_of(kConfig.io), static_cast<long long>(first + t) * p.k + k, x);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[t] = fmaf(x[i], w[i], sums[t]);
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const float sum = ptx::warp_sum(sums[t]);
    if (lane == 0 && first + t < p.tokens) {
      p.out[static_cast<long long>(first + t) * p.rows + row] = sum + (p.bias != nullptr ? p.bias[row] : 0.0f);
    }
  }
}

/// Loads a [rows x 32 of k] panel as FP32, k slowest in shared memory; zero outside.
template <int kRows, int kThreads>
__device__ __forceinline__ void load_panel(const void* data, int type, int first_row, int rows, int k0, int k_size,
                                           float (&panel)[32][kRows + 4]) {
  for (int chunk = threadIdx.x; chunk < kRows * 4; chunk += kThreads) {
    const int row = chunk / 4, k = chunk % 4 * 8;
    float v[8] = {};
    if (first_row + row < rows && k0 + k < k_size) {
      load_eight(data, type, static_cast<long long>(first_row + row) * k_size + k0 + k, v);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) panel[k + i][row] = v[i];
  }
}

/// grid = (div_up(rows, tile_rows), div_up(tokens, tile_tokens)).
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void project_many(const abi::ProjectParams& p) {
  constexpr int kThreads = abi::threads(kConfig);
  static_assert(kThreads == kConfig.tile_tokens / 4 * (kConfig.tile_rows / 4));
  __shared__ float xs[32][kConfig.tile_tokens + 4], ws[32][kConfig.tile_rows + 4];
  const int first_row = blockIdx.x * kConfig.tile_rows, first_token = blockIdx.y * kConfig.tile_tokens;
  const int r = threadIdx.x % (kConfig.tile_rows / 4) * 4, t = threadIdx.x / (kConfig.tile_rows / 4) * 4;
  float sums[4][4] = {};
  for (int k0 = 0; k0 < p.k; k0 += 32) {
    load_panel<kConfig.tile_tokens, kThreads>(p.x, source_type_of(kConfig.io), first_token, p.tokens, k0, p.k, xs);
    load_panel<kConfig.tile_rows, kThreads>(p.weight, p.weight_type, first_row, p.rows, k0, p.k, ws);
    __syncthreads();  // panels are complete
#pragma unroll 8
    for (int k = 0; k < 32; ++k) {
      const float4 x = *reinterpret_cast<const float4*>(&xs[k][t]);
      const float4 w = *reinterpret_cast<const float4*>(&ws[k][r]);
      const float xv[4] = {x.x, x.y, x.z, x.w}, wv[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(xv[i], wv[j], sums[i][j]);
      }
    }
    __syncthreads();  // panels may be overwritten
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      const int token = first_token + t + i, row = first_row + r + j;
      if (token < p.tokens && row < p.rows) {
        p.out[static_cast<long long>(token) * p.rows + row] = sums[i][j] + (p.bias != nullptr ? p.bias[row] : 0.0f);
      }
    }
  }
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void project(const abi::ProjectParams& p) {
  if constexpr (kConfig.tile_tokens <= 8) {
    project_few<kConfig>(p);
  } else {
    project_many<kConfig>(p);
  }
}

}  // namespace moesaic::warp
