// SPDX-License-Identifier: Apache-2.0
// Published layer shapes, for benchmarks and ahead-of-time builds by model name.
#pragma once

#include <span>
#include <string_view>

#include "moesaic/moe.h"

namespace moesaic::tables {

struct ModelRow {
  const char* name;  // as users write it, lower case: "mixtral-8x7b"
  int hidden, intermediate, num_experts, top_k;
  int shared_intermediate;  // 0: none
  bool shared_gated;
  int moe_layers;
  RoutingMethod routing;
  int n_group, topk_group;
  float scaling;
  bool renormalize;
  ActivationKind activation;
  float alpha, beta, limit;  // of kSwigluBias
  bool biases;               // router and expert biases
  bool weights_on_input;
};

std::span<const ModelRow> model_table() noexcept;
/// Throws Error(kInvalidArgument) that lists all names.
const ModelRow& get_model(std::string_view name);
/// The layer of a model as a configuration (recipe, device and max_tokens stay at their defaults).
MoeConfig model_config(const ModelRow& row);

}  // namespace moesaic::tables
