// SPDX-License-Identifier: Apache-2.0
// Argument checks that the reference loops and the fast path share: shapes, types and null pointers, no arithmetic.
// Each throws Error(kInvalidArgument) whose message begins with `operation`.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "moesaic/moe.h"
#include "tables/quant_table.h"

namespace moesaic::cpu {

using tables::shared_recipe;

/// Group counts of the grouped methods, 1 <= top_k <= num_experts, no more than the kept groups hold.
void check_routing(const char* operation, const Routing& routing, int num_experts, int top_k);

/// Sizes, recipes, int4 groups, activation parameters, routing, shared experts.
void check_config(const char* operation, const MoeConfig& config);

/// Shapes of all views against the configuration; formats against the recipes unless `any_format`.
void check_weights(const char* operation, const MoeConfig& config, const MoeWeights& weights, bool any_format = false);

/// The same for one expert, in the recipe's format.
void check_expert(const char* operation, const MoeConfig& config, int expert, const ExpertWeights& weights);

/// Shapes, types and pointers of one run; `x_types` and `out_types` list what the caller takes.
void check_run(const char* operation, const MoeConfig& config, const MoeRun& run, std::span<const DType> x_types,
               std::span<const DType> out_types);

/// True when the run needs logits: routing is not given, or the caller wants to see them.
bool needs_logits(const MoeRun& run) noexcept;

}  // namespace moesaic::cpu
