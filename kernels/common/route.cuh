// SPDX-License-Identifier: Apache-2.0
// Routing: logits -> ids and weights -> rows in expert order, and the tile list of both GEMMs.
//
// Rows of an expert are in the order of (token, slot): a stable counting sort without atomics on global memory, so the
// result does not depend on scheduling. Tokens are cut into segments, one a block; inside a block each warp takes a run
// of the segment's entries, counts them per expert (shared memory), and after a prefix over warps ranks them again.
// kFused: one block does everything, for small T, or one cluster: see route_each for tokens that choose their experts;
// what else there is its blocks choose and its first one sorts.
// kSelect + kScatter: two launches, segment counts in between. kDispatched: rows are in expert order already; tiles of
// them, and which rows are anybody's.
#pragma once

#include "kernels/common/route_each.cuh"

namespace moesaic {

/// Fills ids and weights of the tokens of `blocks` blocks, this one being number `block` (choosing, or copying what the
/// caller gave). visit(entry, slot) for what this block fills; choosing warps call it with all lanes, entry -1 being a
/// lane without a slot.
template <abi::KernelConfig kConfig, typename Visit>
__device__ __forceinline__ void fill_ids(const abi::RouteParams& p, int first_token, int end_token, int block,
                                         int blocks, RouteShared<kConfig>& shared, Visit visit) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, threads = static_cast<int>(blockDim.x);
  const auto fill = [&](int entry, const Slot& slot) {
    if (entry >= 0) {
      p.ids[entry] = slot.id;
      p.weights[entry] = slot.weight;
    }
    visit(entry, slot);
  };
  if (p.given_ids != nullptr) {
    const int first = first_token * slots_of(p) + block * threads + static_cast<int>(threadIdx.x);
#pragma unroll 1
    for (int i = first; i < end_token * slots_of(p); i += blocks * threads) {
      const int token = i / slots_of(p), number = i - token * slots_of(p), given = token * p.listed_slots + number;
      Slot slot = number < p.listed_slots ? Slot{p.given_ids[given], p.given_weights[given]} : shared_slot(p, number);
      list_slot(p, token, number, slot);
      fill(i, slot);
    }
    return;
  }
  const int choosers = RouteShared<kConfig>::choosers(p.num_experts);
  if (warp >= choosers) return;
  u32* keys = shared.keys + warp * p.num_experts;
#pragma unroll 1
  for (int token = first_token + warp * blocks + block; token < end_token; token += choosers * blocks) {
    Slot slot = select_experts(p, token, keys);
    list_slot(p, token, lane, slot);
    fill(lane < slots_of(p) ? token * slots_of(p) + lane : -1, slot);
  }
}

/// Sum over the warp's lanes up to this one.
__device__ __forceinline__ RowsTiles warp_scan(RowsTiles value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int delta = 1; delta < 32; delta *= 2) {
    const int rows = __shfl_up_sync(0xffffffffu, value.rows, delta);
    const int tiles = __shfl_up_sync(0xffffffffu, value.tiles, delta);
    if (lane >= delta) value.rows += rows, value.tiles += tiles;
  }
  return value;
}

/// Exclusive prefix sum over the block; `total` gets the sum of all.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ RowsTiles block_scan(RowsTiles value, RowsTiles& total, RouteShared<kConfig>& shared) {
  constexpr int kWarps = RouteShared<kConfig>::kWarps;
  static_assert(kWarps <= 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const RowsTiles inclusive = warp_scan(value);
  if (lane == 31) shared.scan[warp] = inclusive;
  __syncthreads();  // sums of all warps are there
  const RowsTiles own = lane < kWarps ? shared.scan[lane] : RowsTiles{0, 0};
  const RowsTiles warps = warp_scan(own);
  total = {__shfl_sync(0xffffffffu, warps.rows, 31), __shfl_sync(0xffffffffu, warps.tiles, 31)};
  const int rows_before = __shfl_sync(0xffffffffu, warps.rows - own.rows, warp);
  const int tiles_before = __shfl_sync(0xffffffffu, warps.tiles - own.tiles, warp);
  __syncthreads();  // scan may be written again
  return {rows_before + inclusive.rows - value.rows, tiles_before + inclusive.tiles - value.tiles};
}

/// How a segment's entries are cut: runs of a multiple of 32, one a warp.
struct Runs {
  int first, count;   // entries of the segment
  int length, warps;  // of a run; warps that have one
};
template <abi::KernelConfig kConfig>
__device__ __forceinline__ Runs runs_of(const abi::RouteParams& p, int first_token, int end_token) {
  const int sorters = RouteShared<kConfig>::sorters(local_experts(p));
  const int count = (end_token - first_token) * slots_of(p);
  const int length = abi::round_up(abi::div_up(count, sorters), 32);
  return {first_token * slots_of(p), count, length, count == 0 ? 0 : abi::div_up(count, length)};
}

/// The expert's number here and the weight of an entry, as the select kernel has left them in global memory.
struct GlobalEntries {
  const abi::RouteParams& p;
  __device__ __forceinline__ int expert(int entry) const { return local_expert(p, p.ids[entry]); }
  __device__ __forceinline__ float weight(int entry) const { return p.weights[entry]; }
};
/// As the fused kernel has them in shared memory.
template <abi::KernelConfig kConfig>
struct SharedEntries {
  const RouteShared<kConfig>& shared;
  __device__ __forceinline__ int expert(int entry) const { return static_cast<int>(shared.sort.entry_experts[entry]); }
  __device__ __forceinline__ float weight(int entry) const { return __uint_as_float(shared.sort.entry_weights[entry]); }
};

/// The warp's run, 32 entries at a time: visit(entry, expert, peers) by all lanes; `expert` is -1 where there is
/// nothing to count (`entry` is -1 beyond the end), `peers` the lanes with the same.
template <typename Entries, typename Visit>
__device__ __forceinline__ void for_each_entry(const Entries& entries, const Runs& runs, Visit visit) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp >= runs.warps) return;
#pragma unroll 1
  for (int i = warp * runs.length; i < (warp + 1) * runs.length && i < runs.count; i += 32) {
    const int entry = i + lane < runs.count ? runs.first + i + lane : -1;
    const int expert = entry >= 0 ? entries.expert(entry) : -1;
    visit(entry, expert, __match_any_sync(0xffffffffu, expert));
    __syncwarp();
  }
}

/// counts[sorter][expert] for the segment, and its sum per expert through `store(expert, count)`.
template <abi::KernelConfig kConfig, typename Entries, typename Store>
__device__ __forceinline__ void count_segment(const abi::RouteParams& p, const Entries& entries, const Runs& runs,
                                              RouteShared<kConfig>& shared, Store store) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  u16* counts = shared.counts + warp * local_experts(p);
  if (warp < runs.warps) {
#pragma unroll 1
    for (int e = lane; e < local_experts(p); e += 32) counts[e] = 0;
    __syncwarp();
  }
  for_each_entry(entries, runs, [&](int, int id, u32 peers) {
    if (id >= 0 && (peers & ((1u << lane) - 1)) == 0) counts[id] += __popc(peers);
  });
  __syncthreads();  // all warps have counted
#pragma unroll 1
  for (int e = threadIdx.x; e < local_experts(p); e += blockDim.x) {
    int sum = 0;
#pragma unroll 1
    for (int first = 0; first < runs.warps; first += 8) {
      int own[8];
#pragma unroll
      for (int w = 0; w < 8; ++w) {
        own[w] = first + w < runs.warps ? shared.counts[(first + w) * local_experts(p) + e] : 0;
      }
#pragma unroll
      for (int w = 0; w < 8; ++w) {
        // What earlier warps have of this expert.
        if (first + w < runs.warps) shared.counts[(first + w) * local_experts(p) + e] = static_cast<u16>(sum);
        sum += own[w];
      }
    }
    store(e, sum);
  }
  __syncthreads();  // ranks of warps are visible
}

/// Of the totals per expert in offsets[e], how many tiles are not narrow.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ int count_wide_tiles(const abi::RouteParams& p, RouteShared<kConfig>& shared) {
  int wide = 0;
#pragma unroll 1
  for (int base = 0; base < local_experts(p); base += blockDim.x) {
    const int e = base + threadIdx.x;
    const int count = e < local_experts(p) ? shared.offsets[e] : 0;
    RowsTiles total;
    block_scan<kConfig>({0, count > p.narrow_rows ? tile_count(count, p.tile_tokens, p.tile_slack) : 0}, total, shared);
    wide += total.tiles;
  }
  return wide;
}

/// offsets[] from totals per expert (in offsets[e]), and, on one block, the tile list.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void make_offsets(const abi::RouteParams& p, RouteShared<kConfig>& shared,
                                             bool write_tiles) {
  const bool marks_narrow = write_tiles && p.tiles != nullptr && p.narrow_rows > 0;
  const int wide = marks_narrow ? count_wide_tiles<kConfig>(p, shared) : 0;
  RowsTiles before = {0, 0};
  int narrow_before = 0;
#pragma unroll 1
  for (int base = 0; base < local_experts(p); base += blockDim.x) {
    const int e = base + threadIdx.x;
    const int count = e < local_experts(p) ? shared.offsets[e] : 0;
    const int tiles = tile_count(count, p.tile_tokens, p.tile_slack);
    RowsTiles total;
    const RowsTiles mine = block_scan<kConfig>({count, tiles}, total, shared);
    const int first_row = before.rows + mine.rows;
    int first_tile = before.tiles + mine.tiles, narrow = 0;
    if (marks_narrow) {
      narrow = count <= p.narrow_rows ? 1 : 0;
      RowsTiles narrow_total;
      const int narrow_mine = block_scan<kConfig>({0, narrow * tiles}, narrow_total, shared).tiles + narrow_before;
      first_tile = narrow != 0 ? wide + narrow_mine : first_tile - narrow_mine;
      narrow_before += narrow_total.tiles;
    }
    if (e < local_experts(p)) {
      shared.offsets[e] = first_row;
      if (write_tiles && p.row_offsets != nullptr) p.row_offsets[e] = first_row;
    }
    if (write_tiles && p.tiles != nullptr) {
      for (int i = 0; i < tiles; ++i) {
        const int first = p.expert_counts != nullptr ? e * p.rows_per_expert : first_row;
        const int begin = first + i * p.tile_tokens;
        p.tiles[first_tile + i] = {e, begin, tile_end(begin, first + count, p.tile_tokens, p.tile_slack), narrow};
      }
    }
    before.rows += total.rows, before.tiles += total.tiles;
  }
  if (write_tiles && threadIdx.x == 0) {
    if (p.tiles != nullptr) set_tile_counts(p.num_tiles, before.tiles, narrow_before);
    if (p.row_offsets != nullptr) p.row_offsets[local_experts(p)] = before.rows;
  }
  __syncthreads();  // offsets are complete
}

/// Gives every entry of the segment its row. bases[e] holds the first row of the segment's entries of expert e.
template <abi::KernelConfig kConfig, typename Entries>
__device__ __forceinline__ void scatter_segment(const abi::RouteParams& p, const Entries& entries, const Runs& runs,
                                                RouteShared<kConfig>& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  u16* counts = shared.counts + warp * local_experts(p);
  for_each_entry(entries, runs, [&](int entry, int id, u32 peers) {
    const u32 before = peers & ((1u << lane) - 1);
    const int rank = id >= 0 ? counts[id] + __popc(before) : 0;
    __syncwarp();  // everyone has read the rank before its leader moves it on
    if (id >= 0 && before == 0) counts[id] += __popc(peers);
    if (entry < 0) return;
    const int row = id >= 0 ? shared.sort.bases[id] + rank : -1;
    p.slot_row[entry] = row;
    if (row < 0) return;
    p.row_token[row] = entry / slots_of(p);
    p.row_weight[row] = entries.weight(entry);
  });
}

/// At most 32 entries, one a lane: a warp sorts them in registers, without shared memory or barriers. The same rows and
/// tiles as the general way, in a fraction of its code, which a decode step reads cold. `expert`: -1 is nothing to
/// sort.
__device__ __forceinline__ void sort_few(const abi::RouteParams& p, int expert, float weight) {
  const int lane = threadIdx.x % 32, count = p.tokens * slots_of(p);
  const bool counts = lane < count && expert >= 0;
  const int key = counts ? expert : 0x7fffffff;
  int row = 0, equal_before = 0, equal = 0;
#pragma unroll 4
  for (int other = 0; other < count; ++other) {
    const int other_key = __shfl_sync(0xffffffffu, key, other);
    row += other_key < key || (other_key == key && other < lane);
    equal += other_key == key;
    equal_before += other_key == key && other < lane;
  }
  const bool starts_tile = counts && tile_begins(equal_before, equal, p.tile_tokens, p.tile_slack);
  const int start_row = starts_tile ? row : 0x7fffffff;
  int tile = 0;
#pragma unroll 4
  for (int other = 0; other < count; ++other) tile += __shfl_sync(0xffffffffu, start_row, other) < row;
  const u32 starts = __ballot_sync(0xffffffffu, starts_tile);
  const int narrow = all_narrow(p, count);
  if (lane == 0) set_tile_counts(p.num_tiles, __popc(starts), narrow * __popc(starts));
  if (starts_tile) {
    p.tiles[tile] = {expert, row, tile_end(row, row + equal - equal_before, p.tile_tokens, p.tile_slack), narrow};
  }
  if (lane < count) p.slot_row[lane] = counts ? row : -1;
  if (counts) {
    p.row_token[row] = lane / slots_of(p);
    p.row_weight[row] = weight;
  }
}

/// At most one entry a thread: an expert's entries are bits, and a rank is the number of bits before an entry's.
template <abi::KernelConfig kConfig>
struct EntryBits {
  static constexpr int kWarps = RouteShared<kConfig>::kWarps, kPieces = kWarps / 4;
  static_assert(kWarps % 4 == 0);

  __device__ __forceinline__ static bool fit(const abi::RouteParams& p) {
    return p.tokens * slots_of(p) <= 32 * kWarps &&
           local_experts(p) * kWarps <= RouteShared<kConfig>::kWords * kMaxRouteExperts;
  }
  __device__ __forceinline__ static int bits(const uint4& piece) {
    return __popc(piece.x) + __popc(piece.y) + __popc(piece.z) + __popc(piece.w);
  }
};

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void sort_by_bits(const abi::RouteParams& p, const SharedEntries<kConfig>& entries,
                                             RouteShared<kConfig>& shared) {
  using Bits = EntryBits<kConfig>;
  const int entry = threadIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
  for (int i = threadIdx.x; i < local_experts(p) * Bits::kPieces; i += blockDim.x) shared.masks[i] = {0, 0, 0, 0};
  __syncthreads();  // no bits are set
  const bool inside = entry < p.tokens * slots_of(p);
  const int expert = inside ? entries.expert(entry) : -1;
  const u32 peers = __match_any_sync(0xffffffffu, expert), before = peers & ((1u << lane) - 1);
  u32* words = reinterpret_cast<u32*>(shared.masks);
  if (expert >= 0 && before == 0) words[expert * Bits::kWarps + warp] = peers;
  __syncthreads();  // all bits are
#pragma unroll 1
  for (int e = threadIdx.x; e < local_experts(p); e += blockDim.x) {
    int count = 0;
#pragma unroll
    for (int i = 0; i < Bits::kPieces; ++i) count += Bits::bits(shared.masks[e * Bits::kPieces + i]);
    shared.offsets[e] = count;
  }
  make_offsets<kConfig>(p, shared, true);
  if (!inside) return;
  int row = -1;
  if (expert >= 0) {
    row = shared.offsets[expert] + __popc(before);
#pragma unroll
    for (int i = 0; i < Bits::kPieces; ++i) {
      const uint4 piece = shared.masks[expert * Bits::kPieces + i];
      const u32 of_warp[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) row += 4 * i + j < warp ? __popc(of_warp[j]) : 0;
    }
    p.row_token[row] = entry / slots_of(p);
    p.row_weight[row] = entries.weight(entry);
  }
  p.slot_row[entry] = row;
}

/// Whether a dispatched row belongs to an expert, and an expert's rows, whatever the device's numbers say within x.
__device__ __forceinline__ bool is_used(const abi::RouteParams& p, int row) {
  if (p.expert_counts == nullptr) return row < p.expert_offsets[p.held_experts];
  return row % p.rows_per_expert < p.expert_counts[row / p.rows_per_expert];
}
__device__ __forceinline__ int dispatched_rows(const abi::RouteParams& p, int expert) {
  const int limit = p.expert_counts != nullptr ? p.rows_per_expert : p.tokens - p.expert_offsets[expert];
  const int count =
      p.expert_counts != nullptr ? p.expert_counts[expert] : p.expert_offsets[expert + 1] - p.expert_offsets[expert];
  return count < 0 || limit < 0 ? 0 : count < limit ? count : limit;
}

/// Any number of blocks: the first makes the tiles, all mark the rows.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void route_dispatched(const abi::RouteParams& p, RouteShared<kConfig>& shared) {
#pragma unroll 1
  for (int row = blockIdx.x * blockDim.x + threadIdx.x; row < p.tokens; row += gridDim.x * blockDim.x) {
    if (p.slot_row != nullptr) p.slot_row[row] = is_used(p, row) ? row : -1;
  }
  if (blockIdx.x != 0) return;
#pragma unroll 1
  for (int e = threadIdx.x; e < p.held_experts; e += blockDim.x) shared.offsets[e] = dispatched_rows(p, e);
  __syncthreads();  // counts are complete
  make_offsets<kConfig>(p, shared, true);
}

/// One block, or one cluster, does everything.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void route_fused(const abi::RouteParams& p, RouteShared<kConfig>& shared) {
  if (abi::chooses_apart(p)) {
    if (p.tokens == 1) return route_one<kConfig>(p, shared);
    if (fits_each<kConfig>(p)) return route_each<kConfig>(p, shared);
  }
  const bool few = p.tokens * slots_of(p) <= 32 && p.row_offsets == nullptr && p.tiles != nullptr;
  const int block = ptx::cluster_rank<kConfig>();
  const int blocks = ptx::cluster_blocks<kConfig>();
  bool waited = blocks == 1;
  if (!waited) ptx::cluster_arrive<kConfig>();
  fill_ids<kConfig>(p, 0, p.tokens, block, blocks, shared, [&](int entry, const Slot& slot) {
    const int expert = entry >= 0 ? local_expert(p, slot.id) : -1;
    if (!waited) ptx::cluster_wait<kConfig>();  // the first block has shared memory
    waited = true;
    if (entry >= 0 && blocks == 1) {
      shared.sort.entry_experts[entry] = static_cast<u32>(expert);
      shared.sort.entry_weights[entry] = __float_as_uint(slot.weight);
    } else if (entry >= 0) {
      ptx::store_to_first<kConfig>(shared.sort.entry_experts + entry, static_cast<u32>(expert));
      ptx::store_to_first<kConfig>(shared.sort.entry_weights + entry, __float_as_uint(slot.weight));
    }
  });
  // Entries are complete after this; the keys are dead.
  if (blocks == 1) {
    __syncthreads();
  } else {
    if (!waited) ptx::cluster_wait<kConfig>();
    __syncwarp();
    ptx::cluster_sync<kConfig>();
  }
  if (block != 0) return;
  const SharedEntries<kConfig> entries{shared};
  if (few) {
    if (threadIdx.x < 32) sort_few(p, entries.expert(threadIdx.x), entries.weight(threadIdx.x));
    return;
  }
  if (EntryBits<kConfig>::fit(p)) return sort_by_bits<kConfig>(p, entries, shared);
  const Runs runs = runs_of<kConfig>(p, 0, p.tokens);
  count_segment<kConfig>(p, entries, runs, shared, [&](int e, int count) { shared.offsets[e] = count; });
  make_offsets<kConfig>(p, shared, true);
#pragma unroll 1
  for (int e = threadIdx.x; e < local_experts(p); e += blockDim.x) shared.sort.bases[e] = shared.offsets[e];
  __syncthreads();  // bases are complete
  scatter_segment<kConfig>(p, entries, runs, shared);
}

/// Blocks of segments: rows of what the select kernel chose.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void route_scatter(const abi::RouteParams& p, int segment, const Runs& runs,
                                              RouteShared<kConfig>& shared) {
  const GlobalEntries entries{p};
  count_segment<kConfig>(p, entries, runs, shared, [](int, int) {});
#pragma unroll 1
  for (int e = threadIdx.x; e < local_experts(p); e += blockDim.x) {
    int total = 0, before = 0;
#pragma unroll 16
    for (int s = 0; s < static_cast<int>(gridDim.x); ++s) {
      const int count = p.segment_counts[static_cast<long long>(s) * local_experts(p) + e];
      if (s < segment) before += count;
      total += count;
    }
    shared.offsets[e] = total;
    shared.sort.bases[e] = before;
  }
  __syncthreads();  // totals are complete
  make_offsets<kConfig>(p, shared, segment == 0);
#pragma unroll 1
  for (int e = threadIdx.x; e < local_experts(p); e += blockDim.x) shared.sort.bases[e] += shared.offsets[e];
  __syncthreads();  // bases are complete
  scatter_segment<kConfig>(p, entries, runs, shared);
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void route(const abi::RouteParams& p) {
  __shared__ RouteShared<kConfig> shared;
  if constexpr (kConfig.role == kRouteDispatched) {
    route_dispatched<kConfig>(p, shared);
  } else if constexpr (kConfig.role == kRouteFused) {
    route_fused<kConfig>(p, shared);
  } else {
    const int segment = static_cast<int>(blockIdx.x), first = segment * p.segment_tokens;
    const int end = first + p.segment_tokens < p.tokens ? first + p.segment_tokens : p.tokens;
    const Runs runs = runs_of<kConfig>(p, first, end);
    if constexpr (kConfig.role == kRouteScatter) {
      route_scatter<kConfig>(p, segment, runs, shared);
    } else {
      fill_ids<kConfig>(p, first, end, 0, 1, shared, [](int, const Slot&) {});
      if (p.segment_counts == nullptr) return;  // rows are not asked for
      __syncthreads();                          // ids of the segment are visible to the block; the keys are dead
      u16* out = p.segment_counts + static_cast<long long>(segment) * local_experts(p);
      count_segment<kConfig>(p, GlobalEntries{p}, runs, shared,
                             [&](int e, int count) { out[e] = static_cast<u16>(count); });
    }
  }
}

}  // namespace moesaic
