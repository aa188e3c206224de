// SPDX-License-Identifier: Apache-2.0
// Routing of the fast path: written apart from the oracle's, so that tests compare two things.
#pragma once

#include <cstddef>
#include <cstdint>

#include "moesaic/moe.h"

namespace moesaic::cpu {

/// Bytes of scratch that `fast_route_token` needs.
std::size_t route_scratch_bytes(int num_experts);

/// ids [k] and weights [k] of one token by its scores: every method but kHash. `selection_bias` [E] is used by the
/// methods that have one. Scores are FP32 values; NaN scores come last. Requires arguments that `check_routing`
/// accepts.
void fast_route_token(const Routing& routing, const float* logits, const float* selection_bias, int num_experts,
                      int top_k, void* scratch, std::int32_t* ids, float* weights);

/// kHash for one token: `listed` [k] are its experts, nullptr when the table does not have it.
void fast_route_listed(const Routing& routing, const float* logits, const std::int32_t* listed, int num_experts,
                       int top_k, std::int32_t* ids, float* weights);

}  // namespace moesaic::cpu
