// SPDX-License-Identifier: Apache-2.0
// What happens to FP32 sums of a GEMM tile: GEMM 1 = routing weight on input, bias, activation, one rounding to the io
// type; GEMM 2 = bias, FP32 rows. Shared by the tiled and the streaming GEMM.
#pragma once

#include "kernels/common/activation.cuh"

namespace moesaic::warp {

/// Which output columns a prepared row block stands for, and how its 16 sums combine.
struct Epilogue {
  const abi::GemmParams& p;
  int expert;

  __device__ __forceinline__ ActivationParams activation() const { return {p.activation, p.alpha, p.beta, p.limit}; }

  __device__ __forceinline__ float bias(int row_block, int row) const {
    return p.bias == nullptr
               ? 0.0f
               : p.bias[(static_cast<long long>(expert) * p.row_blocks + row_block) * abi::kBlockRows + row];
  }

  /// GEMM 1: row `row` of a block (with its up row `row` + 8 when gated) -> one element of h.
  __device__ __forceinline__ float hidden(int row_block, int row, float gate, float up, float input_weight) const {
    const float g = fmaf(gate, input_weight, bias(row_block, row));
    const float u = p.gated ? fmaf(up, input_weight, bias(row_block, row + 8)) : 0.0f;
    return activate(activation(), g, u);
  }
};

}  // namespace moesaic::warp
