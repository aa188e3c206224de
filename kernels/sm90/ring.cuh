// SPDX-License-Identifier: Apache-2.0
// The ring of gemm_wgmma.cuh: where its parts lie, and the warpgroup that fills it.
#pragma once

#include "kernels/common/epilogue.cuh"
#include "kernels/sm90/wgmma.cuh"

namespace moesaic::sm90 {

using ptx::u64;

template <abi::KernelConfig kConfig>
struct WgmmaShape {
  static constexpr int kGroups = kConfig.warps_rows / 4;  // warpgroups that multiply
  static constexpr int kMultiplyThreads = 128 * kGroups;
  static constexpr int kTokens = abi::block_tokens(kConfig);
  static constexpr int kBlockGroups = kConfig.tile_rows / abi::kBlockRows / abi::kGroupBlocks;
  static constexpr int kGroupBytes = abi::kGroupBlocks * abi::kBlockBytes;  // of one unit of K
  static constexpr int kUnitBytes = kBlockGroups * kGroupBytes;
  static constexpr int kWeightBytes = 2 * kUnitBytes;  // of a stage
  static constexpr int kStageBytes = abi::stage_bytes(kConfig);
  static constexpr int kRowsApart = 16;  // of the activation rows that one thread copies
  static constexpr int kCopies = kTokens / kRowsApart;
  using Group = StoreGroup<128, kConfig.tile_rows / kGroups, 4>;
  static_assert(kConfig.weights == abi::kWeights16 && kConfig.tile_k == 64 && kConfig.warps_load == 4);
  static_assert(kConfig.warps_tokens * kConfig.warps_k == 1 && kConfig.tile_rows % (64 * kGroups) == 0);
  static_assert(kBlockGroups * abi::kGroupBlocks * abi::kBlockRows == kConfig.tile_rows);
  static_assert(kStageBytes % 1024 == 0 && kTokens % kRowsApart == 0);
  static_assert(kBlockGroups % kConfig.cluster == 0, "each block of a cluster brings as many");
};

/// Of one thread.
template <abi::KernelConfig kConfig>
using Sums = float[kConfig.tile_rows / WgmmaShape<kConfig>::kGroups * WgmmaShape<kConfig>::kTokens / 128];

/// Shared memory: [stages][kStageBytes], then `full` and `empty` barriers, then sums of each warpgroup.
/// full: a stage is there: bulk copies of all blocks of the cluster, one arrival that announces them, one of each
/// loading thread when its copies have landed. empty: one arrival of each multiplying warp of the cluster, when the
/// products of the stage are done.
template <abi::KernelConfig kConfig>
class Ring {
  using Shape = WgmmaShape<kConfig>;

 public:
  __device__ __forceinline__ explicit Ring(char* memory) : memory_(memory), base_(ptx::shared_address(memory)) {}

  __device__ __forceinline__ void init() const {
    for (int i = 0; i < kConfig.stages; ++i) {
      ptx::barrier_init(full(i), 32 * kConfig.warps_load + 1);
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
    constexpr int kSums = abi::kStoreTokens * Shape::Group::kPitch;
    return reinterpret_cast<float*>(memory_ + kBarriersAt + kConfig.stages * 16) + group * kSums;
  }

 private:
  static constexpr int kBarriersAt = kConfig.stages * Shape::kStageBytes;
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

/// What this thread copies for one piece of work.
template <abi::KernelConfig kConfig>
class StageLoader {
  using Shape = WgmmaShape<kConfig>;

 public:
  __device__ __forceinline__ StageLoader(const abi::GemmParams& p, const Work& work, int thread) {
    const int first = work.tile.row_begin + thread / 8;
    copies_ = abi::div_up(work.tile.row_end - first, Shape::kRowsApart);
    k_left_ = p.k - thread % 8 * 8;
#pragma unroll
    for (int i = 0; i < Shape::kCopies; ++i) {
      const int row = i < copies_ ? activation_row(p, first + i * Shape::kRowsApart) : 0;
      // In pieces of 16 bytes: strides are multiples of 8 elements.
      pieces_[i] = static_cast<u32>(row) * static_cast<u32>(p.activation_stride / 8) + thread % 8;
    }
    activations_ = static_cast<const char*>(p.activations);
    if (thread != 0) return;
    const int rank = kConfig.cluster > 1 ? ptx::cluster_rank<kConfig>() : 0;
    const int last = p.row_blocks - work.row_block;  // row blocks of the tile that exist
    blocks_ = min(last, Shape::kBlockGroups * abi::kGroupBlocks);
    first_group_ = rank * kOwnGroups;
#pragma unroll
    for (int i = 0; i < kOwnGroups; ++i) {
      const int block = work.row_block + (first_group_ + i) * abi::kGroupBlocks;
      together_[i] = block < p.row_blocks ? abi::blocks_together(block, p.row_blocks) : 0;
      weights_[i] = static_cast<const char*>(p.weights) +
                    static_cast<long long>(work.tile.expert) * p.row_blocks * p.units * abi::kBlockBytes +
                    abi::block_offset(together_[i] > 0 ? block : 0, p.units);
    }
    units_left_ = p.units;
  }

  /// The next stage; its slot is free in all blocks of the cluster.
  __device__ __forceinline__ void load(const Ring<kConfig>& ring, int slot, int thread) {
    const u32 stage = ring.stage(slot), full = ring.full(slot);
    if (thread == 0) load_weights(stage, full);
    const u32 target = stage + Shape::kWeightBytes + thread / 8 * 128 + ((thread ^ thread / 8) & 7) * 16;
    const int size = k_left_ > 0 ? 16 : 0;
#pragma unroll
    for (int i = 0; i < Shape::kCopies; ++i) {
      if (i >= copies_) break;
      ptx::cp_async_16(target + i * Shape::kRowsApart * 128,
                       activations_ + (k_left_ > 0 ? static_cast<u64>(pieces_[i]) * 16 : 0), size);
      pieces_[i] += 8;
    }
    k_left_ -= kConfig.tile_k;
  }

 private:
  static constexpr int kOwnGroups = Shape::kBlockGroups / kConfig.cluster;

  __device__ __forceinline__ void load_weights(u32 stage, u32 full) {
    const int units = min(units_left_, 2);
    ptx::barrier_arrive_expect(full, units * blocks_ * abi::kBlockBytes);
#pragma unroll
    for (int i = 0; i < kOwnGroups; ++i) {
      const int bytes = together_[i] * abi::kBlockBytes;  // of one unit
      const u32 target = stage + (first_group_ + i) * Shape::kGroupBytes;
      if (bytes == Shape::kUnitBytes) {  // units follow each other here and there
        copy(target, weights_[i], units * bytes, full);
      } else if (bytes > 0) {
        copy(target, weights_[i], bytes, full);
        if (units > 1) copy(target + Shape::kUnitBytes, weights_[i] + bytes, bytes, full);
      }
      weights_[i] += units * bytes;
    }
    units_left_ -= 2;
  }
  __device__ __forceinline__ static void copy(u32 target, const char* source, int bytes, u32 full) {
    if constexpr (kConfig.cluster > 1) {
      ptx::bulk_copy_to((1u << kConfig.cluster) - 1, target, source, bytes, full);
    } else {
      ptx::bulk_copy(target, source, bytes, full);
    }
  }

  const char* activations_;
  u32 pieces_[Shape::kCopies];
  int copies_, k_left_;
  // Of thread 0 alone:
  const char* weights_[kOwnGroups];
  int together_[kOwnGroups];
  int blocks_, first_group_, units_left_;
};

/// Stage after stage of all pieces of work of this block, as slots become free.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void fill_ring(const abi::GemmParams& p, const Ring<kConfig>& ring) {
  const int thread = static_cast<int>(threadIdx.x) - WgmmaShape<kConfig>::kMultiplyThreads;
  Place<kConfig> next;
  WorkList<kConfig> list(p);
  Work work;
#pragma unroll 1
  while (list.next(work)) {
    StageLoader<kConfig> loader(p, work, thread);
#pragma unroll 1
    for (int units = p.units; units > 0; units -= 2) {
      ptx::barrier_wait(ring.empty(next.slot), next.parity ^ 1);
      loader.load(ring, next.slot, thread);
      ptx::cp_async_arrive(ring.full(next.slot));
      next.advance();
    }
  }
  ptx::cp_async_wait_all();  // a thread must not leave before its copies have landed
}

}  // namespace moesaic::sm90
