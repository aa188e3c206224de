// SPDX-License-Identifier: Apache-2.0
// The warpgroup that fills the ring of gemm_wgmma.cuh: weights by bulk copies; tokens by tensor copies where their rows
// follow each other, else gathered by cp.async, which takes several times more of shared memory's bandwidth.
#pragma once

#include "kernels/sm90/store.cuh"

namespace moesaic::sm90 {

/// Weights of one piece of work.
template <abi::KernelConfig kConfig>
class WeightLoader {
  using Shape = WgmmaShape<kConfig>;

 public:
  __device__ __forceinline__ WeightLoader(const abi::GemmParams& p, const Work& work)
      : shares_(kConfig.cluster > 1 && work.tile.narrow == 0),
        whole_(p.row_blocks - work.row_block >= Shape::kRowBlocks),
        block_(work.row_block + own_groups_begin() * abi::kGroupBlocks) {
    weights_ = static_cast<const char*>(p.weights) +
               static_cast<long long>(work.tile.expert) * p.row_blocks * p.units * abi::kBlockBytes +
               abi::block_offset(min(block_, p.row_blocks - 1), p.units);
  }

  /// By one thread: the stage from column k on, with `more` bytes beside the weights. Its slot is free in all blocks of
  /// the cluster.
  __device__ __forceinline__ void load(const abi::GemmParams& p, int k, u32 stage, u32 full, int more) const {
    const int unit = k / abi::kBlockK, units = min(p.units - unit, 2), first_group = own_groups_begin();
    if (whole_ && units == 2) return load_whole(p, unit, stage + first_group * Shape::kGroupBytes, full, more);
    const int blocks = min(p.row_blocks - (block_ - first_group * abi::kGroupBlocks), Shape::kRowBlocks);
    ptx::barrier_arrive_expect(full, units * blocks * abi::kBlockBytes + more);
#pragma unroll
    for (int i = 0; i < Shape::kBlockGroups; ++i) {
      if (shares_ && i >= kSharedGroups) break;
      const int together = min(p.row_blocks - (block_ + i * abi::kGroupBlocks), abi::kGroupBlocks);
      if (together <= 0) break;
      const int bytes = together * abi::kBlockBytes;  // of one unit
      const char* source = weights_ + i * p.units * Shape::kGroupBytes + unit * bytes;
      const u32 target = stage + (first_group + i) * Shape::kGroupBytes;
      copy(target, source, bytes, full);
      if (units > 1) copy(target + Shape::kUnitBytes, source + bytes, bytes, full);
    }
  }

 private:
  static constexpr int kSharedGroups = Shape::kBlockGroups / kConfig.cluster;
  /// Asked for where it is needed: registers are few.
  __device__ __forceinline__ int own_groups_begin() const {
    return shares_ ? ptx::cluster_rank<kConfig>() * kSharedGroups : 0;
  }

  /// Two units of all row blocks, as almost always: what is between a slot that is free and its copies is latency, of
  /// which the ring hides no more than its stages.
  __device__ __forceinline__ void load_whole(const abi::GemmParams& p, int unit, u32 target, u32 full, int more) const {
    ptx::barrier_arrive_expect(full, Shape::kWeightBytes + more);
    const char* source = weights_ + unit * Shape::kGroupBytes;
#pragma unroll
    for (int i = 0; i < Shape::kBlockGroups; ++i) {
      if (shares_ && i >= kSharedGroups) break;
      if constexpr (Shape::kBlockGroups == 1) {  // units follow each other here and there
        copy(target, source, Shape::kWeightBytes, full);
      } else {
        copy(target, source, Shape::kGroupBytes, full);
        copy(target + Shape::kUnitBytes, source + Shape::kGroupBytes, Shape::kGroupBytes, full);
      }
      source += p.units * Shape::kGroupBytes;
      target += Shape::kGroupBytes;
    }
  }

  __device__ __forceinline__ void copy(u32 target, const char* source, int bytes, u32 full) const {
    if (shares_) {
      ptx::bulk_copy_to((1u << kConfig.cluster) - 1, target, source, bytes, full);
    } else {
      ptx::bulk_copy(target, source, bytes, full);
    }
  }

  const char* weights_;  // of the first of the groups that this block brings
  bool shares_;          // all blocks of the cluster have these weights, and each brings a part
  bool whole_;           // the tile has all its row blocks
  int block_;            // the first row block of it
};

/// Tokens of one piece of work: what one of the loading threads copies by cp.async.
template <abi::KernelConfig kConfig>
class TokenGatherer {
  using Shape = WgmmaShape<kConfig>;

 public:
  __device__ __forceinline__ TokenGatherer(const abi::GemmParams& p, const Work& work) {
    const int thread = loading_thread();
    const int first = work.tile.row_begin + thread / 8;
    copies_ = abi::div_up(work.tile.row_end - first, kRowsApart);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = i < copies_ ? p.row_token[first + i * kRowsApart] : 0;
      // In pieces of 16 bytes: strides are multiples of 8 elements.
      pieces_[i] = static_cast<u32>(row) * static_cast<u32>(p.activation_stride / 8);
    }
  }

  __device__ __forceinline__ void load(const abi::GemmParams& p, int k, u32 stage) const {
    const int thread = loading_thread();
    k += thread % 8 * 8;
    const u32 target = stage + Shape::kWeightBytes + thread / 8 * kTokenBytes + ((thread ^ thread / 8) & 7) * 16;
    const char* const column = static_cast<const char*>(p.activations) + k * 2;  // of row 0
    const int size = k < p.k ? 16 : 0;                                           // of 0 no memory is read
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      if (i >= copies_) break;
      ptx::cp_async_16(target + i * kRowsApart * kTokenBytes, ptx::piece_address(column, pieces_[i]), size);
    }
  }

 private:
  static constexpr int kRowsApart = 4 * kConfig.warps_load;  // of those that one thread copies
  static constexpr int kCopies = Shape::kMostTokens / kRowsApart;
  static_assert(Shape::kMostTokens % kRowsApart == 0);

  /// Asked for where it is needed, too.
  __device__ __forceinline__ static int loading_thread() { return ptx::thread_again() - Shape::kMultiplyThreads; }

  u32 pieces_[kCopies];
  int copies_;
};

inline constexpr int kBoxBytes = abi::kTensorRows * kTokenBytes;

/// Tokens of one stage, `boxes` boxes of them from column k on.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void copy_boxes(const abi::TensorGemmParams& p, const Work& work, int boxes, int k,
                                           u32 stage, u32 full) {
#pragma unroll
  for (int i = 0; i < WgmmaShape<kConfig>::kMostTokens / abi::kTensorRows; ++i) {
    if (i >= boxes) break;
    ptx::tensor_copy(stage + WgmmaShape<kConfig>::kWeightBytes + i * kBoxBytes, &p.activations, k,
                     work.tile.row_begin + i * abi::kTensorRows, full);
  }
}

/// By one thread: stage after stage of all pieces of work of this block, as slots become free. `early`: weights of the
/// first stages while the kernel before still makes activations.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void fill_by_tensor_copies(const abi::TensorGemmParams& p, const Ring<kConfig>& ring) {
  Place<kConfig> next;
  bool early = p.gemm.weights_early != 0;
  WorkList<kConfig, 1> list(p.gemm, ring);
  Work work;
#pragma unroll 1
  while (list.next(work, true)) {
    const WeightLoader<kConfig> weights(p.gemm, work);
    const int boxes = abi::div_up(work.tile.row_end - work.tile.row_begin, abi::kTensorRows);
    const int k_end = p.gemm.units * abi::kBlockK;
    int k = 0;
    if (early) {
      const int stages = min(abi::div_up(k_end, kConfig.tile_k), kConfig.stages);  // all free
#pragma unroll 1
      for (int i = 0; i < stages; ++i) {
        weights.load(p.gemm, i * kConfig.tile_k, ring.stage(i), ring.full(i), boxes * kBoxBytes);
      }
      ptx::wait_for_kernel_before<kConfig>();
#pragma unroll 1
      for (; k < stages * kConfig.tile_k; k += kConfig.tile_k, next.advance()) {
        copy_boxes<kConfig>(p, work, boxes, k, ring.stage(next.slot), ring.full(next.slot));
      }
      early = false;
    }
#pragma unroll 1
    for (; k < k_end; k += kConfig.tile_k, next.advance()) {
      const u32 stage = ring.stage(next.slot), full = ring.full(next.slot);
      ptx::barrier_wait(ring.empty(next.slot), next.parity ^ 1);
      weights.load(p.gemm, k, stage, full, boxes * kBoxBytes);
      copy_boxes<kConfig>(p, work, boxes, k, stage, full);
    }
  }
  if (early) ptx::wait_for_kernel_before<kConfig>();  // this one must not end before
}

/// By all loading threads.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void fill_by_gathering(const abi::GemmParams& p, const Ring<kConfig>& ring) {
  Place<kConfig> next;
  WorkList<kConfig, 32> list(p, ring);
  Work work;
#pragma unroll 1
  while (list.next(work, threadIdx.x == WgmmaShape<kConfig>::kMultiplyThreads)) {
    const WeightLoader<kConfig> weights(p, work);
    const TokenGatherer<kConfig> tokens(p, work);
#pragma unroll 1
    for (int k = 0; k < p.units * abi::kBlockK; k += kConfig.tile_k) {
      ptx::barrier_wait(ring.empty(next.slot), next.parity ^ 1);
      // By a thread of each warp in turn, since that takes as long as a warp's tokens.
      if (threadIdx.x == WgmmaShape<kConfig>::kMultiplyThreads + 32 * (next.slot % kConfig.warps_load)) {
        weights.load(p, k, ring.stage(next.slot), ring.full(next.slot), 0);
      }
      tokens.load(p, k, ring.stage(next.slot));
      ptx::cp_async_arrive(ring.full(next.slot));
      next.advance();
    }
  }
  ptx::cp_async_wait_all();  // a thread must not leave before its copies have landed
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void fill_ring(const abi::TensorGemmParams& p, const Ring<kConfig>& ring) {
  if (gathers(p.gemm)) {
    fill_by_gathering<kConfig>(p.gemm, ring);
  } else if (threadIdx.x == WgmmaShape<kConfig>::kMultiplyThreads) {
    fill_by_tensor_copies<kConfig>(p, ring);
  }
}

}  // namespace moesaic::sm90
