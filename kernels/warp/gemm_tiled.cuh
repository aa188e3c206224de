// SPDX-License-Identifier: Apache-2.0
// Grouped GEMM for many tokens per expert: tokens x weight rows tiles through a cp.async ring, mma.sync m16n8k16.
//
// Weight rows are the m16 side, tokens the n8 side, as in gemm_stream.cuh. An mma takes runs of registers, so a 16-byte
// load must bring one. (With tokens on the m16 side the compiler needs four moves per mma: 2x slower.) Codes decode
// into such runs; pieces of 16-bit weights are 8 of K of one row, of which ldmatrix makes them, activations likewise.
// Shared memory, one stage: activations [tile_k / 32][tile_tokens][32 elements], weights
// [tile_rows / 16][tile_k / unit_k][unit_bytes] and scales [tile_rows / 16][scale_slot] exactly as prepared, int4 zero
// points, scales of tokens. Rows of 64 bytes have the swizzle of abi::swizzled_piece: no bank conflicts either way.
// GEMM 1 gathers its rows while loading: each thread keeps the row offsets of the chunks that it copies.
#pragma once

#include "kernels/warp/tile_loader.cuh"

namespace moesaic::warp {

/// [row block][token tile][sum]: rows g and g + 8, tokens 2t and 2t + 1 of each tile, in the order
/// (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <abi::KernelConfig kConfig>
using Accumulators = float[TiledShape<kConfig>::kRowBlocks][TiledShape<kConfig>::kTokenTiles][4];

/// e4m3: where a lane's scales are among those of a row block. By way of a shuffle with itself, or ptxas makes it anew
/// for each row block of a stage, 28 of 530 instructions in tiles of 128 tokens, rather than keep it in a register.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ int kept_lane_scales(const abi::GemmParams& p) {
  const int lane = threadIdx.x % 32;
  if constexpr (kConfig.weights != abi::kWeightsE4m3) return 0;
  return __shfl_sync(0xffffffffu, lane_scale_offset<kConfig.weights>(p, lane), lane);
}

/// A stage in shared memory as one warp reads it.
template <abi::KernelConfig kConfig>
struct Stage {
  using Shape = TiledShape<kConfig>;
  u32 base;
  int warp_token, warp_row;
  int lane_scales;  // kept_lane_scales

  /// A lane's activations of both steps of 32 of K: in the order of K that the weights have.
  __device__ __forceinline__ uint4 tokens(int sub, int n, int lane) const {
    const u32 rows = base + (sub * kConfig.tile_tokens + warp_token + n * 8) * abi::kBlockK * 2;
    if constexpr (kConfig.weights == abi::kWeights16) {
      return ptx::load_matrices(rows + abi::swizzled_piece(lane % 8 * 4 + lane / 8));
    }
    return ptx::load_shared_16(rows + abi::swizzled_piece(lane));
  }

  /// Codes of row block r in unit `unit`, this lane's.
  __device__ __forceinline__ u32 codes(int r, int unit, int lane) const {
    const u32 block = base + Shape::kActivationBytes +
                      ((warp_row / 16 + r) * Shape::kUnits + unit) * abi::unit_bytes(kConfig.weights);
    if constexpr (kConfig.weights == abi::kWeights16) {
      return block + lane / 8 % 2 * abi::kHalfBlockBytes + abi::swizzled_piece(lane % 8 * 4 + lane / 16);
    }
    return block + lane * 16;
  }
  __device__ __forceinline__ u32 scales(int r) const {
    return base + Shape::kScalesAt + (warp_row / 16 + r) * abi::scale_slot(kConfig);
  }
  __device__ __forceinline__ u32 zeros(int r) const {
    return base + Shape::kZerosAt + (warp_row / 16 + r) * abi::zero_slot(kConfig);
  }

  /// Operands of row block r in the sub-th 32 of K.
  __device__ __forceinline__ Fragment fragment(const abi::GemmParams& p, int r, int sub, int lane) const {
    if constexpr (kConfig.weights == abi::kWeights16) {
      const u32 at = codes(r, sub, lane);
      const uint4 a = ptx::load_matrices(at), b = ptx::load_matrices(at ^ 32u);
      return {{{a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}}};
    } else if constexpr (kConfig.weights == abi::kWeightsE4m3 || kConfig.weights == abi::kWeightsE4m3Block) {
      u32 factors[2] = {kE4m3One, kE4m3One};
      if (kConfig.weights == abi::kWeightsE4m3 && p.block_scale != abi::kScaleNone) {
        const u32 word = ptx::load_shared_2(scales(r) + sub * unit_scale_bytes<kConfig.weights>(p) + lane_scales);
        const ByteScales bytes = byte_scales(abi::kScaleE8m0);
        factors[0] = bytes.pair(word, 0), factors[1] = bytes.pair(word, 1);
      }
      return e4m3_fragment(ptx::load_shared_16(codes(r, sub, lane)), factors);
    } else {
      const uint2 words = ptx::load_shared_8(codes(r, sub / 2, lane) + sub % 2 * 8);
      u32 factors[2];
      if constexpr (kConfig.weights == abi::kWeightsE2m1) {
        const u32 word = ptx::load_shared_4(scales(r) + sub / 2 * unit_scale_bytes<kConfig.weights>(p) +
                                            lane_scale_offset<kConfig.weights>(p, lane));
        const ByteScales bytes = byte_scales(p.block_scale);
        factors[0] = bytes.pair(word, sub % 2 * 2), factors[1] = bytes.pair(word, sub % 2 * 2 + 1);
      } else {
        u32 zero = kInt4Zeros;
        if (p.zeros != nullptr) {
          zero = ptx::load_shared_2(zeros(r) + (sub * abi::kBlockK >> p.group_shift) * 16 + lane / 4 * 2);
        }
        factors[0] = int4_zero(zero, 0), factors[1] = int4_zero(zero, 1);
      }
      return half_unit_fragment<kConfig.weights>(words.x, words.y, factors);
    }
  }

  /// int4: fp16 scales of rows g and g + 8.
  __device__ __forceinline__ float2 int4_scales(const abi::GemmParams& p, int r, int sub, int lane) const {
    const u32 group = scales(r) + (sub * abi::kBlockK >> p.group_shift) * kGroupScaleBytes<false>;
    return group_scales<false>(ptx::load_shared_4(group + lane / 4 * 4), 0);
  }
  /// 1 x 128 scales of tokens 2t and 2t + 1 of tile n.
  __device__ __forceinline__ float2 token_scales(int n, int lane) const {
    const uint2 bits = ptx::load_shared_8(base + Shape::kTokenScalesAt + (warp_token + n * 8 + lane % 4 * 2) * 4);
    return {__uint_as_float(bits.x), __uint_as_float(bits.y)};
  }
};

/// Times 32 of K that are summed before their scales, which they share: as many as registers hold.
__device__ constexpr int scaled_substeps(const abi::KernelConfig& c) {
  const int substeps = c.tile_k / abi::kBlockK;
  const int most = c.weights == abi::kWeightsInt4 ? 2 : c.tile_tokens / c.warps_tokens > 32 ? 1 : 4;
  return substeps < most ? substeps : most;
}

/// Sums of `kSubs` times 32 of K times their scales, in FP32, for the token tiles of one row block: a few tiles at a
/// time, for all at once would need more registers than there are.
template <abi::KernelConfig kConfig, int kSubs>
__device__ __forceinline__ void add_partial_sums(const Stage<kConfig>& stage, const Fragment (&w)[kSubs],
                                                 const uint4 (&tokens)[kSubs][TiledShape<kConfig>::kTokenTiles],
                                                 float2 scales, int lane,
                                                 float (&sums)[TiledShape<kConfig>::kTokenTiles][4]) {
  constexpr int kTogether = TiledShape<kConfig>::kTokenTiles < 4 ? TiledShape<kConfig>::kTokenTiles : 4;
  static_assert(TiledShape<kConfig>::kTokenTiles % kTogether == 0);
#pragma unroll
  for (int first = 0; first < TiledShape<kConfig>::kTokenTiles; first += kTogether) {
    float parts[kTogether][4] = {};
#pragma unroll
    for (int step = 0; step < 2 * kSubs; ++step) {
      const u32(&a)[4] = w[step / 2].step[step % 2];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const uint4& x = tokens[step / 2][first + i];
        ptx::mma_16816<abi::kIoBf16>(parts[i], a[0], a[1], a[2], a[3], step % 2 == 0 ? x.x : x.z,
                                     step % 2 == 0 ? x.y : x.w);
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if constexpr (kConfig.weights == abi::kWeightsE4m3Block) {
        const float2 token = stage.token_scales(first + i, lane);
        parts[i][0] *= token.x, parts[i][1] *= token.y, parts[i][2] *= token.x, parts[i][3] *= token.y;
      }
      add_scaled(parts[i], scales, sums[first + i]);
    }
  }
}

/// One stage of weights with scales of sums, `kSubs` times 32 of K at a time: those have one scale. `scales(r, sub)`:
/// of rows g and g + 8 of row block r, in the sub-th 32 of K. `refill`: as multiply_stage.
template <abi::KernelConfig kConfig, int kSubs, typename Scales, typename Refill>
__device__ __forceinline__ void multiply_scaled_stage(const abi::GemmParams& p, const Stage<kConfig>& stage,
                                                      Scales scales, Accumulators<kConfig>& sums, Refill refill) {
  using Shape = TiledShape<kConfig>;
  const int lane = threadIdx.x % 32;
#pragma unroll 1  // more in flight would need more registers than there are
  for (int first = 0; first < Shape::kSubsteps; first += kSubs) {
    uint4 tokens[kSubs][Shape::kTokenTiles];
#pragma unroll
    for (int i = 0; i < kSubs; ++i) {
#pragma unroll
      for (int n = 0; n < Shape::kTokenTiles; ++n) tokens[i][n] = stage.tokens(first + i, n, lane);
    }
#pragma unroll
    for (int r = 0; r < Shape::kRowBlocks; ++r) {
      Fragment w[kSubs];
#pragma unroll
      for (int i = 0; i < kSubs; ++i) w[i] = stage.fragment(p, r, first + i, lane);
      add_partial_sums<kConfig, kSubs>(stage, w, tokens, scales(r, first), lane, sums[r]);
      if (first == 0 && r == 0) refill();
    }
  }
}

/// A stage of int4. Groups of FP32 scales are of any size here: another text would need more registers.
template <abi::KernelConfig kConfig, typename Refill>
__device__ __forceinline__ void multiply_int4_stage(const abi::GemmParams& p, const Work& work,
                                                    const Stage<kConfig>& stage, int step, Accumulators<kConfig>& sums,
                                                    Refill refill) {
  const int lane = threadIdx.x % 32;
  if constexpr (abi::keeps_float_groups(kConfig)) {
    if (p.block_scale == abi::kScaleGroupFloat) {
      const auto scales = [&](int r, int sub) {
        return float_group_scales(p, work, stage.warp_row / abi::kBlockRows + r,
                                  step * kConfig.tile_k + sub * abi::kBlockK);
      };
      multiply_scaled_stage<kConfig, 1>(p, stage, scales, sums, refill);
      return;
    }
  }
  const auto scales = [&](int r, int sub) { return stage.int4_scales(p, r, sub, lane); };
  if (p.group_shift == 5) {
    multiply_scaled_stage<kConfig, 1>(p, stage, scales, sums, refill);
  } else {
    multiply_scaled_stage<kConfig, scaled_substeps(kConfig)>(p, stage, scales, sums, refill);
  }
}

/// One stage: two mma steps per 32 of K, operands straight from shared memory. `refill` is called once the first mma
/// instructions are on their way, so that its integer work hides behind them.
template <abi::KernelConfig kConfig, typename Refill>
__device__ __forceinline__ void multiply_stage(const abi::GemmParams& p, const Stage<kConfig>& stage,
                                               Accumulators<kConfig>& sums, Refill refill) {
  using Shape = TiledShape<kConfig>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int sub = 0; sub < Shape::kSubsteps; ++sub) {
    uint4 tokens[Shape::kTokenTiles];  // token g of a tile, k 8t .. 8t + 7 of the 32
#pragma unroll
    for (int n = 0; n < Shape::kTokenTiles; ++n) tokens[n] = stage.tokens(sub, n, lane);
#pragma unroll
    for (int r = 0; r < Shape::kRowBlocks; ++r) {
      const Fragment w = stage.fragment(p, r, sub, lane);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int n = 0; n < Shape::kTokenTiles; ++n) {
          ptx::mma_16816<kConfig.io>(sums[r][n], w.step[step][0], w.step[step][1], w.step[step][2], w.step[step][3],
                                     step == 0 ? tokens[n].x : tokens[n].z, step == 0 ? tokens[n].y : tokens[n].w);
        }
      }
      if (sub == 0 && r == 0) refill();
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
      shared[token * abi::sum_pitch(kConfig.tile_rows) + warp_row + r * 8 + g] = sums[r / 2][n / 2][r % 2 * 2 + n % 2];
    }
  }
}

/// grid.x >= (upper bound of tiles) * div_up(row_blocks, tile_rows / 16); dynamic shared memory: abi::smem_bytes.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void gemm_tiled(const abi::GemmParams& p) {
  using Shape = TiledShape<kConfig>;
  extern __shared__ __align__(128) char ring[];  // [stages][kStageBytes]
  Work work;
  if (!find_work<kConfig>(p, count_tiles<kConfig>(p), blockIdx.x, work)) return;
  const u32 shared = ptx::shared_address(ring);
  const int warp = threadIdx.x / 32;
  const int warp_token = warp % kConfig.warps_tokens * Shape::kWarpTokens;
  const int warp_row = warp / kConfig.warps_tokens * Shape::kWarpRows;
  TileLoader<kConfig> loader(p, work, shared);
  const int steps = abi::div_up(p.units, Shape::kUnits);
  const BlockScales<kConfig> blocks(p, work);
  const int lane_scales = kept_lane_scales<kConfig>(p);

  Accumulators<kConfig> sums = {};
#pragma unroll
  for (int s = 0; s < kConfig.stages - 1; ++s) {
    loader.load(p, s);
    ptx::cp_async_commit();
  }
  int slot = 0, free_slot = kConfig.stages - 1;
  for (int step = 0; step < steps; ++step) {
    // This thread's copies for `step` have landed; the barrier makes everyone's visible, and says that all warps are
    // done with the slot that is refilled next.
    ptx::cp_async_wait<kConfig.stages - 2>();
    __syncthreads();
    const Stage<kConfig> stage{shared + slot * Shape::kStageBytes, warp_token, warp_row, lane_scales};
    const auto refill = [&] {
      loader.load(p, free_slot);
      ptx::cp_async_commit();
    };
    if constexpr (!has_partial_sums(kConfig.weights)) {
      multiply_stage<kConfig>(p, stage, sums, refill);
    } else if constexpr (kConfig.weights == abi::kWeightsInt4) {
      multiply_int4_stage<kConfig>(p, work, stage, step, sums, refill);
    } else {
      const float2 block = blocks.at(step);
      const auto scales = [&](int, int) { return block; };
      multiply_scaled_stage<kConfig, scaled_substeps(kConfig)>(p, stage, scales, sums, refill);
    }
    slot = slot + 1 == kConfig.stages ? 0 : slot + 1;
    free_slot = free_slot + 1 == kConfig.stages ? 0 : free_slot + 1;
  }
  using Group = StoreGroup<abi::threads(kConfig), kConfig.tile_rows, 1, kConfig>;
  float* shared_sums = reinterpret_cast<float*>(ring);
  ptx::cp_async_wait<0>();
#pragma unroll 1
  for (int first = 0; first < kConfig.tile_tokens; first += Shape::kWarpTokens) {
    const int first_row = work.tile.row_begin + first, left = work.tile.row_end - first_row;
    if (left <= 0) break;
    const int count = left < Shape::kWarpTokens ? left : Shape::kWarpTokens;
    __syncthreads();  // all warps are done with the ring, or with the tokens before
    if (first == warp_token) share_sums<kConfig>(shared_sums, warp_row, sums);
    __syncthreads();  // sums of these tokens are complete
    if (p.epilogue == abi::kEpilogueHidden) {
      store_hidden<Group>(p, work, threadIdx.x, first_row, count, shared_sums);
    } else {
      store_plain<Group>(p, work, threadIdx.x, first_row, count, shared_sums);
    }
  }
}

}  // namespace moesaic::warp
