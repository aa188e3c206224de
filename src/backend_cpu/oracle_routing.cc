// SPDX-License-Identifier: Apache-2.0
// The oracle's routing, one token at a time by repeated search for the best expert. Selection scores are FP32 values,
// as the routers of the model families have them, so that scores that are equal there tie here as well.
// NaN scores: chosen only when nothing else is left (then by id), so ids stay distinct and within [0, E).
#include <fmt/format.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend_cpu/arguments.h"
#include "backend_cpu/backend_cpu.h"

namespace moesaic::cpu {
namespace {

constexpr double kTiny = 1e-20;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

float sigmoid(float x) { return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(x)))); }

// Softmax in FP64 of the logits listed; NaN anywhere makes every probability NaN.
std::vector<double> softmax(const std::vector<float>& logits) {
  double largest = -HUGE_VAL;
  for (float logit : logits) {
    if (logit > largest) largest = logit;
  }
  std::vector<double> result;
  double sum = 0.0;
  for (float logit : logits) {
    // Equal infinities have distance 0, not NaN.
    const double distance = static_cast<double>(logit) == largest ? 0.0 : logit - largest;
    result.push_back(std::exp(distance));
    sum += result.back();
  }
  for (double& value : result) value /= sum;
  return result;
}

// What one token's routing works on; all of size E.
struct Scores {
  std::vector<float> selection;  // what experts are chosen by
  std::vector<float> weight;     // what the weights are made of
  std::vector<bool> allowed;     // false: its group was not kept
};

bool beats(float challenger, float champion) {
  return challenger > champion || (std::isnan(champion) && !std::isnan(challenger));
}

std::vector<int> select_top(const Scores& scores, int top_k) {
  std::vector<bool> taken(scores.selection.size(), false);
  std::vector<int> chosen;
  for (int slot = 0; slot < top_k; ++slot) {
    int best = -1;
    for (int e = 0; e < static_cast<int>(scores.selection.size()); ++e) {
      if (taken[e] || !scores.allowed[e]) continue;
      if (best < 0 || beats(scores.selection[e], scores.selection[best])) best = e;
    }
    taken[best] = true;
    chosen.push_back(best);
  }
  return chosen;
}

// Score of the experts [first, first + size): their maximum (V2) or the FP32 sum of their two largest (V3).
float group_score(RoutingMethod method, const std::vector<float>& selection, int first, int size) {
  float largest = kMinusInfinity, second = kMinusInfinity;
  for (int e = first; e < first + size; ++e) {
    const float score = selection[e];
    if (score > largest) {
      second = largest;
      largest = score;
    } else if (score > second) {
      second = score;
    }
  }
  return method == RoutingMethod::kDeepSeekV2 ? largest : largest + second;
}

void keep_best_groups(const Routing& routing, Scores& scores) {
  const int size = static_cast<int>(scores.selection.size()) / routing.n_group;
  Scores groups;
  for (int group = 0; group < routing.n_group; ++group) {
    groups.selection.push_back(group_score(routing.method, scores.selection, group * size, size));
  }
  groups.allowed.assign(routing.n_group, true);
  scores.allowed.assign(scores.selection.size(), false);
  for (int group : select_top(groups, routing.topk_group)) {
    for (int e = group * size; e < (group + 1) * size; ++e) scores.allowed[e] = true;
  }
}

Scores make_scores(const Routing& routing, const std::vector<float>& logits, const float* selection_bias) {
  Scores scores;
  scores.allowed.assign(logits.size(), true);
  switch (routing.method) {
    case RoutingMethod::kSoftmaxTopK:
    case RoutingMethod::kSoftmaxTopKRenorm:
    case RoutingMethod::kDeepSeekV2:
      for (double probability : softmax(logits)) scores.weight.push_back(static_cast<float>(probability));
      scores.selection = scores.weight;
      break;
    case RoutingMethod::kDeepSeekV3:
    case RoutingMethod::kMiniMax2:
      for (std::size_t e = 0; e < logits.size(); ++e) {
        scores.weight.push_back(sigmoid(logits[e]));
        scores.selection.push_back(scores.weight[e] + (selection_bias != nullptr ? selection_bias[e] : 0.0f));
      }
      break;
    case RoutingMethod::kSigmoid:
      for (float logit : logits) scores.weight.push_back(sigmoid(logit));
      scores.selection = scores.weight;
      break;
    case RoutingMethod::kLlama4:
      for (float logit : logits) scores.weight.push_back(sigmoid(logit));
      scores.selection = logits;
      break;
    case RoutingMethod::kTopK:
    case RoutingMethod::kTopKSoftmax:
      scores.weight = logits;
      scores.selection = logits;
      break;
    case RoutingMethod::kHash:
      break;  // not by scores: see route_by_token
  }
  const bool grouped = routing.method == RoutingMethod::kDeepSeekV3 || routing.method == RoutingMethod::kDeepSeekV2;
  if (grouped && routing.n_group > 1) keep_best_groups(routing, scores);
  return scores;
}

std::vector<double> final_weights(const Routing& routing, const std::vector<float>& chosen) {
  double sum = 0.0;
  for (float weight : chosen) sum += weight;
  std::vector<double> result(chosen.begin(), chosen.end());
  switch (routing.method) {
    case RoutingMethod::kSoftmaxTopK:
    case RoutingMethod::kLlama4:
    case RoutingMethod::kTopK:
      break;
    case RoutingMethod::kSoftmaxTopKRenorm:
      for (double& weight : result) weight /= sum;
      break;
    case RoutingMethod::kTopKSoftmax:
      result = softmax(chosen);
      break;
    case RoutingMethod::kDeepSeekV3:
      for (double& weight : result) weight = (routing.renormalize ? weight / (sum + kTiny) : weight) * routing.scaling;
      break;
    case RoutingMethod::kMiniMax2:
      for (double& weight : result) weight = weight / (sum + kTiny) * routing.scaling;
      break;
    case RoutingMethod::kDeepSeekV2:
      for (double& weight : result) weight = routing.renormalize ? weight / (sum + kTiny) : weight * routing.scaling;
      break;
    case RoutingMethod::kSigmoid:
      if (!routing.renormalize) break;
      for (double& weight : result) weight /= sum < kTiny ? kTiny : sum;
      break;
    case RoutingMethod::kHash:
      for (double& weight : result) weight = sum == 0.0 ? 0.0 : weight / sum * routing.scaling;
      break;
  }
  return result;
}

// sqrt(log(1 + exp(x))) without overflow.
float root_softplus(float x) {
  const double wide = static_cast<double>(x);
  const double softplus = wide > 0.0 ? wide + std::log1p(std::exp(-wide)) : std::log1p(std::exp(wide));
  return static_cast<float>(std::sqrt(softplus));
}

void route_by_token(const Routing& routing, const RouteTask& task, std::int64_t token) {
  const std::int64_t id = task.token_ids != nullptr ? task.token_ids[token] : -1;
  std::vector<float> chosen_weights;
  for (int slot = 0; slot < task.top_k; ++slot) {
    const bool known = 0 <= id && id < routing.vocabulary;
    const std::int32_t expert = known ? task.token_experts[id * task.top_k + slot] : -1;
    const bool counts = 0 <= expert && expert < task.num_experts;
    task.ids[token * task.top_k + slot] = expert;
    chosen_weights.push_back(counts ? root_softplus(task.logits[token * task.num_experts + expert]) : 0.0f);
  }
  const std::vector<double> final = final_weights(routing, chosen_weights);
  for (int slot = 0; slot < task.top_k; ++slot) {
    task.weights[token * task.top_k + slot] = static_cast<float>(final[slot]);
  }
}

}  // namespace

void route(const Routing& routing, const RouteTask& task) {
  check_routing("route", routing, task.num_experts, task.top_k);
  for (std::int64_t t = 0; t < task.tokens; ++t) {
    if (routing.method == RoutingMethod::kHash) {
      route_by_token(routing, task, t);
      continue;
    }
    const std::vector<float> row(task.logits + t * task.num_experts, task.logits + (t + 1) * task.num_experts);
    const Scores scores = make_scores(routing, row, task.selection_bias);
    const std::vector<int> chosen = select_top(scores, task.top_k);
    std::vector<float> chosen_weights;
    for (int e : chosen) chosen_weights.push_back(scores.weight[e]);
    const std::vector<double> final = final_weights(routing, chosen_weights);
    for (int slot = 0; slot < task.top_k; ++slot) {
      task.ids[t * task.top_k + slot] = chosen[slot];
      task.weights[t * task.top_k + slot] = static_cast<float>(final[slot]);
    }
  }
}

void route(const Routing& routing, const float* logits, const float* selection_bias, std::int64_t tokens,
           int num_experts, int top_k, std::int32_t* ids, float* weights) {
  RouteTask task;
  task.tokens = tokens;
  task.num_experts = num_experts;
  task.top_k = top_k;
  task.logits = logits;
  task.selection_bias = selection_bias;
  task.ids = ids;
  task.weights = weights;
  route(routing, task);
}

}  // namespace moesaic::cpu
