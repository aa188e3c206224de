// SPDX-License-Identifier: Apache-2.0
// Routing where a warp has one token at most, whose experts are chosen here: none is in two of its slots, so that
// slots need not be counted. A decode step reads this code cold: what it runs lies together, in few instructions.
#pragma once

#include "kernels/common/mbarrier.cuh"
#include "kernels/common/route_shared.cuh"

namespace moesaic {

/// Whether choose_by_logits chooses.
__device__ __forceinline__ bool chooses_by_logits(const abi::RouteParams& p) {
  return (p.method == kRouteSoftmaxTopKRenorm || p.method == kRouteTopKSoftmax) && p.n_group <= 1 &&
         p.num_experts <= 256;
}

/// Code is read cold, and a warp that waits for logits reads none of it. Warps without a token run ahead of it through
/// what it will run, each from another place on, with scores of their own making: by the time that the logits are there
/// the instructions are in the SM's caches. They touch nothing of global memory.
enum Part : int { kPartReal = 0, kPartChoose = 1, kPartWeigh = 2, kPartSort = 3, kParts = 4 };
static_assert(32 * kParts == abi::kRouteOneThreads);

/// What a lane knows of its slot when all are chosen.
struct ChosenKey {
  u32 key;
  bool any_nan;  // among the token's logits
};

/// Slots' experts go to `experts`, to the bit as select_experts chooses them.
template <int kPerLane>
__device__ __forceinline__ ChosenKey choose_by_logits(const abi::RouteParams& p, int token, int part,
                                                      SlotExperts& experts) {
  const int lane = threadIdx.x % 32, rounds = part == kPartReal ? p.top_k : 1;
  RegisterScores<kPerLane> scores;
  if (part == kPartReal) {
    scores.load(p, token);
  } else {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) scores.logits[i] = static_cast<float>(lane);
  }
  bool is_nan = false;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    is_nan |= scores.logits[i] != scores.logits[i];
    scores.keys[i] = scores.expert(i) < p.num_experts ? score_key(scores.logits[i]) : kTaken;
    scores.experts[i] = scores.expert(i);
  }
  scores.sort();
  const bool any_nan = __any_sync(0xffffffffu, is_nan);
  u32 own = 0, key = ptx::warp_max(scores.keys[0]);
#pragma unroll 1
  for (int slot = 0; slot < rounds; ++slot) {
    const bool wins = scores.keys[0] == key;
    const u32 winners = __ballot_sync(0xffffffffu, wins), expert = static_cast<u32>(scores.experts[0]);
    if (wins) {
      experts.of_slot[slot] = static_cast<u16>(expert);
      scores.take(0);
    }
    u32 next = ptx::warp_max(scores.keys[0]);  // under way before it is known that one lane has won
    if ((winners & (winners - 1)) != 0) [[unlikely]] {
      const bool is_lowest = expert == ptx::warp_min(wins ? expert : ~0u);
      if (is_lowest) experts.of_slot[slot] = static_cast<u16>(expert);  // behind what all of them have written
      if (wins && !is_lowest) scores.put_back(key, static_cast<int>(expert));
      next = ptx::warp_max(scores.keys[0]);
    }
    if (lane == slot) own = key;
    key = next;
  }
  __syncwarp();  // experts of all slots are there
  return {own, any_nan};
}

/// As slot_weight gives them, to the bit.
__device__ __forceinline__ float weigh_by_logits(const abi::RouteParams& p, const ChosenKey& chosen) {
  const int lane = threadIdx.x % 32;
  const bool spoils = chosen.any_nan && p.method == kRouteSoftmaxTopKRenorm;
  const float largest = key_score(spoils ? kNanKey : __shfl_sync(0xffffffffu, chosen.key, 0));
  const float weight = lane < p.top_k ? expf(key_score(chosen.key) - largest) : 0.0f;
  return weight / ptx::warp_sum(weight);
}

/// A lane's slot of the warp's token, and its number among the experts that are sorted, kNotSorted: none of them.
struct SortedSlot {
  Slot slot;
  u32 expert;
};

/// Also leaves the numbers of all slots in the warp's slot_experts.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ SortedSlot select_sorted(const abi::RouteParams& p, int token, int part,
                                                    RouteShared<kConfig>& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  SlotExperts& experts = shared.slot_experts[warp];
  const bool is_shared = lane >= p.top_k && lane < slots_of(p);
  experts.of_slot[lane] = static_cast<u16>(is_shared ? static_cast<u32>(shared_slot(p, lane).id) : kNotSorted);
  __syncwarp();  // no other slot has an expert
  Slot slot = {};
  if (chooses_by_logits(p)) [[likely]] {
    ChosenKey chosen = {1, false};
    if (part <= kPartChoose) {
      if (p.num_experts <= 128) [[likely]] {
        chosen = choose_by_logits<4>(p, token, part, experts);
      } else {
        chosen = choose_by_logits<8>(p, token, part, experts);
      }
    }
    if (part <= kPartWeigh) slot.weight = weigh_by_logits(p, chosen);
    if (is_shared) slot.weight = p.shared_weight;
    slot.id = experts.of_slot[lane];
    if (p.held_experts == p.num_experts && p.expert_slots == nullptr) [[likely]] {
      return {slot, static_cast<u32>(slot.id)};
    }
    __syncwarp();  // everyone has read the expert's number
  } else {
    slot = select_experts(p, token, shared.keys + warp * p.num_experts);
  }
  const bool is_real = lane < slots_of(p) && part == kPartReal;
  const int local = is_real ? local_expert(p, slot.id) : -1;
  const u32 expert = local < 0 ? kNotSorted : static_cast<u32>(local);
  experts.of_slot[lane] = static_cast<u16>(expert);
  __syncwarp();  // numbers of all slots are there
  return {slot, expert};
}

/// Of a token's slots, how many have a lower expert than `expert`.
__device__ __forceinline__ int slots_below(const abi::RouteParams& p, const SlotExperts& experts, u32 expert) {
  const u32 high = 0x80008000u, limit = expert * 0x10001u + 0x7fff7fffu;  // less a number: high bit where it is lower
  int below = 0;
#pragma unroll 1
  for (int slot = 0; slot < slots_of(p); slot += 8) {
    const uint4 eight = experts.eights[slot / 8];
    below += __popc((limit - eight.x & high) | (limit - eight.y & high) >> 1 | (limit - eight.z & high) >> 2 |
                    (limit - eight.w & high) >> 3);
  }
  return below;
}

/// First rows of all experts where each has at most one row, that of the slot whose lane has its number.
__device__ __forceinline__ void write_offsets_of_one(const abi::RouteParams& p, u32 expert, int part) {
  const u32 lane = threadIdx.x % 32;
  const u32 end = part == kPartReal ? static_cast<u32>(local_experts(p)) : 0;
  int rows = 0;
#pragma unroll 4
  for (u32 first = 0; first <= end; first += 32) {
    const u32 here = expert - first;
    const u32 bits = ptx::warp_or(here < 32 && expert != kNotSorted ? 1u << here : 0u);
    if (first + lane <= end && part == kPartReal) {
      p.row_offsets[first + lane] = rows + __popc(bits & ((1u << lane) - 1));
    }
    rows += __popc(bits);
  }
}

/// In one piece: the list is a buffer of its own.
__device__ __forceinline__ void store_tile(const abi::RouteParams& p, int tile, int4 value) {
  reinterpret_cast<int4*>(p.tiles)[tile] = value;
}

/// One token: the first warp chooses and sorts, every row being a tile. Others run ahead of it.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void route_one(const abi::RouteParams& p, RouteShared<kConfig>& shared) {
  const int lane = threadIdx.x % 32, part = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (part != kPartReal && !chooses_by_logits(p)) return;
  auto [slot, expert] = select_sorted<kConfig>(p, 0, part, shared);
  const int slots = part == kPartReal ? slots_of(p) : 0;
  const bool has_row = expert != kNotSorted && part == kPartReal;
  const int row = slots_below(p, shared.slot_experts[part], expert);
  const u32 rows = __ballot_sync(0xffffffffu, has_row);
  if (p.row_offsets != nullptr) write_offsets_of_one(p, expert, part);
  if (lane < slots) {
    list_slot(p, 0, lane, slot);
    p.ids[lane] = slot.id;
    p.weights[lane] = slot.weight;
    p.slot_row[lane] = has_row ? row : -1;
  }
  if (has_row) {
    p.row_token[row] = 0;
    p.row_weight[row] = slot.weight;
    if (p.tiles != nullptr) store_tile(p, row, {static_cast<int>(expert), row, row + 1, all_narrow(p, 1)});
  }
  if (p.tiles != nullptr && lane == 0 && slots > 0) {
    set_tile_counts(p.num_tiles, __popc(rows), all_narrow(p, 1) * __popc(rows));
  }
}

/// Whether route_each takes them: a warp of the block or cluster for each token, with room for keys.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ bool fits_each(const abi::RouteParams& p) {
  const int warps = ptx::cluster_blocks<kConfig>() == 1 ? p.tokens : abi::div_up(p.tokens, abi::kRouteCluster);
  return p.tokens <= kMaxEachTokens && warps <= RouteShared<kConfig>::kWarps &&
         warps * p.num_experts <= RouteShared<kConfig>::kWords * kMaxRouteExperts &&
         p.tokens * abi::div_up(slots_of(p), 8) <= EachShared<true>::kEights && local_experts(p) <= kMaxRouteExperts;
}

/// Every block of the cluster gets the experts of all tokens. The arrivals of route_each's beginning are waited for.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void exchange(const abi::RouteParams& p, int token, RouteShared<kConfig>& shared) {
  const int lane = threadIdx.x % 32, pieces = abi::div_up(slots_of(p), 8);
  const uint4* experts = shared.slot_experts[threadIdx.x / 32].eights;
  if (ptx::cluster_blocks<kConfig>() == 1) {
    if (token < p.tokens && lane < pieces) shared.each.eights[token * pieces + lane] = experts[lane];
    __syncthreads();  // experts of all tokens are there, and no bits are set
    return;
  }
  if constexpr ((kConfig.features & abi::kClusters) != 0) {
    static_assert(32 / abi::kRouteCluster * 8 >= 32);  // a lane for each piece of each block
    const u32 arrived = ptx::shared_address(&shared.each.arrived);
    ptx::cluster_wait<kConfig>();  // all blocks run, and count what arrives
    const int piece = lane / abi::kRouteCluster;
    if (token < p.tokens && piece < pieces) {
      ptx::store_async_16(ptx::shared_address(shared.each.eights + token * pieces + piece), experts[piece], arrived,
                          lane % abi::kRouteCluster);
    }
    __syncthreads();  // no bits of this block are set
    ptx::barrier_wait(arrived, 0);
  }
}

/// Sets the bit of each token at its slots' experts. Not `is_real`: sets none.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void set_bits(const abi::RouteParams& p, bool is_real, RouteShared<kConfig>& shared) {
  const int pieces = abi::div_up(slots_of(p), 8);
  const u16* experts = reinterpret_cast<const u16*>(shared.each.eights);
#pragma unroll 1
  for (int piece = 0; piece < pieces; ++piece) {
#pragma unroll 1
    for (int i = threadIdx.x; i < p.tokens * 8; i += blockDim.x) {
      const int token = i / 8;
      const u32 expert = is_real ? experts[(token * pieces + piece) * 8 + i % 8] : kNotSorted;
      if (expert != kNotSorted) atomicOr(&shared.each.bits[token / 32][expert], 1u << token % 32);
    }
  }
}

/// Rows of an expert in the low half, its tiles in the high one.
__device__ __forceinline__ u32 packed_rows(const abi::RouteParams& p, int rows) {
  return static_cast<u32>(rows | tile_count(rows, p.tile_tokens, p.tile_slack) << 16);
}

/// Rows and tiles of a lane's four experts.
struct FourExperts {
  u32 packed[4];
  __device__ __forceinline__ u32 rows(int i) const {
    return (i == 0 ? packed[0] : i == 1 ? packed[1] : i == 2 ? packed[2] : packed[3]) & 0xffff;
  }
};

/// One warp, kChunkExperts experts: what their chunk has before each goes to offsets, its sum to chunks.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ FourExperts sum_chunk(const abi::RouteParams& p, int chunk, bool is_real,
                                                 RouteShared<kConfig>& shared) {
  const int lane = threadIdx.x % 32, expert = chunk * kChunkExperts + 4 * lane;
  int rows[4] = {0, 0, 0, 0};
#pragma unroll 1
  for (int word = 0; 32 * word < p.tokens; ++word) {
    uint4 bits = {0, 0, 0, 0};
    if (is_real) bits = *reinterpret_cast<const uint4*>(&shared.each.bits[word][expert]);
    rows[0] += __popc(bits.x), rows[1] += __popc(bits.y), rows[2] += __popc(bits.z), rows[3] += __popc(bits.w);
  }
  FourExperts four;
#pragma unroll
  for (int i = 0; i < 4; ++i) four.packed[i] = packed_rows(p, rows[i]);
  const u32 own = four.packed[0] + four.packed[1] + four.packed[2] + four.packed[3];
  u32 up_to = own;
#pragma unroll
  for (int delta = 1; delta < 32; delta *= 2) {
    const u32 other = __shfl_up_sync(0xffffffffu, up_to, delta);
    if (lane >= delta) up_to += other;
  }
  uint4 before;
  before.x = up_to - own, before.y = before.x + four.packed[0];
  before.z = before.y + four.packed[1], before.w = before.z + four.packed[2];
  if (is_real) *reinterpret_cast<uint4*>(shared.offsets + expert) = before;
  if (is_real && lane == 31) shared.each.chunks[chunk] = up_to;
  return four;
}

/// Rows and tiles of the chunks before one.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ u32 chunks_before(int chunk, const RouteShared<kConfig>& shared) {
  u32 sum = 0;
#pragma unroll 1
  for (int i = 0; i < chunk; ++i) sum += shared.each.chunks[i];
  return sum;
}

/// First rows and tiles of a lane's four experts from `expert` on.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void write_lists(const abi::RouteParams& p, int expert, const FourExperts& four,
                                            const RouteShared<kConfig>& shared) {
  const u32 base = chunks_before<kConfig>(expert / kChunkExperts, shared);
#pragma unroll 1
  for (int i = 0; i < 4 && expert + i < local_experts(p); ++i) {
    const u32 before = base + static_cast<u32>(shared.offsets[expert + i]);
    const int row = static_cast<int>(before & 0xffff);
    if (p.row_offsets != nullptr) p.row_offsets[expert + i] = row;
    if (p.tiles == nullptr) continue;
    const int end = row + static_cast<int>(four.rows(i));
#pragma unroll 1
    for (int begin = row, tile = static_cast<int>(before >> 16); begin < end; ++tile) {
      const int next = tile_end(begin, end, p.tile_tokens, p.tile_slack);
      store_tile(p, tile, {expert + i, begin, next, all_narrow(p, p.tokens)});
      begin = next;
    }
  }
}

/// A lane's slot of the warp's token gets its row. Not `is_slot`: nothing is read and written.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void write_own(const abi::RouteParams& p, int token, bool is_slot, const SortedSlot& mine,
                                          const RouteShared<kConfig>& shared) {
  const int lane = threadIdx.x % 32;
  const bool has_row = is_slot && mine.expert != kNotSorted;
  const u32 expert = has_row ? mine.expert : 0;
  u32 row = has_row ? static_cast<u32>(shared.offsets[expert]) : 0;
  row = row + chunks_before<kConfig>(expert / kChunkExperts, shared) & 0xffff;
  if (has_row) row += __popc(shared.each.bits[token / 32][expert] & (1u << token % 32) - 1);
#pragma unroll 1
  for (int word = 0; has_row && word < token / 32; ++word) row += __popc(shared.each.bits[word][expert]);
  if (is_slot) p.slot_row[token * slots_of(p) + lane] = has_row ? static_cast<int>(row) : -1;
  if (has_row) {
    p.row_token[row] = token;
    p.row_weight[row] = mine.slot.weight;
  }
}

/// At most one token a warp, in one block or a cluster: every block learns what all tokens have chosen, finds the first
/// row of every expert, and gives its own tokens their rows. The first block writes the lists. No block waits for
/// another's writes to global memory (a release at the cluster's barrier would, MEMBAR.ALL.GPU).
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void route_each(const abi::RouteParams& p, RouteShared<kConfig>& shared) {
  constexpr int kWarps = RouteShared<kConfig>::kWarps;
  const int lane = threadIdx.x % 32, warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  const int block = ptx::cluster_rank<kConfig>(), blocks = ptx::cluster_blocks<kConfig>();
  const int chunks = abi::div_up(local_experts(p), kChunkExperts), slots = slots_of(p);
  if constexpr ((kConfig.features & abi::kClusters) != 0) {
    if (blocks > 1 && threadIdx.x == 0) {
      const u32 arrived = ptx::shared_address(&shared.each.arrived);
      ptx::barrier_init(arrived, 1);
      ptx::barrier_init_fence();
      ptx::barrier_arrive_expect(arrived, p.tokens * abi::div_up(slots, 8) * 16);
    }
    if (blocks > 1) ptx::cluster_arrive<kConfig>();
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < chunks * kChunkExperts; i += blockDim.x) {
#pragma unroll
    for (int word = 0; word < kMaxEachTokens / 32; ++word) {
      if (32 * word < p.tokens) shared.each.bits[word][i] = 0;
    }
  }
  const int token = warp * blocks + block, chunk = kWarps - 1 - warp;  // the last warps have no token most often
  const bool has_token = token < p.tokens, is_slot = has_token && lane < slots;
  SortedSlot mine = {{0, 0.0f}, kNotSorted};
  // Of the warps without a token one in two runs ahead from the choice on.
  if (has_token || chooses_by_logits(p)) {
    const int part = has_token ? kPartReal : warp % 2 == 0 ? kPartChoose : kPartWeigh;
    mine = select_sorted<kConfig>(p, token, part, shared);
  }
  if (is_slot) {
    list_slot(p, token, lane, mine.slot);
    p.ids[token * slots + lane] = mine.slot.id;
    p.weights[token * slots + lane] = mine.slot.weight;
  }
  FourExperts four;
  // They run ahead here, too: their first pass reads and writes nothing.
#pragma unroll 1
  for (int pass = has_token ? 1 : 0; pass < 2; ++pass) {
    const bool is_real = pass == 1;
    if (is_real) exchange<kConfig>(p, token, shared);
    set_bits<kConfig>(p, is_real, shared);
    if (is_real) __syncthreads();  // all bits are set
    if (chunk < chunks) four = sum_chunk<kConfig>(p, chunk, is_real, shared);
    if (is_real) __syncthreads();  // offsets are complete
    if (is_slot || !is_real) write_own<kConfig>(p, token, is_slot, mine, shared);
  }
  if (block == 0 && chunk < chunks) write_lists<kConfig>(p, chunk * kChunkExperts + 4 * lane, four, shared);
  if (block == 0 && threadIdx.x == blockDim.x - 1) {
    const u32 all = chunks_before<kConfig>(chunks, shared);
    const int tiles = static_cast<int>(all >> 16);
    if (p.tiles != nullptr) set_tile_counts(p.num_tiles, tiles, all_narrow(p, p.tokens) * tiles);
    if (p.row_offsets != nullptr) p.row_offsets[local_experts(p)] = static_cast<int>(all & 0xffff);
  }
}

}  // namespace moesaic
