// SPDX-License-Identifier: Apache-2.0
// Grouped GEMM of Hopper: persistent blocks, a warpgroup that fills a ring, warpgroups that multiply by wgmma.
//
// Weight rows are the m64 side, tokens the n side, so that a tile's tokens are any multiple of 8 without wasted work,
// and sums lie in registers as those of mma.sync do. One stage of the ring is 64 of K:
//   weights      [tile_rows / 128][k / 32, 2][row blocks][1024 bytes], exactly as prepared, by bulk copies;
//   activations  [block_tokens][128 bytes], 128-byte swizzle, gathered by cp.async in 16-byte pieces.
// Blocks of a cluster have the same weight rows and share a tile's tokens; each brings part of the weights for all.
#pragma once

#include "kernels/sm90/ring.cuh"

namespace moesaic::sm90 {

/// Of one warpgroup: [64 rows][n8 tile of tokens][sum of a fragment].
template <abi::KernelConfig kConfig>
using Sums = float[WgmmaShape<kConfig>::kHalves][WgmmaShape<kConfig>::kTokens / 2];

/// Products of one stage: kUnits times 32 of K, in order. `unit_step`: from one unit to the next, in 16 bytes.
template <abi::KernelConfig kConfig, int kTokens, int kUnits>
__device__ __forceinline__ void multiply_stage(u32 stage, int unit_step, int keep, Sums<kConfig>& sums) {
  using Shape = WgmmaShape<kConfig>;
  constexpr int kHalfBytes = 64 / abi::kBlockRows * abi::kBlockBytes;
  const int group = threadIdx.x / 128;
  // The warpgroup's 128 rows lie together, or its 64 among another's.
  const u64 a = ptx::operand_descriptor<64>(stage + group * (Shape::kHalves == 2 ? Shape::kGroupBytes : kHalfBytes));
  const u64 b = ptx::operand_descriptor<128>(stage + Shape::kWeightBytes);
  ptx::fence_async_proxy();  // cp.async has written for other instructions than wgmma. Those who load need not wait
  ptx::wgmma_fence();
#pragma unroll
  for (int step = 0; step < 2 * kUnits; ++step) {
    const u64 a_step = a + step / 2 * unit_step + step % 2 * 2;
#pragma unroll
    for (int half = 0; half < Shape::kHalves; ++half) {
      ptx::wgmma<kConfig.io, kTokens>(sums[half], a_step + half * (kHalfBytes / 16), b + step * 2,
                                      step == 0 ? keep : 1);
    }
  }
  ptx::wgmma_commit();
}

/// All steps of one piece of work, with kTokens of its columns.
template <abi::KernelConfig kConfig, int kTokens>
__device__ __forceinline__ void multiply(const Ring<kConfig>& ring, int units, int unit_step, Place<kConfig>& place,
                                         Sums<kConfig>& sums) {
  int keep = 0, last = 0;
#pragma unroll 1
  for (; units > 1; units -= 2) {
    ptx::barrier_wait(ring.full(place.slot), place.parity);
    multiply_stage<kConfig, kTokens, 2>(ring.stage(place.slot), unit_step, keep, sums);
    ptx::wgmma_wait<1>();  // the step before is done with its slot
    if (keep != 0) ring.release(last);
    last = place.slot;
    keep = 1;
    place.advance();
  }
  if (units > 0) {
    ptx::barrier_wait(ring.full(place.slot), place.parity);
    multiply_stage<kConfig, kTokens, 1>(ring.stage(place.slot), unit_step, keep, sums);
    ptx::wgmma_wait<1>();
    if (keep != 0) ring.release(last);
    last = place.slot;
    place.advance();
  }
  ptx::wgmma_wait<0>();
  ring.release(last);
}

/// Tokens first .. first + 31 of a warpgroup's sums -> [tokens][kPitch].
template <typename Group, int kHalves, int kSums>
__device__ __forceinline__ void share_tokens(float* shared, int first, const float (&sums)[kHalves][kSums]) {
  const int row = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + threadIdx.x % 32 / 4, token = threadIdx.x % 4 * 2;
#pragma unroll
  for (int part = 0; part < kSums * 2; part += abi::kStoreTokens) {
    if (part != first) continue;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
#pragma unroll
      for (int i = 0; i < abi::kStoreTokens / 2; ++i) {  // [n8 tile][8 rows further][token of a pair]
        shared[(i / 4 * 8 + token + i % 2) * Group::kPitch + half * 64 + row + i % 4 / 2 * 8] =
            sums[half][part / 2 + i];
      }
    }
  }
}

/// A warpgroup's part of a finished piece of work.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store(const abi::GemmParams& p, Work work, const Ring<kConfig>& ring,
                                      const Sums<kConfig>& sums) {
  using Group = typename WgmmaShape<kConfig>::Group;
  const int group = threadIdx.x / 128, thread = threadIdx.x % 128;
  float* shared = ring.sums(group);
  work.row_block += group * (Group::kRows / abi::kBlockRows);
  const int count = work.tile.row_end - work.tile.row_begin;
#pragma unroll 1
  for (int first = 0; first < count; first += abi::kStoreTokens) {
    const int tokens = count - first < abi::kStoreTokens ? count - first : abi::kStoreTokens;
    ptx::named_barrier(1 + group, 128);  // the warpgroup has stored the tokens before
    share_tokens<Group>(shared, first, sums);
    ptx::named_barrier(1 + group, 128);  // these are complete
    if (work.row_block >= p.row_blocks) continue;
    if (p.epilogue == abi::kEpilogueHidden) {
      store_hidden<Group>(p, work, thread, work.tile.row_begin + first, tokens, shared);
    } else {
      store_plain<Group>(p, work, thread, work.tile.row_begin + first, tokens, shared);
    }
  }
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void multiply_and_store(const abi::GemmParams& p, const Ring<kConfig>& ring) {
  constexpr int kMost = WgmmaShape<kConfig>::kTokens;
  const int group = threadIdx.x / 128;
  WorkList<kConfig> list(p);
  Place<kConfig> place;
  Work work;
  bool found = list.next(work);
  while (found) {
    Work next;
    found = list.next(next);  // early: it comes from memory
    Sums<kConfig> sums;
    // The same in all lanes, as the compiler must know: wgmma where it thinks that lanes part is serialised.
    const int count = __shfl_sync(0xffffffffu, work.tile.row_end - work.tile.row_begin, 0);
    const int first_block = work.row_block + (WgmmaShape<kConfig>::kHalves == 2 ? group * abi::kGroupBlocks : 0);
    const int unit_step = max(abi::blocks_together(first_block, p.row_blocks), 0) * (abi::kBlockBytes / 16);
    if (count <= kMost / 4) {
      multiply<kConfig, kMost / 4>(ring, p.units, unit_step, place, sums);
    } else if (count <= kMost / 2) {
      multiply<kConfig, kMost / 2>(ring, p.units, unit_step, place, sums);
    } else if (count <= kMost / 4 * 3) {
      multiply<kConfig, kMost / 4 * 3>(ring, p.units, unit_step, place, sums);
    } else {
      multiply<kConfig, kMost>(ring, p.units, unit_step, place, sums);
    }
    store<kConfig>(p, work, ring, sums);
    work = next;
  }
}

/// Of a thread that multiplies and of one that loads: 2 * 224 + 56 <= 3 * 168, what all have at first.
inline constexpr int kMultiplyRegisters = 224, kLoadRegisters = 56;

/// grid.x: as many clusters as run at once. Dynamic shared memory: abi::smem_bytes.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void gemm_wgmma(const abi::GemmParams& p) {
  extern __shared__ __align__(1024) char memory[];  // the ring, its barriers, sums: Ring
  const Ring<kConfig> ring(memory);
  if (threadIdx.x == 0) ring.init();
  ring.sync();  // barriers are ready, in all blocks
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  if (warp < WgmmaShape<kConfig>::kMultiplyThreads / 32) {
    ptx::take_registers<kMultiplyRegisters>();
    multiply_and_store<kConfig>(p, ring);
  } else {
    ptx::give_registers<kLoadRegisters>();
    fill_ring<kConfig>(p, ring);
  }
  if constexpr (kConfig.cluster > 1) ring.sync();  // nobody writes to, or arrives at, a block that has left
}

}  // namespace moesaic::sm90
