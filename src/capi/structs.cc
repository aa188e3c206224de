// SPDX-License-Identifier: Apache-2.0
// Defaults of the C structs, and their C++ counterparts.
#include "capi/structs.h"

#include <cmath>
#include <limits>
#include <optional>

#include "tables/recipe_table.h"

namespace moesaic::capi {
namespace {

constexpr float kDefault = std::numeric_limits<float>::quiet_NaN();

// Every enumerator of the C header is the C++ one's number.
static_assert(MOESAIC_GELU == int(ActivationKind::kGelu) && MOESAIC_RELU == int(ActivationKind::kRelu) &&
              MOESAIC_SILU == int(ActivationKind::kSilu) && MOESAIC_SWIGLU == int(ActivationKind::kSwiglu) &&
              MOESAIC_GEGLU == int(ActivationKind::kGeglu) && MOESAIC_SWIGLU_BIAS == int(ActivationKind::kSwigluBias) &&
              MOESAIC_RELU2 == int(ActivationKind::kRelu2) && MOESAIC_SWIGLU_STEP == int(ActivationKind::kSwigluStep) &&
              MOESAIC_GEGLU_TANH == int(ActivationKind::kGegluTanh) &&
              MOESAIC_IDENTITY == int(ActivationKind::kIdentity) && MOESAIC_SITU == int(ActivationKind::kSitu));
static_assert(MOESAIC_SOFTMAX_TOPK == int(RoutingMethod::kSoftmaxTopK) &&
              MOESAIC_SOFTMAX_TOPK_RENORM == int(RoutingMethod::kSoftmaxTopKRenorm) &&
              MOESAIC_TOPK_SOFTMAX == int(RoutingMethod::kTopKSoftmax) &&
              MOESAIC_DEEPSEEK_V3 == int(RoutingMethod::kDeepSeekV3) &&
              MOESAIC_DEEPSEEK_V2 == int(RoutingMethod::kDeepSeekV2) && MOESAIC_LLAMA4 == int(RoutingMethod::kLlama4) &&
              MOESAIC_TOPK == int(RoutingMethod::kTopK) && MOESAIC_SIGMOID == int(RoutingMethod::kSigmoid) &&
              MOESAIC_MINIMAX2 == int(RoutingMethod::kMiniMax2) && MOESAIC_HASH == int(RoutingMethod::kHash));
static_assert(MOESAIC_NVFP4 == int(QuantFormat::kNvfp4) && MOESAIC_NVFP4_ROW == int(QuantFormat::kNvfp4Row) &&
              MOESAIC_MXFP4 == int(QuantFormat::kMxfp4) && MOESAIC_MXFP8 == int(QuantFormat::kMxfp8) &&
              MOESAIC_MXFP8_E5M2 == int(QuantFormat::kMxfp8E5m2) &&
              MOESAIC_FP8_STATIC == int(QuantFormat::kFp8Static) &&
              MOESAIC_FP8_TENSOR == int(QuantFormat::kFp8Tensor) && MOESAIC_FP8_ROW == int(QuantFormat::kFp8Row) &&
              MOESAIC_FP8_BLOCK_1X128 == int(QuantFormat::kFp8Block1x128) &&
              MOESAIC_FP8_BLOCK_128X128 == int(QuantFormat::kFp8Block128x128) &&
              MOESAIC_INT4 == int(QuantFormat::kInt4));
static_assert(MOESAIC_LAYOUT_LINEAR == int(ScaleLayout::kLinear) && MOESAIC_LAYOUT_128X4 == int(ScaleLayout::k128x4) &&
              MOESAIC_LAYOUT_8X4 == int(ScaleLayout::k8x4) && MOESAIC_E8M0_UP == int(E8m0Rounding::kUp) &&
              MOESAIC_E8M0_FLOOR == int(E8m0Rounding::kFloor));

template <typename Struct>
Struct zeros() {
  Struct value;
  std::memset(&value, 0, sizeof(value));
  value.struct_size = sizeof(Struct);
  return value;
}

Activation to_activation(const char* operation, std::int32_t kind, float alpha, float beta, float limit) {
  const auto given = [](float value) { return std::isnan(value) ? std::nullopt : std::optional(value); };
  return {enumerator(operation, "activation", kind, ActivationKind::kSitu), given(alpha), given(beta), given(limit)};
}

/// Of a layer or a router: their structs name these fields alike.
template <typename Config>
Routing to_routing(const char* operation, const Config& c) {
  Routing to;
  to.method = enumerator(operation, "config.routing", c.routing, RoutingMethod::kHash);
  to.n_group = c.n_group;
  to.topk_group = c.topk_group;
  to.scaling = c.scaling;
  to.renormalize = c.renormalize != 0;
  to.vocabulary = c.vocabulary;
  return to;
}

template <typename Config>
ExpertMap to_experts(const char* operation, const Config& c) {
  ExpertMap to;
  to.first = c.experts_first;
  to.count = c.experts_count;
  if (c.expert_slots == nullptr && c.num_expert_slots == 0) return to;
  check_given(operation, "config.expert_slots", c.expert_slots, "num_expert_slots numbers");
  // Before any is read: a wrong number is more likely than a map of another size.
  if (c.num_experts < 1 || c.num_expert_slots != static_cast<std::size_t>(c.num_experts)) {
    refuse(operation, "config.num_expert_slots", fmt::format("{}", c.num_expert_slots),
           fmt::format("num_experts, {}", c.num_experts));
  }
  if (c.experts_first != 0 || c.experts_count != 0) {
    refuse(operation, "config.expert_slots", "given together with experts_first and experts_count", "one of them");
  }
  to.slots.assign(c.expert_slots, c.expert_slots + c.num_expert_slots);
  return to;
}

template <typename Config>
void from_routing(const Routing& from, Config& c) {
  c.routing = static_cast<std::int32_t>(from.method);
  c.n_group = from.n_group;
  c.topk_group = from.topk_group;
  c.scaling = from.scaling;
  c.renormalize = from.renormalize;
  c.vocabulary = from.vocabulary;
}

std::optional<std::string> optional_text(const char* text) {
  return text == nullptr ? std::nullopt : std::optional<std::string>(text);
}

}  // namespace

template <>
moesaic_moe_config defaults() {
  const MoeConfig d;
  auto c = zeros<moesaic_moe_config>();
  c.alpha = c.beta = c.limit = kDefault;
  c.recipe = "bf16";
  c.int4_group_size = d.int4.size;
  c.activation = static_cast<std::int32_t>(d.activation.kind);
  from_routing(d.routing, c);
  c.router = d.router;
  c.max_tokens = d.max_tokens;
  c.device.device_type = kDLCPU;
  c.tp_size = d.tp.size;
  return c;
}
template <>
moesaic_module_options defaults() {
  auto o = zeros<moesaic_module_options>();
  o.jit = -1;
  return o;
}
template <>
moesaic_matrix defaults() {
  auto m = zeros<moesaic_matrix>();
  m.block_rows = m.block_cols = 1;
  m.multiplier = 1.0;
  return m;
}
template <>
moesaic_expert defaults() {
  return zeros<moesaic_expert>();
}
template <>
moesaic_weight_views defaults() {
  auto v = zeros<moesaic_weight_views>();
  v.gated = 1;
  return v;
}
template <>
moesaic_moe_run defaults() {
  return zeros<moesaic_moe_run>();
}
template <>
moesaic_quant_spec defaults() {
  auto s = zeros<moesaic_quant_spec>();
  s.int4_group_size = Int4Groups{}.size;
  s.activation = -1;
  s.alpha = s.beta = s.limit = kDefault;
  return s;
}
template <>
moesaic_quant_sizes defaults() {
  return zeros<moesaic_quant_sizes>();
}
template <>
moesaic_quantize_run defaults() {
  return zeros<moesaic_quantize_run>();
}
template <>
moesaic_router_config defaults() {
  const RouterConfig d;
  auto c = zeros<moesaic_router_config>();
  from_routing(d.routing, c);
  c.shared_weight = d.shared_weight;
  c.max_tokens = d.max_tokens;
  c.device.device_type = kDLCPU;
  return c;
}
template <>
moesaic_route_run defaults() {
  return zeros<moesaic_route_run>();
}
template <>
moesaic_activation_spec defaults() {
  auto s = zeros<moesaic_activation_spec>();
  s.activation = static_cast<std::int32_t>(Activation{}.kind);
  s.alpha = s.beta = s.limit = kDefault;
  return s;
}
template <>
moesaic_activation_run defaults() {
  return zeros<moesaic_activation_run>();
}
template <>
moesaic_gemm_config defaults() {
  const GemmConfig d;
  auto c = zeros<moesaic_gemm_config>();
  c.groups = d.groups;
  c.recipe = "bf16";
  c.int4_group_size = d.int4.size;
  c.max_rows = d.max_rows;
  c.device.device_type = kDLCPU;
  return c;
}
template <>
moesaic_gemm_weights defaults() {
  return zeros<moesaic_gemm_weights>();
}
template <>
moesaic_gemm_run defaults() {
  auto r = zeros<moesaic_gemm_run>();
  r.alpha = GemmRun{}.alpha;
  return r;
}

Device to_device(const char* operation, DLDevice device) {
  const std::int32_t type = device_type_of(device);
  if (type == kDLCPU) return {DeviceType::kCpu, 0};
  if (type == kDLCUDA && device.device_id >= 0) return {DeviceType::kCuda, device.device_id};
  refuse(operation, "device", fmt::format("DLPack device type {} number {}", type, device.device_id),
         "kDLCPU, or kDLCUDA with a device ordinal");
}

MoeConfig to_config(const char* operation, const moesaic_moe_config* config) {
  const moesaic_moe_config c = read_struct(operation, "config", config);
  check_given(operation, "config.recipe", c.recipe, "a name of `moesaic recipes`");
  MoeConfig to;
  to.hidden = c.hidden, to.intermediate = c.intermediate, to.num_experts = c.num_experts, to.top_k = c.top_k;
  to.recipe = c.recipe;
  to.int4 = {c.int4_group_size, c.int4_zero_points != 0, c.int4_f32_scales != 0};
  to.activation = to_activation(operation, c.activation, c.alpha, c.beta, c.limit);
  to.routing = to_routing(operation, c);
  to.shared.intermediate = c.shared_intermediate;
  to.shared.gated = c.shared_gated != 0;
  to.shared.recipe = optional_text(c.shared_recipe).value_or("");
  to.router = c.router != 0;
  to.weights_on_input = c.weights_on_input != 0;
  to.max_tokens = c.max_tokens;
  to.batch_invariant = c.batch_invariant != 0;
  to.static_scales = c.static_scales != 0;
  to.experts = to_experts(operation, c);
  to.tp = {c.tp_rank, c.tp_size};
  to.device = to_device(operation, c.device);
  return to;
}

void from_config(const char* operation, const MoeConfig& from, moesaic_moe_config* out) {
  read_struct(operation, "config", out);
  const std::size_t size = out->struct_size;
  auto c = defaults<moesaic_moe_config>();
  c.hidden = from.hidden, c.intermediate = from.intermediate;
  c.num_experts = from.num_experts, c.top_k = from.top_k;
  c.recipe = tables::get_recipe(from.recipe).name;
  c.int4_group_size = from.int4.size;
  c.int4_zero_points = from.int4.zero_points;
  c.int4_f32_scales = from.int4.f32_scales;
  c.activation = static_cast<std::int32_t>(from.activation.kind);
  c.alpha = from.activation.alpha.value_or(kDefault);
  c.beta = from.activation.beta.value_or(kDefault);
  c.limit = from.activation.limit.value_or(kDefault);
  from_routing(from.routing, c);
  c.shared_intermediate = from.shared.intermediate;
  c.shared_gated = from.shared.gated;
  c.shared_recipe = from.shared.recipe.empty() ? nullptr : tables::get_recipe(from.shared.recipe).name;
  c.router = from.router;
  c.weights_on_input = from.weights_on_input;
  c.max_tokens = from.max_tokens;
  c.batch_invariant = from.batch_invariant;
  c.static_scales = from.static_scales;
  c.device.device_type = from.device.type == DeviceType::kCpu ? kDLCPU : kDLCUDA;
  c.device.device_id = from.device.index;
  write_struct(c, out, size);
}

ModuleOptions to_modules(const char* operation, const moesaic_module_options* options) {
  ModuleOptions to;
  if (options == nullptr) return to;
  const moesaic_module_options o = read_struct(operation, "modules", options);
  if (o.num_bundles > 0) check_given(operation, "modules.bundles", o.bundles, "num_bundles paths");
  for (std::size_t i = 0; i < o.num_bundles; ++i) {
    check_given(operation, "modules.bundles[...]", o.bundles[i], "a path");
    to.bundles.emplace_back(o.bundles[i]);
  }
  to.cache_dir = optional_text(o.cache_dir);
  if (o.jit < -1 || o.jit > 1) refuse(operation, "modules.jit", fmt::format("{}", o.jit), "-1 (not set), 0 or 1");
  if (o.jit >= 0) to.jit = o.jit == 1;
  to.nvrtc = optional_text(o.nvrtc);
  to.force_kernel = optional_text(o.force_kernel);
  to.force_target = optional_text(o.force_target);
  return to;
}

QuantizerSpec to_quant_spec(const char* operation, const moesaic_quant_spec* spec) {
  const moesaic_quant_spec s = read_struct(operation, "spec", spec);
  QuantizerSpec to;
  to.spec.format = enumerator(operation, "spec.format", s.format, QuantFormat::kInt4);
  to.spec.layout = enumerator(operation, "spec.layout", s.layout, ScaleLayout::k8x4);
  to.spec.e8m0 = enumerator(operation, "spec.e8m0", s.e8m0, E8m0Rounding::kFloor);
  to.spec.int4 = {s.int4_group_size, s.int4_zero_points != 0, false};
  if (s.activation != -1) to.activation = to_activation(operation, s.activation, s.alpha, s.beta, s.limit);
  return to;
}

RouterConfig to_router_config(const char* operation, const moesaic_router_config* config) {
  const moesaic_router_config c = read_struct(operation, "config", config);
  RouterConfig to;
  to.num_experts = c.num_experts, to.top_k = c.top_k;
  to.routing = to_routing(operation, c);
  to.experts = to_experts(operation, c);
  to.shared_slots = c.shared_slots;
  to.shared_weight = c.shared_weight;
  to.max_tokens = c.max_tokens;
  to.device = to_device(operation, c.device);
  return to;
}

OrderedActivation to_activation_spec(const char* operation, const moesaic_activation_spec* spec) {
  const moesaic_activation_spec s = read_struct(operation, "spec", spec);
  return {to_activation(operation, s.activation, s.alpha, s.beta, s.limit),
          enumerator(operation, "spec.gate_up_order", s.gate_up_order, GateUpOrder::kInterleavedUpFirst)};
}

GemmConfig to_gemm_config(const char* operation, const moesaic_gemm_config* config) {
  const moesaic_gemm_config c = read_struct(operation, "config", config);
  check_given(operation, "config.recipe", c.recipe, "a name of `moesaic recipes`");
  GemmConfig to;
  to.n = c.n, to.k = c.k, to.groups = c.groups;
  to.recipe = c.recipe;
  to.int4 = {c.int4_group_size, c.int4_zero_points != 0, c.int4_f32_scales != 0};
  to.e5m2 = c.e5m2 != 0;
  to.max_rows = c.max_rows;
  to.device = to_device(operation, c.device);
  return to;
}

}  // namespace moesaic::capi

// NOLINTBEGIN(bugprone-macro-parentheses): a type
#define MOESAIC_DEFINE_INIT(Struct)                                                             \
  moesaic_status Struct##_init(Struct* out, size_t size) {                                      \
    return moesaic::capi::guarded(#Struct "_init", [&] {                                        \
      moesaic::capi::check_given(#Struct "_init", "the struct", out, "memory of `size` bytes"); \
      moesaic::capi::check_struct_size<Struct>(#Struct "_init", "the struct", size);            \
      moesaic::capi::write_struct(moesaic::capi::defaults<Struct>(), out, size);                \
    });                                                                                         \
  }
// NOLINTEND(bugprone-macro-parentheses)
MOESAIC_DEFINE_INIT(moesaic_moe_config)
MOESAIC_DEFINE_INIT(moesaic_module_options)
MOESAIC_DEFINE_INIT(moesaic_matrix)
MOESAIC_DEFINE_INIT(moesaic_expert)
MOESAIC_DEFINE_INIT(moesaic_weight_views)
MOESAIC_DEFINE_INIT(moesaic_moe_run)
MOESAIC_DEFINE_INIT(moesaic_quant_spec)
MOESAIC_DEFINE_INIT(moesaic_quant_sizes)
MOESAIC_DEFINE_INIT(moesaic_quantize_run)
MOESAIC_DEFINE_INIT(moesaic_router_config)
MOESAIC_DEFINE_INIT(moesaic_route_run)
MOESAIC_DEFINE_INIT(moesaic_activation_spec)
MOESAIC_DEFINE_INIT(moesaic_activation_run)
MOESAIC_DEFINE_INIT(moesaic_gemm_config)
MOESAIC_DEFINE_INIT(moesaic_gemm_weights)
MOESAIC_DEFINE_INIT(moesaic_gemm_run)
