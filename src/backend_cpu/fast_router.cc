// SPDX-License-Identifier: Apache-2.0
// Routing as an op of its own on the CPU: tokens in parallel, then one counting sort.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_routing.h"
#include "backend_cpu/fast_threads.h"

namespace moesaic::cpu {
namespace {

constexpr std::int64_t kTokensPerTask = 32;

class RouterRun {
 public:
  RouterRun(const RouterConfig& config, const RouteRun& run, std::int64_t tokens)
      : config_(config), run_(run), tokens_(tokens), slots_(config.top_k + config.shared_slots) {}

  void choose() const {
    const std::vector<float> no_bias(static_cast<std::size_t>(config_.num_experts), 0.0f);
    const float* bias = run_.selection_bias.empty() ? no_bias.data() : floats(run_.selection_bias);
    parallel_for((tokens_ + kTokensPerTask - 1) / kTokensPerTask, [&](std::int64_t task, int) {
      std::vector<std::uint64_t> scratch(route_scratch_bytes(config_.num_experts) / sizeof(std::uint64_t) + 1);
      const std::int64_t end = std::min(tokens_, (task + 1) * kTokensPerTask);
      for (std::int64_t token = task * kTokensPerTask; token < end; ++token) choose_one(token, bias, scratch.data());
    });
  }

  void sort() const {
    const std::vector<int> local = local_experts();
    const std::int64_t entries = tokens_ * slots_;
    std::int32_t* offsets = integers(run_.row_offsets);
    const std::int64_t experts = run_.row_offsets.shape[0] - 1;
    std::fill_n(offsets, experts + 1, 0);
    const auto expert_of = [&](std::int64_t entry) {
      const std::int32_t id = integers(run_.ids)[entry];
      return id >= 0 && id < static_cast<std::int32_t>(local.size()) ? local[static_cast<std::size_t>(id)] : -1;
    };
    for (std::int64_t entry = 0; entry < entries; ++entry) {
      if (const int expert = expert_of(entry); expert >= 0) ++offsets[expert + 1];
    }
    for (std::int64_t e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
    std::vector<std::int32_t> next(offsets, offsets + experts);
    for (std::int64_t entry = 0; entry < entries; ++entry) {
      const int expert = expert_of(entry);
      const std::int32_t row = expert < 0 ? -1 : next[static_cast<std::size_t>(expert)]++;
      integers(run_.slot_row)[entry] = row;
      if (row < 0) continue;
      integers(run_.row_token)[row] = static_cast<std::int32_t>(entry / slots_);
      floats(run_.row_weight)[row] = floats(run_.weights)[entry];
    }
  }

 private:
  static float* floats(const TensorView& tensor) { return static_cast<float*>(tensor.data); }
  static std::int32_t* integers(const TensorView& tensor) { return static_cast<std::int32_t*>(tensor.data); }

  void choose_one(std::int64_t token, const float* bias, void* scratch) const {
    const int k = config_.top_k, experts = config_.num_experts;
    std::int32_t* ids = integers(run_.ids) + token * slots_;
    float* weights = floats(run_.weights) + token * slots_;
    if (!run_.given_ids.empty()) {
      std::copy_n(integers(run_.given_ids) + token * slots_, slots_, ids);
      std::copy_n(floats(run_.given_weights) + token * slots_, slots_, weights);
      return;
    }
    const float* logits = floats(run_.logits) + token * experts;
    if (config_.routing.method == RoutingMethod::kHash) {
      const std::int64_t id = run_.token_ids.dtype == DType::kI64
                                  ? static_cast<const std::int64_t*>(run_.token_ids.data)[token]
                                  : static_cast<const std::int32_t*>(run_.token_ids.data)[token];
      const bool known = id >= 0 && id < config_.routing.vocabulary;
      fast_route_listed(config_.routing, logits, known ? integers(run_.token_experts) + id * k : nullptr, experts, k,
                        ids, weights);
    } else {
      fast_route_token(config_.routing, logits, bias, experts, k, scratch, ids, weights);
    }
    for (int shared = 0; shared < config_.shared_slots; ++shared) {
      ids[k + shared] = experts + shared;
      weights[k + shared] = config_.shared_weight;
    }
  }

  // [E + shared_slots]: number among the sorted, -1: not held.
  std::vector<int> local_experts() const {
    const int held = static_cast<int>(run_.row_offsets.shape[0]) - 1 - config_.shared_slots;
    std::vector<int> local = config_.experts.slots;
    for (int id = static_cast<int>(local.size()); id < config_.num_experts; ++id) {
      const int slot = id - config_.experts.first;
      local.push_back(slot >= 0 && slot < held ? slot : -1);
    }
    for (int shared = 0; shared < config_.shared_slots; ++shared) local.push_back(held + shared);
    return local;
  }

  const RouterConfig& config_;
  const RouteRun& run_;
  const std::int64_t tokens_, slots_;
};

}  // namespace

void fast_route(const RouterConfig& config, const RouteRun& run, std::int64_t tokens) {
  const RouterRun router(config, run, tokens);
  router.choose();
  if (!run.row_offsets.empty()) router.sort();
}

}  // namespace moesaic::cpu
