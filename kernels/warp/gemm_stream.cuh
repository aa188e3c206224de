// SPDX-License-Identifier: Apache-2.0
// Grouped GEMM for few tokens per expert: weights stream from global memory straight into mma operands.
//
// Orientation is swapped: weight rows are the m16 side, tokens the n8 side. A block owns tile_rows weight rows of one
// tile of at most tile_tokens tokens with the whole of K; its warps take every warps_k-th 32-wide k block and add their
// FP32 sums in warp order, so results do not depend on scheduling. Every lane's weight operand is one 16-byte load
// that nothing else reads: no shared memory, and enough loads in flight to saturate DRAM.
#pragma once

#include "kernels/common/ptx.cuh"
#include "kernels/warp/epilogue.cuh"
#include "kernels/warp/gemm_tiled.cuh"

namespace moesaic::warp {

template <abi::KernelConfig kConfig>
struct StreamShape {
  static constexpr int kRowBlocks = kConfig.tile_rows / abi::kBlockRows;
  static constexpr int kTokenTiles = kConfig.tile_tokens / 8;
  static constexpr int kUnroll = kConfig.tile_k / abi::kBlockK;  // k blocks in flight per warp
  static_assert(kConfig.tile_tokens % 8 == 0 && kConfig.tile_rows % 16 == 0 && kConfig.tile_k % 32 == 0);
  static_assert(kConfig.warps_tokens == 1 && kConfig.warps_rows == 1 && kConfig.stages == 0);
};

template <abi::KernelConfig kConfig>
using StreamSums = float[StreamShape<kConfig>::kRowBlocks][StreamShape<kConfig>::kTokenTiles][4];

/// Operands of one 32-wide k block.
template <abi::KernelConfig kConfig>
struct StreamOperands {
  uint4 weights[StreamShape<kConfig>::kRowBlocks][2];
  uint4 tokens[StreamShape<kConfig>::kTokenTiles];
};

/// Loads k block `kb`; beyond the end everything is zero.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void load_block(const abi::GemmParams& p,
                                           const char* const (&weights)[StreamShape<kConfig>::kRowBlocks],
                                           const char* const (&tokens)[StreamShape<kConfig>::kTokenTiles], int kb,
                                           StreamOperands<kConfig>& operands) {
  using Shape = StreamShape<kConfig>;
  const bool inside = kb < p.k_blocks;
  const long long offset = static_cast<long long>(kb) * abi::kBlockBytes;
#pragma unroll
  for (int r = 0; r < Shape::kRowBlocks; ++r) {
    const bool valid = inside && weights[r] != nullptr;
    operands.weights[r][0] = valid ? ptx::load_stream_16(weights[r] + offset) : uint4{0, 0, 0, 0};
    operands.weights[r][1] = valid ? ptx::load_stream_16(weights[r] + offset + 512) : uint4{0, 0, 0, 0};
  }
  const int k = kb * abi::kBlockK + threadIdx.x % 4 * 8;
#pragma unroll
  for (int n = 0; n < Shape::kTokenTiles; ++n) {
    const bool valid = k < p.k && tokens[n] != nullptr;
    operands.tokens[n] = valid ? *reinterpret_cast<const uint4*>(tokens[n] + k * 2) : uint4{0, 0, 0, 0};
  }
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void multiply_block(const StreamOperands<kConfig>& operands, StreamSums<kConfig>& sums) {
  using Shape = StreamShape<kConfig>;
#pragma unroll
  for (int r = 0; r < Shape::kRowBlocks; ++r) {
    const uint4 first = operands.weights[r][0], second = operands.weights[r][1];
#pragma unroll
    for (int n = 0; n < Shape::kTokenTiles; ++n) {
      const uint4 x = operands.tokens[n];
      ptx::mma_16816<kConfig.io>(sums[r][n], first.x, first.y, first.z, first.w, x.x, x.y);
      ptx::mma_16816<kConfig.io>(sums[r][n], second.x, second.y, second.z, second.w, x.z, x.w);
    }
  }
}

/// Adds the warps' sums in warp order through shared memory; afterwards totals[row][token] is complete.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void reduce_warps(const StreamSums<kConfig>& sums,
                                             float (&totals)[kConfig.tile_rows][kConfig.tile_tokens + 1]) {
  using Shape = StreamShape<kConfig>;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  for (int warp = 0; warp < kConfig.warps_k; ++warp) {
    if (warp == static_cast<int>(threadIdx.x / 32)) {
#pragma unroll
      for (int r = 0; r < Shape::kRowBlocks; ++r) {
#pragma unroll
        for (int n = 0; n < Shape::kTokenTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& total = totals[r * 16 + g + 8 * (i / 2)][n * 8 + 2 * t + i % 2];
            total = warp == 0 ? sums[r][n][i] : total + sums[r][n][i];
          }
        }
      }
    }
    __syncthreads();  // warp `warp` has added its part; the next one may
  }
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_totals(const abi::GemmParams& p, const Work& work,
                                             const float (&totals)[kConfig.tile_rows][kConfig.tile_tokens + 1]) {
  const Epilogue epilogue{p, work.tile.expert};
  const int count = work.tile.row_end - work.tile.row_begin;
  const bool gated = kConfig.role == 1 && p.gated;
  const int columns = gated ? kConfig.tile_rows / 2 : kConfig.tile_rows;  // output columns of this block
  const int first_column = gated ? work.row_block * 8 : work.row_block * 16;
  for (int i = threadIdx.x; i < count * columns; i += blockDim.x) {
    const int token = i / columns, column = i % columns;
    const int row = work.tile.row_begin + token;
    if (first_column + column >= p.out_cols) continue;
    const long long out = static_cast<long long>(row) * p.out_stride + first_column + column;
    if constexpr (kConfig.role == 1) {
      const float input_weight = p.row_weight != nullptr ? p.row_weight[row] : 1.0f;
      const int block = gated ? column / 8 : column / 16, r = gated ? column % 8 : column % 16;
      const float gate = totals[block * 16 + r][token];
      const float up = gated ? totals[block * 16 + r + 8][token] : 0.0f;
      const float value = epilogue.hidden(work.row_block + block, r, gate, up, input_weight);
      static_cast<u16*>(p.out)[out] = from_float<kConfig.io>(value);
    } else {
      static_cast<float*>(p.out)[out] =
          totals[column][token] + epilogue.bias(work.row_block + column / 16, column % 16);
    }
  }
}

/// grid.x >= (upper bound of tiles) * div_up(row_blocks, tile_rows / 16). Static shared memory only.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void gemm_stream(const abi::GemmParams& p) {
  using Shape = StreamShape<kConfig>;
  __shared__ float totals[kConfig.tile_rows][kConfig.tile_tokens + 1];  // + 1: columns on different banks
  Work work;
  if (!find_work<kConfig>(p, work)) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;

  const char* weights[Shape::kRowBlocks];
#pragma unroll
  for (int r = 0; r < Shape::kRowBlocks; ++r) {
    const int block = work.row_block + r;
    const long long first = (static_cast<long long>(work.tile.expert) * p.row_blocks + block) * p.k_blocks;
    weights[r] =
        block < p.row_blocks ? static_cast<const char*>(p.weights) + first * abi::kBlockBytes + lane * 16 : nullptr;
  }
  const char* tokens[Shape::kTokenTiles];
#pragma unroll
  for (int n = 0; n < Shape::kTokenTiles; ++n) {
    const int row = work.tile.row_begin + n * 8 + g;
    tokens[n] = nullptr;
    if (row < work.tile.row_end) {
      const int source = p.row_token != nullptr ? p.row_token[row] : row;
      tokens[n] = static_cast<const char*>(p.activations) + static_cast<long long>(source) * p.activation_stride * 2;
    }
  }

  StreamSums<kConfig> sums = {};
  for (int kb = warp; kb < p.k_blocks; kb += kConfig.warps_k * Shape::kUnroll) {
    StreamOperands<kConfig> operands[Shape::kUnroll];
#pragma unroll
    for (int u = 0; u < Shape::kUnroll; ++u) {
      load_block<kConfig>(p, weights, tokens, kb + u * kConfig.warps_k, operands[u]);
    }
#pragma unroll
    for (int u = 0; u < Shape::kUnroll; ++u) multiply_block<kConfig>(operands[u], sums);
  }
  reduce_warps<kConfig>(sums, totals);
  store_totals<kConfig>(p, work, totals);
}

}  // namespace moesaic::warp
