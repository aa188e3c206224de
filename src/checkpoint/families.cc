// SPDX-License-Identifier: Apache-2.0
// The family table. Defaults of absent config keys are those of the transformers configuration class of the family.
#include "checkpoint/families.h"

#include <algorithm>
#include <array>

namespace moesaic::checkpoint {
namespace {

constexpr int kMaxCount = 1 << 24;  // no size of a published model comes near; keeps products inside 64 bits

// Spellings of the hub: plain models, multimodal ones before and after transformers 4.52, and bare base models.
constexpr std::array kPlainFirst = {"model.layers.", "language_model.model.layers.", "model.language_model.layers.",
                                    "layers."};
constexpr std::array kNestedFirst = {"model.language_model.layers.", "language_model.model.layers.", "model.layers.",
                                     "layers."};

constexpr std::array kMixtral = {"mixtral"};
constexpr std::array kQwen2Moe = {"qwen2_moe"};
constexpr std::array kQwen3Moe = {"qwen3_moe"};
constexpr std::array kQwen3VlMoe = {"qwen3_vl_moe", "qwen3_vl_moe_text"};
constexpr std::array kOlmoe = {"olmoe"};
constexpr std::array kDeepSeekV2 = {"deepseek_v2"};
constexpr std::array kDeepSeekV3 = {"deepseek_v3", "kimi_k2"};
constexpr std::array kGlm4Moe = {"glm4_moe"};
constexpr std::array kGptOss = {"gpt_oss"};
constexpr std::array kLlama4 = {"llama4", "llama4_text"};

constexpr std::array kLocalExperts = {"num_local_experts", "num_experts"};
constexpr std::array kExperts = {"num_experts", "num_local_experts"};
constexpr std::array kRoutedExperts = {"n_routed_experts", "num_local_experts"};
constexpr std::array kTopK = {"num_experts_per_tok"};
constexpr std::array kGptOssTopK = {"num_experts_per_tok", "experts_per_token"};
constexpr std::array kIntermediate = {"intermediate_size"};
constexpr std::array kMoeIntermediate = {"moe_intermediate_size"};

// --- which layers ---------------------------------------------------------------------------------------------------

bool every_layer(const ConfigView&, int) { return true; }

bool qwen_layer(const ConfigView& config, int layer) {
  return (layer + 1) % config.integer_or("decoder_sparse_step", 1, 1, kMaxCount) == 0 &&
         !config.list_holds("mlp_only_layers", layer);
}

bool deepseek_layer(const ConfigView& config, int layer) {
  return layer >= config.integer_or("first_k_dense_replace", 0, 0, kMaxCount) &&
         layer % config.integer_or("moe_layer_freq", 1, 1, kMaxCount) == 0;
}

bool llama4_layer(const ConfigView& config, int layer) {
  if (config.has("moe_layers")) return config.list_holds("moe_layers", layer);
  return (layer + 1) % config.integer_or("interleave_moe_layer_step", 1, 1, kMaxCount) == 0;
}

// --- activation and shared experts ----------------------------------------------------------------------------------

Activation silu_gated(const ConfigView& config) {
  config.demand("hidden_act", {"silu"});
  return {};
}

// The code of the family fixes alpha and the added 1; hidden_act is "silu" in the published configs but not used.
Activation gpt_oss_activation(const ConfigView& config) {
  return {ActivationKind::kSwigluBias, 1.702f, 1.0f, config.number_or("swiglu_limit", 7.0f)};
}

int qwen2_shared(const ConfigView& config) { return config.integer("shared_expert_intermediate_size", 1, kMaxCount); }

int deepseek_shared(const ConfigView& config) {
  int count = config.integer_or("n_shared_experts", 0, 0, 64);
  return count == 0 ? 0 : count * config.integer("moe_intermediate_size", 1, kMaxCount);
}

int llama4_shared(const ConfigView& config) { return config.integer("intermediate_size", 1, kMaxCount); }

// --- routing --------------------------------------------------------------------------------------------------------

Routing softmax_routing(bool renormalize) {
  Routing routing;
  routing.method = renormalize ? RoutingMethod::kSoftmaxTopKRenorm : RoutingMethod::kSoftmaxTopK;
  return routing;
}

Routing mixtral_routing(const ConfigView&) { return softmax_routing(true); }
Routing softmax_plain_by_default(const ConfigView& c) { return softmax_routing(c.flag_or("norm_topk_prob", false)); }
Routing softmax_renorm_by_default(const ConfigView& c) { return softmax_routing(c.flag_or("norm_topk_prob", true)); }

Routing method_only(RoutingMethod method) {
  Routing routing;
  routing.method = method;
  return routing;
}

Routing gpt_oss_routing(const ConfigView&) { return method_only(RoutingMethod::kTopKSoftmax); }
Routing llama4_routing(const ConfigView&) { return method_only(RoutingMethod::kLlama4); }

Routing grouped(const ConfigView& config, RoutingMethod method, bool renormalize_by_default) {
  Routing routing;
  routing.method = method;
  routing.n_group = config.integer_or("n_group", 1, 1, kMaxCount);
  routing.topk_group = config.integer_or("topk_group", routing.n_group, 1, routing.n_group);
  routing.scaling = config.number_or("routed_scaling_factor", 1.0f);
  routing.renormalize = config.flag_or("norm_topk_prob", renormalize_by_default);
  return routing;
}

Routing deepseek_v2_routing(const ConfigView& config) {
  config.demand("scoring_func", {"softmax"});
  config.demand("topk_method", {"greedy", "group_limited_greedy"});
  Routing routing = grouped(config, RoutingMethod::kDeepSeekV2, false);
  // "greedy" looks at all experts, whatever n_group says.
  if (config.text_or("topk_method", "greedy") == "greedy") routing.n_group = routing.topk_group = 1;
  return routing;
}

Routing deepseek_v3_routing(const ConfigView& config) {
  config.demand("scoring_func", {"sigmoid"});
  config.demand("topk_method", {"noaux_tc"});
  return grouped(config, RoutingMethod::kDeepSeekV3, true);
}

// --- the table ------------------------------------------------------------------------------------------------------

const FamilyRow kFamilyTable[] = {
    {.model_types = kMixtral,
     .prefixes = kPlainFirst,
     .tensors = {.block = "block_sparse_moe.", .router = "gate.weight", .gate = "w1", .up = "w3", .down = "w2"},
     .experts_keys = kLocalExperts,
     .top_k_keys = kTopK,
     .intermediate_keys = kIntermediate,
     .activation = silu_gated,
     .routing = mixtral_routing,
     .is_moe_layer = every_layer},
    {.model_types = kQwen2Moe,
     .prefixes = kPlainFirst,
     .tensors = {.block = "mlp.",
                 .router = "gate.weight",
                 .gate = "gate_proj",
                 .up = "up_proj",
                 .down = "down_proj",
                 .shared = "shared_expert.",
                 .shared_gate = "shared_expert_gate.weight"},
     .experts_keys = kExperts,
     .top_k_keys = kTopK,
     .intermediate_keys = kMoeIntermediate,
     .shared_intermediate = qwen2_shared,
     .activation = silu_gated,
     .routing = softmax_plain_by_default,
     .is_moe_layer = qwen_layer},
    {.model_types = kQwen3Moe,
     .prefixes = kPlainFirst,
     .tensors = {.block = "mlp.", .router = "gate.weight", .gate = "gate_proj", .up = "up_proj", .down = "down_proj"},
     .experts_keys = kExperts,
     .top_k_keys = kTopK,
     .intermediate_keys = kMoeIntermediate,
     .activation = silu_gated,
     .routing = softmax_plain_by_default,
     .is_moe_layer = qwen_layer},
    {.model_types = kQwen3VlMoe,
     .prefixes = kNestedFirst,
     .tensors = {.block = "mlp.", .router = "gate.weight"},
     .experts_keys = kExperts,
     .top_k_keys = kTopK,
     .intermediate_keys = kMoeIntermediate,
     .activation = silu_gated,
     .routing = softmax_renorm_by_default,
     .is_moe_layer = qwen_layer},
    {.model_types = kOlmoe,
     .prefixes = kPlainFirst,
     .tensors = {.block = "mlp.", .router = "gate.weight", .gate = "gate_proj", .up = "up_proj", .down = "down_proj"},
     .experts_keys = kExperts,
     .top_k_keys = kTopK,
     .intermediate_keys = kIntermediate,
     .activation = silu_gated,
     .routing = softmax_plain_by_default,
     .is_moe_layer = every_layer},
    {.model_types = kDeepSeekV2,
     .prefixes = kPlainFirst,
     .tensors = {.block = "mlp.",
                 .router = "gate.weight",
                 .gate = "gate_proj",
                 .up = "up_proj",
                 .down = "down_proj",
                 .shared = "shared_experts."},
     .experts_keys = kRoutedExperts,
     .top_k_keys = kTopK,
     .intermediate_keys = kMoeIntermediate,
     .shared_intermediate = deepseek_shared,
     .activation = silu_gated,
     .routing = deepseek_v2_routing,
     .is_moe_layer = deepseek_layer},
    {.model_types = kDeepSeekV3,
     .prefixes = kPlainFirst,
     .tensors = {.block = "mlp.",
                 .router = "gate.weight",
                 .selection_bias = "gate.e_score_correction_bias",
                 .gate = "gate_proj",
                 .up = "up_proj",
                 .down = "down_proj",
                 .shared = "shared_experts."},
     .experts_keys = kRoutedExperts,
     .top_k_keys = kTopK,
     .intermediate_keys = kMoeIntermediate,
     .shared_intermediate = deepseek_shared,
     .activation = silu_gated,
     .routing = deepseek_v3_routing,
     .is_moe_layer = deepseek_layer},
    {.model_types = kGlm4Moe,
     .prefixes = kPlainFirst,
     .tensors = {.block = "mlp.",
                 .router = "gate.weight",
                 .selection_bias = "gate.e_score_correction_bias",
                 .gate = "gate_proj",
                 .up = "up_proj",
                 .down = "down_proj",
                 .shared = "shared_experts."},
     .experts_keys = kRoutedExperts,
     .top_k_keys = kTopK,
     .intermediate_keys = kMoeIntermediate,
     .shared_intermediate = deepseek_shared,
     .activation = silu_gated,
     .routing = deepseek_v3_routing,
     .is_moe_layer = deepseek_layer},
    {.model_types = kGptOss,
     .prefixes = kPlainFirst,
     .tensors = {.block = "mlp.",
                 .router = "router.weight",
                 .router_bias = "router.bias",
                 .fused_order = GateUpOrder::kInterleavedGateFirst,
                 .fused_biases = true},
     .experts_keys = kLocalExperts,
     .top_k_keys = kGptOssTopK,
     .intermediate_keys = kIntermediate,
     .activation = gpt_oss_activation,
     .routing = gpt_oss_routing,
     .is_moe_layer = every_layer},
    {.model_types = kLlama4,
     .prefixes = kPlainFirst,
     .tensors = {.block = "feed_forward.", .router = "router.weight", .shared = "shared_expert."},
     .experts_keys = kLocalExperts,
     .top_k_keys = kTopK,
     .intermediate_keys = kIntermediate,
     .shared_intermediate = llama4_shared,
     .activation = silu_gated,
     .routing = llama4_routing,
     .is_moe_layer = llama4_layer,
     .weights_on_input = true},
};

}  // namespace

std::span<const FamilyRow> family_table() noexcept { return kFamilyTable; }

const FamilyRow* find_family(std::string_view model_type) noexcept {
  for (const FamilyRow& row : kFamilyTable) {
    auto is_named = [&](const char* name) { return model_type == name; };
    if (std::any_of(row.model_types.begin(), row.model_types.end(), is_named)) return &row;
  }
  return nullptr;
}

}  // namespace moesaic::checkpoint
