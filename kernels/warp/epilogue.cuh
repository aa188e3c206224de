// SPDX-License-Identifier: Apache-2.0
// What happens to FP32 sums of a GEMM tile: scales of the token and of the weight row, then GEMM 1: routing weight on
// input, bias, activation; GEMM 2 and plain GEMMs: alpha, bias. Shared by the tiled and the streaming GEMM.
#pragma once

#include "kernels/common/activation.cuh"
#include "kernels/warp/work.cuh"

namespace moesaic::warp {

/// What a weight row's sums are multiplied by, and what is added.
struct RowTerms {
  float multiplier, bias;
};

/// What prepared row blocks stand for, and how their sums combine.
struct Epilogue {
  const abi::GemmParams& p;
  int expert;

  __device__ __forceinline__ ActivationParams activation() const { return {p.activation, p.alpha, p.beta, p.limit}; }

  __device__ __forceinline__ RowTerms terms(int row_block, int row) const {
    const long long at = (static_cast<long long>(expert) * p.row_blocks + row_block) * abi::kBlockRows + row;
    return {p.multipliers == nullptr ? 1.0f : p.multipliers[at], p.bias == nullptr ? 0.0f : p.bias[at]};
  }
  /// Of row `row` of the result.
  __device__ __forceinline__ float token_scale(int row) const {
    return p.token_scale == nullptr ? 1.0f : p.token_scale[activation_row(p, row)];
  }

  /// GEMM 1: sums of a gate row and, when gated, of its up row -> one element of h.
  __device__ __forceinline__ float hidden(const RowTerms& gate_row, float gate, const RowTerms& up_row, float up,
                                          float token_scale, float input_weight) const {
    const float g = fmaf(gate * token_scale * gate_row.multiplier, input_weight, gate_row.bias);
    const float u = p.gated ? fmaf(up * token_scale * up_row.multiplier, input_weight, up_row.bias) : 0.0f;
    return activate(activation(), g, u);
  }

  /// The others: one element of a row of results.
  __device__ __forceinline__ float plain(const RowTerms& row, float sum, float token_scale) const {
    return fmaf(p.out_alpha, sum * token_scale * row.multiplier, row.bias);
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
