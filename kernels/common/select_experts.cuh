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
  kRouteHash,
};

inline constexpr u32 kTaken = 0;
inline constexpr u32 kNanKey = 1;

/// Order-preserving: a < b as floats <=> key(a) < key(b); -0 counts as 0.
__device__ __forceinline__ u32 score_key(float score) {
  if (score != score) return kNanKey;
  const u32 bits = __float_as_uint(score + 0.0f);  // -0 + 0 = 0
  const u32 key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return key < 2 ? 2 : key;
}

__device__ __forceinline__ float key_score(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/// Accurate: ties and near-ties are decided by it.
__device__ __forceinline__ float score_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ bool selects_by_sigmoid(int method) {
  return method == kRouteDeepSeekV3 || method == kRouteMiniMax2 || method == kRouteSigmoid;
}

/// The value that decides: the logit, or sigmoid (+ bias). Softmax is monotone, so it selects by logit.
__device__ __forceinline__ float selection_score(const abi::RouteParams& p, float logit, int expert) {
  if (!selects_by_sigmoid(p.method)) return logit;
  const bool biased = p.method != kRouteSigmoid && p.selection_bias != nullptr;
  return score_sigmoid(logit) + (biased ? p.selection_bias[expert] : 0.0f);
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

struct Best {
  u32 key;
  int expert;
};

/// Scores of at most 32 * kPerLane experts, in registers: element i is of expert lane + 32 i.
template <int kPerLane>
struct RegisterScores {
  float logits[kPerLane];
  u32 keys[kPerLane];

  __device__ __forceinline__ static int expert(int i) { return static_cast<int>(threadIdx.x) % 32 + 32 * i; }

  /// All loads are in flight at once. Nothing happens for a token that does not exist.
  __device__ __forceinline__ void load(const abi::RouteParams& p, int token, int end_token) {
    const float* row = p.logits + static_cast<long long>(token) * p.num_experts;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      logits[i] = expert(i) < p.num_experts && token < end_token ? row[expert(i)] : 0.0f;
    }
  }
  /// `shared`: num_experts words of this warp, used with groups only.
  __device__ __forceinline__ void score(const abi::RouteParams& p, u32* shared) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const bool exists = expert(i) < p.num_experts;
      keys[i] = exists ? score_key(selection_score(p, logits[i], expert(i))) : kTaken;
      if (exists && p.n_group > 1) shared[expert(i)] = keys[i];
    }
    if (p.n_group <= 1) return;
    __syncwarp();  // keys of all experts are there
    const u32 kept = best_groups(p, shared);
    const int size = p.num_experts / p.n_group;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (expert(i) < p.num_experts && !(kept >> expert(i) / size & 1u)) keys[i] = kTaken;
    }
    __syncwarp();  // everyone has read the keys of this token
  }
  /// The lane's best expert; strict comparison in ascending order keeps the lower id of equals.
  __device__ __forceinline__ Best best(const abi::RouteParams&) const {
    Best best = {kTaken, 0x7fffffff};
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (keys[i] > best.key) best = {keys[i], expert(i)};
    }
    return best;
  }
  __device__ __forceinline__ void take(int taken) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (expert(i) == taken) keys[i] = kTaken;
    }
  }
  /// visit(logit) of the lane's experts in ascending order.
  template <typename Visit>
  __device__ __forceinline__ void for_each_logit(const abi::RouteParams& p, Visit visit) const {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (expert(i) < p.num_experts) visit(logits[i]);
    }
  }
};

/// Scores of any number of experts, in shared memory.
struct SharedScores {
  const float* logits;
  u32* keys;

  __device__ __forceinline__ void load(const abi::RouteParams& p, int token, int) {
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

/// Weight of the lane's slot (lanes from top_k on give 0) from the logit of its expert. `softmax`: softmax_terms of the
/// methods that weigh by it.
__device__ __forceinline__ float slot_weight(const abi::RouteParams& p, float2 softmax, float logit, bool active) {
  if (p.method == kRouteTopK) return active ? logit : 0.0f;
  float weight = 0.0f;
  switch (p.method) {
    case kRouteSoftmaxTopK:
    case kRouteSoftmaxTopKRenorm:
    case kRouteDeepSeekV2:
      weight = expf(logit - softmax.x) / softmax.y;
      break;
    case kRouteTopKSoftmax:
      weight = expf(logit - key_score(ptx::warp_max(active ? score_key(logit) : kNanKey)));
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

/// The lane's slot of a token by its scores.
template <typename Scores>
__device__ __forceinline__ int best_expert(const abi::RouteParams& p, Scores& scores, u32* shared) {
  const int lane = threadIdx.x % 32;
  scores.score(p, shared);
  Best mine = scores.best(p);
  int chosen = 0;
#pragma unroll 1
  for (int slot = 0; slot < p.top_k; ++slot) {
    const u32 key = ptx::warp_max(mine.key);
    const int expert = static_cast<int>(ptx::warp_min(mine.key == key ? static_cast<u32>(mine.expert) : 0x7fffffffu));
    if (lane == slot) chosen = expert;
    if (mine.expert == expert) {
      scores.take(expert);
      mine = scores.best(p);
    }
  }
  __syncwarp();  // shared memory may hold another token
  return chosen;
}

/// A lane's slot of a token.
struct Slot {
  int id;
  float weight;
};

/// One warp, one token, whose scores are loaded. Requires top_k + shared_slots <= 32.
template <typename Scores>
__device__ __forceinline__ Slot select_experts(const abi::RouteParams& p, int token, Scores& scores, u32* shared) {
  const int lane = threadIdx.x % 32;
  const int chosen = p.method == kRouteHash ? listed_expert(p, token) : best_expert(p, scores, shared);
  // A table may name experts that do not exist; they have no logit.
  const bool active = lane < p.top_k && chosen >= 0 && chosen < p.num_experts;
  const float logit = active ? p.logits[static_cast<long long>(token) * p.num_experts + chosen] : 0.0f;
  const bool by_softmax =
      p.method == kRouteSoftmaxTopK || p.method == kRouteSoftmaxTopKRenorm || p.method == kRouteDeepSeekV2;
  const float2 softmax = by_softmax ? softmax_terms(p, scores) : float2{0.0f, 1.0f};
  const float weight = slot_weight(p, softmax, logit, active);
  return lane < p.top_k ? Slot{chosen, weight} : Slot{p.num_experts + lane - p.top_k, p.shared_weight};
}

}  // namespace moesaic
