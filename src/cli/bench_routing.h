// SPDX-License-Identifier: Apache-2.0
// Routings to measure with: seeded router logits, whose largest are a token's experts.
#pragma once

#include <string>
#include <vector>

#include "moesaic/moe.h"

namespace moesaic::cli {

inline constexpr int kBenchRoutings = 16;  // seeded ones of a kind; times are means over them

/// How popular experts are: all alike, or 1 / rank^zipf, their ranks a random permutation in every routing.
struct BenchRouting {
  double zipf = 0;  // 0: uniform

  std::string name() const;  // "uniform", "zipf:1"
  bool operator==(const BenchRouting&) const = default;
};
/// "uniform", "zipf" (exponent 1) or "zipf:S". Throws Error(kInvalidArgument).
BenchRouting parse_routing(const std::string& text);

/// Logits of routing `seed`: [tokens, E]. The k largest of a token are k experts drawn one after the other, without
/// replacement, by their popularity.
std::vector<float> bench_logits(const BenchRouting& routing, int tokens, int experts, int seed);

/// Means over the routings.
struct RoutingLoad {
  double touched_experts = 0;  // that get a token
  double largest_load = 0;     // tokens of the expert that gets most
};
RoutingLoad routing_load(const BenchRouting& routing, const MoeConfig& config, int tokens);

}  // namespace moesaic::cli
