// SPDX-License-Identifier: Apache-2.0
// The ring of gemm_wgmma.cuh: where its parts lie, and the pieces of work that go through it.
#pragma once

#include "kernels/common/epilogue.cuh"
#include "kernels/sm90/wgmma.cuh"

namespace moesaic::sm90 {

using ptx::u64;

inline constexpr int kTokenBytes = 128;  // of one token in a stage
inline constexpr int kLineBytes = 128;   // of a row of 16-bit results on its way to global memory

/// Whether rows of activations are any rows, or follow each other.
__device__ __forceinline__ bool gathers(const abi::GemmParams& p) { return p.row_token != nullptr; }

template <abi::KernelConfig kConfig>
struct WgmmaShape {
  static constexpr int kGroups = kConfig.warps_rows / 4;  // warpgroups that multiply
  static constexpr int kMultiplyThreads = 128 * kGroups;
  static constexpr int kTokens = abi::block_tokens(kConfig);           // of a full tile
  static constexpr int kMostTokens = abi::most_block_tokens(kConfig);  // of a last one
  static constexpr int kStoreTokens = abi::store_tokens(kConfig);
  static constexpr int kBlockGroups = kConfig.tile_rows / abi::kBlockRows / abi::kGroupBlocks;
  static constexpr int kGroupBytes = abi::kGroupBlocks * abi::kBlockBytes;  // of one unit of K
  static constexpr int kUnitBytes = kBlockGroups * kGroupBytes;
  static constexpr int kWeightBytes = 2 * kUnitBytes;  // of a stage
  static constexpr int kStageBytes = abi::stage_bytes(kConfig);
  using Group = StoreGroup<128, kConfig.tile_rows / kGroups, 4>;
  static_assert(kConfig.weights == abi::kWeights16 && kConfig.tile_k == 64 && kConfig.warps_load == 4);
  static_assert(kConfig.warps_tokens * kConfig.warps_k == 1 && kConfig.tile_rows % (64 * kGroups) == 0);
  static_assert(kBlockGroups * abi::kGroupBlocks * abi::kBlockRows == kConfig.tile_rows);
  static_assert(kStageBytes % 1024 == 0);
  static_assert(kMostTokens % abi::kTensorRows == 0 && kMostTokens % 16 == 0);
  static_assert(kBlockGroups % kConfig.cluster == 0, "each block of a cluster brings as many");
  static_assert(kConfig.min_blocks * (abi::smem_bytes(kConfig) + 1024) <= 228 * 1024, "an SM has no more");
};

/// Of one thread.
template <abi::KernelConfig kConfig>
using Sums = float[kConfig.tile_rows / WgmmaShape<kConfig>::kGroups * WgmmaShape<kConfig>::kMostTokens / 128];

/// Shared memory: [stages][kStageBytes], then `full` and `empty` barriers, then sums of each warpgroup.
/// full: a stage is there: copies by the copy engine of all blocks of the cluster, one arrival that announces them, and
/// of gathered tokens one of each loading thread when its copies have landed. empty: one arrival of each multiplying
/// warp of the cluster, when the products of the stage are done.
template <abi::KernelConfig kConfig>
class Ring {
  using Shape = WgmmaShape<kConfig>;

 public:
  __device__ __forceinline__ explicit Ring(char* memory) : memory_(memory), base_(ptx::shared_address(memory)) {}

  __device__ __forceinline__ void init(bool gathers) const {
    for (int i = 0; i < kConfig.stages; ++i) {
      ptx::barrier_init(full(i), gathers ? 32 * kConfig.warps_load + 1 : 1);
      ptx::barrier_init(empty(i), 4 * Shape::kGroups * kConfig.cluster);
    }
    ptx::barrier_init_fence();
  }
  /// All threads of all blocks of the cluster.
  __device__ __forceinline__ void sync() const {
    if constexpr (kConfig.cluster > 1) {
      ptx::cluster_sync<kConfig>();
    } else {
      __syncthreads();
    }
  }
  __device__ __forceinline__ u32 stage(int slot) const { return base_ + slot * Shape::kStageBytes; }
  __device__ __forceinline__ u32 full(int slot) const { return base_ + kBarriersAt + slot * 16; }
  __device__ __forceinline__ u32 empty(int slot) const { return full(slot) + 8; }
  /// By a warp that multiplies: it is done with the slot.
  __device__ __forceinline__ void release(int slot) const {
    if constexpr (kConfig.cluster > 1) {
      if (threadIdx.x % 32 < kConfig.cluster) ptx::barrier_arrive_at(empty(slot), threadIdx.x % 32);
    } else {
      if (threadIdx.x % 32 == 0) ptx::barrier_arrive(empty(slot));
    }
  }
  /// [kStoreTokens][kPitch] of a warpgroup.
  __device__ __forceinline__ float* sums(int group) const {
    return reinterpret_cast<float*>(memory_ + kSumsAt + group * kSumsBytes);
  }
  /// The same memory: 16-bit results of a warpgroup.
  __device__ __forceinline__ u32 lines(int group) const { return base_ + kSumsAt + group * kSumsBytes; }
  static constexpr int kSumsBytes = Shape::kStoreTokens * Shape::Group::kPitch * 4;  // of a warpgroup
  /// 16 lines of this warp, which multiplies, in that memory.
  __device__ __forceinline__ u32 warp_lines() const {
    static_assert(4 * 16 * kLineBytes <= kSumsBytes);
    return lines(threadIdx.x / 128) + threadIdx.x / 32 % 4 * 16 * kLineBytes;
  }

 private:
  static constexpr int kBarriersAt = kConfig.stages * Shape::kStageBytes;
  static constexpr int kSumsAt = kBarriersAt + kConfig.stages * 16;
  char* memory_;
  u32 base_;
};

/// A slot of the ring, and the parity of its phase: of `full` for those that read; that of `empty` is the opposite.
template <abi::KernelConfig kConfig>
struct Place {
  int slot = 0;
  u32 parity = 0;
  __device__ __forceinline__ void advance() {
    slot = slot + 1 == kConfig.stages ? 0 : slot + 1;
    parity ^= slot == 0 ? 1u : 0u;
  }
};

/// The pieces of work of this block, one after the other. Of a cluster's tile it has a part of the tokens, maybe none.
template <abi::KernelConfig kConfig>
class WorkList {
 public:
  __device__ __forceinline__ explicit WorkList(const abi::GemmParams& p)
      : p_(p), tiles_(count_tiles<kConfig>(p)), index_(blockIdx.x / kConfig.cluster) {}

  __device__ __forceinline__ bool next(Work& work) {
    if (!find_work<kConfig>(p_, tiles_, index_, work)) return false;
    index_ += gridDim.x / kConfig.cluster;
    if constexpr (kConfig.cluster > 1) {
      const int count = work.tile.row_end - work.tile.row_begin;
      const int share = abi::div_up(count, 8 * kConfig.cluster) * 8;
      work.tile.row_begin = min(work.tile.row_begin + ptx::cluster_rank<kConfig>() * share, work.tile.row_end);
      work.tile.row_end = min(work.tile.row_begin + share, work.tile.row_end);
    }
    return true;
  }

 private:
  const abi::GemmParams& p_;
  int tiles_, index_;
};

}  // namespace moesaic::sm90
