// SPDX-License-Identifier: Apache-2.0
// Cases of Router: random inputs, what the oracle chooses, and what sorted rows must look like.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "moesaic/route.h"

namespace moesaic::testing {

struct RouterCase {
  RouterConfig config;
  std::int64_t tokens = 0;
  std::vector<float> logits, selection_bias;  // bias empty: none
  std::vector<std::int64_t> token_ids;
  std::vector<std::int32_t> token_experts;
  std::int64_t slots() const { return config.top_k + config.shared_slots; }
  int sorted_experts() const;
};

struct RouterResult {
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
  std::vector<std::int32_t> row_offsets, row_token, slot_row;
  std::vector<float> row_weight;
};

/// Logits of a token are a permutation of E values in [-4, 4] at equal distances: no ties.
RouterCase random_router_case(std::mt19937& rng, const RouterConfig& config, std::int64_t tokens);

/// ids and weights by the oracle, shared slots appended.
RouterResult oracle_routing(const RouterCase& c);

/// Fails unless the rows are what a stable sort of result.ids by local expert gives.
void expect_sorted_rows(const RouterCase& c, const RouterResult& result);

/// Configurations that reach every method and every form of the expert map.
std::vector<RouterConfig> router_configs(Device device);

}  // namespace moesaic::testing
