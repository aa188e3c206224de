// SPDX-License-Identifier: Apache-2.0
// Cases of Router.
#include "support/router_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "backend_cpu/backend_cpu.h"

namespace moesaic::testing {
namespace {

int held_experts(const RouterConfig& c) {
  if (c.experts.slots.empty()) return c.experts.count == 0 ? c.num_experts : c.experts.count;
  return static_cast<int>(std::count_if(c.experts.slots.begin(), c.experts.slots.end(), [](int s) { return s >= 0; }));
}

// Number among the sorted, -1: not sorted.
int local_expert(const RouterConfig& c, int id) {
  if (id < 0 || id >= c.num_experts + c.shared_slots) return -1;
  if (id >= c.num_experts) return held_experts(c) + id - c.num_experts;
  if (!c.experts.slots.empty()) return c.experts.slots[static_cast<std::size_t>(id)];
  const int slot = id - c.experts.first;
  return slot >= 0 && slot < held_experts(c) ? slot : -1;
}

}  // namespace

int RouterCase::sorted_experts() const { return held_experts(config) + config.shared_slots; }

RouterCase random_router_case(std::mt19937& rng, const RouterConfig& config, std::int64_t tokens) {
  RouterCase c;
  c.config = config;
  c.tokens = tokens;
  std::vector<int> order(static_cast<std::size_t>(config.num_experts));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::shuffle(order.begin(), order.end(), rng);
    for (const int rank : order) {
      c.logits.push_back(8.0f * (static_cast<float>(rank) + 0.5f) / static_cast<float>(config.num_experts) - 4.0f);
    }
  }
  if (has_selection_bias(config.routing.method)) {
    for (int e = 0; e < config.num_experts; ++e) c.selection_bias.push_back(static_cast<float>(rng() % 1000) / 1000.0f);
  }
  if (config.routing.method == RoutingMethod::kHash) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      c.token_ids.push_back(static_cast<std::int64_t>(rng() % static_cast<unsigned>(config.routing.vocabulary + 4)) -
                            2);
    }
    for (int i = 0; i < config.routing.vocabulary * config.top_k; ++i) {
      c.token_experts.push_back(static_cast<int>(rng() % static_cast<unsigned>(config.num_experts + 4)) - 2);
    }
  }
  return c;
}

RouterResult oracle_routing(const RouterCase& c) {
  const int k = c.config.top_k;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(c.tokens * k));
  std::vector<float> weights(ids.size());
  cpu::RouteTask task;
  task.tokens = c.tokens;
  task.num_experts = c.config.num_experts;
  task.top_k = k;
  task.logits = c.logits.data();
  task.selection_bias = c.selection_bias.empty() ? nullptr : c.selection_bias.data();
  task.token_ids = c.token_ids.data();
  task.token_experts = c.token_experts.data();
  task.ids = ids.data();
  task.weights = weights.data();
  cpu::route(c.config.routing, task);
  RouterResult result;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    for (int slot = 0; slot < k; ++slot) {
      result.ids.push_back(ids[static_cast<std::size_t>(t * k + slot)]);
      result.weights.push_back(weights[static_cast<std::size_t>(t * k + slot)]);
    }
    for (int shared = 0; shared < c.config.shared_slots; ++shared) {
      result.ids.push_back(c.config.num_experts + shared);
      result.weights.push_back(c.config.shared_weight);
    }
  }
  return result;
}

void expect_sorted_rows(const RouterCase& c, const RouterResult& result) {
  std::vector<std::int32_t> offsets = {0}, row_token, slot_row(result.ids.size(), -1);
  std::vector<float> row_weight;
  for (int expert = 0; expert < c.sorted_experts(); ++expert) {
    for (std::size_t entry = 0; entry < result.ids.size(); ++entry) {
      if (local_expert(c.config, result.ids[entry]) != expert) continue;
      slot_row[entry] = static_cast<std::int32_t>(row_token.size());
      row_token.push_back(static_cast<std::int32_t>(static_cast<std::int64_t>(entry) / c.slots()));
      row_weight.push_back(result.weights[entry]);
    }
    offsets.push_back(static_cast<std::int32_t>(row_token.size()));
  }
  EXPECT_EQ(result.row_offsets, offsets);
  EXPECT_EQ(result.slot_row, slot_row);
  ASSERT_GE(result.row_token.size(), row_token.size());
  EXPECT_TRUE(std::equal(row_token.begin(), row_token.end(), result.row_token.begin()));
  EXPECT_TRUE(std::equal(row_weight.begin(), row_weight.end(), result.row_weight.begin()));
}

std::vector<RouterConfig> router_configs(Device device) {
  std::vector<RouterConfig> all;
  for (int number = 0; number < kNumRoutingMethods; ++number) {
    RouterConfig c;
    c.num_experts = 48, c.top_k = 6, c.max_tokens = 2000, c.device = device;
    c.routing.method = static_cast<RoutingMethod>(number);
    c.routing.scaling = 2.5f;
    c.routing.vocabulary = 31;
    if (c.routing.method == RoutingMethod::kDeepSeekV2 || c.routing.method == RoutingMethod::kDeepSeekV3) {
      c.routing.n_group = 8, c.routing.topk_group = 3;
    }
    if (number % 3 == 1) c.experts.first = 17, c.experts.count = 23;
    if (number % 3 == 2) {
      c.experts.slots.assign(48, -1);
      for (int slot = 0; slot < 20; ++slot) c.experts.slots[static_cast<std::size_t>(47 - 2 * slot)] = slot;
    }
    c.shared_slots = number % 2 == 0 ? 0 : 2;
    c.shared_weight = 0.4f;
    all.push_back(c);
  }
  return all;
}

}  // namespace moesaic::testing
