// SPDX-License-Identifier: Apache-2.0
// Argument checks of the CPU backend.
#include "backend_cpu/arguments.h"

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>
#include <string>
#include <vector>

#include "moesaic/quantize.h"
#include "tables/given_codes.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic::cpu {
namespace {

constexpr DType kFloatTypes[] = {DType::kBF16, DType::kF16, DType::kF32};

[[noreturn]] void invalid(const char* operation, const std::string& message) {
  throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}", operation, message));
}

std::string type_names(std::span<const DType> types) {
  std::vector<std::string> names;
  for (DType type : types) names.emplace_back(dtype_name(type));
  return fmt::format("{}", fmt::join(names, ", "));
}

bool is_one_of(DType type, std::span<const DType> types) {
  for (DType candidate : types) {
    if (candidate == type) return true;
  }
  return false;
}

void check_type(const char* operation, const std::string& name, DType type, std::span<const DType> types) {
  if (!is_one_of(type, types)) {
    invalid(operation, fmt::format("{} has type {}, wanted {}", name, dtype_name(type), type_names(types)));
  }
}

struct ViewCheck {
  const char* operation;
  const MoeConfig& config;
  bool any_format;

  void matrix(const std::string& name, const MatrixView& view, std::int64_t rows, std::int64_t cols) const {
    if (view.empty()) invalid(operation, fmt::format("{} is missing, wanted [{}, {}]", name, rows, cols));
    if (view.rows != rows || view.cols != cols) {
      invalid(operation, fmt::format("{} has shape [{}, {}], wanted [{}, {}]", name, view.rows, view.cols, rows, cols));
    }
    if (!view.quantized()) check_type(operation, name, view.dtype, kFloatTypes);
  }

  // A matrix of an expert: what the recipe's weights are.
  void weight(const std::string& name, const MatrixView& view, std::int64_t rows, std::int64_t cols,
              const std::string& recipe) const {
    matrix(name, view, rows, cols);
    if (any_format || fits_recipe(recipe, config.int4, view)) return;
    invalid(operation, fmt::format("{} is not stored as the weights of recipe {} are; convert_weights makes that of it",
                                   name, recipe));
  }

  void vector(const std::string& name, const VectorView& view, std::int64_t size) const {
    if (view.empty()) return;
    if (view.size != size) invalid(operation, fmt::format("{} has size {}, wanted {}", name, view.size, size));
    check_type(operation, name, view.dtype, kFloatTypes);
  }

  void expert(const std::string& name, const ExpertWeights& w, bool gated, int intermediate,
              const std::string& recipe) const {
    const int hidden = config.hidden;
    weight(name + ".gate", w.gate, intermediate, hidden, recipe);
    weight(name + ".down", w.down, hidden, intermediate, recipe);
    vector(name + ".gate_bias", w.gate_bias, intermediate);
    vector(name + ".down_bias", w.down_bias, hidden);
    if (gated) {
      weight(name + ".up", w.up, intermediate, hidden, recipe);
      vector(name + ".up_bias", w.up_bias, intermediate);
    } else if (!w.up.empty() || !w.up_bias.empty()) {
      invalid(operation, fmt::format("{}.up is given, but the activation is not gated: wanted none", name));
    }
    for (const float scale : {w.input_scale, w.down_input_scale}) {
      if (!(scale >= 0.0f) || std::isinf(scale)) {
        invalid(operation,
                fmt::format("{} has an input scale of {}, wanted a finite number of 0 (none) or more", name, scale));
      }
    }
  }
};

void check_tensor(const char* operation, const char* name, const TensorView& tensor, std::int64_t rows,
                  std::int64_t cols, std::span<const DType> types) {
  if (tensor.rank != 2 || tensor.shape[0] != rows || tensor.shape[1] != cols) {
    std::vector<std::int64_t> shape(tensor.shape.begin(), tensor.shape.begin() + tensor.rank);
    invalid(operation, fmt::format("{} has shape [{}], wanted [{}, {}]", name, fmt::join(shape, ", "), rows, cols));
  }
  check_type(operation, name, tensor.dtype, types);
  if (rows > 0 && tensor.data == nullptr) invalid(operation, fmt::format("{} has no memory (null pointer)", name));
}

void check_optional(const char* operation, const char* name, const TensorView& tensor, std::int64_t rows,
                    std::int64_t cols, DType type) {
  if (!tensor.empty()) check_tensor(operation, name, tensor, rows, cols, std::span(&type, 1));
}

void check_activation(const char* operation, const Activation& activation) {
  if (static_cast<unsigned>(activation.kind) > static_cast<unsigned>(ActivationKind::kSitu)) {
    invalid(operation,
            fmt::format("activation.kind has value {}, wanted an enumerator", static_cast<unsigned>(activation.kind)));
  }
  if (activation.limit && !(*activation.limit >= 0.0f)) {
    invalid(operation, fmt::format("activation.limit is {}, wanted 0 or more", *activation.limit));
  }
  for (const auto& [name, value] : {std::pair{"alpha", activation.alpha}, std::pair{"beta", activation.beta}}) {
    if (value && !std::isfinite(*value)) {
      invalid(operation, fmt::format("activation.{} is {}, wanted a finite number", name, *value));
    }
  }
  if (activation.kind == ActivationKind::kSitu && (activation.alpha == 0.0f || activation.beta == 0.0f)) {
    invalid(operation, "activation situ divides by alpha and beta: wanted numbers other than 0");
  }
}

// K of a GEMM must hold whole scale blocks; those with fp32 scales may be ragged.
void check_depths(const char* operation, const MoeConfig& config, const std::string& recipe,
                  const std::pair<const char*, int>& depth) {
  for (const auto& spec : {weight_spec(recipe, config.int4), activation_spec(recipe, true)}) {
    if (!spec) continue;
    tables::check_quant_spec(operation, *spec);
    const QuantTraits traits = quant_traits(*spec);
    if (traits.scales == ScaleFormat::kF32 || depth.second % traits.block_cols == 0) continue;
    invalid(operation, fmt::format("{} is {}, but recipe {} has scales per {} of it: wanted a multiple", depth.first,
                                   depth.second, recipe, traits.block_cols));
  }
}

}  // namespace

void check_routing(const char* operation, const Routing& routing, int num_experts, int top_k) {
  if (static_cast<int>(routing.method) >= kNumRoutingMethods) {
    invalid(operation,
            fmt::format("routing.method has value {}, wanted an enumerator", static_cast<unsigned>(routing.method)));
  }
  if (num_experts < 1) invalid(operation, fmt::format("num_experts is {}, wanted 1 or more", num_experts));
  if (top_k < 1 || top_k > num_experts) {
    invalid(operation, fmt::format("top_k is {}, wanted 1 to num_experts = {}", top_k, num_experts));
  }
  if (routing.method == RoutingMethod::kHash && routing.vocabulary < 1) {
    invalid(operation, fmt::format("routing hash: vocabulary is {}, wanted 1 or more token ids", routing.vocabulary));
  }
  if (routing.method != RoutingMethod::kDeepSeekV3 && routing.method != RoutingMethod::kDeepSeekV2) return;
  const char* method = routing_method_name(routing.method);
  if (routing.n_group < 1 || num_experts % routing.n_group != 0) {
    invalid(operation, fmt::format("routing {}: n_group is {}, wanted a divisor of num_experts = {}", method,
                                   routing.n_group, num_experts));
  }
  if (routing.n_group == 1) return;
  const int group_size = num_experts / routing.n_group;
  if (routing.topk_group < 1 || routing.topk_group > routing.n_group) {
    invalid(operation, fmt::format("routing {}: topk_group is {}, wanted 1 to n_group = {}", method, routing.topk_group,
                                   routing.n_group));
  }
  if (routing.method == RoutingMethod::kDeepSeekV3 && group_size < 2) {
    invalid(operation, fmt::format("routing {}: groups of {} expert, wanted 2 or more (their two largest are added)",
                                   method, group_size));
  }
  if (top_k > routing.topk_group * group_size) {
    invalid(operation, fmt::format("routing {}: top_k is {}, but {} groups of {} experts hold {}", method, top_k,
                                   routing.topk_group, group_size, routing.topk_group * group_size));
  }
}

void check_config(const char* operation, const MoeConfig& config) {
  if (config.hidden < 1 || config.intermediate < 1) {
    invalid(operation,
            fmt::format("hidden is {} and intermediate is {}, wanted 1 or more", config.hidden, config.intermediate));
  }
  if (tables::get_recipe(config.recipe).io != tables::get_recipe(shared_recipe(config)).io) {
    invalid(operation, fmt::format("recipe {} with shared.recipe {}: wanted two of the same type of x", config.recipe,
                                   config.shared.recipe));
  }
  check_depths(operation, config, config.recipe, {"hidden", config.hidden});
  check_depths(operation, config, config.recipe, {"intermediate", config.intermediate});
  if (config.shared.intermediate > 0) {
    check_depths(operation, config, shared_recipe(config), {"hidden", config.hidden});
    check_depths(operation, config, shared_recipe(config), {"shared.intermediate", config.shared.intermediate});
  }
  check_activation(operation, config.activation);
  check_routing(operation, config.routing, config.num_experts, config.top_k);
  if (config.shared.intermediate < 0 || (config.shared.gated && config.shared.intermediate == 0)) {
    invalid(operation, fmt::format("shared.intermediate is {} with shared.gated {}, wanted 1 or more, or 0 and no gate",
                                   config.shared.intermediate, config.shared.gated));
  }
}

void check_weights(const char* operation, const MoeConfig& config, const MoeWeights& weights, bool any_format) {
  const ViewCheck check{operation, config, any_format};
  const int held = num_local_experts(config);
  if (static_cast<std::int64_t>(weights.experts.size()) != held) {
    invalid(operation, fmt::format("weights.experts has {} entries, wanted {}: those that the layer holds",
                                   weights.experts.size(), held));
  }
  const bool gated = is_gated(config.activation.kind);
  for (int e = 0; e < held; ++e) {
    check.expert(fmt::format("weights.experts[{}]", e), weights.experts[e], gated, config.intermediate, config.recipe);
  }
  if (config.router) {
    check.matrix("weights.router", weights.router, config.num_experts, config.hidden);
    check.vector("weights.router_bias", weights.router_bias, config.num_experts);
  } else if (!weights.router.empty() || !weights.router_bias.empty()) {
    invalid(operation, "weights.router is given, but config.router is false: wanted none");
  }
  check.vector("weights.selection_bias", weights.selection_bias, config.num_experts);
  if (!weights.selection_bias.empty() && !has_selection_bias(config.routing.method)) {
    invalid(operation,
            fmt::format("weights.selection_bias is given, but routing {} has none: deepseek_v3 and minimax2 do",
                        routing_method_name(config.routing.method)));
  }
  if (config.routing.method == RoutingMethod::kHash) {
    const DType table = DType::kI32;
    check_tensor(operation, "weights.token_experts", weights.token_experts, config.routing.vocabulary, config.top_k,
                 std::span(&table, 1));
  }
  if (config.shared.intermediate > 0) {
    check.expert("weights.shared", weights.shared, gated, config.shared.intermediate, shared_recipe(config));
  } else if (!weights.shared.gate.empty()) {
    invalid(operation, "weights.shared is given, but config.shared.intermediate is 0: wanted none");
  }
  if (config.shared.gated == weights.shared_gate.empty()) {
    invalid(operation, fmt::format("weights.shared_gate is {}, but config.shared.gated is {}",
                                   weights.shared_gate.empty() ? "missing" : "given", config.shared.gated));
  }
  check.vector("weights.shared_gate", weights.shared_gate, config.hidden);
}

void check_expert(const char* operation, const MoeConfig& config, int expert, const ExpertWeights& weights) {
  if (expert < 0 || expert >= num_local_experts(config)) {
    invalid(operation, fmt::format("expert is {}, wanted 0 to {}", expert, num_local_experts(config) - 1));
  }
  const ViewCheck check{operation, config, false};
  check.expert(fmt::format("weights of expert {}", expert), weights, is_gated(config.activation.kind),
               config.intermediate, config.recipe);
}

void check_run(const char* operation, const MoeConfig& config, const MoeRun& run, std::span<const DType> x_types,
               std::span<const DType> out_types) {
  if (run.x.rank != 2 || run.x.shape[0] < 0) {
    invalid(operation, fmt::format("x has {} dimensions, wanted [tokens, {}]", run.x.rank, config.hidden));
  }
  const std::int64_t tokens = run.x.shape[0];
  const auto form = tables::given_codes(config.recipe, tokens, config.hidden);
  tables::check_given_codes(operation, config.recipe, form, run.x, run.x_scale, run.x_row_scale);
  if (!gives_codes(run)) check_tensor(operation, "x", run.x, tokens, config.hidden, x_types);
  check_tensor(operation, "out", run.out, tokens, config.hidden, out_types);
  if (run.topk_ids.empty() != run.topk_weights.empty()) {
    invalid(operation, fmt::format("{} is given without {}: wanted both or neither",
                                   run.topk_ids.empty() ? "topk_weights" : "topk_ids",
                                   run.topk_ids.empty() ? "topk_ids" : "topk_weights"));
  }
  check_optional(operation, "topk_ids", run.topk_ids, tokens, config.top_k, DType::kI32);
  check_optional(operation, "topk_weights", run.topk_weights, tokens, config.top_k, DType::kF32);
  check_optional(operation, "router_logits", run.router_logits, tokens, config.num_experts, DType::kF32);
  if (config.routing.method == RoutingMethod::kHash && run.topk_ids.empty()) {
    const TensorView& ids = run.token_ids;
    if (ids.rank != 1 || ids.shape[0] != tokens || (ids.data == nullptr && tokens > 0)) {
      invalid(operation,
              fmt::format("token_ids is missing or not [{}], wanted the id of every token (routing hash)", tokens));
    }
    const DType integers[] = {DType::kI64, DType::kI32};
    check_type(operation, "token_ids", ids.dtype, integers);
  }
  check_optional(operation, "logits_out", run.logits_out, tokens, config.num_experts, DType::kF32);
  check_optional(operation, "topk_ids_out", run.topk_ids_out, tokens, config.top_k, DType::kI32);
  check_optional(operation, "topk_weights_out", run.topk_weights_out, tokens, config.top_k, DType::kF32);
  if (needs_logits(run) && run.router_logits.empty() && gives_codes(run)) {
    invalid(operation, "x is codes: wanted router_logits, or topk_ids with topk_weights and no logits_out");
  }
  if (needs_logits(run) && run.router_logits.empty() && !config.router) {
    invalid(operation, "config.router is false: wanted router_logits, or topk_ids with topk_weights and no logits_out");
  }
}

bool needs_logits(const MoeRun& run) noexcept { return run.topk_ids.empty() || !run.logits_out.empty(); }

}  // namespace moesaic::cpu
