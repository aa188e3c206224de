// SPDX-License-Identifier: Apache-2.0
// Argument checks of the layer: every refusal names the argument, what was got and what is wanted.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/tensor_text.h"
#include "moesaic/quantize.h"
#include "ops/moe_impl.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic::ops {
namespace {

[[noreturn]] void refuse(const std::string& argument, const std::string& got, const std::string& wanted) {
  throw Error(ErrorKind::kInvalidArgument, fmt::format("fused_moe: {} is {}, wanted {}", argument, got, wanted));
}

using base::tensor_text;

void check_alignment_of(const std::string& name, const void* data, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(data) % bytes == 0) return;
  refuse(name, fmt::format("at {}", data), fmt::format("a multiple of {} bytes", bytes));
}

void check_tensor(const std::string& name, const TensorView& t, std::int64_t rows, std::int64_t cols,
                  std::initializer_list<DType> dtypes) {
  std::string accepted;
  bool dtype_fits = false;
  for (const DType dtype : dtypes) {
    dtype_fits = dtype_fits || dtype == t.dtype;
    accepted += (accepted.empty() ? "" : " or ") + std::string(dtype_name(dtype));
  }
  const bool shape_fits = t.rank == 2 && t.shape[0] == rows && t.shape[1] == cols;
  const std::string wanted = fmt::format("{} [{}, {}]", accepted, rows, cols);
  if (!dtype_fits || !shape_fits) refuse(name, tensor_text(t), wanted);
  if (rows * cols == 0) return;
  if (t.data == nullptr) refuse(name, "a null pointer", wanted);
  check_alignment_of(name, t.data, dtype_size(t.dtype));
}

void check_float_type(const std::string& name, DType dtype) {
  if (dtype != DType::kBF16 && dtype != DType::kF16 && dtype != DType::kF32) {
    refuse(name, dtype_name(dtype), "bf16, f16 or f32");
  }
}

// Codes, scales and zero points that can be read at all.
void check_quantization(const std::string& name, const MatrixView& m) {
  const Quantization& q = m.quantization;
  if (q.codes > CodeFormat::kInt4 || q.order > NibbleOrder::kAwq || q.zero_order > NibbleOrder::kAwq ||
      q.scale_format > ScaleFormat::kE8M0) {
    refuse(name + ".quantization",
           fmt::format("codes {}, order {}, zero order {}, scale format {}", static_cast<int>(q.codes),
                       static_cast<int>(q.order), static_cast<int>(q.zero_order), static_cast<int>(q.scale_format)),
           "enumerators");
  }
  if (m.dtype != DType::kU8) refuse(name, fmt::format("codes of type {}", dtype_name(m.dtype)), "u8");
  if (tables::code_bits(q.codes) == 8 && q.order != NibbleOrder::kLinear) {
    refuse(name + ".order", "one of 4-bit codes", "linear: the codes have 8 bits");
  }
  if (q.block_rows < 1 || q.block_cols < 1) {
    refuse(name, fmt::format("scaled by blocks of {} x {}", q.block_rows, q.block_cols), "1 x 1 or more");
  }
  if (q.scales != nullptr) {
    check_alignment_of(name + ".scales", q.scales, static_cast<std::size_t>(tables::scale_size(q.scale_format)));
  }
  if (q.zeros != nullptr && q.codes != CodeFormat::kInt4) refuse(name + ".zeros", "given", "none: only int4 has them");
}

void check_matrix(const std::string& name, const MatrixView& m, std::int64_t rows, std::int64_t cols) {
  if (m.empty()) refuse(name, "empty", fmt::format("a matrix [{}, {}]", rows, cols));
  if (m.rows != rows || m.cols != cols) {
    refuse(name, fmt::format("[{}, {}]", m.rows, m.cols), fmt::format("[{}, {}]", rows, cols));
  }
  if (m.quantized()) return check_quantization(name, m);
  const Quantization& q = m.quantization;
  if (q.scales != nullptr || q.zeros != nullptr || q.multiplier != 1.0) {
    refuse(name, "numbers with scales, zero points or a multiplier", "none of them, or quantization.codes");
  }
  check_float_type(name, m.dtype);
  check_alignment_of(name, m.data, dtype_size(m.dtype));
}

void check_vector(const std::string& name, const VectorView& v, std::int64_t size) {
  if (v.empty()) return;
  if (v.size != size) refuse(name, fmt::format("[{}]", v.size), fmt::format("[{}] or empty", size));
  check_float_type(name, v.dtype);
  check_alignment_of(name, v.data, dtype_size(v.dtype));
}

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
  if (!given && c.routing.method == RoutingMethod::kHash) {
    const TensorView& ids = run.token_ids;
    const bool fits = ids.rank == 1 && ids.shape[0] == tokens && (ids.data != nullptr || tokens == 0);
    if (!fits || (ids.dtype != DType::kI64 && ids.dtype != DType::kI32)) {
      refuse("token_ids", ids.empty() ? "empty" : tensor_text(ids),
             fmt::format("i64 or i32 [{}]: routing hash", tokens));
    }
  }
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
  const TensorView& numbers = masked ? run.expert_counts : run.expert_offsets;
  const std::int64_t size = masked ? held : held + 1;
  if (numbers.rank != 1 || numbers.shape[0] != size || numbers.dtype != DType::kI32 || numbers.data == nullptr) {
    refuse(masked ? "expert_counts" : "expert_offsets", tensor_text(numbers), fmt::format("i32 [{}]", size));
  }
  const TensorView& x = run.x;
  const std::string form = masked ? fmt::format("[{}, max, {}]", held, c.hidden) : fmt::format("[R, {}]", c.hidden);
  const int rank = masked ? 3 : 2;
  if (x.rank != rank || x.shape[static_cast<std::size_t>(rank - 1)] != c.hidden || (masked && x.shape[0] != held)) {
    refuse("x", tensor_text(x), form);
  }
  if (run.out.rank != rank || !std::equal(x.shape.begin(), x.shape.begin() + rank, run.out.shape.begin())) {
    refuse("out", tensor_text(run.out), "the shape of x, " + tensor_text(x));
  }
  const std::int64_t rows = x.num_elements() / c.hidden, most = std::int64_t{c.max_tokens} * c.top_k;
  if (x.shape[masked ? 1 : 0] < 0 || (precision == Precision::kIo && rows > most)) {
    refuse("x", fmt::format("{} rows", rows), fmt::format("0 to max_tokens * top_k = {}", most));
  }
  const DType io = tables::get_recipe(c.recipe).io;
  const TensorView flat_x(x.data, x.dtype, {rows, c.hidden}), flat_out(run.out.data, run.out.dtype, {rows, c.hidden});
  if (precision == Precision::kIo) {
    check_tensor("x", flat_x, rows, c.hidden, {io});
    check_tensor("out", flat_out, rows, c.hidden, {io, DType::kF32});
  } else {
    check_tensor("x", flat_x, rows, c.hidden, {io, DType::kF32});
    check_tensor("out", flat_out, rows, c.hidden, {DType::kF64, DType::kF32, io});
  }
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
  if (is_dispatched(run)) return check_dispatched(c, run, precision);
  const DType io = tables::get_recipe(c.recipe).io;
  if (run.x.rank != 2) refuse("x", tensor_text(run.x), fmt::format("{} [T, {}]", dtype_name(io), c.hidden));
  const std::int64_t tokens = run.x.shape[0];
  if (tokens < 0) refuse("x", tensor_text(run.x), "0 tokens or more");
  if (precision == Precision::kIo) {
    if (tokens > c.max_tokens) {
      refuse("x", fmt::format("{} tokens", tokens), fmt::format("0 to max_tokens {}", c.max_tokens));
    }
    check_tensor("x", run.x, tokens, c.hidden, {io});
    check_tensor("out", run.out, tokens, c.hidden, {io, DType::kF32});
  } else {
    check_tensor("x", run.x, tokens, c.hidden, {DType::kF32, DType::kBF16, DType::kF16});
    check_tensor("out", run.out, tokens, c.hidden, {DType::kF64, DType::kF32, io});
  }
  check_routing_inputs(c, run, tokens);
}

void check_memory(const char* name, const void* memory, std::size_t given, std::size_t needed) {
  if (needed == 0) return;
  if (memory == nullptr || given < needed) {
    refuse(name, memory == nullptr ? std::string("a null pointer") : fmt::format("{} bytes", given),
           fmt::format("{} bytes at a multiple of {}", needed, kMemoryAlignment));
  }
  check_alignment_of(name, memory, kMemoryAlignment);
}

}  // namespace moesaic::ops
