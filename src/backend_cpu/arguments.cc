// SPDX-License-Identifier: Apache-2.0
// Argument checks of the CPU backend.
#include "backend_cpu/arguments.h"

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>
#include <string>
#include <vector>

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

  void matrix(const std::string& name, const MatrixView& view, std::int64_t rows, std::int64_t cols) const {
    if (view.empty()) invalid(operation, fmt::format("{} is missing, wanted [{}, {}]", name, rows, cols));
    if (view.rows != rows || view.cols != cols) {
      invalid(operation, fmt::format("{} has shape [{}, {}], wanted [{}, {}]", name, view.rows, view.cols, rows, cols));
    }
    check_type(operation, name, view.dtype, kFloatTypes);
  }

  void vector(const std::string& name, const VectorView& view, std::int64_t size) const {
    if (view.empty()) return;
    if (view.size != size) invalid(operation, fmt::format("{} has size {}, wanted {}", name, view.size, size));
    check_type(operation, name, view.dtype, kFloatTypes);
  }

  void expert(const std::string& name, const ExpertWeights& w, bool gated, int hidden, int intermediate) const {
    matrix(name + ".gate", w.gate, intermediate, hidden);
    matrix(name + ".down", w.down, hidden, intermediate);
    vector(name + ".gate_bias", w.gate_bias, intermediate);
    vector(name + ".down_bias", w.down_bias, hidden);
    if (gated) {
      matrix(name + ".up", w.up, intermediate, hidden);
      vector(name + ".up_bias", w.up_bias, intermediate);
    } else if (!w.up.empty() || !w.up_bias.empty()) {
      invalid(operation, fmt::format("{}.up is given, but the activation is not gated: wanted none", name));
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

}  // namespace

void check_routing(const char* operation, const Routing& routing, int num_experts, int top_k) {
  if (static_cast<unsigned>(routing.method) > static_cast<unsigned>(RoutingMethod::kSigmoid)) {
    invalid(operation,
            fmt::format("routing.method has value {}, wanted an enumerator", static_cast<unsigned>(routing.method)));
  }
  if (num_experts < 1) invalid(operation, fmt::format("num_experts is {}, wanted 1 or more", num_experts));
  if (top_k < 1 || top_k > num_experts) {
    invalid(operation, fmt::format("top_k is {}, wanted 1 to num_experts = {}", top_k, num_experts));
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
  tables::get_recipe(config.recipe);
  if (config.recipe != "bf16" && config.recipe != "fp16") {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: recipe {} has no code on the CPU; bf16 and fp16 have", operation, config.recipe));
  }
  check_activation(operation, config.activation);
  check_routing(operation, config.routing, config.num_experts, config.top_k);
  if (config.shared.intermediate < 0 || (config.shared.gated && config.shared.intermediate == 0)) {
    invalid(operation, fmt::format("shared.intermediate is {} with shared.gated {}, wanted 1 or more, or 0 and no gate",
                                   config.shared.intermediate, config.shared.gated));
  }
}

void check_weights(const char* operation, const MoeConfig& config, const MoeWeights& weights) {
  const ViewCheck check{operation};
  if (static_cast<std::int64_t>(weights.experts.size()) != config.num_experts) {
    invalid(operation, fmt::format("weights.experts has {} entries, wanted num_experts = {}", weights.experts.size(),
                                   config.num_experts));
  }
  const bool gated = is_gated(config.activation.kind);
  for (int e = 0; e < config.num_experts; ++e) {
    check.expert(fmt::format("weights.experts[{}]", e), weights.experts[e], gated, config.hidden, config.intermediate);
  }
  if (config.router) {
    check.matrix("weights.router", weights.router, config.num_experts, config.hidden);
    check.vector("weights.router_bias", weights.router_bias, config.num_experts);
  } else if (!weights.router.empty() || !weights.router_bias.empty()) {
    invalid(operation, "weights.router is given, but config.router is false: wanted none");
  }
  check.vector("weights.selection_bias", weights.selection_bias, config.num_experts);
  if (!weights.selection_bias.empty() && config.routing.method != RoutingMethod::kDeepSeekV3) {
    invalid(operation, fmt::format("weights.selection_bias is given, but routing {} has none: deepseek_v3 does",
                                   routing_method_name(config.routing.method)));
  }
  if (config.shared.intermediate > 0) {
    check.expert("weights.shared", weights.shared, gated, config.hidden, config.shared.intermediate);
  } else if (!weights.shared.gate.empty()) {
    invalid(operation, "weights.shared is given, but config.shared.intermediate is 0: wanted none");
  }
  if (config.shared.gated == weights.shared_gate.empty()) {
    invalid(operation, fmt::format("weights.shared_gate is {}, but config.shared.gated is {}",
                                   weights.shared_gate.empty() ? "missing" : "given", config.shared.gated));
  }
  check.vector("weights.shared_gate", weights.shared_gate, config.hidden);
}

void check_run(const char* operation, const MoeConfig& config, const MoeRun& run, std::span<const DType> x_types,
               std::span<const DType> out_types) {
  if (run.x.rank != 2 || run.x.shape[0] < 0) {
    invalid(operation, fmt::format("x has {} dimensions, wanted [tokens, {}]", run.x.rank, config.hidden));
  }
  const std::int64_t tokens = run.x.shape[0];
  check_tensor(operation, "x", run.x, tokens, config.hidden, x_types);
  check_tensor(operation, "out", run.out, tokens, config.hidden, out_types);
  if (run.topk_ids.empty() != run.topk_weights.empty()) {
    invalid(operation, fmt::format("{} is given without {}: wanted both or neither",
                                   run.topk_ids.empty() ? "topk_weights" : "topk_ids",
                                   run.topk_ids.empty() ? "topk_ids" : "topk_weights"));
  }
  check_optional(operation, "topk_ids", run.topk_ids, tokens, config.top_k, DType::kI32);
  check_optional(operation, "topk_weights", run.topk_weights, tokens, config.top_k, DType::kF32);
  check_optional(operation, "router_logits", run.router_logits, tokens, config.num_experts, DType::kF32);
  check_optional(operation, "logits_out", run.logits_out, tokens, config.num_experts, DType::kF32);
  check_optional(operation, "topk_ids_out", run.topk_ids_out, tokens, config.top_k, DType::kI32);
  check_optional(operation, "topk_weights_out", run.topk_weights_out, tokens, config.top_k, DType::kF32);
  if (needs_logits(run) && run.router_logits.empty() && !config.router) {
    invalid(operation, "config.router is false: wanted router_logits, or topk_ids with topk_weights and no logits_out");
  }
}

bool needs_logits(const MoeRun& run) noexcept { return run.topk_ids.empty() || !run.logits_out.empty(); }

}  // namespace moesaic::cpu
