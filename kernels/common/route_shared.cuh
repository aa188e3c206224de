// SPDX-License-Identifier: Apache-2.0
// What routing kernels have in shared memory, and how slots and experts are numbered.
#pragma once

#include "kernels/common/select_experts.cuh"
#include "kernels/common/tiles.cuh"

namespace moesaic {

/// KernelConfig::role of routing kernels.
enum RouteRole : int { kRouteFused = 0, kRouteSelect = 1, kRouteScatter = 2, kRouteDispatched = 3 };

inline constexpr int kMaxRouteExperts = 1024;
inline constexpr int kChunkExperts = 128;  // whose rows and tiles a warp of route_each sums

struct RowsTiles {
  int rows, tiles;
};

/// Which of the sorted experts a token's slots have: numbers of local_expert, kNotSorted where there is none.
inline constexpr u32 kNotSorted = 0x7fff;
union SlotExperts {
  u16 of_slot[32];  // [slot]
  uint4 eights[4];  // [slot / 8]
};

template <int kEntries>
struct SortShared {
  u32 entry_experts[kEntries];  // [token][slot] local_expert of what was chosen
  u32 entry_weights[kEntries];  // bits of floats
  int bases[kMaxRouteExperts];  // first row of this segment's entries of an expert
};

/// Of route_each, which knows tokens by bits.
inline constexpr int kMaxEachTokens = 128;
template <bool kUsed>
struct EachShared {
  static constexpr int kWords = kUsed ? kMaxEachTokens / 32 : 1;
  // Of kMaxFusedEntries slots, each token's rounded up to 8; the worst is 120 tokens of 17.
  static constexpr int kEights = kUsed ? 384 : 1;
  u32 bits[kWords][kUsed ? kMaxRouteExperts : 1];  // [token / 32][expert]
  uint4 eights[kEights];                           // [token][slot / 8] as in SlotExperts
  u32 chunks[kMaxRouteExperts / kChunkExperts];    // RowsTiles packed of a warp's experts
  alignas(8) unsigned long long arrived;           // mbarrier: bytes of `eights`
};

template <abi::KernelConfig kConfig>
struct RouteShared {
  static constexpr int kWarps = abi::threads(kConfig) / 32;
  static constexpr int kEntries = kConfig.role == kRouteFused ? abi::kMaxFusedEntries : 1;
  static constexpr int kWords = kConfig.role == kRouteFused ? 5 : 8;
  // Choosing and sorting do not overlap in time. Both are cut by the number of experts: see choosers, sorters.
  union {
    u32 keys[kWords * kMaxRouteExperts];         // [chooser][expert]
    u16 counts[2 * kWords * kMaxRouteExperts];   // [sorter][expert] entries per warp, then the warp's first rank
    uint4 masks[kWords * kMaxRouteExperts / 4];  // [expert][kWarps bits of 32 entries]
  };
  union {
    SortShared<kEntries> sort;
    EachShared<kConfig.role == kRouteFused> each;  // the keys are alive then
  };
  int offsets[kMaxRouteExperts];  // first row of an expert
  RowsTiles scan[kWarps];
  SlotExperts slot_experts[kConfig.role == kRouteFused ? kWarps : 1];  // [warp] of its one token

  /// Warps that have room to choose, and to sort, at the same time.
  __device__ static int choosers(int experts) { return min_of(kWarps, kWords * kMaxRouteExperts / experts); }
  __device__ static int sorters(int experts) { return min_of(kWarps, 2 * kWords * kMaxRouteExperts / experts); }

 private:
  __device__ static int min_of(int a, int b) { return a < b ? a : b; }
};

/// Slots of a token, and experts whose rows are sorted.
__device__ __forceinline__ int slots_of(const abi::RouteParams& p) { return p.top_k + p.shared_slots; }
__device__ __forceinline__ int local_experts(const abi::RouteParams& p) { return p.held_experts + p.shared_slots; }

/// Lists slot number `number` of a token where callers do not see all. Another expert than these is nobody, not one of
/// the shared ones that are numbered behind them.
__device__ __forceinline__ void list_slot(const abi::RouteParams& p, int token, int number, Slot& slot) {
  if (number >= p.listed_slots || p.listed_slots == slots_of(p)) return;
  const int at = token * p.listed_slots + number;
  if (p.listed_ids != nullptr) p.listed_ids[at] = slot.id;
  if (p.listed_weights != nullptr) p.listed_weights[at] = slot.weight;
  if (slot.id >= p.num_experts) slot.id = -1;
}

/// An expert's number among those whose rows are sorted, -1: none of them.
__device__ __forceinline__ int local_expert(const abi::RouteParams& p, int id) {
  if (id < 0) return -1;
  if (id >= p.num_experts) {
    const int local = p.held_experts + id - p.num_experts;
    return local < local_experts(p) ? local : -1;
  }
  if (p.expert_slots != nullptr) return p.expert_slots[id];
  const int local = id - p.first_expert;
  return local >= 0 && local < p.held_experts ? local : -1;
}

}  // namespace moesaic
