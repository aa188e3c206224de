// SPDX-License-Identifier: Apache-2.0
// Products of one stage of the ring by wgmma, in two forms of the same result: which operand is on the m64 side.
#pragma once

#include "kernels/sm90/ring.cuh"

namespace moesaic::sm90 {

/// Few tokens: each warpgroup has its part of the weight rows on the m64 side and kTokens tokens, any multiple of 8,
/// on the other.
template <abi::KernelConfig kConfig, int kTokens>
struct RowsTimesTokens {
  using Shape = WgmmaShape<kConfig>;
  static constexpr int kRows = kConfig.tile_rows / Shape::kGroups, kHalves = kRows / 64;
  static_assert(kHalves == 1 || kHalves == 2);

  /// Sums: [64 rows][n8 tile of tokens][sum of a fragment].
  template <int kUnits>
  __device__ __forceinline__ static void multiply(u32 stage, Sums<kConfig>& sums) {
    const int group = threadIdx.x / 128;
    const u64 a = ptx::operand_descriptor<64>(stage + group * kRows * abi::kBlockBytes / abi::kBlockRows);
    const u64 b = ptx::operand_descriptor<kTokenBytes>(stage + Shape::kWeightBytes);
#pragma unroll
    for (int step = 0; step < 2 * kUnits; ++step) {
      constexpr int kHalfBytes = 64 / abi::kBlockRows * abi::kBlockBytes;
      const u64 a_step = a + (step / 2 * Shape::kUnitBytes + step % 2 * 32) / 16, b_step = b + step * 2;
      ptx::wgmma<kConfig.io, kTokens>(sums, a_step, b_step);
      if constexpr (kHalves == 2) {
        ptx::wgmma<kConfig.io, kTokens, Shape::kMostTokens / 2>(sums, a_step + kHalfBytes / 16, b_step);
      }
    }
  }
};

/// Many tokens: each warpgroup has 64 tokens on the m64 side and all weight rows of the tile on the other. 256 of them
/// read 10 KB of shared memory for what 128 x 128 read 12 KB for, and with what is written to it meanwhile its
/// bandwidth is the limit.
template <abi::KernelConfig kConfig>
struct TokensTimesRows {
  using Shape = WgmmaShape<kConfig>;
  static constexpr bool kExists = Shape::kTokens == 64 * Shape::kGroups && kConfig.tile_rows == 256;

  /// Sums: [n8 tile of rows][sum of a fragment].
  template <int kUnits>
  __device__ __forceinline__ static void multiply(u32 stage, Sums<kConfig>& sums) {
    const int group = threadIdx.x / 128;
    const u64 a = ptx::operand_descriptor<kTokenBytes>(stage + Shape::kWeightBytes + group * 64 * kTokenBytes);
    const u64 b = ptx::operand_descriptor<64>(stage);
#pragma unroll
    for (int step = 0; step < 2 * kUnits; ++step) {
      const int at = step / 2 * Shape::kUnitBytes + step % 2 * 32;
      ptx::wgmma<kConfig.io, kConfig.tile_rows>(sums, a + step * 2, b + at / 16);
    }
  }
};

/// One stage, kUnits times 32 of K. `last`: the slot before, -1 at first.
template <abi::KernelConfig kConfig, typename Form, int kUnits>
__device__ __forceinline__ void multiply_stage(const Ring<kConfig>& ring, bool gathered, Place<kConfig>& place,
                                               int& last, Sums<kConfig>& sums) {
  ptx::barrier_wait(ring.full(place.slot), place.parity);
  // cp.async has written for other instructions than wgmma. Those who load need not wait.
  if (gathered) ptx::fence_async_proxy();
  ptx::wgmma_fence();
  Form::template multiply<kUnits>(ring.stage(place.slot), sums);
  ptx::wgmma_commit();
  ptx::wgmma_wait<1>();  // the stage before is done with its slot
  if (last >= 0) ring.release(last);
  last = place.slot;
  place.advance();
}

/// All whole stages of one piece of work, added to `sums`.
template <abi::KernelConfig kConfig, typename Form>
__device__ __forceinline__ void multiply(const Ring<kConfig>& ring, const abi::GemmParams& p, Place<kConfig>& place,
                                         Sums<kConfig>& sums) {
  const bool gathered = gathers(p);
  int last = -1;
#pragma unroll 1
  for (int units = p.units; units > 1; units -= 2) {
    multiply_stage<kConfig, Form, 2>(ring, gathered, place, last, sums);
  }
  ptx::wgmma_wait<0>();
  if (last >= 0) ring.release(last);
}

/// The last stage, where it is half a one.
template <abi::KernelConfig kConfig, typename Form>
__device__ __forceinline__ void multiply_half(const Ring<kConfig>& ring, const abi::GemmParams& p,
                                              Place<kConfig>& place, Sums<kConfig>& sums) {
  if (p.units % 2 == 0) return;
  int last = -1;
  multiply_stage<kConfig, Form, 1>(ring, gathers(p), place, last, sums);
  ptx::wgmma_wait<0>();
  ring.release(last);
}

/// By the RowsTimesTokens of abi::multiplied_tokens, of kTokens or more.
template <abi::KernelConfig kConfig, int kTokens = abi::multiplied_tokens(kConfig, 0)>
__device__ __forceinline__ void multiply_rows(const Ring<kConfig>& ring, const abi::GemmParams& p, int count,
                                              Place<kConfig>& place, Sums<kConfig>& sums) {
  if constexpr (kTokens == WgmmaShape<kConfig>::kMostTokens) {
    multiply<kConfig, RowsTimesTokens<kConfig, kTokens>>(ring, p, place, sums);
  } else if (count <= kTokens) {
    multiply<kConfig, RowsTimesTokens<kConfig, kTokens>>(ring, p, place, sums);
  } else {
    multiply_rows<kConfig, abi::multiplied_tokens(kConfig, kTokens + 1)>(ring, p, count, place, sums);
  }
}

/// By a warpgroup that has no weight rows.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void multiply_nothing(const Ring<kConfig>& ring, const abi::GemmParams& p,
                                                 Place<kConfig>& place) {
#pragma unroll 1
  for (int units = p.units; units > 0; units -= 2) {
    ptx::barrier_wait(ring.full(place.slot), place.parity);
    ring.release(place.slot);
    place.advance();
  }
}

}  // namespace moesaic::sm90
