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

/// Whether select_by_logits chooses.
__device__ __forceinline__ bool chooses_by_logits(const abi::RouteParams& p) {
  return (p.method == kRouteSoftmaxTopKRenorm || p.method == kRouteTopKSoftmax) && p.n_group <= 1 &&
         p.shared_slots == 0 && p.num_experts <= 256;
}

/// select_experts in fewer instructions, to the bit.
template <int kPerLane>
__device__ __forceinline__ Slot select_by_logits(const abi::RouteParams& p, int token, SlotExperts& experts) {
  const int lane = threadIdx.x % 32;
  RegisterScores<kPerLane> scores;
  scores.load(p, token);
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
  for (int slot = 0; slot < p.top_k; ++slot) {
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
  const bool spoils = any_nan && p.method == kRouteSoftmaxTopKRenorm;
  const float largest = key_score(spoils ? kNanKey : __shfl_sync(0xffffffffu, own, 0));
  const float weight = lane < p.top_k ? expf(key_score(own) - largest) : 0.0f;
  return {experts.of_slot[lane], weight / ptx::warp_sum(weight)};
}

/// A lane's slot of the warp's token, and its number among the experts that are sorted, kNotSorted: none of them.
struct SortedSlot {
  Slot slot;
  u32 expert;
};

/// Also leaves the numbers of all slots in the warp's slot_experts.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ SortedSlot select_sorted(const abi::RouteParams& p, int token,
                                                    RouteShared<kConfig>& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  SlotExperts& experts = shared.slot_experts[warp];
  experts.of_slot[lane] = kNotSorted;
  __syncwarp();  // no slot has an expert
  Slot slot;
  if (chooses_by_logits(p)) [[likely]] {
    if (p.num_experts <= 128) [[likely]] {
      slot = select_by_logits<4>(p, token, experts);
    } else {
      slot = select_by_logits<8>(p, token, experts);
    }
    if (p.held_experts == p.num_experts && p.expert_slots == nullptr) [[likely]] {
      return {slot, static_cast<u32>(slot.id)};
    }
    __syncwarp();  // everyone has read the expert's number
  } else {
    slot = select_experts(p, token, shared.keys + warp * p.num_experts);
  }
  const int local = lane < slots_of(p) ? local_expert(p, slot.id) : -1;
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
__device__ __forceinline__ void write_offsets_of_one(const abi::RouteParams& p, u32 expert) {
  const u32 lane = threadIdx.x % 32;
  int rows = 0;
#pragma unroll 4
  for (u32 first = 0; first <= static_cast<u32>(local_experts(p)); first += 32) {
    const u32 here = expert - first;
    const u32 bits = ptx::warp_or(here < 32 && expert != kNotSorted ? 1u << here : 0u);
    if (first + lane <= static_cast<u32>(local_experts(p))) {
      p.row_offsets[first + lane] = rows + __popc(bits & ((1u << lane) - 1));
    }
    rows += __popc(bits);
  }
}

/// In one piece: the list is a buffer of its own.
__device__ __forceinline__ void store_tile(const abi::RouteParams& p, int tile, int4 value) {
  reinterpret_cast<int4*>(p.tiles)[tile] = value;
}

/// One token: the first warp chooses and sorts, every row being a tile.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void route_one(const abi::RouteParams& p, RouteShared<kConfig>& shared) {
  const int lane = threadIdx.x;
  if (lane >= 32) return;
  const auto [slot, expert] = select_sorted<kConfig>(p, 0, shared);
  const bool has_row = expert != kNotSorted;
  const int row = slots_below(p, shared.slot_experts[0], expert);
  const u32 rows = __ballot_sync(0xffffffffu, has_row);
  if (p.row_offsets != nullptr) write_offsets_of_one(p, expert);
  if (lane < slots_of(p)) {
    p.ids[lane] = slot.id;
    p.weights[lane] = slot.weight;
    p.slot_row[lane] = has_row ? row : -1;
  }
  if (has_row) {
    p.row_token[row] = 0;
    p.row_weight[row] = slot.weight;
    if (p.tiles != nullptr) store_tile(p, row, {static_cast<int>(expert), row, row + 1, 0});
  }
  if (p.tiles != nullptr && lane == 0) *p.num_tiles = __popc(rows);
}

}  // namespace moesaic
