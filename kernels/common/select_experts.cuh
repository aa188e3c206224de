// SPDX-License-Identifier: Apache-2.0
// Choosing the k experts of one token by one warp: every method of moesaic::RoutingMethod, ties to the lower id.
//
// Scores are order-preserving integers: 0 = taken or outside the kept groups, 1 = NaN (chosen only when nothing else is
// left), above that by value. Each lane owns the experts lane, lane + 32, ...; a round is two warp reductions.
#pragma once

#include "kernels/common/ptx.cuh"

namespace moesaic {

/// Numbers of moesaic::RoutingMethod.
enum RouteMethod : int {
  kRouteSoftmaxTopK,
  kRouteSoftmaxTopKRenorm,
  kRouteTopKSoftmax,
  kRouteDeepSeekV3,
  kRouteDeepSeekV2,
  kRouteLlama4,
  kRouteTopK,
  kRouteSigmoid,
  kRouteMiniMax2,
  kRouteHash = abi::kRouteByTable,
};

inline constexpr u32 kTaken = 0;
inline constexpr u32 kNanKey = 1;

/// Order-preserving: a < b as floats <=> key(a) < key(b); -0 counts as 0.
__device__ __forceinline__ u32 score_key(float score) {
  const u32 bits = __float_as_uint(score + 0.0f);                                         // -0 + 0 = 0
  const u32 key = bits ^ (static_cast<u32>(static_cast<int>(bits) >> 31) | 0x80000000u);  // of -infinity 0x7fffff
  return score != score ? kNanKey : key;
}

__device__ __forceinline__ float key_score(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/// Accurate: ties and near-ties are decided by it.
__device__ __forceinline__ float score_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ bool selects_by_sigmoid(int method) {
  return method == kRouteDeepSeekV3 || method == kRouteMiniMax2 || method == kRouteSigmoid;
}

__device__ __forceinline__ float sigmoid_score(const abi::RouteParams& p, float logit, int expert) {
  const bool biased = p.method != kRouteSigmoid && p.selection_bias != nullptr;
  return score_sigmoid(logit) + (biased ? p.selection_bias[expert] : 0.0f);
}

/// The value that decides: the logit, or sigmoid (+ bias). Softmax is monotone, so it selects by logit.
__device__ __forceinline__ float selection_score(const abi::RouteParams& p, float logit, int expert) {
  return selects_by_sigmoid(p.method) ? sigmoid_score(p, logit, expert) : logit;
}

/// Group score: V3 the sum of the two largest scores, V2 the largest. One lane per group.
__device__ __forceinline__ u32 group_key(const abi::RouteParams& p, const u32* keys, int group) {
  const int size = p.num_experts / p.n_group;
  u32 best = 0, second = 0;
#pragma unroll 4
  for (int i = 0; i < size; ++i) {
    const u32 key = keys[group * size + i];
    if (key > best) {
      second = best;
      best = key;
    } else if (key > second) {
      second = key;
    }
  }
  if (p.method == kRouteDeepSeekV2 || second <= kNanKey) return best;
  return score_key(key_score(best) + key_score(second));
}

/// Bits of the topk_group best groups. `keys`: of all experts, in shared memory. Requires n_group <= 32.
__device__ __forceinline__ u32 best_groups(const abi::RouteParams& p, const u32* keys) {
  const int lane = threadIdx.x % 32;
  u32 key = lane < p.n_group ? group_key(p, keys, lane) : 0;
  bool kept = false;
#pragma unroll 1
  for (int i = 0; i < p.topk_group; ++i) {
    const u32 best = ptx::warp_max(key);
    const u32 winner = ptx::warp_min(key == best ? lane : 32u);
    if (static_cast<u32>(lane) == winner) {
      kept = true;
      key = 0;
    }
  }
  return __ballot_sync(0xffffffffu, kept);
}

/// A lane's best expert. kTaken: it has none left.
struct Best {
  u32 key;
  int expert;
};

/// Scores of at most 32 * kPerLane experts, in registers; each lane sorts its own once, best first.
template <int kPerLane>
struct RegisterScores {
  float logits[kPerLane];  // of expert lane + 32 i; -infinity beyond the last
  u32 keys[kPerLane];      // of experts[i]
  int experts[kPerLane];

  __device__ __forceinline__ static int expert(int i) { return static_cast<int>(threadIdx.x) % 32 + 32 * i; }

  /// All loads are in flight at once.
  __device__ __forceinline__ void load(const abi::RouteParams& p, int token) {
    const float* row = p.logits + static_cast<long long>(token) * p.num_experts;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      logits[i] = expert(i) < p.num_experts ? row[expert(i)] : -__int_as_float(0x7f800000);
    }
  }
  /// `shared`: num_experts words of this warp, used with groups only.
  __device__ __forceinline__ void score(const abi::RouteParams& p, u32* shared) {
    if (selects_by_sigmoid(p.method)) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        if (expert(i) < p.num_experts) keys[i] = score_key(sigmoid_score(p, logits[i], expert(i)));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) keys[i] = score_key(logits[i]);
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (expert(i) >= p.num_experts) keys[i] = kTaken;
      experts[i] = expert(i);
    }
    if (p.n_group > 1) keep_best_groups(p, shared);
    sort();
  }
  __device__ __forceinline__ Best best(const abi::RouteParams&) const { return {keys[0], experts[0]}; }
  /// The lane's best expert is taken.
  __device__ __forceinline__ void take(int) {
#pragma unroll
    for (int i = 0; i + 1 < kPerLane; ++i) keys[i] = keys[i + 1], experts[i] = experts[i + 1];
    keys[kPerLane - 1] = kTaken;
  }
  /// It was not, after all.
  __device__ __forceinline__ void put_back(u32 key, int taken) {
#pragma unroll
    for (int i = kPerLane - 1; i > 0; --i) keys[i] = keys[i - 1], experts[i] = experts[i - 1];
    keys[0] = key, experts[0] = taken;
  }
  /// visit(logit) of the lane's experts in ascending order, then of some that are -infinity.
  template <typename Visit>
  __device__ __forceinline__ void for_each_logit(const abi::RouteParams&, Visit visit) const {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) visit(logits[i]);
  }

  /// Swaps of neighbours alone: experts of equal keys stay in ascending order.
  __device__ __forceinline__ void sort() {
#pragma unroll
    for (int phase = 0; phase < kPerLane; ++phase) {
#pragma unroll
      for (int i = phase % 2; i + 1 < kPerLane; i += 2) {
        const bool swap = keys[i + 1] > keys[i];
        const u32 key = swap ? keys[i] : keys[i + 1];
        const int expert = swap ? experts[i] : experts[i + 1];
        keys[i] = swap ? keys[i + 1] : keys[i];
        experts[i] = swap ? experts[i + 1] : experts[i];
        keys[i + 1] = key;
        experts[i + 1] = expert;
      }
    }
  }

 private:
  __device__ __forceinline__ void keep_best_groups(const abi::RouteParams& p, u32* shared) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (expert(i) < p.num_experts) shared[expert(i)] = keys[i];
    }
    __syncwarp();  // keys of all experts are there
    const u32 kept = best_groups(p, shared);
    const int size = p.num_experts / p.n_group;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (expert(i) < p.num_experts && !(kept >> expert(i) / size & 1u)) keys[i] = kTaken;
    }
    __syncwarp();  // everyone has read the keys of this token
  }
};

/// Scores of any number of experts, in shared memory.
struct SharedScores {
  const float* logits;
  u32* keys;

  __device__ __forceinline__ void load(const abi::RouteParams& p, int token) {
    logits = p.logits + static_cast<long long>(token) * p.num_experts;
  }
  __device__ __forceinline__ void score(const abi::RouteParams& p, u32* shared) {
    const int lane = threadIdx.x % 32;
    keys = shared;
#pragma unroll 2
    for (int e = lane; e < p.num_experts; e += 32) keys[e] = score_key(selection_score(p, logits[e], e));
    __syncwarp();  // keys of all experts are there
    if (p.n_group <= 1) return;
    const u32 kept = best_groups(p, keys);
    const int size = p.num_experts / p.n_group;
    __syncwarp();  // groups have been compared
#pragma unroll 1
    for (int e = lane; e < p.num_experts; e += 32) {
      if (!(kept >> e / size & 1u)) keys[e] = kTaken;
    }
    __syncwarp();  // keys of other groups are out
  }
  __device__ __forceinline__ Best best(const abi::RouteParams& p) const {
    Best best = {kTaken, 0x7fffffff};
#pragma unroll 4
    for (int e = threadIdx.x % 32; e < p.num_experts; e += 32) {
      if (keys[e] > best.key) best = {keys[e], e};
    }
    return best;
  }
  __device__ __forceinline__ void take(int taken) { keys[taken] = kTaken; }
  template <typename Visit>
  __device__ __forceinline__ void for_each_logit(const abi::RouteParams& p, Visit visit) const {
#pragma unroll 2
    for (int e = threadIdx.x % 32; e < p.num_experts; e += 32) visit(logits[e]);
  }
};

/// The maximum, and the sum over e of exp(logit - maximum), over all experts of a token.
template <typename Scores>
__device__ __forceinline__ float2 softmax_terms(const abi::RouteParams& p, const Scores& scores) {
  float largest = -__int_as_float(0x7f800000);
  scores.for_each_logit(p, [&](float logit) { largest = fmaxf(largest, logit); });
  largest = key_score(ptx::warp_max(score_key(largest)));
  float sum = 0.0f;
  scores.for_each_logit(p, [&](float logit) { sum += expf(logit - largest); });
  return {largest, ptx::warp_sum(sum)};
}

/// sqrt(log(1 + exp(x))) without overflow.
__device__ __forceinline__ float root_softplus(float x) {
  return sqrtf((x > 0.0f || x != x ? x : 0.0f) + log1pf(expf(-fabsf(x))));
}

/// Weight of the lane's slot (lanes from top_k on give 0) from the logit of its expert. `softmax`: of Chosen.
__device__ __forceinline__ float slot_weight(const abi::RouteParams& p, float2 softmax, float logit, bool active) {
  if (p.method == kRouteTopK) return active ? logit : 0.0f;
  float weight = 0.0f;
  switch (p.method) {
    case kRouteSoftmaxTopK:
    case kRouteSoftmaxTopKRenorm:  // what it is divided by cancels
    case kRouteTopKSoftmax:
    case kRouteDeepSeekV2:
      weight = expf(logit - softmax.x) / softmax.y;
      break;
    case kRouteHash:
      weight = root_softplus(logit);
      break;
    default:
      weight = score_sigmoid(logit);
  }
  if (!active) weight = 0.0f;
  float divisor = ptx::warp_sum(weight);
  float factor = 1.0f;
  switch (p.method) {
    case kRouteSoftmaxTopKRenorm:
    case kRouteTopKSoftmax:
      break;
    case kRouteDeepSeekV3:
      divisor = p.renormalize ? divisor + 1e-20f : 1.0f;
      factor = p.scaling;
      break;
    case kRouteMiniMax2:
      divisor += 1e-20f;
      factor = p.scaling;
      break;
    case kRouteHash:
      if (divisor == 0.0f) return 0.0f;
      factor = p.scaling;
      break;
    case kRouteDeepSeekV2:
      divisor = p.renormalize ? divisor + 1e-20f : 1.0f;
      factor = p.renormalize ? 1.0f : p.scaling;
      break;
    case kRouteSigmoid:
      divisor = p.renormalize ? fmaxf(divisor, 1e-20f) : 1.0f;
      break;
    default:
      divisor = 1.0f;
  }
  return weight / divisor * factor;
}

/// The lane's slot of a token that the table gives, -1 for a token that it does not have.
__device__ __forceinline__ int listed_expert(const abi::RouteParams& p, int token) {
  const int lane = threadIdx.x % 32;
  const long long id = p.wide_token_ids ? static_cast<const long long*>(p.token_ids)[token]
                                        : static_cast<const int*>(p.token_ids)[token];
  return id >= 0 && id < p.vocabulary && lane < p.top_k ? p.token_experts[id * p.top_k + lane] : -1;
}

/// What the scores of a token say: of each lane's slot; the terms of the softmax that weights are made of, which among
/// the chosen alone are the largest logit and 1 (NaN where softmax_terms gives NaN: a NaN logit is every slot's).
struct Chosen {
  Best best;
  float2 softmax;
};

/// The top_k best, one a lane. No expert: 0x7fffffff.
template <typename Scores>
__device__ __forceinline__ Chosen choose_best(const abi::RouteParams& p, int token, u32* shared) {
  constexpr int kNone = 0x7fffffff;
  const int lane = threadIdx.x % 32;
  Scores scores;
  scores.load(p, token);
  scores.score(p, shared);
  Best mine = scores.best(p), chosen = {kTaken, kNone};
#pragma unroll 1
  for (int slot = 0; slot < p.top_k; ++slot) {
    const u32 key = ptx::warp_max(mine.key);
    const bool ties = mine.key == key && key != kTaken;
    const int expert = static_cast<int>(ptx::warp_min(static_cast<u32>(ties ? mine.expert : kNone)));
    if (lane == slot) chosen = {key, expert};
    if (ties && mine.expert == expert) {
      scores.take(expert);
      mine = scores.best(p);
    }
  }
  __syncwarp();  // shared memory may hold another token
  if (p.method == kRouteSoftmaxTopK || p.method == kRouteDeepSeekV2) return {chosen, softmax_terms(p, scores)};
  float largest = key_score(__shfl_sync(0xffffffffu, chosen.key, 0));
  if (p.method == kRouteSoftmaxTopKRenorm) {
    bool is_nan = false;
    scores.for_each_logit(p, [&](float logit) { is_nan |= logit != logit; });
    if (__any_sync(0xffffffffu, is_nan)) largest = key_score(kNanKey);
  }
  return {chosen, {largest, 1.0f}};
}

/// A lane's slot of a token.
struct Slot {
  int id;
  float weight;
};

/// A token's slot number `slot` behind the routed ones.
__device__ __forceinline__ Slot shared_slot(const abi::RouteParams& p, int slot) {
  return {p.num_experts + slot - p.top_k, p.shared_weight};
}

/// One warp, one token. `shared`: num_experts words of this warp. Requires top_k + shared_slots <= 32.
__device__ __forceinline__ Slot select_experts(const abi::RouteParams& p, int token, u32* shared) {
  const int lane = threadIdx.x % 32;
  const bool listed = p.method == kRouteHash;
  Chosen chosen;
  if (listed) {
    chosen = {{kTaken, listed_expert(p, token)}, {0.0f, 1.0f}};
  } else if (p.num_experts <= 128) {
    chosen = choose_best<RegisterScores<4>>(p, token, shared);
  } else if (p.num_experts <= 256) {
    chosen = choose_best<RegisterScores<8>>(p, token, shared);
  } else {
    chosen = choose_best<SharedScores>(p, token, shared);
  }
  const int id = chosen.best.expert;
  // A table may name experts that do not exist; they have no logit.
  const bool active = lane < p.top_k && id >= 0 && id < p.num_experts;
  float logit = 0.0f;
  if (listed || selects_by_sigmoid(p.method)) {
    if (active) logit = p.logits[static_cast<long long>(token) * p.num_experts + id];
  } else if (active) {
    logit = key_score(chosen.best.key);
  }
  const float weight = slot_weight(p, chosen.softmax, logit, active);
  return lane < p.top_k ? Slot{id, weight} : shared_slot(p, lane);
}

}  // namespace moesaic
