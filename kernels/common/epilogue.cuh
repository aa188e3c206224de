// SPDX-License-Identifier: Apache-2.0
// What happens to FP32 sums of a GEMM tile: scales of the token and of the weight row, then GEMM 1: routing weight on
// input, bias, activation; GEMM 2 and plain GEMMs: alpha, bias. Shared by all GEMMs.
#pragma once

#include "kernels/common/activation.cuh"
#include "kernels/common/hidden_operand.cuh"
#include "kernels/common/work.cuh"

namespace moesaic {

/// What a weight row's sums are multiplied by, and what is added.
struct RowTerms {
  float multiplier, bias;
};

inline constexpr int kAnyKind = -1;

/// Whether an expert has biases, 0: none. It comes from memory.
__device__ __forceinline__ int is_biased(const abi::GemmParams& p, int expert) {
  return p.bias == nullptr ? 0 : p.biased == nullptr ? 1 : p.biased[expert];
}
/// Whether sums of an expert are anything but the results themselves: scales, biases, weights, alpha.
__device__ __forceinline__ bool has_terms(const abi::GemmParams& p, int biased) {
  return biased != 0 || p.multipliers != nullptr || p.token_scale != nullptr || p.row_weight != nullptr ||
         (p.epilogue != abi::kEpilogueHidden && p.out_alpha != 1.0f);
}

/// What prepared row blocks stand for, and how their sums combine.
struct Epilogue {
  const abi::GemmParams& p;
  int expert;

  __device__ __forceinline__ ActivationParams activation() const { return {p.activation, p.alpha, p.beta, p.limit}; }

  /// Where the terms of a weight row are.
  __device__ __forceinline__ long long weight_row(int row_block, int row) const {
    return (static_cast<long long>(expert) * p.row_blocks + row_block) * abi::kBlockRows + row;
  }
  __device__ __forceinline__ RowTerms terms(int row_block, int row) const {
    const long long at = weight_row(row_block, row);
    return {p.multipliers == nullptr ? 1.0f : p.multipliers[at], p.bias == nullptr ? 0.0f : p.bias[at]};
  }
  /// Bias of a weight row.
  __device__ __forceinline__ float bias(int row_block, int row) const {
    return p.bias == nullptr ? 0.0f : p.bias[weight_row(row_block, row)];
  }
  /// Biases of weight rows `row`, which is even, and row + 1.
  __device__ __forceinline__ float2 pair_bias(int row_block, int row) const {
    if (p.bias == nullptr) return {0.0f, 0.0f};
    return *reinterpret_cast<const float2*>(p.bias + weight_row(row_block, row));
  }
  /// Of row `row` of the result.
  __device__ __forceinline__ float token_scale(int row) const {
    return p.token_scale == nullptr ? 1.0f : p.token_scale[activation_row(p, row)];
  }

  /// GEMM 1: routing weight on the input of row `row`.
  __device__ __forceinline__ float input_weight(int row) const {
    return p.row_weight != nullptr ? p.row_weight[row] : 1.0f;
  }

  /// GEMM 1: sums of a gate row and, when gated, of its up row -> one element of h. kKind: the activation, kAnyKind: as
  /// the parameters say.
  /// kTerms: has_terms.
  template <int kKind = kAnyKind, bool kTerms = true>
  __device__ __forceinline__ float hidden(const RowTerms& gate_row, float gate, const RowTerms& up_row, float up,
                                          float token_scale, float input_weight) const {
    if constexpr (!kTerms && kKind != kAnyKind) return activate_as<kKind>(activation(), gate, up);
    const float g = fmaf(gate * token_scale * gate_row.multiplier, input_weight, gate_row.bias);
    const float u = p.gated ? fmaf(up * token_scale * up_row.multiplier, input_weight, up_row.bias) : 0.0f;
    if constexpr (kKind != kAnyKind) return activate_as<kKind>(activation(), g, u);
    return activate(activation(), g, u);
  }

  /// The others: one element of a row of results.
  template <bool kTerms = true>
  __device__ __forceinline__ float plain(const RowTerms& row, float sum, float token_scale) const {
    if constexpr (!kTerms) return sum;
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

/// Threads that store the sums of some weight rows, from shared memory: [tokens][kPitch]. kTogether: tokens whose
/// activations are under way at once. kOfKernel: of a kernel that quantises h.
template <int kGroupThreads, int kGroupRows, int kTogether = 1, abi::KernelConfig kOfKernel = abi::KernelConfig{}>
struct StoreGroup {
  using Operand = HiddenOperand<kOfKernel>;
  static constexpr int kUnroll = kTogether;
  static constexpr int kThreads = kGroupThreads, kRows = kGroupRows, kPitch = abi::sum_pitch(kGroupRows);
};

/// GEMM 1: a thread keeps two neighbouring output columns, so that a warp writes whole lines of h. A loop rolled, or
/// unrolled twice: the activation is compiled a few times, not once per accumulator. `shared`: the sums of tokens from
/// `first_row` on.
template <typename Group, int kKind, int kUnroll>
__device__ __forceinline__ void store_hidden_as(const abi::GemmParams& p, const Work& work, int thread, int first_row,
                                                int tokens, const float* shared) {
  static_assert(Group::kThreads % (Group::kRows / 2) == 0, "a thread keeps its columns");
  const Epilogue epilogue{p, work.tile.expert};
  const int pairs = p.gated ? Group::kRows / 4 : Group::kRows / 2;  // of one token
  const int column = thread % pairs * 2;
  const int out_column = (p.gated ? work.row_block * 8 : work.row_block * 16) + column;
  const int block = p.gated ? column / 8 : column / 16, r = p.gated ? column % 8 : column % 16;
  const int up = p.gated ? 8 : 0;  // rows from a gate to its up row
  if (out_column >= p.out_cols) return;
  const typename Group::Operand operand(p);
  RowTerms gates[2], ups[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    gates[i] = epilogue.terms(work.row_block + block, r + i);
    ups[i] = epilogue.terms(work.row_block + block, r + i + up);
  }
#pragma unroll kUnroll
  for (int token = thread / pairs; token < tokens; token += Group::kThreads / pairs) {
    const int row = first_row + token;
    const float input_weight = epilogue.input_weight(row);
    const float* sums = shared + token * Group::kPitch + block * 16 + r;
    const float scale = epilogue.token_scale(row);
    const float2 gate = *reinterpret_cast<const float2*>(sums), other = *reinterpret_cast<const float2*>(sums + up);
    const float low = epilogue.template hidden<kKind>(gates[0], gate.x, ups[0], other.x, scale, input_weight);
    const float high = epilogue.template hidden<kKind>(gates[1], gate.y, ups[1], other.y, scale, input_weight);
    if (operand.is_wanted()) {
      operand.store_pair(row, out_column, low, high);
    } else {
      epilogue.store_pair(static_cast<long long>(row) * p.out_stride + out_column, low, high);
    }
  }
}

/// The activations of most models have loops of their own, so that tokens overlap.
template <typename Group>
__device__ __forceinline__ void store_hidden(const abi::GemmParams& p, const Work& work, int thread, int first_row,
                                             int tokens, const float* shared) {
  if (Group::kUnroll > 1 && p.activation == 3) {
    store_hidden_as<Group, 3, Group::kUnroll>(p, work, thread, first_row, tokens, shared);
  } else if (Group::kUnroll > 1 && p.activation == 5) {
    store_hidden_as<Group, 5, Group::kUnroll>(p, work, thread, first_row, tokens, shared);
  } else {
    store_hidden_as<Group, kAnyKind, 1>(p, work, thread, first_row, tokens, shared);
  }
}

/// GEMM 2 and plain GEMMs: a thread keeps one column.
template <typename Group>
__device__ __forceinline__ void store_plain(const abi::GemmParams& p, const Work& work, int thread, int first_row,
                                            int tokens, const float* shared) {
  constexpr int kColumns = Group::kRows;
  static_assert(Group::kThreads % kColumns == 0, "a thread keeps its column");
  const Epilogue epilogue{p, work.tile.expert};
  const int r = thread % kColumns, column = work.row_block * 16 + r;
  if (column >= p.out_cols) return;
  const RowTerms terms = epilogue.terms(work.row_block + r / 16, r % 16);
#pragma unroll 4
  for (int token = thread / kColumns; token < tokens; token += Group::kThreads / kColumns) {
    const int row = first_row + token;
    const float value = epilogue.plain(terms, shared[token * Group::kPitch + r], epilogue.token_scale(row));
    epilogue.store(static_cast<long long>(row) * p.out_stride + column, value);
  }
}

}  // namespace moesaic
