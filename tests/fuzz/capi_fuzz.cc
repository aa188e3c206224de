// SPDX-License-Identifier: Apache-2.0
// Any bytes as arguments of the C interface: MOESAIC_OK, or a status with a text, never "internal", and no byte outside
// of the given memory. Pointers are null, misaligned or good: a wild one is the caller's to avoid.
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fuzz/capi_arguments.h"

namespace {

using namespace moesaic::testing;

void fuzz_router(Choices& c) {
  auto config = filled(c, moesaic_router_config_init);
  config.num_experts = c.of({8, 4, 1});
  config.top_k = c.of({2, 1, 9});
  config.routing = c.below(10);
  config.vocabulary = c.of({0, 5});
  config.shared_slots = c.of({0, 1});
  config.max_tokens = 16;
  config.device = choose_device(c);
  const std::int32_t slots[8] = {0, -1, 1, 2, -1, 3, 4, 5};
  if (c.below(4) == 3) {
    config.expert_slots = slots;
    config.num_expert_slots =
        c.rarely() ? c.of<std::size_t>({0, 7, SIZE_MAX}) : static_cast<std::size_t>(config.num_experts);
  }
  spoil_field(
      c, {&config.num_experts, &config.top_k, &config.routing, &config.n_group, &config.topk_group, &config.vocabulary,
          &config.experts_first, &config.experts_count, &config.shared_slots, &config.max_tokens});
  if (config.expert_slots != nullptr && config.num_experts > 8) return;  // the array has 8
  moesaic_router* router = nullptr;
  if (!ok(moesaic_router_create(c.rarely() ? nullptr : &config, nullptr, &router))) {
    demand(router == nullptr, "a handle of a failure");
    return;
  }
  Arguments a(c);
  const std::int64_t t = c.of({3, 1, 16, 0}), s = config.top_k + config.shared_slots, e = config.num_experts;
  if (s > 100 || e > 100) return moesaic_router_destroy(router);
  auto run = filled(c, moesaic_route_run_init);
  run.logits = a.input(kF32, {t, e});
  if (c.flag()) run.selection_bias = a.input(kF32, {e});
  run.ids = a.output(kI32, {t, s});
  run.weights = a.output(kF32, {t, s});
  std::size_t needed = 0;
  ok(moesaic_router_workspace_bytes(router, c.rarely() ? -1 : t, &needed));
  run.workspace = c.rarely() ? nullptr : a.workspace().data();
  run.workspace_bytes = a.workspace().size();
  ok(moesaic_router_kernels(router, t, nullptr, 0, &needed));
  ok(moesaic_router_route(c.rarely() ? nullptr : router, c.rarely() ? nullptr : &run, nullptr));
  demand(a.intact(), "bytes outside of the given memory written");
  moesaic_router_destroy(router);
}

void fuzz_activation(Choices& c) {
  auto spec = filled(c, moesaic_activation_spec_init);
  spec.activation = c.below(11);
  spec.gate_up_order = c.below(4);
  if (c.rarely()) spec.alpha = c.of({1.5f, 0.0f, std::nanf("")});
  spoil_field(c, {&spec.activation, &spec.gate_up_order});
  moesaic_activation_op* op = nullptr;
  if (!ok(moesaic_activation_op_create(c.rarely() ? nullptr : &spec, choose_device(c), nullptr, &op))) return;
  Arguments a(c);
  const std::int64_t t = c.of({3, 1, 0}), i = c.of({32, 8, 7});
  auto run = filled(c, moesaic_activation_run_init);
  run.x = a.input(c.of({kF32, kBf16}), {t, c.flag() ? 2 * i : i});
  run.out = a.output(c.of({kF32, kBf16}), {t, i});
  ok(moesaic_activation_op_run(op, &run, nullptr));
  demand(a.intact(), "bytes outside of the given memory written");
  moesaic_activation_op_destroy(op);
}

void fuzz_quantizer(Choices& c) {
  auto spec = filled(c, moesaic_quant_spec_init);
  spec.format = c.below(11);
  spec.layout = c.below(3);
  spec.e8m0 = c.below(2);
  spec.int4_group_size = c.of({32, 64, 0});
  if (c.rarely()) spec.activation = c.below(11);
  spoil_field(c, {&spec.format, &spec.layout, &spec.e8m0, &spec.int4_group_size, &spec.activation});
  const std::int64_t rows = c.of({3, 1, 0, 17}), cols = c.of({64, 128, 32, 33});
  auto sizes = filled(c, moesaic_quant_sizes_init);
  const bool sized = ok(moesaic_quant_sizes_of(&spec, c.rarely() ? INT64_MAX : rows, cols, &sizes));
  moesaic_quantizer* quantizer = nullptr;
  if (!ok(moesaic_quantizer_create(&spec, choose_device(c), nullptr, &quantizer))) return;
  if (!sized || rows > 17) return moesaic_quantizer_destroy(quantizer);
  Arguments a(c);
  auto run = filled(c, moesaic_quantize_run_init);
  run.x = a.output(c.of({kF32, kBf16}), {rows, cols});
  run.codes = a.output(kU8, {rows, spec.format >= 3 && spec.format < 10 ? cols : cols / 2});
  run.scales = a.output(c.of({kU8, kF32}), {sizes.scale_rows, sizes.scale_cols});
  if (c.flag()) run.scales = a.output(kU8, {sizes.scale_bytes});
  if (c.flag()) run.global_scale = a.input(kF32, {1});
  if (c.flag()) run.row_scales = a.output(kF32, {rows});
  if (c.flag()) run.zeros = a.output(kU8, {rows, sizes.scale_cols});
  ok(moesaic_quantizer_quantize(quantizer, c.rarely() ? nullptr : &run, nullptr));
  ok(moesaic_quantizer_dequantize(quantizer, &run, nullptr));
  ok(moesaic_quantizer_swizzle(quantizer, run.scales, a.output(kU8, {sizes.scale_bytes}), nullptr));
  ok(moesaic_quantizer_unswizzle(quantizer, a.input(kU8, {sizes.scale_bytes}), run.scales, nullptr));
  std::int32_t quantized = -1;
  const bool known = ok(moesaic_weight_spec(choose_recipe(c), c.of({32, 0, -1}), c.below(3), &spec, &quantized));
  demand(!known || quantized == 0 || quantized == 1, "a flag that is none");
  demand(a.intact(), "bytes outside of the given memory written");
  moesaic_quantizer_destroy(quantizer);
}

void fuzz_gemm(Choices& c) {
  auto config = filled(c, moesaic_gemm_config_init);
  config.n = c.of({24, 1, 64});
  config.k = c.of({64, 32, 5});
  config.groups = c.of({1, 2});
  config.recipe = choose_recipe(c);
  config.max_rows = 16;
  config.device = choose_device(c);
  spoil_field(c, {&config.n, &config.k, &config.groups, &config.int4_group_size, &config.max_rows});
  moesaic_gemm* gemm = nullptr;
  if (!ok(moesaic_gemm_create(&config, nullptr, &gemm))) return;
  Arguments a(c);
  std::size_t bytes = 0;
  const bool small = ok(moesaic_gemm_prepared_bytes(gemm, &bytes)) && bytes <= a.workspace().size() && config.n <= 64 &&
                     config.k <= 64 && config.groups <= 2;
  if (!small) return moesaic_gemm_destroy(gemm);
  GuardedMemory prepared(bytes, 0xff, c.rarely() ? 64 : 0);
  const moesaic_matrix w[2] = {choose_matrix(c, a, config.n, config.k), choose_matrix(c, a, config.n, config.k)};
  moesaic_gemm_weights weights[2] = {filled(c, moesaic_gemm_weights_init), filled(c, moesaic_gemm_weights_init)};
  for (int g = 0; g < 2; ++g) weights[g].w = c.rarely() ? nullptr : &w[g];
  const moesaic_gemm_weights* pointers[2] = {&weights[0], c.rarely() ? nullptr : &weights[1]};
  const bool ready = ok(moesaic_gemm_prepare(gemm, pointers, c.rarely() ? 1 : static_cast<std::size_t>(config.groups),
                                             prepared.data(), nullptr));
  const std::int64_t m = c.of({3, 1, 16, 0});
  auto run = filled(c, moesaic_gemm_run_init);
  run.x = a.input(kBf16, {m, config.k});
  run.out = a.output(c.of({kF32, kBf16}), {m, config.n});
  if (c.rarely()) run.x_scale = a.input(kF32, {m});
  run.prepared = ready || c.rarely() ? prepared.data() : nullptr;
  run.workspace = a.workspace().data();
  run.workspace_bytes = c.rarely() ? 16 : a.workspace().size();
  spoil_field(c, {&run.scale_major});
  ok(moesaic_gemm_multiply(gemm, &run, nullptr));
  std::array<char, 64> text{};
  ok(moesaic_gemm_workspace_bytes(gemm, c.rarely() ? c.of<std::int64_t>({-1, INT64_MAX}) : m, &bytes));
  ok(moesaic_gemm_kernels(gemm, m, text.data(), c.of<std::size_t>({64, 1, 0}), &bytes));
  demand(a.intact() && prepared.intact(), "bytes outside of the given memory written");
  moesaic_gemm_destroy(gemm);
}

void fuzz_texts(Choices& c) {
  auto config = filled(c, moesaic_moe_config_init);
  config.hidden = c.of({64, 128, 5});
  config.intermediate = c.of({32, 64});
  config.num_experts = c.of({4, 8});
  config.top_k = c.of({2, 1});
  config.recipe = choose_recipe(c);
  config.activation = c.below(11);
  config.routing = c.below(10);
  config.max_tokens = 16;
  config.device = choose_device(c);
  spoil_field(c, {&config.hidden, &config.intermediate, &config.num_experts, &config.top_k, &config.activation,
                  &config.routing, &config.n_group, &config.shared_intermediate, &config.max_tokens,
                  &config.experts_first, &config.experts_count, &config.tp_rank, &config.tp_size, &config.vocabulary});
  auto modules = filled(c, moesaic_module_options_init);
  modules.jit = c.of({-1, 0, 1, 2});
  modules.cache_dir = "/nowhere";
  modules.force_kernel = c.rarely() ? "none" : nullptr;
  modules.num_bundles = c.rarely() ? 1 : 0;
  moesaic_moe* moe = nullptr;
  const bool made = ok(moesaic_moe_create(&config, c.flag() ? &modules : nullptr, &moe));
  demand(made == (moe != nullptr), "a handle of a failure, or none of a success");
  std::array<char, 64> text{};
  std::size_t needed = 0;
  const std::size_t capacity = c.of<std::size_t>({0, 1, 64});
  char* buffer = c.flag() ? text.data() : nullptr;
  const std::int64_t tokens = c.of<std::int64_t>({1, 0, -1, INT64_MAX, 16});
  if (ok(moesaic_moe_kernels(moe, tokens, buffer, capacity, c.rarely() ? nullptr : &needed)) && buffer != nullptr) {
    demand(needed <= capacity && std::strlen(buffer) + 1 == needed, "a text of another length");
  }
  if (c.rarely()) ok(moesaic_explain(&config, tokens, buffer, capacity, &needed));
  std::size_t bytes = 0;
  ok(moesaic_moe_workspace_bytes(moe, tokens, &bytes));
  ok(moesaic_moe_dispatched_workspace_bytes(moe, tokens, &bytes));
  moesaic_moe_destroy(moe);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Choices c(data, size);
  constexpr std::array kParts = {fuzz_texts, fuzz_router, fuzz_activation, fuzz_quantizer, fuzz_gemm};
  kParts[static_cast<std::size_t>(c.below(static_cast<int>(kParts.size())))](c);
  return 0;
}
