// SPDX-License-Identifier: Apache-2.0
// Routing of one token by partial sorting of (score, id) keys.
#include "backend_cpu/fast_routing.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>

namespace moesaic::cpu {
namespace {

constexpr double kSmallest = 1e-20;

// Larger key = chosen earlier: order-preserving bits of the score above, then the lower id. NaN gets the lowest bits.
std::uint64_t selection_key(float score, std::uint32_t id) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(score + 0.0f);  // -0 ties with +0
  const std::uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<std::uint64_t>(score == score ? ordered : 0u) << 32 | (0xffffffffu - id);
}
std::uint32_t key_id(std::uint64_t key) { return 0xffffffffu - static_cast<std::uint32_t>(key); }

void take_largest(std::uint64_t* keys, int count, int wanted) {
  std::partial_sort(keys, keys + wanted, keys + count, [](std::uint64_t a, std::uint64_t b) { return a > b; });
}

float logistic(float x) { return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(x)))); }

void probabilities(const float* logits, int count, float* result) {
  float top = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < count; ++i) top = logits[i] > top ? logits[i] : top;
  // The difference of equal infinities would be NaN.
  const auto power = [&](float logit) { return logit == top ? 1.0 : std::exp(static_cast<double>(logit) - top); };
  double sum = 0.0;
  for (int i = 0; i < count; ++i) sum += power(logits[i]);
  for (int i = 0; i < count; ++i) result[i] = static_cast<float>(power(logits[i]) / sum);
}

struct Scratch {
  std::uint64_t* keys;        // [E], of the experts that may be chosen
  std::uint64_t* group_keys;  // [E], of groups
};

// Keys of the experts that may be chosen: all, or those of the best groups. Returns how many.
int fill_keys(const Routing& routing, const float* selection, int num_experts, const Scratch& scratch) {
  const bool grouped = (routing.method == RoutingMethod::kDeepSeekV2 || routing.method == RoutingMethod::kDeepSeekV3) &&
                       routing.n_group > 1;
  const int groups = grouped ? routing.n_group : 1;
  const int kept = grouped ? routing.topk_group : 1;
  const int size = num_experts / groups;
  for (int group = 0; grouped && group < groups; ++group) {
    float best[2] = {-std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
    for (int e = group * size; e < (group + 1) * size; ++e) {
      const float score = selection[e];
      if (score > best[0]) std::swap(best[0], best[1]);
      float& place = score > best[0] ? best[0] : best[1];
      if (score > place) place = score;
    }
    const float score = routing.method == RoutingMethod::kDeepSeekV2 ? best[0] : best[0] + best[1];
    scratch.group_keys[group] = selection_key(score, static_cast<std::uint32_t>(group));
  }
  if (grouped) take_largest(scratch.group_keys, groups, kept);
  int count = 0;
  for (int i = 0; i < kept; ++i) {
    const int first = grouped ? static_cast<int>(key_id(scratch.group_keys[i])) * size : 0;
    for (int e = first; e < first + size; ++e) {
      scratch.keys[count++] = selection_key(selection[e], static_cast<std::uint32_t>(e));
    }
  }
  return count;
}

void finish_weights(const Routing& routing, int top_k, float* weights) {
  double sum = 0.0;
  for (int i = 0; i < top_k; ++i) sum += weights[i];
  double factor = 1.0;
  switch (routing.method) {
    case RoutingMethod::kSoftmaxTopKRenorm:
      factor = 1.0 / sum;
      break;
    case RoutingMethod::kDeepSeekV3:
      factor = routing.renormalize ? routing.scaling / (sum + kSmallest) : routing.scaling;
      break;
    case RoutingMethod::kDeepSeekV2:
      factor = routing.renormalize ? 1.0 / (sum + kSmallest) : routing.scaling;
      break;
    case RoutingMethod::kSigmoid:
      if (routing.renormalize) factor = 1.0 / (sum < kSmallest ? kSmallest : sum);
      break;
    case RoutingMethod::kMiniMax2:
      factor = routing.scaling / (sum + kSmallest);
      break;
    case RoutingMethod::kHash:
      factor = sum == 0.0 ? 0.0 : routing.scaling / sum;
      break;
    case RoutingMethod::kTopKSoftmax:
      probabilities(weights, top_k, weights);
      return;
    case RoutingMethod::kSoftmaxTopK:
    case RoutingMethod::kLlama4:
    case RoutingMethod::kTopK:
      return;
  }
  for (int i = 0; i < top_k; ++i) weights[i] = static_cast<float>(weights[i] * factor);
}

}  // namespace

std::size_t route_scratch_bytes(int num_experts) {
  return static_cast<std::size_t>(num_experts) * (2 * sizeof(std::uint64_t) + 2 * sizeof(float));
}

void fast_route_token(const Routing& routing, const float* logits, const float* selection_bias, int num_experts,
                      int top_k, void* memory, std::int32_t* ids, float* weights) {
  auto* keys = static_cast<std::uint64_t*>(memory);
  auto* values = reinterpret_cast<float*>(keys + 2 * num_experts);
  const Scratch scratch{keys, keys + num_experts};
  float* biased = values + num_experts;
  const float* weight_source = values;
  const float* selection = values;
  switch (routing.method) {
    case RoutingMethod::kSoftmaxTopK:
    case RoutingMethod::kSoftmaxTopKRenorm:
    case RoutingMethod::kDeepSeekV2:
      probabilities(logits, num_experts, values);
      break;
    case RoutingMethod::kSigmoid:
    case RoutingMethod::kLlama4:
      for (int e = 0; e < num_experts; ++e) values[e] = logistic(logits[e]);
      if (routing.method == RoutingMethod::kLlama4) selection = logits;
      break;
    case RoutingMethod::kDeepSeekV3:
    case RoutingMethod::kMiniMax2:
      for (int e = 0; e < num_experts; ++e) {
        values[e] = logistic(logits[e]);
        biased[e] = values[e] + selection_bias[e];
      }
      selection = biased;
      break;
    case RoutingMethod::kTopK:
    case RoutingMethod::kTopKSoftmax:
      weight_source = logits;
      selection = logits;
      break;
    case RoutingMethod::kHash:
      return;  // excluded
  }
  const int count = fill_keys(routing, selection, num_experts, scratch);
  take_largest(keys, count, top_k);
  for (int slot = 0; slot < top_k; ++slot) {
    ids[slot] = static_cast<std::int32_t>(key_id(keys[slot]));
    weights[slot] = weight_source[ids[slot]];
  }
  finish_weights(routing, top_k, weights);
}

void fast_route_listed(const Routing& routing, const float* logits, const std::int32_t* listed, int num_experts,
                       int top_k, std::int32_t* ids, float* weights) {
  for (int slot = 0; slot < top_k; ++slot) {
    ids[slot] = listed != nullptr ? listed[slot] : -1;
    weights[slot] = 0.0f;
    if (ids[slot] < 0 || ids[slot] >= num_experts) continue;
    const double x = logits[ids[slot]];
    // exp(-|x|) cannot overflow.
    weights[slot] = static_cast<float>(std::sqrt(std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x)))));
  }
  finish_weights(routing, top_k, weights);
}

}  // namespace moesaic::cpu
