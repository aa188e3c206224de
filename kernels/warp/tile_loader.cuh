// SPDX-License-Identifier: Apache-2.0
// Fills the ring of gemm_tiled.cuh by cp.async.
#pragma once

#include "kernels/common/epilogue.cuh"
#include "kernels/warp/weights.cuh"

namespace moesaic::warp {

template <abi::KernelConfig kConfig>
struct TiledShape {
  static constexpr int kWeights = kConfig.weights;
  static constexpr int kThreads = abi::threads(kConfig);
  static constexpr int kSubsteps = kConfig.tile_k / abi::kBlockK;
  static constexpr int kUnits = kConfig.tile_k / abi::unit_k(kWeights);  // of a stage
  static constexpr int kUnitPieces = abi::unit_bytes(kWeights) / 16;
  static constexpr int kTileBlocks = kConfig.tile_rows / abi::kBlockRows;
  static constexpr int kWarpTokens = kConfig.tile_tokens / kConfig.warps_tokens;
  static constexpr int kWarpRows = kConfig.tile_rows / kConfig.warps_rows;
  static constexpr int kTokenTiles = kWarpTokens / 8;  // n8 tiles of a warp
  static constexpr int kRowBlocks = kWarpRows / 16;    // 16-row weight blocks of a warp
  static constexpr int kActivationBytes = kConfig.tile_tokens * kConfig.tile_k * 2;
  static constexpr int kWeightBytes = kTileBlocks * kUnits * abi::unit_bytes(kWeights);
  static constexpr int kScalesAt = kActivationBytes + kWeightBytes;
  static constexpr int kZerosAt = kScalesAt + kTileBlocks * abi::scale_slot(kConfig);
  static constexpr int kTokenScalesAt = kZerosAt + kTileBlocks * abi::zero_slot(kConfig);
  static constexpr int kStageBytes = abi::stage_bytes(kConfig);
  static constexpr int kActivationCopies = kActivationBytes / 16 / kThreads;  // 16-byte copies of a thread and stage
  static constexpr int kWeightCopies = kWeightBytes / 16 / kThreads;
  static constexpr bool kByBlock = kWeights == abi::kWeightsE4m3Block;
  static constexpr int kTokenScaleCopies = kByBlock ? abi::div_up(kConfig.tile_tokens, kThreads) : 0;
  static_assert(kActivationBytes % (16 * kThreads) == 0 && kWeightBytes % (16 * kThreads) == 0);
  static_assert(kWarpTokens % 8 == 0 && kWarpRows % 16 == 0 && kConfig.tile_k % abi::unit_k(kWeights) == 0);
  static_assert(kConfig.warps_k == 1 && kConfig.stages >= 2);
  static_assert(!kByBlock || (128 % kConfig.tile_k == 0 && 128 % kConfig.tile_rows == 0), "a tile has one scale");
};

/// This thread's piece of the scales (or zero points) of a tile's row blocks: at most one 16-byte copy a stage.
template <abi::KernelConfig kConfig, int kSlot>
class StripCopy {
  static constexpr int kPieces = kSlot / 16;

 public:
  /// `first_thread`: of those that copy. `source`: of the first row block; `bytes`: of one row block's strip.
  __device__ __forceinline__ void start(const void* source, int bytes, int valid_blocks, int first_thread) {
    const int piece = static_cast<int>(threadIdx.x) - first_thread;
    const int block = piece / kPieces;
    offset_ = piece % kPieces * 16;
    left_ = piece >= 0 && block < valid_blocks && source != nullptr ? bytes : 0;
    slot_ = piece * 16;
    source_ = static_cast<const char*>(source) + static_cast<long long>(left_ > 0 ? block : 0) * bytes;
    copies_ = piece >= 0 && piece < TiledShape<kConfig>::kTileBlocks * kPieces;
  }
  /// Bytes from `begin` of each strip.
  __device__ __forceinline__ void load(u32 shared, int begin) const {
    if (!copies_) return;
    const int at = begin + offset_;
    ptx::cp_async_16(shared + slot_, source_ + (at < left_ ? at : 0), at < left_ ? 16 : 0);
  }

 private:
  const char* source_;
  int offset_, left_, slot_;
  bool copies_;
};

/// Copies one stage after the other into the ring. Copies of nothing (size 0) write zeros and read nothing, so the ring
/// may be filled beyond the end of K.
template <abi::KernelConfig kConfig>
class TileLoader {
  using Shape = TiledShape<kConfig>;
  // Pieces of activations are [substep][token][4], each row's in the order of abi::swizzled_piece. A thread copies
  // pieces of kTokens rows in every kSubStep-th substep.
  static constexpr int kPieces = 4 * kConfig.tile_tokens;
  static constexpr int kTokens = kPieces > Shape::kThreads ? kPieces / Shape::kThreads : 1;
  // Few integer instructions between the mma instructions: source pointers move on, or stay while an offset does. Which
  // of them end up in pairs of registers, without two moves a copy, depends on the configuration (SASS of SM90).
  static constexpr bool kMovePointers = kConfig.weights == abi::kWeights16 && kConfig.stages == 4;
  static constexpr int kSubStep = kPieces > Shape::kThreads ? 1 : Shape::kThreads / kPieces;

 public:
  __device__ __forceinline__ TileLoader(const abi::GemmParams& p, const Work& work, u32 shared)
      : ring_(shared), units_left_(p.units), together_(abi::blocks_together(work.row_block, p.row_blocks)) {
    static_assert(kConfig.weights != abi::kWeights16 || abi::kGroupBlocks % Shape::kTileBlocks == 0, "one stride");
    const int first_k =
        (kSubStep == 1 ? 0 : static_cast<int>(threadIdx.x) / kPieces * abi::kBlockK) + threadIdx.x % 4 * 8;
    k_left_ = p.k - first_k;
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int piece = (kSubStep == 1 ? threadIdx.x : threadIdx.x % kPieces) + i * Shape::kThreads;  // [token][4]
      const int row = work.tile.row_begin + piece / 4;
      const bool valid = row < work.tile.row_end;
      const int source = valid ? activation_row(p, row) : 0;
      activations_[i] = static_cast<const char*>(p.activations) +
                        (static_cast<long long>(source) * p.activation_stride + first_k) * 2;
      if (valid) valid_ |= 1u << i;
    }
    const long long first_block = static_cast<long long>(work.tile.expert) * p.row_blocks + work.row_block;
#pragma unroll
    for (int i = 0; i < Shape::kWeightCopies; ++i) {
      const int piece = threadIdx.x + i * Shape::kThreads;  // [row block][unit][pieces]
      const int block = piece / (Shape::kUnits * Shape::kUnitPieces);
      const bool valid = work.row_block + block < p.row_blocks;
      weights_[i] = static_cast<const char*>(p.weights);
      if constexpr (kConfig.weights == abi::kWeights16) {
        const int unit = piece / Shape::kUnitPieces % Shape::kUnits;
        weights_[i] += static_cast<long long>(work.tile.expert) * p.row_blocks * p.units * abi::kBlockBytes +
                       abi::block_offset(work.row_block + (valid ? block : 0), p.units) +
                       unit * together_ * abi::kBlockBytes + piece % Shape::kUnitPieces * 16;
      } else {
        const long long first = (first_block + (valid ? block : 0)) * p.units;
        weights_[i] += first * abi::unit_bytes(kConfig.weights) + piece % (Shape::kUnits * Shape::kUnitPieces) * 16;
      }
      if (valid) valid_ |= 0x10000u << i;
    }
    start_scales(p, work, first_block);
  }

  /// The next stage, into ring slot `slot`.
  __device__ __forceinline__ void load(const abi::GemmParams& p, int slot) {
    const u32 stage = ring_ + slot * Shape::kStageBytes, mine = stage + threadIdx.x * 16;
    const u32 rows = stage + threadIdx.x / 32 * abi::kHalfBlockBytes + abi::swizzled_piece(threadIdx.x % 32);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
#pragma unroll
      for (int sub = 0; sub < Shape::kSubsteps; sub += kSubStep) {
        const bool valid = k_left_ > sub * abi::kBlockK && (valid_ >> i & 1u) != 0;
        ptx::cp_async_16(rows + (sub / kSubStep * kTokens + i) * Shape::kThreads * 16,
                         activations_[i] + activation_offset_ + sub * abi::kBlockK * 2, valid ? 16 : 0);
      }
    }
#pragma unroll
    for (int i = 0; i < Shape::kWeightCopies; ++i) {
      const int unit = static_cast<int>(threadIdx.x + i * Shape::kThreads) / Shape::kUnitPieces % Shape::kUnits;
      const bool valid = units_left_ > unit && (valid_ >> (16 + i) & 1u) != 0;
      ptx::cp_async_16(mine + Shape::kActivationBytes + i * Shape::kThreads * 16, weights_[i] + weight_offset_,
                       valid ? 16 : 0);
    }
    load_scales(p, stage);
    k_left_ -= kConfig.tile_k;
    units_left_ -= Shape::kUnits;
    constexpr int kActivationStep = kConfig.tile_k * 2;
    const int weight_step =
        Shape::kUnits * abi::unit_bytes(kConfig.weights) * (kConfig.weights == abi::kWeights16 ? together_ : 1);
    if constexpr (kMovePointers) {
#pragma unroll
      for (int i = 0; i < kTokens; ++i) activations_[i] += kActivationStep;
#pragma unroll
      for (int i = 0; i < Shape::kWeightCopies; ++i) weights_[i] += weight_step;
    } else {
      activation_offset_ += kActivationStep;
      weight_offset_ += weight_step;
    }
    ++stage_;
  }

 private:
  static_assert(kPieces % Shape::kThreads == 0 || Shape::kThreads % kPieces == 0, "a thread copies the same tokens");
  static_assert(Shape::kSubsteps % kSubStep == 0);
  static_assert(kTokens <= 16 && Shape::kWeightCopies <= 16, "bits of valid_");

  __device__ __forceinline__ void start_scales(const abi::GemmParams& p, const Work& work, long long first_block) {
    const int valid = p.row_blocks - work.row_block;
    const char* scales = static_cast<const char*>(p.weight_scales);
    if constexpr (kConfig.weights == abi::kWeightsInt4) {
      const int groups = int4_groups(p);
      constexpr int kBytes = kGroupScaleBytes<false>;
      const bool staged = !abi::keeps_float_groups(kConfig) || p.block_scale != abi::kScaleGroupFloat;
      scales_.start(staged ? scales + first_block * groups * kBytes : nullptr, groups * kBytes, valid, 0);
      zeros_.start(p.zeros == nullptr ? nullptr : p.zeros + first_block * groups * 16, groups * 16, valid,
                   Shape::kTileBlocks * abi::scale_slot(kConfig) / 16);
    } else if constexpr (kConfig.weights == abi::kWeightsE4m3 || kConfig.weights == abi::kWeightsE2m1) {
      const int bytes = p.units * unit_scale_bytes<kConfig.weights>(p);
      scales_.start(scales == nullptr ? nullptr : scales + first_block * bytes, bytes, valid, 0);
    }
    if constexpr (Shape::kByBlock) {
#pragma unroll
      for (int i = 0; i < Shape::kTokenScaleCopies; ++i) {
        const int token = threadIdx.x + i * Shape::kThreads, row = work.tile.row_begin + token;
        const bool valid_row = token < kConfig.tile_tokens && row < work.tile.row_end;
        token_scales_[i] =
            valid_row ? p.token_block_scale + static_cast<long long>(activation_row(p, row)) * abi::div_up(p.k, 128)
                      : nullptr;
      }
    }
  }

  __device__ __forceinline__ void load_scales(const abi::GemmParams& p, u32 stage) const {
    if constexpr (kConfig.weights == abi::kWeightsInt4) {
      const int group = stage_ * kConfig.tile_k >> p.group_shift;
      scales_.load(stage + Shape::kScalesAt, group * kGroupScaleBytes<false>);
      zeros_.load(stage + Shape::kZerosAt, group * 16);
    } else if constexpr (kConfig.weights == abi::kWeightsE4m3 || kConfig.weights == abi::kWeightsE2m1) {
      scales_.load(stage + Shape::kScalesAt, stage_ * Shape::kUnits * unit_scale_bytes<kConfig.weights>(p));
    }
    if constexpr (Shape::kByBlock) {
      const int block = stage_ * kConfig.tile_k / 128;
      const bool inside = block < abi::div_up(p.k, 128);
#pragma unroll
      for (int i = 0; i < Shape::kTokenScaleCopies; ++i) {
        const int token = threadIdx.x + i * Shape::kThreads;
        if (token >= kConfig.tile_tokens) continue;
        const bool valid = inside && token_scales_[i] != nullptr;
        ptx::cp_async_4(stage + Shape::kTokenScalesAt + token * 4,
                        valid ? token_scales_[i] + block : p.token_block_scale, valid ? 4 : 0);
      }
    }
  }

  u32 ring_;                 // slot 0
  u32 valid_ = 0;            // bit i: row i exists; bit 16 + i: weight piece i does
  int k_left_, units_left_;  // of this thread's k position in its first substep
  int together_;             // abi::blocks_together
  int stage_ = 0;
  u32 activation_offset_ = 0, weight_offset_ = 0;  // of the next stage
  const char* activations_[kTokens];
  const char* weights_[Shape::kWeightCopies];
  StripCopy<kConfig, abi::scale_slot(kConfig) == 0 ? 16 : abi::scale_slot(kConfig)> scales_;
  StripCopy<kConfig, abi::zero_slot(kConfig) == 0 ? 16 : abi::zero_slot(kConfig)> zeros_;
  const float* token_scales_[Shape::kTokenScaleCopies == 0 ? 1 : Shape::kTokenScaleCopies];
};

/// 128 x 128 scales of a tile's rows: all rows of a tile are in one block, or its gate rows in one and its up rows in
/// one. Read once for the 128 of K.
template <abi::KernelConfig kConfig>
struct BlockScales {
  const float2* scales = nullptr;

  __device__ __forceinline__ BlockScales(const abi::GemmParams& p, const Work& work) {
    if constexpr (TiledShape<kConfig>::kByBlock) {
      const long long block = static_cast<long long>(work.tile.expert) * p.row_blocks + work.row_block;
      scales = static_cast<const float2*>(p.weight_scales) + block * abi::div_up(p.k, 128);
    }
  }
  __device__ __forceinline__ float2 at(int step) const {
    if constexpr (!TiledShape<kConfig>::kByBlock) return {0.0f, 0.0f};
    return __ldg(scales + step * kConfig.tile_k / 128);
  }
};

/// FP32 scales of int4 groups, for which stages have no room: each lane reads its own from global memory. Of rows g and
/// g + 8 of row block `block` of the tile at k; beyond the matrix, where operands are zero or results not stored, the
/// last ones.
__device__ __forceinline__ float2 float_group_scales(const abi::GemmParams& p, const Work& work, int block, int k) {
  int expert = work.tile.expert, row_block = work.row_block + block;
  asm volatile("" : "+r"(expert), "+r"(row_block));  // computed here, not before the loop: registers
  const int groups = int4_groups(p), group = min(k >> p.group_shift, groups - 1);
  const long long first = static_cast<long long>(expert) * p.row_blocks + min(row_block, p.row_blocks - 1);
  const float2* scales = static_cast<const float2*>(p.weight_scales) + (first * groups + group) * 8;
  return __ldg(scales + threadIdx.x % 32 / 4);
}

}  // namespace moesaic::warp
