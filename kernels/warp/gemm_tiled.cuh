// SPDX-License-Identifier: Apache-2.0
// Grouped GEMM for many tokens per expert: tokens x weight rows tiles through a cp.async ring, mma.sync m16n8k16.
//
// Shared memory, one stage: activations [tile_k / 32][tile_tokens][32 elements], then weights
// [tile_rows / 16][tile_k / 32][1024 bytes] exactly as prepared. With rows of 64 bytes, the eight lanes of a quarter
// warp read 128 consecutive bytes: no bank conflicts and no swizzle; every operand is one 16-byte shared load.
// GEMM 1 gathers its rows while loading: each thread keeps the row offsets of the chunks that it copies.
#pragma once

#include "kernels/common/ptx.cuh"
#include "kernels/warp/epilogue.cuh"

namespace moesaic::warp {

/// Token tiles that share a pass over weight rows: their activations and as many weight tiles fit in L2 together.
inline constexpr int kRasterGroup = 16;

template <abi::KernelConfig kConfig>
struct TiledShape {
  static constexpr int kThreads = abi::threads(kConfig);
  static constexpr int kSubsteps = kConfig.tile_k / abi::kBlockK;
  static constexpr int kWarpTokens = kConfig.tile_tokens / kConfig.warps_tokens;
  static constexpr int kWarpRows = kConfig.tile_rows / kConfig.warps_rows;
  static constexpr int kTokenTiles = kWarpTokens / 16;  // m16 tiles of a warp
  static constexpr int kRowBlocks = kWarpRows / 16;     // 16-row weight blocks of a warp
  static constexpr int kActivationBytes = kConfig.tile_tokens * kConfig.tile_k * 2;
  static constexpr int kWeightBytes = kConfig.tile_rows * kConfig.tile_k * 2;
  static constexpr int kStageBytes = kActivationBytes + kWeightBytes;
  static constexpr int kActivationCopies = kActivationBytes / 16 / kThreads;  // 16-byte copies of a thread and stage
  static constexpr int kWeightCopies = kWeightBytes / 16 / kThreads;
  static_assert(kActivationBytes % (16 * kThreads) == 0 && kWeightBytes % (16 * kThreads) == 0);
  static_assert(kWarpTokens % 16 == 0 && kWarpRows % 16 == 0 && kConfig.tile_k % abi::kBlockK == 0);
  static_assert(kConfig.warps_k == 1 && kConfig.stages >= 2);
};

/// Where a block works: token tile and first weight row block.
struct Work {
  abi::Tile tile;
  int row_block;
};

/// False: nothing to do. Token tiles of a group run fastest, so that concurrent blocks share weights in L2.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ bool find_work(const abi::GemmParams& p, Work& work) {
  const int tiles = p.num_tiles != nullptr ? *p.num_tiles : abi::div_up(p.rows, kConfig.tile_tokens);
  constexpr int kBlocks = kConfig.tile_rows / abi::kBlockRows;
  const int columns = abi::div_up(p.row_blocks, kBlocks);
  const int index = blockIdx.x;
  if (index >= tiles * columns) return false;
  const int group = index / (kRasterGroup * columns);
  const int first = group * kRasterGroup;
  const int size = tiles - first < kRasterGroup ? tiles - first : kRasterGroup;
  const int local = index - first * columns;
  const int tile = first + local % size;
  work.row_block = local / size * kBlocks;
  if (p.tiles != nullptr) {
    work.tile = p.tiles[tile];
  } else {
    const int begin = tile * kConfig.tile_tokens;
    const int end = begin + kConfig.tile_tokens < p.rows ? begin + kConfig.tile_tokens : p.rows;
    work.tile = {0, begin, end, 0};
  }
  return true;
}

template <abi::KernelConfig kConfig>
class TileLoader {
  using Shape = TiledShape<kConfig>;

 public:
  __device__ __forceinline__ TileLoader(const abi::GemmParams& p, const Work& work, u32 shared) : p_(p), shared_(shared) {
#pragma unroll
    for (int i = 0; i < Shape::kActivationCopies; ++i) {
      const int row = work.tile.row_begin + activation_row(i);
      valid_[i] = row < work.tile.row_end;
      const int source = !valid_[i] ? 0 : p.row_token != nullptr ? p.row_token[row] : row;
      rows_[i] = static_cast<const char*>(p.activations) + static_cast<long long>(source) * p.activation_stride * 2;
    }
#pragma unroll
    for (int i = 0; i < Shape::kWeightCopies; ++i) {
      const int block = work.row_block + weight_chunk(i) / (Shape::kSubsteps * 64);
      weight_valid_[i] = block < p.row_blocks;
      const long long first = (static_cast<long long>(work.tile.expert) * p.row_blocks + block) * p.k_blocks;
      weights_[i] = static_cast<const char*>(p.weights) + (weight_valid_[i] ? first * abi::kBlockBytes : 0);
    }
  }

  /// Copies stage contents for k step `step` into ring slot `slot`.
  __device__ __forceinline__ void load(int step, int slot) const {
    const u32 base = shared_ + slot * Shape::kStageBytes;
#pragma unroll
    for (int i = 0; i < Shape::kActivationCopies; ++i) {
      const int chunk = threadIdx.x + i * Shape::kThreads;  // [substep][token][4]
      const int k = step * kConfig.tile_k + chunk / (4 * kConfig.tile_tokens) * abi::kBlockK + chunk % 4 * 8;
      const bool valid = valid_[i] && k < p_.k;
      ptx::cp_async_16(base + chunk * 16, rows_[i] + (valid ? k * 2 : 0), valid);
    }
#pragma unroll
    for (int i = 0; i < Shape::kWeightCopies; ++i) {
      const int within = weight_chunk(i) % (Shape::kSubsteps * 64);
      const int k_block = step * Shape::kSubsteps + within / 64;
      const bool valid = weight_valid_[i] && k_block < p_.k_blocks;
      const long long offset = valid ? static_cast<long long>(step) * Shape::kSubsteps * abi::kBlockBytes + within * 16 : 0;
      ptx::cp_async_16(base + Shape::kActivationBytes + weight_chunk(i) * 16, weights_[i] + offset, valid);
    }
  }

 private:
  __device__ __forceinline__ static int activation_row(int i) {
    return (threadIdx.x + i * Shape::kThreads) / 4 % kConfig.tile_tokens;
  }
  __device__ __forceinline__ static int weight_chunk(int i) { return threadIdx.x + i * Shape::kThreads; }

  const abi::GemmParams& p_;
  u32 shared_;
  const char* rows_[Shape::kActivationCopies];
  const char* weights_[Shape::kWeightCopies];
  bool valid_[Shape::kActivationCopies], weight_valid_[Shape::kWeightCopies];
};

template <abi::KernelConfig kConfig>
using Accumulators = float[TiledShape<kConfig>::kTokenTiles][TiledShape<kConfig>::kRowBlocks][2][4];

/// One stage: two mma steps per 32 of K, operands straight from shared memory.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void multiply_stage(u32 stage, int warp_token, int warp_row, Accumulators<kConfig>& sums) {
  using Shape = TiledShape<kConfig>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int sub = 0; sub < Shape::kSubsteps; ++sub) {
    uint4 low[Shape::kTokenTiles], high[Shape::kTokenTiles];  // rows g and g + 8, k 8t .. 8t + 7 of the 32
#pragma unroll
    for (int m = 0; m < Shape::kTokenTiles; ++m) {
      const u32 row = stage + ((sub * kConfig.tile_tokens + warp_token + m * 16) * 4 + lane) * 16;
      low[m] = ptx::load_shared_16(row);
      high[m] = ptx::load_shared_16(row + 8 * 64);
    }
#pragma unroll
    for (int n = 0; n < Shape::kRowBlocks; ++n) {
      const u32 block = stage + Shape::kActivationBytes +
                        ((warp_row / 16 + n) * Shape::kSubsteps + sub) * abi::kBlockBytes + lane * 16;
      const uint4 first = ptx::load_shared_16(block);
      const uint4 second = ptx::load_shared_16(block + 512);
#pragma unroll
      for (int m = 0; m < Shape::kTokenTiles; ++m) {
        ptx::mma_16816<kConfig.io>(sums[m][n][0], low[m].x, high[m].x, low[m].y, high[m].y, first.x, first.z);
        ptx::mma_16816<kConfig.io>(sums[m][n][1], low[m].x, high[m].x, low[m].y, high[m].y, first.y, first.w);
      }
#pragma unroll
      for (int m = 0; m < Shape::kTokenTiles; ++m) {
        ptx::mma_16816<kConfig.io>(sums[m][n][0], low[m].z, high[m].z, low[m].w, high[m].w, second.x, second.z);
        ptx::mma_16816<kConfig.io>(sums[m][n][1], low[m].z, high[m].z, low[m].w, high[m].w, second.y, second.w);
      }
    }
  }
}

/// GEMM 2: bias, then FP32 straight from the fragments (32-byte pieces of a row).
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_rows(const abi::GemmParams& p, const Work& work, int warp_token, int warp_row,
                                           const Accumulators<kConfig>& sums) {
  using Shape = TiledShape<kConfig>;
  const Epilogue epilogue{p, work.tile.expert};
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 2 * Shape::kTokenTiles; ++i) {
    const int row = work.tile.row_begin + warp_token + i * 8 + g;
    if (row >= work.tile.row_end) continue;
    float* out = static_cast<float*>(p.out) + static_cast<long long>(row) * p.out_stride;
#pragma unroll
    for (int j = 0; j < 2 * Shape::kRowBlocks; ++j) {
      const int row_block = work.row_block + warp_row / 16 + j / 2;
      const int r = j % 2 * 8 + 2 * t;
      if (row_block * 16 + r >= p.out_cols) continue;
      const float* pair = &sums[i / 2][j / 2][j % 2][i % 2 * 2];
      *reinterpret_cast<float2*>(out + row_block * 16 + r) = {pair[0] + epilogue.bias(row_block, r),
                                                              pair[1] + epilogue.bias(row_block, r + 1)};
    }
  }
}

/// Sums -> shared memory [tile_tokens][sum_pitch]. The ring must be drained.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void share_sums(float* shared, int warp_token, int warp_row,
                                           const Accumulators<kConfig>& sums) {
  using Shape = TiledShape<kConfig>;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 2 * Shape::kTokenTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 2 * Shape::kRowBlocks; ++j) {
      const float* pair = &sums[i / 2][j / 2][j % 2][i % 2 * 2];
      float* out = shared + (warp_token + i * 8 + g) * abi::sum_pitch(kConfig) + warp_row + j * 8 + 2 * t;
      *reinterpret_cast<float2*>(out) = {pair[0], pair[1]};
    }
  }
}

/// GEMM 1: two neighbouring output columns a thread and round, so that a warp writes whole lines of h. A rolled loop:
/// the activation is compiled twice, not once per accumulator.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void activate_tile(const abi::GemmParams& p, const Work& work, const float* shared) {
  const Epilogue epilogue{p, work.tile.expert};
  const int pairs = p.gated ? kConfig.tile_rows / 4 : kConfig.tile_rows / 2;  // of one token
  const int first_column = p.gated ? work.row_block * 8 : work.row_block * 16;
  const int tokens = work.tile.row_end - work.tile.row_begin;
#pragma unroll 1
  for (int i = threadIdx.x; i < tokens * pairs; i += abi::threads(kConfig)) {
    const int token = i / pairs, column = i % pairs * 2;
    if (first_column + column >= p.out_cols) continue;
    const int row = work.tile.row_begin + token;
    const float input_weight = p.row_weight != nullptr ? p.row_weight[row] : 1.0f;
    const int block = p.gated ? column / 8 : column / 16, r = p.gated ? column % 8 : column % 16;
    const float* sums = shared + token * abi::sum_pitch(kConfig) + block * 16 + r;
    const float* ups = sums + (p.gated ? 8 : 0);
    const float low = epilogue.hidden(work.row_block + block, r, sums[0], ups[0], input_weight);
    const float high = epilogue.hidden(work.row_block + block, r + 1, sums[1], ups[1], input_weight);
    u16* out = static_cast<u16*>(p.out) + static_cast<long long>(row) * p.out_stride + first_column + column;
    *reinterpret_cast<u32*>(out) = pack<kConfig.io>(low, high);
  }
}

/// grid.x >= (upper bound of tiles) * div_up(row_blocks, tile_rows / 16); dynamic shared memory: abi::smem_bytes.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void gemm_tiled(const abi::GemmParams& p) {
  using Shape = TiledShape<kConfig>;
  extern __shared__ __align__(128) char ring[];  // [stages][kStageBytes]
  Work work;
  if (!find_work<kConfig>(p, work)) return;
  const u32 shared = ptx::shared_address(ring);
  const int warp = threadIdx.x / 32;
  const int warp_token = warp % kConfig.warps_tokens * Shape::kWarpTokens;
  const int warp_row = warp / kConfig.warps_tokens * Shape::kWarpRows;
  const TileLoader<kConfig> loader(p, work, shared);
  const int steps = abi::div_up(p.k_blocks, Shape::kSubsteps);

  Accumulators<kConfig> sums = {};
#pragma unroll
  for (int s = 0; s < kConfig.stages - 1; ++s) {
    if (s < steps) loader.load(s, s);
    ptx::cp_async_commit();
  }
  int slot = 0, free_slot = kConfig.stages - 1;
  for (int step = 0; step < steps; ++step) {
    // This thread's copies for `step` have landed; the barrier makes everyone's visible, and says that all warps are
    // done with the slot that is refilled next.
    ptx::cp_async_wait<kConfig.stages - 2>();
    __syncthreads();
    if (step + kConfig.stages - 1 < steps) loader.load(step + kConfig.stages - 1, free_slot);
    ptx::cp_async_commit();
    multiply_stage<kConfig>(shared + slot * Shape::kStageBytes, warp_token, warp_row, sums);
    slot = slot + 1 == kConfig.stages ? 0 : slot + 1;
    free_slot = free_slot + 1 == kConfig.stages ? 0 : free_slot + 1;
  }
  if constexpr (kConfig.role == 1) {
    float* shared_sums = reinterpret_cast<float*>(ring);
    ptx::cp_async_wait<0>();
    __syncthreads();  // all warps have read the last stage: the ring may be overwritten
    share_sums<kConfig>(shared_sums, warp_token, warp_row, sums);
    __syncthreads();  // sums are complete
    activate_tile<kConfig>(p, work, shared_sums);
  } else {
    store_rows<kConfig>(p, work, warp_token, warp_row, sums);
  }
}

}  // namespace moesaic::warp
