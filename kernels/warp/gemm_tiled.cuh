// SPDX-License-Identifier: Apache-2.0
// Grouped GEMM for many tokens per expert: tokens x weight rows tiles through a cp.async ring, mma.sync m16n8k16.
//
// Weight rows are the m16 side, tokens the n8 side, as in gemm_stream.cuh: then every operand of an mma is a run of
// registers of one 16-byte load. (With tokens on the m16 side the compiler needs four moves per mma: 2x slower.)
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
  static constexpr int kTokenTiles = kWarpTokens / 8;  // n8 tiles of a warp
  static constexpr int kRowBlocks = kWarpRows / 16;    // 16-row weight blocks of a warp
  static constexpr int kActivationBytes = kConfig.tile_tokens * kConfig.tile_k * 2;
  static constexpr int kWeightBytes = kConfig.tile_rows * kConfig.tile_k * 2;
  static constexpr int kStageBytes = kActivationBytes + kWeightBytes;
  static constexpr int kActivationCopies = kActivationBytes / 16 / kThreads;  // 16-byte copies of a thread and stage
  static constexpr int kWeightCopies = kWeightBytes / 16 / kThreads;
  static_assert(kActivationBytes % (16 * kThreads) == 0 && kWeightBytes % (16 * kThreads) == 0);
  static_assert(kWarpTokens % 8 == 0 && kWarpRows % 16 == 0 && kConfig.tile_k % abi::kBlockK == 0);
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

/// Copies one stage after the other into the ring. Source pointers only ever move on by one stage: few integer
/// instructions between the mma instructions. Copies of nothing (size 0) write zeros and read nothing, so the ring may
/// be filled beyond the end of K.
template <abi::KernelConfig kConfig>
class TileLoader {
  using Shape = TiledShape<kConfig>;

 public:
  __device__ __forceinline__ TileLoader(const abi::GemmParams& p, const Work& work, u32 shared)
      : shared_(shared + threadIdx.x * 16), k_left_(p.k - threadIdx.x % 4 * 8), blocks_left_(p.k_blocks) {
#pragma unroll
    for (int i = 0; i < Shape::kActivationCopies; ++i) {
      const int chunk = threadIdx.x + i * Shape::kThreads;  // [substep][token][4]
      const int row = work.tile.row_begin + chunk / 4 % kConfig.tile_tokens;
      const bool valid = row < work.tile.row_end;
      const int source = !valid ? 0 : p.row_token != nullptr ? p.row_token[row] : row;
      const int k = substep(chunk) * abi::kBlockK + chunk % 4 * 8;
      activations_[i] =
          static_cast<const char*>(p.activations) + (static_cast<long long>(source) * p.activation_stride + k) * 2;
      activation_size_[i] = valid ? 16 : 0;
    }
#pragma unroll
    for (int i = 0; i < Shape::kWeightCopies; ++i) {
      const int chunk = threadIdx.x + i * Shape::kThreads;  // [row block][substep][64]
      const int block = work.row_block + chunk / (Shape::kSubsteps * 64);
      const bool valid = block < p.row_blocks;
      const long long first =
          (static_cast<long long>(work.tile.expert) * p.row_blocks + (valid ? block : 0)) * p.k_blocks;
      weights_[i] =
          static_cast<const char*>(p.weights) + first * abi::kBlockBytes + chunk % (Shape::kSubsteps * 64) * 16;
      weight_size_[i] = valid ? 16 : 0;
    }
  }

  /// The next stage, into ring slot `slot`.
  __device__ __forceinline__ void load(int slot) {
    const u32 base = shared_ + slot * Shape::kStageBytes;
#pragma unroll
    for (int i = 0; i < Shape::kActivationCopies; ++i) {
      const int sub = substep(i * Shape::kThreads);  // the same for all threads: see the assertion
      ptx::cp_async_16(base + i * Shape::kThreads * 16, activations_[i],
                       k_left_ > sub * abi::kBlockK ? activation_size_[i] : 0);
      activations_[i] += kConfig.tile_k * 2;
    }
#pragma unroll
    for (int i = 0; i < Shape::kWeightCopies; ++i) {
      const int sub = static_cast<int>(threadIdx.x + i * Shape::kThreads) / 64 % Shape::kSubsteps;
      ptx::cp_async_16(base + Shape::kActivationBytes + i * Shape::kThreads * 16, weights_[i],
                       blocks_left_ > sub ? weight_size_[i] : 0);
      weights_[i] += Shape::kSubsteps * abi::kBlockBytes;
    }
    k_left_ -= kConfig.tile_k;
    blocks_left_ -= Shape::kSubsteps;
  }

 private:
  static_assert(4 * kConfig.tile_tokens % Shape::kThreads == 0, "a copy belongs to one substep in all threads");
  __device__ __forceinline__ static int substep(int chunk) { return chunk / (4 * kConfig.tile_tokens); }

  u32 shared_;                // this thread's first 16 bytes of slot 0
  int k_left_, blocks_left_;  // of this thread's k position in substep 0
  const char* activations_[Shape::kActivationCopies];
  const char* weights_[Shape::kWeightCopies];
  int activation_size_[Shape::kActivationCopies], weight_size_[Shape::kWeightCopies];
};

/// [row block][token tile]: rows g and g + 8, tokens 2t and 2t + 1 in the order (g, 2t), (g, 2t+1), (g+8, 2t), (g+8,
/// 2t+1).
template <abi::KernelConfig kConfig>
using Accumulators = float[TiledShape<kConfig>::kRowBlocks][TiledShape<kConfig>::kTokenTiles][4];

/// One stage: two mma steps per 32 of K, operands straight from shared memory. `refill` is called once the first mma
/// instructions are on their way, so that its integer work hides behind them.
template <abi::KernelConfig kConfig, typename Refill>
__device__ __forceinline__ void multiply_stage(u32 stage, int warp_token, int warp_row, Accumulators<kConfig>& sums,
                                               Refill refill) {
  using Shape = TiledShape<kConfig>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int sub = 0; sub < Shape::kSubsteps; ++sub) {
    uint4 tokens[Shape::kTokenTiles];  // token g of a tile, k 8t .. 8t + 7 of the 32
#pragma unroll
    for (int n = 0; n < Shape::kTokenTiles; ++n) {
      tokens[n] = ptx::load_shared_16(stage + ((sub * kConfig.tile_tokens + warp_token + n * 8) * 4 + lane) * 16);
    }
#pragma unroll
    for (int r = 0; r < Shape::kRowBlocks; ++r) {
      const u32 block = stage + Shape::kActivationBytes +
                        ((warp_row / 16 + r) * Shape::kSubsteps + sub) * abi::kBlockBytes + lane * 16;
      const uint4 a = ptx::load_shared_16(block), b = ptx::load_shared_16(block + 512);
#pragma unroll
      for (int n = 0; n < Shape::kTokenTiles; ++n) {
        ptx::mma_16816<kConfig.io>(sums[r][n], a.x, a.y, a.z, a.w, tokens[n].x, tokens[n].y);
      }
#pragma unroll
      for (int n = 0; n < Shape::kTokenTiles; ++n) {
        ptx::mma_16816<kConfig.io>(sums[r][n], b.x, b.y, b.z, b.w, tokens[n].z, tokens[n].w);
      }
      if (sub == 0 && r == 0) refill();
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
  for (int r = 0; r < 2 * Shape::kRowBlocks; ++r) {
    const int row_block = work.row_block + warp_row / 16 + r / 2;
    const int column = row_block * 16 + r % 2 * 8 + g;
    if (column >= p.out_cols) continue;
    const float bias = epilogue.bias(row_block, r % 2 * 8 + g);
#pragma unroll
    for (int n = 0; n < 2 * Shape::kTokenTiles; ++n) {
      const int row = work.tile.row_begin + warp_token + n / 2 * 8 + 2 * t + n % 2;
      if (row >= work.tile.row_end) continue;
      static_cast<float*>(p.out)[static_cast<long long>(row) * p.out_stride + column] =
          sums[r / 2][n / 2][r % 2 * 2 + n % 2] + bias;
    }
  }
}

/// A warp's sums -> shared memory [warp tokens][sum_pitch]. The ring must be drained.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void share_sums(float* shared, int warp_row, const Accumulators<kConfig>& sums) {
  using Shape = TiledShape<kConfig>;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2 * Shape::kRowBlocks; ++r) {
#pragma unroll
    for (int n = 0; n < 2 * Shape::kTokenTiles; ++n) {
      const int token = n / 2 * 8 + 2 * t + n % 2;
      shared[token * abi::sum_pitch(kConfig) + warp_row + r * 8 + g] = sums[r / 2][n / 2][r % 2 * 2 + n % 2];
    }
  }
}

/// GEMM 1: two neighbouring output columns a thread and round, so that a warp writes whole lines of h. A rolled loop:
/// the activation is compiled twice, not once per accumulator.
/// `first_token`: of the tile, in shared row 0.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void activate_tokens(const abi::GemmParams& p, const Work& work, int first_token,
                                                const float* shared) {
  const Epilogue epilogue{p, work.tile.expert};
  const int pairs = p.gated ? kConfig.tile_rows / 4 : kConfig.tile_rows / 2;  // of one token
  const int first_column = p.gated ? work.row_block * 8 : work.row_block * 16;
  const int first_row = work.tile.row_begin + first_token, left = work.tile.row_end - first_row;
  const int tokens = left < TiledShape<kConfig>::kWarpTokens ? left : TiledShape<kConfig>::kWarpTokens;
#pragma unroll 1
  for (int i = threadIdx.x; i < tokens * pairs; i += abi::threads(kConfig)) {
    const int token = i / pairs, column = i % pairs * 2;
    if (first_column + column >= p.out_cols) continue;
    const int row = first_row + token;
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
  TileLoader<kConfig> loader(p, work, shared);
  const int steps = abi::div_up(p.k_blocks, Shape::kSubsteps);

  Accumulators<kConfig> sums = {};
#pragma unroll
  for (int s = 0; s < kConfig.stages - 1; ++s) {
    loader.load(s);
    ptx::cp_async_commit();
  }
  int slot = 0, free_slot = kConfig.stages - 1;
  for (int step = 0; step < steps; ++step) {
    // This thread's copies for `step` have landed; the barrier makes everyone's visible, and says that all warps are
    // done with the slot that is refilled next.
    ptx::cp_async_wait<kConfig.stages - 2>();
    __syncthreads();
    multiply_stage<kConfig>(shared + slot * Shape::kStageBytes, warp_token, warp_row, sums, [&] {
      loader.load(free_slot);
      ptx::cp_async_commit();
    });
    slot = slot + 1 == kConfig.stages ? 0 : slot + 1;
    free_slot = free_slot + 1 == kConfig.stages ? 0 : free_slot + 1;
  }
  if constexpr (kConfig.role == 1) {
    float* shared_sums = reinterpret_cast<float*>(ring);
    ptx::cp_async_wait<0>();
#pragma unroll 1
    for (int first = 0; first < kConfig.tile_tokens; first += Shape::kWarpTokens) {
      if (first >= work.tile.row_end - work.tile.row_begin) break;
      __syncthreads();  // all warps are done with the ring, or with the tokens before
      if (first == warp_token) share_sums<kConfig>(shared_sums, warp_row, sums);
      __syncthreads();  // sums of these tokens are complete
      activate_tokens<kConfig>(p, work, first, shared_sums);
    }
  } else {
    store_rows<kConfig>(p, work, warp_token, warp_row, sums);
  }
}

}  // namespace moesaic::warp
