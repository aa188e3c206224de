// SPDX-License-Identifier: Apache-2.0
// Weighted sum over a token's slots, shared experts added: FP32 in slot order, one rounding at the end.
// Blocks of one token; a thread reads 16 bytes of each row [rows][cols], bf16 or f32, and writes those columns.
#pragma once

#include "kernels/common/activation.cuh"
#include "kernels/common/ptx.cuh"

namespace moesaic::warp {

/// A thread's columns, kColumns from `index` on, of what the sum is made of and becomes.
template <int kColumns>
struct Columns;

/// Of bf16 rows. The output is bf16, too.
template <>
struct Columns<8> {
  static __device__ __forceinline__ void add(float (&sum)[8], float weight, uint4 v) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack<abi::kIoBf16>(words[i]);
      sum[2 * i] = fmaf(weight, pair.x, sum[2 * i]);
      sum[2 * i + 1] = fmaf(weight, pair.y, sum[2 * i + 1]);
    }
  }
  template <int kIo>
  static __device__ __forceinline__ void store(const abi::WeightedSumParams& p, long long index,
                                               const float (&sum)[8]) {
    *reinterpret_cast<uint4*>(static_cast<u16*>(p.out) + index) = {
        pack<kIo>(sum[0], sum[1]), pack<kIo>(sum[2], sum[3]), pack<kIo>(sum[4], sum[5]), pack<kIo>(sum[6], sum[7])};
  }
};

/// Of FP32 rows.
template <>
struct Columns<4> {
  static __device__ __forceinline__ void add(float (&sum)[4], float weight, uint4 v) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = fmaf(weight, __uint_as_float(words[i]), sum[i]);
  }
  template <int kIo>
  static __device__ __forceinline__ void store(const abi::WeightedSumParams& p, long long index,
                                               const float (&sum)[4]) {
    if (p.out_f32) {
      *reinterpret_cast<float4*>(static_cast<float*>(p.out) + index) = {sum[0], sum[1], sum[2], sum[3]};
    } else {
      const uint2 bits = {pack<kIo>(sum[0], sum[1]), pack<kIo>(sum[2], sum[3])};
      *reinterpret_cast<uint2*>(static_cast<u16*>(p.out) + index) = bits;
    }
  }
};

/// 16 bytes of a row, from its column `col` on. Nobody reads them again: what the GEMM behind needs stays in L2.
template <int kColumns>
__device__ __forceinline__ uint4 load_columns(const void* rows, long long row, const abi::WeightedSumParams& p,
                                              int col) {
  constexpr int kBytes = 16 / kColumns;
  return __ldcs(reinterpret_cast<const uint4*>(static_cast<const char*>(rows) + (row * p.cols + col) * kBytes));
}

/// Slots `slot` .. slot + kSlots - 1, which all exist when kWhole: all their rows are under way before the first is
/// added. A slot without a row adds 0: no branch may stand between the loads.
template <int kColumns, int kSlots, bool kWhole>
__device__ __forceinline__ void add_slots(const abi::WeightedSumParams& p, int slot, int col, float (&sum)[kColumns]) {
  const long long first = static_cast<long long>(blockIdx.x) * p.slots + slot;
  int rows[kSlots];
  float weights[kSlots];
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    const bool exists = kWhole || slot + i < p.top_k;
    rows[i] = exists ? p.slot_row[first + i] : -1;
    weights[i] = exists && p.weights != nullptr ? p.weights[first + i] : 1.0f;
  }
  uint4 values[kSlots];
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    values[i] = {0, 0, 0, 0};
    if (rows[i] >= 0) values[i] = load_columns<kColumns>(p.rows, rows[i], p, col);
  }
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    Columns<kColumns>::add(sum, rows[i] < 0 ? 0.0f : weights[i], values[i]);
  }
}

template <abi::KernelConfig kConfig, int kColumns>
__device__ __forceinline__ void sum_columns(const abi::WeightedSumParams& p) {
  const int col = kColumns * static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (col >= p.cols) return;
  const long long token = blockIdx.x;
  float gate = 1.0f;
  uint4 shared = {0, 0, 0, 0};
  if (p.shared != nullptr) {
    if (p.shared_gate != nullptr) gate = sigmoid(p.shared_gate[token]);
    if (p.slots > p.top_k) {
      shared = load_columns<kColumns>(p.rows, p.slot_row[token * p.slots + p.top_k], p, col);
    } else {
      shared = load_columns<kColumns>(p.shared, token, p, col);
    }
  }
  float sum[kColumns] = {};
  int slot = 0;
  for (; slot + 8 <= p.top_k; slot += 8) add_slots<kColumns, 8, true>(p, slot, col, sum);
  for (; slot < p.top_k; slot += 4) add_slots<kColumns, 4, false>(p, slot, col, sum);
  if (p.shared != nullptr) Columns<kColumns>::add(sum, gate, shared);
  Columns<kColumns>::template store<kConfig.io>(p, token * p.cols + col, sum);
}

/// Requires: cols a multiple of 8. grid = (tokens, div_up(cols, sum_columns(bf16_rows) * threads)).
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void weighted_sum(const abi::WeightedSumParams& p) {
  if constexpr (kConfig.io == abi::kIoBf16) {
    if (p.bf16_rows) return sum_columns<kConfig, abi::sum_columns(true)>(p);
  }
  sum_columns<kConfig, abi::sum_columns(false)>(p);
}

}  // namespace moesaic::warp
