// SPDX-License-Identifier: Apache-2.0
// Layer shapes as the model cards' config.json give them.
#include "tables/model_table.h"

#include <fmt/format.h>

#include <array>
#include <string>

#include "moesaic/error.h"

namespace moesaic::tables {
namespace {

// What a family has in common; rows start from it and add sizes.
constexpr ModelRow family(RoutingMethod routing, float scaling = 1.0f, int n_group = 1, int topk_group = 1) {
  ModelRow row{};
  row.routing = routing;
  row.n_group = n_group;
  row.topk_group = topk_group;
  row.scaling = scaling;
  row.renormalize = true;
  row.activation = ActivationKind::kSwiglu;
  return row;
}

constexpr ModelRow sized(ModelRow row, const char* name, int hidden, int intermediate, int num_experts, int top_k,
                         int shared_intermediate, int moe_layers) {
  row.name = name;
  row.hidden = hidden;
  row.intermediate = intermediate;
  row.num_experts = num_experts;
  row.top_k = top_k;
  row.shared_intermediate = shared_intermediate;
  row.moe_layers = moe_layers;
  return row;
}

constexpr ModelRow gpt_oss() {
  ModelRow row = family(RoutingMethod::kTopKSoftmax);
  row.activation = ActivationKind::kSwigluBias;
  row.alpha = 1.702f;
  row.beta = 1.0f;
  row.limit = 7.0f;
  row.biases = true;
  return row;
}

constexpr ModelRow llama4() {
  ModelRow row = family(RoutingMethod::kLlama4);
  row.weights_on_input = true;
  return row;
}

constexpr ModelRow kSoftmaxRenorm = family(RoutingMethod::kSoftmaxTopKRenorm);

// name, H, I, E, k, shared I, MoE layers.
constexpr std::array kModelTable = {
    sized(kSoftmaxRenorm, "mixtral-8x7b", 4096, 14336, 8, 2, 0, 32),
    sized(kSoftmaxRenorm, "mixtral-8x22b", 6144, 16384, 8, 2, 0, 56),
    sized(family(RoutingMethod::kDeepSeekV3, 2.5f, 8, 4), "deepseek-v3", 7168, 2048, 256, 8, 2048, 58),
    sized(kSoftmaxRenorm, "qwen3-30b-a3b", 2048, 768, 128, 8, 0, 48),
    sized(kSoftmaxRenorm, "qwen3-235b-a22b", 4096, 1536, 128, 8, 0, 94),
    sized(gpt_oss(), "gpt-oss-120b", 2880, 2880, 128, 4, 0, 36),
    sized(gpt_oss(), "gpt-oss-20b", 2880, 2880, 32, 4, 0, 24),
    sized(family(RoutingMethod::kDeepSeekV3, 2.827f), "kimi-k2", 7168, 2048, 384, 8, 2048, 60),
    sized(family(RoutingMethod::kDeepSeekV3, 2.5f), "glm-4.5", 5120, 1536, 160, 8, 1536, 89),
    sized(family(RoutingMethod::kDeepSeekV3, 1.0f), "glm-4.5-air", 4096, 1408, 128, 8, 1408, 45),
    sized(llama4(), "llama-4-scout", 5120, 8192, 16, 1, 8192, 48),
    sized(llama4(), "llama-4-maverick", 5120, 8192, 128, 1, 8192, 24),
};

consteval bool rows_sound() {
  for (std::size_t i = 0; i < kModelTable.size(); ++i) {
    const ModelRow& row = kModelTable[i];
    if (row.hidden <= 0 || row.intermediate <= 0 || row.moe_layers <= 0) return false;
    if (row.top_k <= 0 || row.top_k > row.num_experts || row.num_experts % row.n_group != 0) return false;
    for (std::size_t j = 0; j < i; ++j) {
      if (std::string_view(row.name) == kModelTable[j].name) return false;
    }
  }
  return true;
}
static_assert(rows_sound(), "a model stands twice or has sizes that no layer can have");

}  // namespace

std::span<const ModelRow> model_table() noexcept { return kModelTable; }

const ModelRow& get_model(std::string_view name) {
  std::string names;
  for (const ModelRow& row : kModelTable) {
    if (name == row.name) return row;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
  }
  throw Error(ErrorKind::kInvalidArgument, fmt::format("model '{}' is not known; known: {}", name, names));
}

MoeConfig model_config(const ModelRow& row) {
  MoeConfig config;
  config.hidden = row.hidden;
  config.intermediate = row.intermediate;
  config.num_experts = row.num_experts;
  config.top_k = row.top_k;
  config.activation.kind = row.activation;
  if (row.activation == ActivationKind::kSwigluBias) {
    config.activation.alpha = row.alpha;
    config.activation.beta = row.beta;
    config.activation.limit = row.limit;
  }
  config.routing = {row.routing, row.n_group, row.topk_group, row.scaling, row.renormalize};
  config.shared = {row.shared_intermediate, row.shared_gated};
  config.weights_on_input = row.weights_on_input;
  return config;
}

}  // namespace moesaic::tables
