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

inline constexpr int kWorkSlots = 3, kWorkSlotBytes = 32;  // a tile; a row block and what Dispenser keeps
inline constexpr int kUnclaimed = 2;                       // of a cluster's pieces of work, the first ones
static_assert(abi::kWorkBytes == kWorkSlots * (kWorkSlotBytes + 16), "and two barriers each");

template <abi::KernelConfig kConfig>
struct WgmmaShape {
  static constexpr int kGroups = kConfig.warps_rows / 4;  // warpgroups that multiply
  static constexpr int kMultiplyThreads = 128 * kGroups;
  static constexpr int kTokens = abi::block_tokens(kConfig);           // of a full tile
  static constexpr int kMostTokens = abi::most_block_tokens(kConfig);  // of a last one
  static constexpr int kStoreTokens = abi::store_tokens(kConfig);
  static constexpr int kRowBlocks = kConfig.tile_rows / abi::kBlockRows;
  static constexpr int kBlockGroups = kRowBlocks / abi::kGroupBlocks;
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

/// Shared memory: [stages][kStageBytes], then `full` and `empty` barriers, then pieces of work and their barriers, then
/// sums of each warpgroup.
/// full: a stage is there: copies by the copy engine of all blocks of the cluster, one arrival that announces them, and
/// of gathered tokens one of each loading thread when its copies have landed. empty: one arrival of each multiplying
/// warp of the cluster, when the products of the stage are done.
/// work_full: a piece of work is there, by the copy engine and by stores, which one arrival announces: of the block's
/// own that loads, or of who hands it out in a block without a cluster.
/// work_empty, of the cluster's first block: all warps of the cluster that read it have.
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
    for (int i = 0; i < kWorkSlots; ++i) {
      ptx::barrier_init(work_full(i), 1);
      ptx::barrier_init(work_empty(i), (4 * Shape::kGroups + (gathers ? kConfig.warps_load : 1)) * kConfig.cluster);
      if (kConfig.cluster > 1) ptx::barrier_arrive_expect(work_full(i), kWorkSlotBytes);
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
  __device__ __forceinline__ u32 work(int slot) const { return base_ + kWorkAt + slot * kWorkSlotBytes; }
  __device__ __forceinline__ u32 work_full(int slot) const {
    return base_ + kWorkAt + kWorkSlots * kWorkSlotBytes + slot * 16;
  }
  __device__ __forceinline__ u32 work_empty(int slot) const { return work_full(slot) + 8; }
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
  static constexpr int kWorkAt = kBarriersAt + kConfig.stages * 16;
  static constexpr int kSumsAt = kWorkAt + abi::kWorkBytes;
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

/// Of a cluster's piece of work a block has a part of the tokens, maybe none, or, where the tile is narrow, weight rows
/// of its own.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void take_share(const abi::GemmParams& p, Work& work) {
  if constexpr (kConfig.cluster > 1) {
    constexpr int kBlocks = WgmmaShape<kConfig>::kRowBlocks;
    abi::Tile& tile = work.tile;
    // The last weight rows of a narrow tile may be too few for all.
    if (work.row_block + (kConfig.cluster - 1) * kBlocks >= p.row_blocks) tile.narrow = 0;
    if (tile.narrow != 0) {
      work.row_block += ptx::cluster_rank<kConfig>() * kBlocks;
      return;
    }
    const int share = abi::div_up(tile.row_end - tile.row_begin, 8 * kConfig.cluster) * 8;
    tile.row_begin = min(tile.row_begin + ptx::cluster_rank<kConfig>() * share, tile.row_end);
    tile.row_end = min(tile.row_begin + share, tile.row_end);
  }
}

/// Whose turn it is of the pieces of work of a cluster.
struct Turn {
  int number = 0;
  __device__ __forceinline__ int slot() const { return number % kWorkSlots; }
  __device__ __forceinline__ u32 parity() const { return number / kWorkSlots & 1; }  // of work_full
};

inline constexpr int kNoWork = -1;  // in place of a row block

template <abi::KernelConfig kConfig>
class Dispenser;

/// Pieces of work of clusters, in the order in which they are begun. A narrow tile, whose time is that of its weights'
/// way from DRAM, takes as many weight rows at once as the cluster has blocks. Others, which multiply for longer than
/// that, lie evenly among them, so that DRAM has work meanwhile; as many narrow ones as there are clusters end it.
template <abi::KernelConfig kConfig>
class ClusterPieces {
 public:
  __device__ __forceinline__ void begin(const abi::GemmParams& p, int tiles) {
    wide_ = p.num_tiles != nullptr                ? listed_tiles<kConfig>(p.num_tiles + abi::kWideTiles)
            : p.rows <= abi::narrow_rows(kConfig) ? 0
                                                  : tiles;
    const u64 all = mixed(p, tiles), narrow = all - wide_ * columns(p);
    rate_ = narrow == 0 ? 0 : static_cast<u32>(((narrow << 32) + all - 1) / all);
  }

  /// Where the index-th is; false: there are fewer.
  __device__ __forceinline__ bool find(const abi::GemmParams& p, int tiles, int index, int& tile,
                                       int& row_block) const {
    const int narrow_columns = abi::div_up(columns(p), kConfig.cluster);
    int narrow = index - wide_ * columns(p);  // of those before it
    if (index < mixed(p, tiles)) {
      narrow = __umulhi(index, rate_);
      if (__umulhi(index + 1, rate_) == narrow) return find_place<kConfig>(p, wide_, index - narrow, tile, row_block);
    }
    tile = wide_ + narrow / narrow_columns;
    row_block = narrow % narrow_columns * kBlocks * kConfig.cluster;
    return tile < tiles;
  }

 private:
  static constexpr int kBlocks = WgmmaShape<kConfig>::kRowBlocks;
  __device__ __forceinline__ static int columns(const abi::GemmParams& p) { return abi::div_up(p.row_blocks, kBlocks); }
  /// How many of the first are not all narrow.
  __device__ __forceinline__ int mixed(const abi::GemmParams& p, int tiles) const {
    if (wide_ == 0) return 0;
    const int narrow = (tiles - wide_) * abi::div_up(columns(p), kConfig.cluster);
    return wide_ * columns(p) + max(narrow - static_cast<int>(gridDim.x / kConfig.cluster), 0);
  }

  friend class Dispenser<kConfig>;
  int wide_ = 0;
  u32 rate_ = 0;  // narrow ones for each of those, times 2^32: less than one
};

/// Hands out pieces of work to all blocks of the cluster: one thread that multiplies, of its first block, which has
/// registers to spare between tiles. Each is handed out one piece ahead, and its number asked for before that, so that
/// nobody waits for memory; further ahead, one cluster would hold what another could begin. Clusters that claim work as
/// they go stay together, so that L2 has what they share, and end together.
template <abi::KernelConfig kConfig>
class Dispenser {
 public:
  __device__ __forceinline__ Dispenser(const abi::GemmParams& p, const Ring<kConfig>& ring)
      : p_(p), ring_(ring), index_(blockIdx.x / kConfig.cluster) {}

  /// The first piece, if this is the thread.
  __device__ __forceinline__ void begin() {
    if (!is_it()) return;
    const int tiles = count_tiles<kConfig>(p_);
    ClusterPieces<kConfig> pieces;
    if (kConfig.cluster > 1) pieces.begin(p_, tiles);
    hand_out({}, tiles, pieces);
  }

  /// The piece of this turn, by the thread that has read the one before it.
  __device__ __forceinline__ void go_on(Turn turn) {
    if (!is_it()) return;
    const uint4 last = ptx::load_shared_16(ring_.work(Turn{turn.number - 1}.slot()) + 16);
    ClusterPieces<kConfig> pieces;
    pieces.wide_ = static_cast<int>(last.y), pieces.rate_ = last.z;
    hand_out(turn, static_cast<int>(last.w), pieces);
  }

 private:
  __device__ __forceinline__ static bool is_it() {
    return threadIdx.x == 0 && (kConfig.cluster == 1 || ptx::cluster_rank<kConfig>() == 0);
  }

  __device__ __forceinline__ void hand_out(Turn turn, int tiles, const ClusterPieces<kConfig>& pieces) {
    int tile = 0, row_block = 0;
    const bool found = kConfig.cluster > 1 ? pieces.find(p_, tiles, index_, tile, row_block)
                                           : find_place<kConfig>(p_, tiles, index_, tile, row_block);
    ptx::barrier_wait(ring_.work_empty(turn.slot()), turn.parity() ^ 1);
    // What else it must know for the next one travels along: between tiles registers are few.
    const uint4 more = {static_cast<u32>(found ? row_block : kNoWork), static_cast<u32>(pieces.wide_), pieces.rate_,
                        static_cast<u32>(tiles)};
    send(turn.slot(), found && p_.tiles != nullptr ? p_.tiles + tile : nullptr, even_tile<kConfig>(p_, tile), more);
    const int clusters = gridDim.x / kConfig.cluster;
    if (p_.claimed == nullptr || turn.number + 1 < kUnclaimed) {
      index_ += clusters;
    } else {
      index_ = kUnclaimed * clusters + atomicAdd(p_.claimed, 1);
    }
  }

  __device__ __forceinline__ void send(int slot, const abi::Tile* listed, abi::Tile tile, uint4 more) const {
    const u32 to = ring_.work(slot), full = ring_.work_full(slot);
    const uint4 words = {static_cast<u32>(tile.expert), static_cast<u32>(tile.row_begin),
                         static_cast<u32>(tile.row_end), static_cast<u32>(tile.narrow)};
    if constexpr (kConfig.cluster > 1) {
      if (listed != nullptr) ptx::bulk_copy_to((1u << kConfig.cluster) - 1, to, listed, 16, full);
#pragma unroll
      for (int rank = 0; rank < kConfig.cluster; ++rank) {
        if (listed == nullptr) ptx::store_async_16(to, words, full, rank);
        ptx::store_async_16(to + 16, more, full, rank);
      }
    } else {  // st.async is an illegal instruction where no clusters are launched
      if (listed == nullptr) ptx::store_shared_16(to, words);
      ptx::store_shared_16(to + 16, more);
      ptx::barrier_arrive_expect(full, listed != nullptr ? 16 : 0);
      if (listed != nullptr) ptx::bulk_copy(to, listed, 16, full);
    }
  }

  const abi::GemmParams& p_;
  const Ring<kConfig>& ring_;
  int index_;  // of the next piece
};

/// The pieces of work of this block's cluster, one after the other. kThreads: 32, a warp; 1, a thread alone.
template <abi::KernelConfig kConfig, int kThreads>
class WorkList {
 public:
  __device__ __forceinline__ WorkList(const abi::GemmParams& p, const Ring<kConfig>& ring) : p_(p), ring_(ring) {}

  /// false: there are no more. `announces`: this thread announces what comes into the same slot next, in each block of
  /// a cluster.
  __device__ __forceinline__ bool next(Work& work, bool announces = false) {
    const int slot = turn_.slot();
    ptx::barrier_wait(ring_.work_full(slot), turn_.parity());
    if (kConfig.cluster > 1 && announces) ptx::barrier_arrive_expect(ring_.work_full(slot), kWorkSlotBytes);
    const uint4 tile = ptx::load_shared_16(ring_.work(slot));
    work.tile = {static_cast<int>(tile.x), static_cast<int>(tile.y), static_cast<int>(tile.z),
                 static_cast<int>(tile.w)};
    work.row_block = static_cast<int>(ptx::load_shared_16(ring_.work(slot) + 16).x);
    if constexpr (kThreads > 1) __syncwarp();  // all have read
    if (kThreads == 1 || threadIdx.x % 32 == 0) {
      if constexpr (kConfig.cluster > 1) {
        ptx::barrier_arrive_at(ring_.work_empty(slot), 0);
      } else {
        ptx::barrier_arrive(ring_.work_empty(slot));
      }
    }
    ++turn_.number;
    if (work.row_block == kNoWork) return false;
    take_share<kConfig>(p_, work);
    return true;
  }
  /// Of the piece of work behind the one that `next` gave last.
  __device__ __forceinline__ Turn turn() const { return turn_; }

 private:
  const abi::GemmParams& p_;
  const Ring<kConfig>& ring_;
  Turn turn_;
};

}  // namespace moesaic::sm90
