// SPDX-License-Identifier: Apache-2.0
// Weights of one expert -> the block layout of kernels/abi/params.h; biases and other vectors -> FP32.
#pragma once

#include "kernels/common/number.cuh"

namespace moesaic::warp {

/// One element of the prepared matrix, 0 outside of the source.
__device__ __forceinline__ float prepared_element(const abi::PrepareParams& p, int row_block, int row, int k) {
  const bool from_up = p.up != nullptr && row >= 8;
  const int source_row = p.up != nullptr ? row_block * 8 + (row & 7) : row_block * abi::kBlockRows + row;
  if (source_row >= p.rows || k >= p.k) return 0.0f;
  if (from_up) return load_source(p.up, p.up_type, source_row * p.up_row_stride + k * p.up_col_stride);
  return load_source(p.gate, p.gate_type, source_row * p.gate_row_stride + k * p.gate_col_stride);
}

/// One thread per 16 bytes (rows 8 r .. 8 r + 7, lane) of the output. grid.x * threads >= row blocks * k blocks * 64.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void prepare_matrix(const abi::PrepareParams& p) {
  const int k_blocks = abi::div_up(p.k, abi::kBlockK);
  const int row_blocks = p.up != nullptr ? abi::div_up(p.rows, 8) : abi::div_up(p.rows, abi::kBlockRows);
  const long long index = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  const long long block = index / 64;
  if (block >= static_cast<long long>(row_blocks) * k_blocks) return;
  const int row_block = static_cast<int>(block / k_blocks);
  const int k_block = static_cast<int>(block % k_blocks);
  const int half = static_cast<int>(index % 64) / 32;
  const int lane = static_cast<int>(index % 32);
  const int row = 8 * half + lane / 4, col = k_block * abi::kBlockK + 8 * (lane % 4);
  u32 bits[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    bits[i] = pack<kConfig.io>(prepared_element(p, row_block, row, col + 2 * i),
                               prepared_element(p, row_block, row, col + 2 * i + 1));
  }
  const long long unit = static_cast<long long>(k_block) * abi::blocks_together(row_block, row_blocks);
  char* out = static_cast<char*>(p.out) + abi::block_offset(row_block, k_blocks) + unit * abi::kBlockBytes +
              half * abi::kHalfBlockBytes;
  *reinterpret_cast<uint4*>(out + abi::swizzled_piece(lane)) = {bits[0], bits[1], bits[2], bits[3]};
}

/// One thread per float written; an absent source gives zeros.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void prepare_vector(const abi::PrepareVectorParams& p) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= p.padded) return;
  if (index == 0 && p.given != nullptr) *p.given = p.gate != nullptr || p.up != nullptr ? 1 : 0;
  const bool from_up = p.interleave && index % 16 >= 8;
  const int source = p.interleave ? index / 16 * 8 + index % 8 : index;
  const void* data = from_up ? p.up : p.gate;
  const bool valid = source < p.size && data != nullptr;
  const long long at = source * (from_up ? p.up_stride : p.gate_stride);
  p.out[index] = valid ? load_source(data, from_up ? p.up_type : p.gate_type, at) : 0.0f;
}

}  // namespace moesaic::warp
