// SPDX-License-Identifier: Apache-2.0
// Argument checks of the layer: every refusal names the argument, what was got and what is wanted.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/tensor_text.h"
#include "moesaic/quantize.h"
#include "ops/argument_check.h"
#include "ops/moe_impl.h"
#include "tables/given_codes.h"
#include "tables/kernel_table.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic::ops {
namespace {

constexpr ArgumentCheck kCheck{"fused_moe"};
constexpr std::int64_t kMostRows = 1 << 30;  // of a reference, so that no size overflows

[[noreturn]] void refuse(const std::string& argument, const std::string& got, const std::string& wanted) {
  kCheck.refuse(argument, got, wanted);
}

using base::tensor_text;

void check_tensor(const std::string& name, const TensorView& t, std::int64_t rows, std::int64_t cols,
                  std::initializer_list<DType> dtypes) {
  const std::int64_t shape[] = {rows, cols};
  kCheck.tensor(name, t, shape, {dtypes.begin(), dtypes.size()});
}

void check_matrix(const std::string& name, const MatrixView& m, std::int64_t rows, std::int64_t cols) {
  kCheck.matrix(name, m, rows, cols);
}

void check_vector(const std::string& name, const VectorView& v, std::int64_t size) { kCheck.vector(name, v, size); }

// Numbers, never codes.
void check_numbers(const std::string& name, const MatrixView& m, std::int64_t rows, std::int64_t cols) {
  check_matrix(name, m, rows, cols);
  if (m.quantized()) refuse(name, "quantised", "bf16, f16 or f32");
}

// Weights of experts: in the recipe's own format, unless any stored format will do.
struct WeightCheck {
  const MoeConfig& config;
  const std::string& recipe;
  bool any_format;

  void matrix(const std::string& name, const MatrixView& m, std::int64_t rows, std::int64_t cols) const {
    check_matrix(name, m, rows, cols);
    if (any_format || fits_recipe(recipe, config.int4, m)) return;
    refuse(name, m.quantized() ? "stored in another quantised format" : dtype_name(m.dtype),
           fmt::format("the weights of recipe {}: convert_weights makes them", recipe));
  }
};

void check_expert(const WeightCheck& check, const std::string& name, const ExpertWeights& e, int intermediate) {
  const int hidden = check.config.hidden;
  check.matrix(name + ".gate", e.gate, intermediate, hidden);
  if (is_gated(check.config.activation.kind)) {
    check.matrix(name + ".up", e.up, intermediate, hidden);
  } else if (!e.up.empty()) {
    refuse(name + ".up", "a matrix", "empty: the activation is not gated");
  } else if (!e.up_bias.empty()) {
    refuse(name + ".up_bias", "a vector", "empty: the activation is not gated");
  }
  check.matrix(name + ".down", e.down, hidden, intermediate);
  check_vector(name + ".gate_bias", e.gate_bias, intermediate);
  check_vector(name + ".up_bias", e.up_bias, intermediate);
  check_vector(name + ".down_bias", e.down_bias, hidden);
  for (const float scale : {e.input_scale, e.down_input_scale}) {
    if (scale >= 0.0f && std::isfinite(scale)) continue;
    refuse(name + ".input_scale or down_input_scale", fmt::format("{}", scale), "0 (none) or a finite number above 0");
  }
  const bool promised = check.config.static_scales && tables::takes_static_scales(tables::get_recipe(check.recipe));
  if (promised && (e.input_scale == 0.0f || e.down_input_scale == 0.0f)) {
    refuse(name + ".input_scale or down_input_scale", "0",
           "a number above 0, for static_scales of the configuration is set (weights that were converted have none)");
  }
}

// x of [rows, H], numbers or codes, and the scales of codes.
void check_input(const MoeConfig& c, const MoeRun& run, std::int64_t rows, std::initializer_list<DType> numbers) {
  const auto form = tables::given_codes(c.recipe, rows, c.hidden);
  tables::check_given_codes("fused_moe", c.recipe, form, run.x, run.x_scale, run.x_row_scale);
  if (!gives_codes(run)) check_tensor("x", run.x, rows, c.hidden, numbers);
}

// What a layer must not ask of codes: projections, and activations in another format.
void check_readers_of_codes(const MoeConfig& c, const MoeRun& run) {
  if (!gives_codes(run)) return;
  if (run.router_logits.empty() && run.topk_ids.empty()) {
    refuse("router_logits", "empty", "router_logits, or topk_ids and topk_weights: codes of x cannot be projected");
  }
  if (c.shared.intermediate == 0) return;
  if (c.shared.gated) {
    refuse("x", tensor_text(run.x),
           fmt::format("{} numbers: the shared experts' gate is a projection of x",
                       dtype_name(tables::get_recipe(c.recipe).io)));
  }
  const std::string& shared = tables::shared_recipe(c);
  const auto own = tables::given_codes(c.recipe, 0, c.hidden), theirs = tables::given_codes(shared, 0, c.hidden);
  if (own && theirs && own->format == theirs->format) return;
  refuse("x", tensor_text(run.x),
         fmt::format("numbers: shared experts of recipe {} read x in another format than recipe {}", shared, c.recipe));
}

void check_token_ids(const MoeConfig& c, const MoeRun& run, std::int64_t tokens, bool given) {
  const TensorView& ids = run.token_ids;
  if (given || c.routing.method != RoutingMethod::kHash) {
    if (ids.empty()) return;
    refuse("token_ids", tensor_text(ids), given ? "none: topk_ids are there" : "none: routing hash has them");
  }
  if (ids.empty()) refuse("token_ids", "empty", fmt::format("i64 or i32 [{}]: routing hash", tokens));
  constexpr DType kIds[] = {DType::kI64, DType::kI32};
  const std::int64_t shape[] = {tokens};
  kCheck.tensor("token_ids", ids, shape, kIds);
}

void check_routing_inputs(const MoeConfig& c, const MoeRun& run, std::int64_t tokens) {
  const bool given = !run.topk_ids.empty() || !run.topk_weights.empty();
  if (given) {
    if (run.topk_ids.empty() || run.topk_weights.empty()) {
      refuse(run.topk_ids.empty() ? "topk_ids" : "topk_weights", "empty", "both topk_ids and topk_weights, or neither");
    }
    if (!run.router_logits.empty()) refuse("router_logits", "given together with topk_ids", "one of them");
    check_tensor("topk_ids", run.topk_ids, tokens, c.top_k, {DType::kI32});
    check_tensor("topk_weights", run.topk_weights, tokens, c.top_k, {DType::kF32});
  } else if (!run.router_logits.empty()) {
    check_tensor("router_logits", run.router_logits, tokens, c.num_experts, {DType::kF32});
  } else if (!c.router) {
    refuse("router_logits", "empty",
           "router_logits, or topk_ids and topk_weights: the layer was made without a router");
  }
  check_token_ids(c, run, tokens, given);
  if (!run.logits_out.empty()) {
    if (given) refuse("logits_out", "given together with topk_ids", "empty: no logits are computed");
    check_tensor("logits_out", run.logits_out, tokens, c.num_experts, {DType::kF32});
  }
  if (!run.topk_ids_out.empty()) check_tensor("topk_ids_out", run.topk_ids_out, tokens, c.top_k, {DType::kI32});
  if (!run.topk_weights_out.empty()) {
    check_tensor("topk_weights_out", run.topk_weights_out, tokens, c.top_k, {DType::kF32});
  }
}

void check_dispatched(const MoeConfig& c, const MoeRun& run, Precision precision) {
  for (const auto& [name, view] :
       {std::pair{"router_logits", &run.router_logits}, std::pair{"token_ids", &run.token_ids},
        std::pair{"topk_ids", &run.topk_ids}, std::pair{"topk_weights", &run.topk_weights},
        std::pair{"logits_out", &run.logits_out}, std::pair{"topk_ids_out", &run.topk_ids_out},
        std::pair{"topk_weights_out", &run.topk_weights_out}}) {
    if (!view->empty()) refuse(name, tensor_text(*view), "none: rows are dispatched already");
  }
  const bool masked = run.expert_offsets.empty();
  if (!masked && !run.expert_counts.empty()) refuse("expert_counts", "given with expert_offsets", "one of them");
  const int held = num_local_experts(c);
  const std::int64_t numbers[] = {masked ? held : held + 1};
  constexpr DType kI32[] = {DType::kI32};
  kCheck.tensor(masked ? "expert_counts" : "expert_offsets", masked ? run.expert_counts : run.expert_offsets, numbers,
                kI32);
  const TensorView& x = run.x;
  const int rank = masked ? 3 : 2;
  const std::string form = masked ? fmt::format("[{}, max, {}]", held, c.hidden) : fmt::format("[R, {}]", c.hidden);
  if (x.rank != rank || (masked && x.shape[0] != held)) refuse("x", tensor_text(x), form);
  const bool same_rows =
      run.out.rank == rank && std::equal(x.shape.begin(), x.shape.begin() + rank - 1, run.out.shape.begin());
  if (!same_rows || run.out.shape[static_cast<std::size_t>(rank - 1)] != c.hidden) {
    refuse("out", tensor_text(run.out), fmt::format("{}, with the rows of x, {}", form, tensor_text(x)));
  }
  const bool io_run = precision == Precision::kIo;
  const std::int64_t most = io_run ? std::int64_t{c.max_tokens} * c.top_k : kMostRows, side = x.shape[masked ? 1 : 0];
  if (side < 0 || side > (masked ? most / held : most)) {
    refuse("x", tensor_text(x), fmt::format("0 to {}{} rows", io_run ? "max_tokens * top_k = " : "", most));
  }
  const MoeRun flat = matrices_of_rows(c, run);
  const std::int64_t rows = flat.x.shape[0];
  const DType io = tables::get_recipe(c.recipe).io;
  if (io_run) {
    check_input(c, flat, rows, {io});
    check_tensor("out", flat.out, rows, c.hidden, {io, DType::kF32});
  } else {
    check_input(c, flat, rows, {io, DType::kF32});
    check_tensor("out", flat.out, rows, c.hidden, {DType::kF64, DType::kF32, io});
  }
}

void check_dispatched_values(const MoeRun& run) {
  if (run.expert_offsets.empty()) {
    kCheck.count_values("expert_counts", run.expert_counts, run.x.shape[1]);
  } else {
    kCheck.offset_values("expert_offsets", run.expert_offsets, run.x.shape[0]);
  }
}

// A tensor [L, max, ...] of one dimension more than wanted, as x is, becomes [L * max, ...].
void merge_rows(const TensorView& x, int wanted_rank, TensorView& t) {
  if (t.rank != wanted_rank + 1 || t.shape[0] != x.shape[0] || t.shape[1] != x.shape[1]) return;
  t.shape[0] *= t.shape[1];
  std::copy(t.shape.begin() + 2, t.shape.begin() + t.rank, t.shape.begin() + 1);
  --t.rank;
}

}  // namespace

void check_weights(const MoeConfig& c, const MoeWeights& w, WeightFormats formats) {
  const bool any_format = formats == WeightFormats::kAny;
  if (static_cast<int>(w.experts.size()) != num_local_experts(c)) {
    refuse("weights.experts", fmt::format("{} experts", w.experts.size()),
           fmt::format("{}: those that the layer holds", num_local_experts(c)));
  }
  for (std::size_t e = 0; e < w.experts.size(); ++e) {
    check_expert({c, c.recipe, any_format}, fmt::format("weights.experts[{}]", e), w.experts[e], c.intermediate);
  }
  if (c.router) {
    check_numbers("weights.router", w.router, c.num_experts, c.hidden);
  } else if (!w.router.empty() || !w.router_bias.empty()) {
    refuse("weights.router", "given", "none: the layer was made without a router");
  }
  check_vector("weights.router_bias", w.router_bias, c.num_experts);
  check_vector("weights.selection_bias", w.selection_bias, c.num_experts);
  if (c.routing.method == RoutingMethod::kHash) {
    check_tensor("weights.token_experts", w.token_experts, c.routing.vocabulary, c.top_k, {DType::kI32});
  }
  if (c.shared.intermediate > 0) {
    check_expert({c, tables::shared_recipe(c), any_format}, "weights.shared", w.shared, c.shared.intermediate);
  } else if (!w.shared.gate.empty() || !w.shared.up.empty() || !w.shared.down.empty()) {
    refuse("weights.shared", "given", "none: shared.intermediate is 0");
  }
  if (!c.shared.gated && !w.shared_gate.empty()) refuse("weights.shared_gate", "given", "none: shared.gated is false");
  if (c.shared.gated && w.shared_gate.empty()) refuse("weights.shared_gate", "empty", fmt::format("[{}]", c.hidden));
  check_vector("weights.shared_gate", w.shared_gate, c.hidden);
}

void check_expert_weights(const MoeConfig& c, int expert, const ExpertWeights& weights) {
  if (expert < 0 || expert >= num_local_experts(c)) {
    refuse("expert", fmt::format("{}", expert), fmt::format("0 to {}", num_local_experts(c) - 1));
  }
  check_expert({c, c.recipe, false}, fmt::format("weights of expert {}", expert), weights, c.intermediate);
}

void check_run(const MoeConfig& c, const MoeRun& run, Precision precision) {
  if (is_dispatched(run)) {
    check_dispatched(c, run, precision);
    if (precision == Precision::kReference) check_dispatched_values(run);
    return;
  }
  const DType io = tables::get_recipe(c.recipe).io;
  if (run.x.rank != 2) refuse("x", tensor_text(run.x), fmt::format("{} [T, {}]", dtype_name(io), c.hidden));
  const std::int64_t tokens = run.x.shape[0];
  if (tokens < 0) refuse("x", tensor_text(run.x), "0 tokens or more");
  if (precision == Precision::kIo) {
    if (tokens > c.max_tokens) {
      refuse("x", fmt::format("{} tokens", tokens), fmt::format("0 to max_tokens {}", c.max_tokens));
    }
    check_input(c, run, tokens, {io});
    check_tensor("out", run.out, tokens, c.hidden, {io, DType::kF32});
  } else {
    if (tokens > kMostRows) refuse("x", fmt::format("{} tokens", tokens), fmt::format("0 to {}", kMostRows));
    check_input(c, run, tokens, {DType::kF32, DType::kBF16, DType::kF16});
    check_tensor("out", run.out, tokens, c.hidden, {DType::kF64, DType::kF32, io});
  }
  check_readers_of_codes(c, run);
  check_routing_inputs(c, run, tokens);
}

MoeRun matrices_of_rows(const MoeConfig& c, const MoeRun& run) {
  if (run.x.rank != 3) return run;
  MoeRun rows = run;
  const auto form = tables::given_codes(c.recipe, 0, c.hidden);
  merge_rows(run.x, 2, rows.x);
  merge_rows(run.x, 2, rows.out);
  if (form) merge_rows(run.x, form->scale.rank, rows.x_scale);
  merge_rows(run.x, 1, rows.x_row_scale);
  return rows;
}

void check_memory(const char* name, const void* memory, std::size_t given, std::size_t needed) {
  kCheck.memory(name, memory, given, needed);
}

}  // namespace moesaic::ops
