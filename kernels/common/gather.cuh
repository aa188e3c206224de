// SPDX-License-Identifier: Apache-2.0
// Activation rows of tokens -> rows in expert order, which GEMM 1 then reads by tensor copies: gathering by cp.async
// takes several times as much of shared memory's bandwidth.
#pragma once

#include "kernels/common/ptx.cuh"

namespace moesaic {

/// A warp reads a token's row, 16 bytes a lane, four of them in flight, and writes it to all of the token's slots: in
/// the order of rows, every token would be read from DRAM once for each slot. grid.x * warps >= tokens.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void gather_rows(const abi::GatherParams& p) {
  const int token = blockIdx.x * kConfig.warps_tokens + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= p.tokens) return;
  const int own_row = lane < p.slots ? p.slot_row[token * p.slots + lane] : -1;  // slots are at most 32
  const uint4* from = static_cast<const uint4*>(p.x) + static_cast<long long>(token) * p.row_pieces;
#pragma unroll 1
  for (int first = lane; first - lane < p.row_pieces; first += 128) {
    uint4 v[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first + 32 * i < p.row_pieces) v[i] = __ldg(from + first + 32 * i);
    }
#pragma unroll 2
    for (int slot = 0; slot < p.slots; ++slot) {
      const int row = __shfl_sync(0xffffffffu, own_row, slot);
      if (row < 0) continue;  // its expert is not held
      uint4* to = static_cast<uint4*>(p.out) + static_cast<long long>(row) * p.row_pieces;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (first + 32 * i < p.row_pieces) to[first + 32 * i] = v[i];
      }
    }
  }
}

}  // namespace moesaic
