// SPDX-License-Identifier: Apache-2.0
// Routing where a warp has one token at most, whose experts are chosen here: none is in two of its slots, so that
// slots need not be counted. A decode step reads this code cold: what it runs lies together, in few instructions.
#pragma once

#include "kernels/common/route_shared.cuh"

namespace moesaic {

/// Whether no token has an expert twice; a caller's ids and a table may.
__device__ __forceinline__ bool chooses_apart(const abi::RouteParams& p) {
  return p.given_ids == nullptr && p.method != kRouteHash;
}

/// Whether choose_by_logits chooses.
__device__ __forceinline__ bool chooses_by_logits(const abi::RouteParams& p) {
  return (p.method == kRouteSoftmaxTopKRenorm || p.method == kRouteTopKSoftmax) && p.n_group <= 1 &&
         p.shared_slots == 0 && p.num_experts <= 256;
}

/// Code is read cold, and a warp that waits for logits reads none of it. Warps without a token run ahead of it through
/// what it will run, each from another place on, with scores of their own making: by the time that the logits are there
/// the instructions are in the SM's caches. They touch nothing of global memory.
enum Part : int { kPartReal = 0, kPartChoose = 1, kPartWeigh = 2, kPartSort = 3, kParts = 4 };

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
  experts.of_slot[lane] = kNotSorted;
  __syncwarp();  // no slot has an expert
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
  if (part != kPartReal && (part >= kParts || !chooses_by_logits(p))) return;
  const auto [slot, expert] = select_sorted<kConfig>(p, 0, part, shared);
  const int slots = part == kPartReal ? slots_of(p) : 0;
  const bool has_row = expert != kNotSorted && part == kPartReal;
  const int row = slots_below(p, shared.slot_experts[part], expert);
  const u32 rows = __ballot_sync(0xffffffffu, has_row);
  if (p.row_offsets != nullptr) write_offsets_of_one(p, expert, part);
  if (lane < slots) {
    p.ids[lane] = slot.id;
    p.weights[lane] = slot.weight;
    p.slot_row[lane] = has_row ? row : -1;
  }
  if (has_row) {
    p.row_token[row] = 0;
    p.row_weight[row] = slot.weight;
    if (p.tiles != nullptr) store_tile(p, row, {static_cast<int>(expert), row, row + 1, 0});
  }
  if (p.tiles != nullptr && lane == 0 && slots > 0) *p.num_tiles = __popc(rows);
}

}  // namespace moesaic
