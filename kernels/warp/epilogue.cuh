// SPDX-License-Identifier: Apache-2.0
// What happens to FP32 sums of a GEMM tile: scales of the token and of the weight row, then GEMM 1: routing weight on
// input, bias, activation; GEMM 2 and plain GEMMs: alpha, bias. Shared by the tiled and the streaming GEMM.
#pragma once

#include "kernels/common/activation.cuh"
#include "kernels/warp/work.cuh"

namespace moesaic::warp {

/// Which output columns a prepared row block stands for, and how its 16 sums combine.
struct Epilogue {
  const abi::GemmParams& p;
  int expert;

  __device__ __forceinline__ ActivationParams activation() const { return {p.activation, p.alpha, p.beta, p.limit}; }

  __device__ __forceinline__ float of_row(const float* values, int row_block, int row, float absent) const {
    return values == nullptr
               ? absent
               : values[(static_cast<long long>(expert) * p.row_blocks + row_block) * abi::kBlockRows + row];
  }
  __device__ __forceinline__ float bias(int row_block, int row) const { return of_row(p.bias, row_block, row, 0.0f); }
  __device__ __forceinline__ float multiplier(int row_block, int row) const {
    return of_row(p.multipliers, row_block, row, 1.0f);
  }
  /// Of row `row` of the result.
  __device__ __forceinline__ float token_scale(int row) const {
    return p.token_scale == nullptr ? 1.0f : p.token_scale[activation_row(p, row)];
  }

  /// GEMM 1: row `row` of a block (with its up row `row` + 8 when gated) -> one element of h.
  __device__ __forceinline__ float hidden(int row_block, int row, float gate, float up, float token_scale,
                                          float input_weight) const {
    const float g = gate * token_scale * multiplier(row_block, row);
    float u = 0.0f;
    if (p.gated) u = fmaf(up * token_scale * multiplier(row_block, row + 8), input_weight, bias(row_block, row + 8));
    return activate(activation(), fmaf(g, input_weight, bias(row_block, row)), u);
  }

  /// The others: one element of a row of results.
  __device__ __forceinline__ float plain(int row_block, int row, float sum, float token_scale) const {
    return fmaf(p.out_alpha, sum * token_scale * multiplier(row_block, row), bias(row_block, row));
  }

  __device__ __forceinline__ void store(long long index, float value) const {
    if (p.out_type == abi::kSourceF32) {
      static_cast<float*>(p.out)[index] = value;
    } else {
      static_cast<u16*>(p.out)[index] =
          p.out_type == abi::kSourceBf16 ? from_float<abi::kIoBf16>(value) : from_float<abi::kIoFp16>(value);
    }
  }
  /// Two neighbours, the first at an even index.
  __device__ __forceinline__ void store_pair(long long index, float low, float high) const {
    if (p.out_type == abi::kSourceF32) {
      *reinterpret_cast<float2*>(static_cast<float*>(p.out) + index) = {low, high};
    } else {
      *reinterpret_cast<u32*>(static_cast<u16*>(p.out) + index) =
          p.out_type == abi::kSourceBf16 ? pack<abi::kIoBf16>(low, high) : pack<abi::kIoFp16>(low, high);
    }
  }
};

}  // namespace moesaic::warp
