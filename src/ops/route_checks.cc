// SPDX-License-Identifier: Apache-2.0
// Argument checks of Router.
#include <fmt/format.h>

#include "base/tensor_text.h"
#include "ops/route_impl.h"
#include "plan/moe_plan.h"

namespace moesaic::ops {
namespace {

[[noreturn]] void refuse(const std::string& argument, const std::string& got, const std::string& wanted) {
  throw Error(ErrorKind::kInvalidArgument, fmt::format("router: {} is {}, wanted {}", argument, got, wanted));
}

using base::tensor_text;

void check(const char* name, const TensorView& t, DType dtype, std::initializer_list<std::int64_t> shape) {
  bool fits = t.dtype == dtype && t.rank == static_cast<int>(shape.size());
  std::string wanted;
  std::size_t i = 0;
  for (const std::int64_t size : shape) {
    fits = fits && t.shape[i++] == size;
    wanted += fmt::format("{}{}", wanted.empty() ? "" : ", ", size);
  }
  if (!fits) refuse(name, tensor_text(t), fmt::format("{} [{}]", dtype_name(dtype), wanted));
  if (t.data == nullptr && t.num_elements() > 0) refuse(name, "a null pointer", fmt::format("memory of [{}]", wanted));
  if (!base::is_aligned_for(t.data, dtype)) {
    refuse(name, fmt::format("at {}", t.data), fmt::format("a multiple of {} bytes", dtype_size(dtype)));
  }
}

void check_absent(const char* name, const TensorView& t, const char* why) {
  if (!t.empty()) refuse(name, tensor_text(t), fmt::format("none: {}", why));
}

void check_scores(const RouterConfig& c, const RouteRun& run, std::int64_t tokens) {
  check("logits", run.logits, DType::kF32, {tokens, c.num_experts});
  if (!run.selection_bias.empty()) {
    if (!has_selection_bias(c.routing.method)) {
      check_absent("selection_bias", run.selection_bias, "deepseek_v3 and minimax2 have one");
    }
    check("selection_bias", run.selection_bias, DType::kF32, {c.num_experts});
  }
  if (c.routing.method != RoutingMethod::kHash) {
    check_absent("token_ids", run.token_ids, "routing hash has them");
    check_absent("token_experts", run.token_experts, "routing hash has them");
    return;
  }
  check("token_ids", run.token_ids, run.token_ids.dtype == DType::kI32 ? DType::kI32 : DType::kI64, {tokens});
  check("token_experts", run.token_experts, DType::kI32, {c.routing.vocabulary, c.top_k});
}

void check_rows(const RouterConfig& c, const RouteRun& run, std::int64_t tokens, std::int64_t slots) {
  const bool sorted = !run.row_offsets.empty();
  for (const auto& [name, view] : {std::pair{"row_token", &run.row_token}, std::pair{"row_weight", &run.row_weight},
                                   std::pair{"slot_row", &run.slot_row}}) {
    if (view->empty() == sorted) {
      refuse(name, tensor_text(*view), "all of row_offsets, row_token, row_weight and slot_row, or none");
    }
  }
  if (!sorted) return;
  MoeConfig layer;
  layer.num_experts = c.num_experts;
  layer.experts = c.experts;
  check("row_offsets", run.row_offsets, DType::kI32, {num_local_experts(layer) + c.shared_slots + 1});
  check("row_token", run.row_token, DType::kI32, {tokens * slots});
  check("row_weight", run.row_weight, DType::kF32, {tokens * slots});
  check("slot_row", run.slot_row, DType::kI32, {tokens, slots});
}

}  // namespace

void check_router(const RouterConfig& c) {
  if (c.shared_slots < 0) refuse("shared_slots", fmt::format("{}", c.shared_slots), "0 (none) or more");
  if (c.shared_slots > 1024) refuse("shared_slots", fmt::format("{}", c.shared_slots), "at most 1024");
  plan::check_routing_config("router", plan::routing_only(c));
  plan::check_device("router", c.device);
}

void check_route_run(const RouterConfig& c, const RouteRun& run) {
  const std::int64_t slots = c.top_k + c.shared_slots;
  if (run.logits.empty() == run.given_ids.empty()) {
    refuse("logits", run.logits.empty() ? "empty, as given_ids is" : "given together with given_ids",
           "logits, or given_ids with given_weights");
  }
  const std::int64_t tokens = route_tokens(run);
  if (tokens < 0 || tokens > c.max_tokens) {
    refuse(run.given_ids.empty() ? "logits" : "given_ids", fmt::format("of {} tokens", tokens),
           fmt::format("0 to max_tokens {}", c.max_tokens));
  }
  if (run.given_ids.empty()) {
    check_absent("given_weights", run.given_weights, "given_ids is empty");
    check_scores(c, run, tokens);
  } else {
    check("given_ids", run.given_ids, DType::kI32, {tokens, slots});
    check("given_weights", run.given_weights, DType::kF32, {tokens, slots});
    check_absent("token_ids", run.token_ids, "given_ids are there");
  }
  check("ids", run.ids, DType::kI32, {tokens, slots});
  check("weights", run.weights, DType::kF32, {tokens, slots});
  check_rows(c, run, tokens, slots);
}

}  // namespace moesaic::ops
