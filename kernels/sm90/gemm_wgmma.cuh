// SPDX-License-Identifier: Apache-2.0
// Grouped GEMM of Hopper: persistent blocks, a warpgroup that fills a ring, warpgroups that multiply by wgmma.
//
// One stage of the ring is 64 of K:
//   weights      [k / 32, 2][row blocks][1024 bytes], row blocks as prepared, by bulk copies;
//   activations  [most_block_tokens][128 bytes], 128-byte swizzle.
// Blocks of a cluster have the same weight rows and share a tile's tokens; each brings part of the weights for all.
// Where an expert has no more tokens than a block takes, all have them, and weight rows of their own. With many tokens
// they are the m64 side of products; with few, weight rows are, so that a tile's tokens are any multiple of 8 without
// wasted work. Sums lie in registers as those of mma.sync do.
#pragma once

#include "kernels/sm90/load.cuh"

namespace moesaic::sm90 {

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void multiply_and_store(const abi::GemmParams& p, const Ring<kConfig>& ring) {
  constexpr int kFull = WgmmaShape<kConfig>::kTokens, kMost = WgmmaShape<kConfig>::kMostTokens;
  Dispenser<kConfig> dispenser(p, ring);
  dispenser.begin();
  if (p.weights_early && threadIdx.x < 32) ptx::wait_for_kernel_before<kConfig>();
  WorkList<kConfig, 32> list(p, ring);
  Place<kConfig> place;
  Work work;
  while (list.next(work)) {
    dispenser.go_on(list.turn());
    const int biased = is_biased(p, work.tile.expert);  // not waited for before the products
    // The same in all lanes, as the compiler must know: wgmma where it thinks that lanes part is serialised.
    const int count = __shfl_sync(0xffffffffu, work.tile.row_end - work.tile.row_begin, 0);
    Sums<kConfig> sums = {};  // unset, and without a sum to add to at first, it would be alive all around the loop
    const int rows = (p.row_blocks - work.row_block) * abi::kBlockRows;
    if (count > kFull / 4 * 3 && count <= kFull && rows > kConfig.tile_rows / 2 && stores_tokens<kConfig>(p)) {
      if constexpr (TokensTimesRows<kConfig>::kExists) {
        multiply<kConfig, TokensTimesRows<kConfig>>(ring, p, place, sums);
        multiply_half<kConfig, TokensTimesRows<kConfig>>(ring, p, place, sums);
        store_tokens<kConfig>(p, work, has_terms(p, biased), sums, ring);
      }
    } else {
      const int group = __shfl_sync(0xffffffffu, ptx::thread_again() / 128, 0);
      if (rows > group * kConfig.tile_rows / WgmmaShape<kConfig>::kGroups) {
        multiply_rows<kConfig>(ring, p, count, place, sums);
        // The largest does for all: nobody stores the sums that it has more.
        multiply_half<kConfig, RowsTimesTokens<kConfig, kMost>>(ring, p, place, sums);
      } else {
        multiply_nothing<kConfig>(ring, p, place);
      }
      store_rows<kConfig>(p, work, has_terms(p, biased), sums, ring);
    }
  }
}

/// Of a thread that multiplies and of one that loads: 2 * 232 + 40 <= 3 * 168, what all have at first; with two blocks
/// an SM 2 * 104 + 32 <= 3 * 80.
template <abi::KernelConfig kConfig>
inline constexpr int kMultiplyRegisters = kConfig.min_blocks > 1 ? 104 : 232;
template <abi::KernelConfig kConfig>
inline constexpr int kLoadRegisters = kConfig.min_blocks > 1 ? 32 : 40;

/// grid.x: as many clusters as run at once. Dynamic shared memory: abi::smem_bytes.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void gemm_wgmma(const abi::TensorGemmParams& p) {
  extern __shared__ __align__(1024) char memory[];  // the ring, its barriers, sums: Ring
  const Ring<kConfig> ring(memory);
  if (!p.gemm.weights_early) ptx::wait_for_kernel_before<kConfig>();
  ptx::let_kernel_behind_begin<kConfig>();
  if (threadIdx.x == 0) ring.init(gathers(p.gemm));
  ring.sync();  // barriers are ready, in all blocks
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  if (warp < WgmmaShape<kConfig>::kMultiplyThreads / 32) {
    ptx::take_registers<kMultiplyRegisters<kConfig>>();
    if (p.gemm.weights_early && warp != 0) ptx::wait_for_kernel_before<kConfig>();
    multiply_and_store<kConfig>(p.gemm, ring);
  } else {
    ptx::give_registers<kLoadRegisters<kConfig>>();
    fill_ring<kConfig>(p, ring);
  }
  if constexpr (kConfig.cluster > 1) ring.sync();  // nobody writes to, or arrives at, a block that has left
}

}  // namespace moesaic::sm90
