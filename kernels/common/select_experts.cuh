// SPDX-License-Identifier: Apache-2.0
// Choosing the k experts of one token by one warp: every method of moesaic::RoutingMethod, ties to the lower id.
//
// Scores live in shared memory, one array a warp, as order-preserving integers: 0 = taken or outside the kept groups,
// 1 = NaN (chosen only when nothing else is left), above that by value. Each lane owns the experts lane, lane + 32, ...
// and remembers its best; a round is two warp reductions, and only the lane that lost its best looks again.
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

/// The value that decides: the logit, or sigmoid (+ bias). Softmax is monotone, so it selects by logit.
__device__ __forceinline__ float selection_score(const abi::RouteParams& p, float logit, int expert) {
  switch (p.method) {
    case kRouteDeepSeekV3:
    case kRouteMiniMax2:
      return score_sigmoid(logit) + (p.selection_bias != nullptr ? p.selection_bias[expert] : 0.0f);
    case kRouteSigmoid:
      return score_sigmoid(logit);
    default:
      return logit;
  }
}

/// Group score: V3 the sum of the two largest scores, V2 the largest. One lane per group.
__device__ __forceinline__ u32 group_key(const abi::RouteParams& p, const u32* keys, int group) {
  const int size = p.num_experts / p.n_group;
  u32 best = 0, second = 0;
#pragma unroll 1
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

/// Marks everything outside the topk_group best groups as taken. Requires n_group <= 32.
__device__ __forceinline__ void keep_best_groups(const abi::RouteParams& p, u32* keys) {
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
  const u32 kept_groups = __ballot_sync(0xffffffffu, kept);
  const int size = p.num_experts / p.n_group;
#pragma unroll 1
  for (int e = lane; e < p.num_experts; e += 32) {
    if (!(kept_groups >> (e / size) & 1u)) keys[e] = kTaken;
  }
  __syncwarp();
}

struct Best {
  u32 key;
  int expert;
};

/// The lane's best expert; strict comparison in ascending order keeps the lower id of equals.
__device__ __forceinline__ Best lane_best(const abi::RouteParams& p, const u32* keys) {
  Best best = {0, 0x7fffffff};
#pragma unroll 4
  for (int e = threadIdx.x % 32; e < p.num_experts; e += 32) {
    if (keys[e] > best.key) best = {keys[e], e};
  }
  return best;
}

/// Sum over e of exp(logit - max), and the maximum, over all experts of a token.
__device__ __forceinline__ float2 softmax_terms(const abi::RouteParams& p, const float* logits) {
  const int lane = threadIdx.x % 32;
  float largest = -__int_as_float(0x7f800000);
#pragma unroll 1
  for (int e = lane; e < p.num_experts; e += 32) largest = fmaxf(largest, logits[e]);
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, delta));
  }
  float sum = 0.0f;
#pragma unroll 1
  for (int e = lane; e < p.num_experts; e += 32) sum += expf(logits[e] - largest);
  return {largest, ptx::warp_sum(sum)};
}

/// sqrt(log(1 + exp(x))) without overflow.
__device__ __forceinline__ float root_softplus(float x) {
  return sqrtf((x > 0.0f || x != x ? x : 0.0f) + log1pf(expf(-fabsf(x))));
}

/// Weight of the lane's slot (lanes from top_k on give 0) from the logit of its expert.
__device__ __forceinline__ float slot_weight(const abi::RouteParams& p, const float* logits, float logit, bool active) {
  float weight = 0.0f;
  switch (p.method) {
    case kRouteSoftmaxTopK:
    case kRouteSoftmaxTopKRenorm:
    case kRouteDeepSeekV2: {
      const float2 terms = softmax_terms(p, logits);
      weight = active ? expf(logit - terms.x) / terms.y : 0.0f;
      break;
    }
    case kRouteTopKSoftmax: {
      float largest = active ? logit : -__int_as_float(0x7f800000);
#pragma unroll
      for (int delta = 16; delta > 0; delta /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, delta));
      }
      weight = active ? expf(logit - largest) : 0.0f;
      return weight / ptx::warp_sum(weight);
    }
    case kRouteTopK:
      return active ? logit : 0.0f;
    case kRouteHash:
      weight = active ? root_softplus(logit) : 0.0f;
      break;
    default:
      weight = active ? score_sigmoid(logit) : 0.0f;
  }
  const float sum = ptx::warp_sum(weight);
  switch (p.method) {
    case kRouteSoftmaxTopKRenorm:
      return weight / sum;
    case kRouteDeepSeekV3:
      return (p.renormalize ? weight / (sum + 1e-20f) : weight) * p.scaling;
    case kRouteMiniMax2:
      return weight / (sum + 1e-20f) * p.scaling;
    case kRouteHash:
      return sum == 0.0f ? 0.0f : weight / sum * p.scaling;
    case kRouteDeepSeekV2:
      return p.renormalize ? weight / (sum + 1e-20f) : weight * p.scaling;
    case kRouteSigmoid:
      return p.renormalize ? weight / fmaxf(sum, 1e-20f) : weight;
    default:
      return weight;
  }
}

/// The lane's slot of a token that the table gives, -1 for a token that it does not have.
__device__ __forceinline__ int listed_expert(const abi::RouteParams& p, int token) {
  const int lane = threadIdx.x % 32;
  const long long id = p.wide_token_ids ? static_cast<const long long*>(p.token_ids)[token]
                                        : static_cast<const int*>(p.token_ids)[token];
  return id >= 0 && id < p.vocabulary && lane < p.top_k ? p.token_experts[id * p.top_k + lane] : -1;
}

/// The lane's slot of a token by its scores. `keys`: num_experts words of shared memory of this warp.
__device__ __forceinline__ int best_expert(const abi::RouteParams& p, const float* logits, u32* keys) {
  const int lane = threadIdx.x % 32;
#pragma unroll 2
  for (int e = lane; e < p.num_experts; e += 32) keys[e] = score_key(selection_score(p, logits[e], e));
  __syncwarp();
  if (p.n_group > 1) keep_best_groups(p, keys);

  Best mine = lane_best(p, keys);
  int chosen = 0;
#pragma unroll 1
  for (int slot = 0; slot < p.top_k; ++slot) {
    const u32 key = ptx::warp_max(mine.key);
    const int expert = static_cast<int>(ptx::warp_min(mine.key == key ? static_cast<u32>(mine.expert) : 0x7fffffffu));
    if (lane == slot) chosen = expert;
    if (mine.expert == expert) {
      keys[expert] = kTaken;
      mine = lane_best(p, keys);
    }
  }
  __syncwarp();
  return chosen;
}

/// One warp, one token: writes ids[token] and weights[token]. Requires top_k + shared_slots <= 32.
__device__ __forceinline__ void select_experts(const abi::RouteParams& p, int token, u32* keys) {
  const int lane = threadIdx.x % 32, slots = p.top_k + p.shared_slots;
  const float* logits = p.logits + static_cast<long long>(token) * p.num_experts;
  int chosen = p.method == kRouteHash ? listed_expert(p, token) : best_expert(p, logits, keys);
  // A table may name experts that do not exist; they have no logit.
  const bool active = lane < p.top_k && chosen >= 0 && chosen < p.num_experts;
  float weight = slot_weight(p, logits, active ? logits[chosen] : 0.0f, active);
  if (lane >= p.top_k) {
    chosen = p.num_experts + lane - p.top_k;
    weight = p.shared_weight;
  }
  if (lane < slots) {
    p.ids[token * slots + lane] = chosen;
    p.weights[token * slots + lane] = weight;
  }
}

}  // namespace moesaic
