// SPDX-License-Identifier: Apache-2.0
// THE list of model families: how each names its tensors, lays them out, and routes. A new family is one row.
#pragma once

#include <span>
#include <string_view>

#include "checkpoint/config_view.h"
#include "moesaic/moe.h"

namespace moesaic::checkpoint {

using Names = std::span<const char* const>;

/// Tensor names below "<prefix><layer>.<block>"; nullptr: the family has no such tensor.
struct TensorNames {
  const char* block = nullptr;           // "mlp."
  const char* router = nullptr;          // [E, H]
  const char* router_bias = nullptr;     // [E]
  const char* selection_bias = nullptr;  // [E]
  // One matrix an expert: "experts.<e>.<name>.weight" [I, H], [I, H], [H, I]. nullptr: fused tensors,
  // "experts.gate_up_proj" [E, H, 2I] and "experts.down_proj" [E, I, H]; biases: "..._bias" [E, 2I], [E, H].
  const char *gate = nullptr, *up = nullptr, *down = nullptr;
  GateUpOrder fused_order = GateUpOrder::kGateFirst;
  bool fused_biases = false;
  const char* shared = nullptr;       // "shared_experts."; its matrices are gate_proj, up_proj, down_proj
  const char* shared_gate = nullptr;  // [1, H]
};

struct FamilyRow {
  Names model_types;  // of config.json or of its text_config
  Names prefixes;     // what stands before the layer number, in order of trial
  TensorNames tensors;
  Names experts_keys, top_k_keys, intermediate_keys;        // config keys; the first that is there counts
  int (*shared_intermediate)(const ConfigView&) = nullptr;  // nullptr: no shared experts
  Activation (*activation)(const ConfigView&) = nullptr;    // all three: never nullptr in the table
  Routing (*routing)(const ConfigView&) = nullptr;
  bool (*is_moe_layer)(const ConfigView&, int layer) = nullptr;
  bool weights_on_input = false;
};

std::span<const FamilyRow> family_table() noexcept;

/// The row that lists `model_type`, or nullptr.
const FamilyRow* find_family(std::string_view model_type) noexcept;

}  // namespace moesaic::checkpoint
