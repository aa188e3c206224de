// SPDX-License-Identifier: Apache-2.0
// Any bytes as a layer, weights and a run, or as a quantisation: an Error, or what the oracle gives, within the memory
// that was given. Pointers are null, misaligned or good: a wild one is the caller's to avoid.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "fuzz/weight_choices.h"
#include "moesaic/moe.h"
#include "moesaic/quantize.h"
#include "support/guarded_memory.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace {

using namespace moesaic;
using namespace moesaic::testing;

MoeConfig choose_config(Choices& c) {
  MoeConfig m;
  m.recipe = tables::kRecipeTable[static_cast<std::size_t>(c.below(tables::kNumRecipes))].name;
  m.hidden = c.of({64, 32, 128, 64, 16, 64, 128, 5});
  m.intermediate = c.of({32, 64, 128, 64, 32, 16, 64, 7});
  m.num_experts = c.of({4, 1, 2, 6});
  m.top_k = c.rarely() ? 3 : std::min(c.of({2, 1}), m.num_experts);
  m.int4 = {c.rarely() ? 0 : c.of({32, 32, 64}), c.flag()};
  m.activation.kind = static_cast<ActivationKind>(c.rarely() ? 200 : c.below(11));
  if (c.rarely()) m.activation.alpha = c.of({1.5f, 0.0f, std::nanf("")});
  if (c.rarely()) m.activation.limit = c.of({2.0f, -1.0f, std::nanf("")});
  m.routing.method = static_cast<RoutingMethod>(c.rarely() ? 200 : c.below(kNumRoutingMethods));
  if (c.rarely()) m.routing.n_group = c.of({1, 1, 2, 0, 3}), m.routing.topk_group = c.of({1, 2, 0});
  m.routing.renormalize = c.flag();
  m.shared.intermediate = c.rarely() ? -1 : c.of({0, 32, 0, 64});
  m.shared.gated = m.shared.intermediate > 0 && c.flag();
  if (c.rarely()) m.shared.recipe = c.of({"bf16", "fp16", "nvfp4", "none"});
  m.router = !c.rarely();
  m.weights_on_input = c.flag();
  m.max_tokens = 16;
  if (c.rarely()) {
    constexpr int kFields = 6;
    int* fields[kFields] = {&m.hidden, &m.intermediate, &m.num_experts,
                            &m.top_k,  &m.max_tokens,   &m.shared.intermediate};
    *fields[c.below(kFields)] =
        c.of({std::numeric_limits<int>::max(), std::numeric_limits<int>::min(), -1, 0, 1 << 20});
  }
  return m;
}

ExpertWeights choose_expert(Choices& c, const MoeConfig& m, const std::string& recipe, int intermediate) {
  ExpertWeights e;
  const bool gated = is_gated(m.activation.kind) != c.rarely();
  e.gate = choose_matrix(c, recipe, m.int4, intermediate, m.hidden);
  if (gated) e.up = choose_matrix(c, recipe, m.int4, intermediate, m.hidden);
  e.down = choose_matrix(c, recipe, m.int4, m.hidden, intermediate);
  e.gate_bias = choose_vector(c, intermediate);
  if (gated) e.up_bias = choose_vector(c, intermediate);
  e.down_bias = choose_vector(c, m.hidden);
  if (c.rarely()) e.input_scale = e.down_input_scale = c.of({0.5f, 0.0f, -1.0f, std::nanf("")});
  return e;
}

MoeWeights choose_weights(Choices& c, const MoeConfig& m) {
  MoeWeights w;
  const int experts = m.num_experts + (c.rarely() ? c.of({1, -1}) : 0);
  for (int e = 0; e < experts; ++e) w.experts.push_back(choose_expert(c, m, m.recipe, m.intermediate));
  if (m.router != c.rarely()) {
    w.router = choose_matrix(c, "bf16", m.int4, m.num_experts, m.hidden);
    w.router_bias = choose_vector(c, m.num_experts);
  }
  w.selection_bias = choose_vector(c, m.num_experts);
  if ((m.shared.intermediate > 0) != c.rarely()) {
    w.shared = choose_expert(c, m, tables::shared_recipe(m), std::max(m.shared.intermediate, 1));
  }
  if (m.shared.gated) w.shared_gate = {numbers().middle(), DType::kBF16, m.hidden, 1};
  return w;
}

/// Memory of a run, each part exactly as large as it must be.
struct RunMemory {
  GuardedMemory x, out, logits, ids, weights, ids_out, weights_out, logits_out;
  RunMemory(std::size_t t, const MoeConfig& m)
      : x(t * static_cast<std::size_t>(m.hidden) * 2 + 4),
        out(t * static_cast<std::size_t>(m.hidden) * 4),
        logits(t * static_cast<std::size_t>(m.num_experts) * 4 + 4),
        ids(t * static_cast<std::size_t>(m.top_k) * 4 + 4),
        weights(t * static_cast<std::size_t>(m.top_k) * 4 + 4),
        ids_out(t * static_cast<std::size_t>(m.top_k) * 4),
        weights_out(t * static_cast<std::size_t>(m.top_k) * 4),
        logits_out(t * static_cast<std::size_t>(m.num_experts) * 4) {
    for (GuardedMemory* input : {&x, &logits, &weights}) {
      std::copy_n(numbers().middle(), input->size(), static_cast<char*>(input->data()));
    }
  }
  bool intact() const {
    for (const GuardedMemory* part : {&x, &out, &logits, &ids, &weights, &ids_out, &weights_out, &logits_out}) {
      if (!part->intact()) return false;
    }
    return true;
  }
};

MoeRun choose_run(Choices& c, const MoeConfig& m, std::int64_t tokens, RunMemory& memory) {
  MoeRun r;
  const DType io = tables::get_recipe(m.recipe).io;
  r.x = TensorView(memory.x.data(), io, {tokens, m.hidden});
  r.out = TensorView(memory.out.data(), c.flag() ? DType::kF32 : io, {tokens, m.hidden});
  const int routing = c.below(3);
  if (routing == 1) r.router_logits = TensorView(memory.logits.data(), DType::kF32, {tokens, m.num_experts});
  if (routing == 2) {
    auto* ids = static_cast<std::int32_t*>(memory.ids.data());
    for (std::int64_t i = 0; i < tokens * m.top_k; ++i) ids[i] = c.below(m.num_experts + 2) - 1;
    r.topk_ids = TensorView(ids, DType::kI32, {tokens, m.top_k});
    r.topk_weights = TensorView(memory.weights.data(), DType::kF32, {tokens, m.top_k});
  }
  r.topk_ids_out = TensorView(memory.ids_out.data(), DType::kI32, {tokens, m.top_k});
  r.topk_weights_out = TensorView(memory.weights_out.data(), DType::kF32, {tokens, m.top_k});
  if (c.rarely()) r.logits_out = TensorView(memory.logits_out.data(), DType::kF32, {tokens, m.num_experts});
  if (c.below(4) == 3) {
    TensorView* views[] = {&r.x,   &r.router_logits, &r.topk_ids,     &r.topk_weights,
                           &r.out, &r.logits_out,    &r.topk_ids_out, &r.topk_weights_out};
    spoil(c, *views[c.below(8)]);
  }
  return r;
}

// The oracle with the routing that the run chose: near ties may be decided either way.
void compare_with_oracle(const MoeConfig& m, const MoeWeights& w, const MoeRun& run, std::int64_t tokens) {
  if (run.topk_ids_out.empty() || run.topk_weights_out.empty()) return;
  std::vector<double> wanted(static_cast<std::size_t>(tokens * m.hidden));
  MoeRun reference;
  reference.x = run.x;
  reference.topk_ids = run.topk_ids_out;
  reference.topk_weights = run.topk_weights_out;
  reference.out = TensorView(wanted.data(), DType::kF64, {tokens, m.hidden});
  reference_moe(m, w, ReferenceMode::kOracle, reference);
  // One code of a quantised activation that falls the other way weighs much in a layer as small as these.
  const bool quantised = activation_spec(m.recipe, true) || activation_spec(tables::shared_recipe(m), true);
  const double bound = quantised ? 0.3 : 0.03;
  for (std::int64_t t = 0; t < tokens; ++t) {
    double distance = 0, norm = 0, largest = 0;
    for (std::int64_t h = 0; h < m.hidden; ++h) {
      const double ref = wanted[static_cast<std::size_t>(t * m.hidden + h)];
      const double got = cpu::load_element(run.out.data, run.out.dtype, t * m.hidden + h);
      distance += (got - ref) * (got - ref);
      norm += ref * ref;
      largest = std::max(largest, std::isfinite(ref) ? std::fabs(ref) : 1e30);
    }
    const bool comparable = largest < 1e4 && norm > 1e-6 * static_cast<double>(m.hidden);
    demand(!comparable || distance <= bound * bound * norm, "a result that the oracle does not give");
  }
}

void fuzz_layer(Choices& c) {
  const MoeConfig m = choose_config(c);
  try {
    const FusedMoe layer = FusedMoe::create(m);
    const std::int64_t tokens = c.of({3, 1, 16, 0, 2});
    if (tokens > m.max_tokens) return;
    if (layer.prepared_bytes() > 4'000'000 || layer.workspace_bytes(tokens) > 32'000'000) return;
    MoeWeights w = choose_weights(c, m);
    GuardedMemory prepared(layer.prepared_bytes(), 0xff, c.rarely() ? 64 : 0);
    RunMemory memory(static_cast<std::size_t>(tokens), m);
    MoeRun run = choose_run(c, m, tokens, memory);
    const std::size_t short_of = c.rarely() ? 1 : 0;
    GuardedMemory workspace(layer.workspace_bytes(tokens), 0xff, c.rarely() ? 32 : 0);
    run.workspace = c.rarely() ? nullptr : workspace.data();
    run.workspace_bytes = workspace.size() - std::min(short_of, workspace.size());
    run.prepared = c.rarely() ? nullptr : prepared.data();
    if (!c.rarely()) layer.prepare(w, c.rarely() ? nullptr : prepared.data());
    if (c.rarely() && !w.experts.empty()) {
      const int expert = c.below(8) - 1;
      layer.prepare_expert(expert, w.experts[0], prepared.data());
      w.experts.at(static_cast<std::size_t>(expert)) = w.experts[0];
    }
    layer.run(run);
    demand(prepared.intact() && workspace.intact() && memory.intact(), "bytes outside of the given memory written");
    compare_with_oracle(m, w, run, tokens);
  } catch (const Error& error) {
    demand_refusal(error);
  }
}

void fuzz_quantizer(Choices& c) {
  QuantSpec spec;
  spec.format = static_cast<QuantFormat>(c.rarely() ? 200 : c.below(11));
  const bool padded = spec.format < QuantFormat::kFp8Static || c.rarely();
  spec.layout = static_cast<ScaleLayout>(c.rarely() ? 200 : padded ? c.below(3) : 0);
  spec.e8m0 = static_cast<E8m0Rounding>(c.rarely() ? 200 : c.below(2));
  spec.int4 = {c.of({32, 64, 128, 7}), c.flag()};
  Activation activation;
  activation.kind = static_cast<ActivationKind>(c.rarely() ? c.of({9, 200}) : c.of({3, 4, 5}));
  const bool gated = c.below(4) == 3;
  try {
    const Quantizer quantizer = Quantizer::create(spec, {}, {}, gated ? &activation : nullptr);
    const std::int64_t rows = c.of({3, 0, 1, 130, 17}), cols = c.of({64, 128, 32, 160, 33, 0});
    const QuantSizes sizes = quant_sizes(spec, rows, cols);
    const QuantTraits traits = quant_traits(spec);
    const DType scale_type = traits.scales == ScaleFormat::kF32    ? DType::kF32
                             : traits.scales == ScaleFormat::kBF16 ? DType::kBF16
                                                                   : DType::kU8;
    const bool grouped = spec.layout == ScaleLayout::k128x4 && c.flag();
    std::int32_t offsets[3] = {0, static_cast<std::int32_t>(rows / 2), static_cast<std::int32_t>(rows)};
    if (c.rarely()) offsets[c.below(3)] = c.of({-1, 1 << 30, 1});
    const std::int64_t scale_bytes =
        grouped ? scale_layout_bytes(spec.layout, grouped_scale_row(rows, 2) + 128, sizes.scale_cols)
                : sizes.scale_bytes;
    const auto bytes = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    GuardedMemory codes(bytes(sizes.code_bytes)), scales(bytes(scale_bytes)), zeros(bytes(sizes.zero_bytes)),
        row_scales(bytes(rows * 4));
    GuardedMemory oracle_codes(codes.size()), oracle_scales(scales.size()), oracle_zeros(zeros.size()),
        oracle_rows(row_scales.size()), back(bytes(rows * cols * 4));
    const float global = 2.0f;
    QuantizeRun run;
    run.x =
        TensorView(numbers().middle(), c.of({DType::kBF16, DType::kF16, DType::kF32}), {rows, gated ? 2 * cols : cols});
    run.codes = TensorView(codes.data(), DType::kU8, {rows, cols * tables::code_bits(traits.codes) / 8});
    run.scales = spec.layout == ScaleLayout::kLinear
                     ? TensorView(scales.data(), scale_type, {sizes.scale_rows, sizes.scale_cols})
                     : TensorView(scales.data(), scale_type, {scale_bytes});
    if (sizes.zero_bytes > 0) run.zeros = TensorView(zeros.data(), DType::kU8, {rows, sizes.scale_cols});
    if (tables::quant_row(spec.format).global_scale) run.global_scale = TensorView(&global, DType::kF32, {1});
    if (spec.format == QuantFormat::kNvfp4Row) run.row_scales = TensorView(row_scales.data(), DType::kF32, {rows});
    if (grouped) run.group_offsets = TensorView(offsets, DType::kI32, {3});
    if (c.below(4) == 3) {
      TensorView* views[] = {&run.x,          &run.codes,        &run.scales, &run.zeros, &run.global_scale,
                             &run.row_scales, &run.group_offsets};
      spoil(c, *views[c.below(7)]);
    }
    quantizer.quantize(run);
    QuantizeRun oracle = run;
    oracle.codes.data = oracle_codes.data();
    oracle.scales.data = oracle_scales.data();
    if (!run.zeros.empty()) oracle.zeros.data = oracle_zeros.data();
    if (!run.row_scales.empty()) oracle.row_scales.data = oracle_rows.data();
    cpu::oracle_quantize(spec, oracle, gated ? &activation : nullptr);
    // Activations are FP32 on one side and FP64 on the other.
    const bool same_codes = codes.text() == oracle_codes.text() && zeros.text() == oracle_zeros.text();
    const bool same_scales = scales.text() == oracle_scales.text() && row_scales.text() == oracle_rows.text();
    demand(gated || same_codes, "codes that the oracle has not");
    demand(gated || same_scales, "scales that the oracle has not");
    run.x = TensorView(back.data(), DType::kF32, {rows, cols});
    quantizer.dequantize(run);
    for (const GuardedMemory* part : {&codes, &scales, &zeros, &row_scales, &back}) {
      demand(part->intact(), "bytes outside of the given memory written");
    }
  } catch (const Error& error) {
    demand_refusal(error);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Choices choices(data, size);
  if (choices.below(3) == 2) {
    fuzz_quantizer(choices);
  } else {
    fuzz_layer(choices);
  }
  return 0;
}
