// SPDX-License-Identifier: Apache-2.0
// Any bytes as a router or an activation and its run: an Error, or what the oracle gives, within the memory that was
// given. Pointers are null, misaligned or good: a wild one is the caller's to avoid.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "fuzz/choices.h"
#include "moesaic/activation.h"
#include "moesaic/route.h"
#include "support/guarded_memory.h"

namespace {

using namespace moesaic;
using namespace moesaic::testing;

std::size_t bytes(std::int64_t n) { return static_cast<std::size_t>(n); }

ExpertMap choose_experts(Choices& c, int num_experts) {
  ExpertMap map;
  switch (c.below(4)) {
    case 0:
      break;
    case 1:
      map.first = c.below(8) - 1;
      map.count = c.below(8) - 1;
      break;
    default:
      // Every second or third one, backwards; or what is no map at all.
      const int step = c.of({2, 3, 1}), entries = c.rarely() ? num_experts + 1 : num_experts;
      int next = 0;
      for (int e = 0; e < std::min(entries, 1000); ++e) map.slots.push_back(e % step == 0 ? next++ : -1);
      std::reverse(map.slots.begin(), map.slots.end());
      if (c.rarely() && !map.slots.empty()) map.slots[bytes(c.below(4)) % map.slots.size()] = c.of({0, 1, 1 << 30, -7});
  }
  return map;
}

RouterConfig choose_router(Choices& c) {
  RouterConfig r;
  r.num_experts = c.of({8, 1, 4, 40});
  r.top_k = c.rarely() ? c.of({0, 9, -1}) : std::min(c.of({2, 1, 4}), r.num_experts);
  r.routing.method = static_cast<RoutingMethod>(c.rarely() ? 200 : c.below(kNumRoutingMethods));
  if (c.below(4) == 3) r.routing.n_group = c.of({2, 4, 0, 3}), r.routing.topk_group = c.of({1, 2, 0});
  r.routing.scaling = c.of({1.0f, 2.5f});
  r.routing.renormalize = c.flag();
  r.routing.vocabulary = r.routing.method == RoutingMethod::kHash ? c.of({5, 1, 0, 100}) : 0;
  r.experts = choose_experts(c, r.num_experts);
  r.shared_slots = c.of({0, 1, 2});
  r.shared_weight = 0.5f;
  r.max_tokens = 64;
  if (c.rarely()) {
    constexpr int kFields = 5;
    int* fields[kFields] = {&r.num_experts, &r.top_k, &r.shared_slots, &r.max_tokens, &r.routing.vocabulary};
    *fields[c.below(kFields)] =
        c.of({std::numeric_limits<int>::max(), std::numeric_limits<int>::min(), -1, 0, 1 << 20});
  }
  return r;
}

/// Number among the sorted, -1: not sorted. L: experts held.
int local_expert(const RouterConfig& r, int held, int id) {
  if (id < 0 || id >= r.num_experts + r.shared_slots) return -1;
  if (id >= r.num_experts) return held + id - r.num_experts;
  if (!r.experts.slots.empty()) return r.experts.slots[bytes(id)];
  return id >= r.experts.first && id < r.experts.first + held ? id - r.experts.first : -1;
}

int held_experts(const RouterConfig& r) {
  MoeConfig layer;
  layer.num_experts = r.num_experts;
  layer.experts = r.experts;
  return num_local_experts(layer);
}

/// A run whose every part is exactly as large as it must be.
struct Routes {
  std::int64_t tokens, slots, entries;
  int held;
  std::vector<GuardedMemory> parts;
  RouteRun run;

  Routes(Choices& c, const RouterConfig& r, std::int64_t tokens_)
      : tokens(tokens_), slots(r.top_k + r.shared_slots), entries(tokens * slots), held(held_experts(r)) {
    parts.reserve(12);  // views stay where they are
    run.ids = view(DType::kI32, {tokens, slots});
    run.weights = view(DType::kF32, {tokens, slots});
    if (c.flag()) {
      run.row_offsets = view(DType::kI32, {held + r.shared_slots + 1});
      run.row_token = view(DType::kI32, {entries});
      run.row_weight = view(DType::kF32, {entries});
      run.slot_row = view(DType::kI32, {tokens, slots});
    }
    if (c.below(4) == 3) {
      give(c, r);
    } else {
      score(c, r);
    }
  }
  TensorView view(DType dtype, std::initializer_list<std::int64_t> shape) {
    TensorView t(static_cast<void*>(nullptr), dtype, shape);
    parts.emplace_back(bytes(t.num_elements()) * dtype_size(dtype));
    t.data = parts.back().data();
    return t;
  }
  void give(Choices& c, const RouterConfig& r) {
    run.given_ids = view(DType::kI32, {tokens, slots});
    run.given_weights = view(DType::kF32, {tokens, slots});
    for (std::int64_t i = 0; i < entries; ++i) {
      static_cast<std::int32_t*>(run.given_ids.data)[i] = c.below(r.num_experts + r.shared_slots + 2) - 1;
      static_cast<float*>(run.given_weights.data)[i] = static_cast<float>(c.below(9)) / 8.0f;
    }
  }
  void score(Choices& c, const RouterConfig& r) {
    const std::int64_t experts = r.num_experts;
    run.logits = view(DType::kF32, {tokens, experts});
    for (std::int64_t t = 0; t < tokens; ++t) {
      const int first = c.next();  // no ties: 7 divides no number of experts
      for (std::int64_t e = 0; e < experts; ++e) {
        const auto rank = static_cast<float>((7 * e + first) % experts);
        static_cast<float*>(run.logits.data)[t * experts + e] =
            8.0f * (rank + 0.5f) / static_cast<float>(experts) - 4.0f;
      }
    }
    if (has_selection_bias(r.routing.method) && c.flag()) {
      run.selection_bias = view(DType::kF32, {experts});
      for (std::int64_t e = 0; e < experts; ++e) static_cast<float*>(run.selection_bias.data)[e] = c.of({0.0f, 2.0f});
    }
    if (r.routing.method != RoutingMethod::kHash) return;
    run.token_ids = view(DType::kI64, {tokens});
    run.token_experts = view(DType::kI32, {r.routing.vocabulary, r.top_k});
    for (std::int64_t t = 0; t < tokens; ++t) static_cast<std::int64_t*>(run.token_ids.data)[t] = c.below(9) - 1;
    for (std::int64_t i = 0; i < run.token_experts.num_elements(); ++i) {
      static_cast<std::int32_t*>(run.token_experts.data)[i] = c.below(r.num_experts + 2) - 1;
    }
  }
  std::int32_t id(std::int64_t entry) const { return static_cast<const std::int32_t*>(run.ids.data)[entry]; }
  float weight(std::int64_t entry) const { return static_cast<const float*>(run.weights.data)[entry]; }
};

void compare_choice(const RouterConfig& r, const Routes& routes) {
  const RouteRun& run = routes.run;
  std::vector<std::int32_t> ids(bytes(routes.tokens * r.top_k));
  std::vector<float> weights(ids.size());
  cpu::RouteTask task;
  task.tokens = routes.tokens;
  task.num_experts = r.num_experts;
  task.top_k = r.top_k;
  task.logits = static_cast<const float*>(run.logits.data);
  task.selection_bias = static_cast<const float*>(run.selection_bias.data);
  task.token_ids = static_cast<const std::int64_t*>(run.token_ids.data);
  task.token_experts = static_cast<const std::int32_t*>(run.token_experts.data);
  task.ids = ids.data();
  task.weights = weights.data();
  cpu::route(r.routing, task);
  for (std::int64_t entry = 0; entry < routes.entries; ++entry) {
    const std::int64_t token = entry / routes.slots, slot = entry % routes.slots;
    const std::size_t at = bytes(token * r.top_k + slot);
    const bool shared = slot >= r.top_k;
    const int id = shared ? r.num_experts + static_cast<int>(slot) - r.top_k : ids[at];
    const float weight = shared ? r.shared_weight : weights[at];
    demand(routes.id(entry) == id, "an expert that the oracle does not choose");
    demand(std::fabs(routes.weight(entry) - weight) <= 1e-5f * std::fabs(weight), "another weight than the oracle's");
  }
}

void check_rows(const RouterConfig& r, const Routes& routes) {
  const auto* offsets = static_cast<const std::int32_t*>(routes.run.row_offsets.data);
  std::int32_t row = 0;
  for (int expert = 0; expert < routes.held + r.shared_slots; ++expert) {
    demand(offsets[expert] == row, "an expert's first row is elsewhere");
    for (std::int64_t entry = 0; entry < routes.entries; ++entry) {
      const int local = local_expert(r, routes.held, routes.id(entry));
      const std::int32_t slot_row = static_cast<const std::int32_t*>(routes.run.slot_row.data)[entry];
      if (local < 0) demand(slot_row == -1, "a row for a slot whose expert is not held");
      if (local != expert) continue;
      demand(slot_row == row, "rows that are not in order");
      demand(static_cast<const std::int32_t*>(routes.run.row_token.data)[row] == entry / routes.slots, "another token");
      demand(static_cast<const float*>(routes.run.row_weight.data)[row] == routes.weight(entry), "another weight");
      ++row;
    }
  }
  demand(offsets[routes.held + r.shared_slots] == row, "the last offset is not the number of rows");
}

void fuzz_router(Choices& c) {
  const RouterConfig r = choose_router(c);
  const Router router = Router::create(r);
  const std::int64_t tokens =
      std::min<std::int64_t>(c.rarely() ? 65 : c.of({3, 1, 0, 17}), std::int64_t{r.max_tokens} + 1);
  if (r.num_experts > 1000 || r.routing.vocabulary > 1000) return;
  Routes routes(c, r, tokens);
  bool spoilt = false;
  if (c.below(4) == 3) {
    RouteRun& run = routes.run;
    TensorView* views[] = {&run.logits,      &run.selection_bias, &run.token_ids,     &run.token_experts,
                           &run.ids,         &run.given_ids,      &run.given_weights, &run.weights,
                           &run.row_offsets, &run.row_token,      &run.row_weight,    &run.slot_row};
    spoil(c, *views[c.below(12)]);
    spoilt = true;
  }
  router.run(routes.run);
  for (const GuardedMemory& part : routes.parts) demand(part.intact(), "bytes outside of the given memory written");
  if (spoilt) return;
  if (routes.run.given_ids.empty()) {
    compare_choice(r, routes);
  } else {
    for (std::int64_t i = 0; i < routes.entries; ++i) {
      demand(routes.id(i) == static_cast<const std::int32_t*>(routes.run.given_ids.data)[i], "not the given id");
    }
  }
  if (!routes.run.row_offsets.empty()) check_rows(r, routes);
}

void compare_activation(const Activation& activation, GateUpOrder order, const ActivationRun& run) {
  const std::int64_t cols = run.out.shape[1];
  const bool gated = is_gated(activation.kind);
  const bool interleaved = order == GateUpOrder::kInterleavedGateFirst || order == GateUpOrder::kInterleavedUpFirst;
  const bool up_first = order == GateUpOrder::kUpFirst || order == GateUpOrder::kInterleavedUpFirst;
  for (std::int64_t i = 0; i < run.out.num_elements(); ++i) {
    const std::int64_t row = i / cols, col = i % cols;
    const auto at = [&](int half) {
      const std::int64_t column = !gated ? col : interleaved ? 2 * col + half : half * cols + col;
      return cpu::load_element(run.x.data, run.x.dtype, row * run.x.shape[1] + column);
    };
    const double g = at(gated && up_first ? 1 : 0), u = gated ? at(up_first ? 0 : 1) : 0.0;
    const double wanted = cpu::round_to(cpu::activate(activation, g, u), run.out.dtype);
    const double got = cpu::load_element(run.out.data, run.out.dtype, i);
    if (!(std::fabs(wanted) < 1e4) || !(std::fabs(g) < 1e4) || !(std::fabs(u) < 1e4)) continue;
    demand(std::fabs(got - wanted) <= 0x1p-7 * std::fabs(wanted) + 1e-3, "a value that the oracle does not give");
  }
}

void fuzz_activation(Choices& c) {
  Activation activation;
  activation.kind = static_cast<ActivationKind>(c.rarely() ? 200 : c.below(11));
  if (c.flag()) activation.alpha = c.of({1.5f, 0.0f, std::nanf(""), INFINITY});
  if (c.flag()) activation.beta = c.of({1.0f, 0.0f, std::nanf(""), -2.0f});
  if (c.flag()) activation.limit = c.of({2.0f, 0.0f, -1.0f, std::nanf("")});
  const auto order = static_cast<GateUpOrder>(c.rarely() ? c.of({4, 200}) : c.below(4));
  const ActivationOp op = ActivationOp::create(activation, {}, {}, order);
  const auto type = [&c] { return c.of({DType::kF32, DType::kBF16, DType::kF16}); };
  const std::int64_t rows = c.of({3, 1, 0, 17}), cols = c.of({37, 1, 64, 0});
  const std::int64_t columns = is_gated(activation.kind) ? 2 * cols : cols;
  const DType x_type = type(), out_type = type();
  // As large as fp32: a type that was spoilt may be another legal one.
  GuardedMemory x(bytes(rows * columns * 4)), out(bytes(rows * cols * 4));
  std::copy_n(numbers().middle(), x.size(), static_cast<char*>(x.data()));
  ActivationRun run{TensorView(x.data(), x_type, {rows, columns}), TensorView(out.data(), out_type, {rows, cols})};
  const bool spoilt = c.below(4) == 3;
  if (spoilt) spoil(c, c.flag() ? run.x : run.out);
  op.run(run);
  demand(x.intact() && out.intact(), "bytes outside of the given memory written");
  if (!spoilt) compare_activation(activation, order, run);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Choices choices(data, size);
  try {
    if (choices.below(3) == 2) {
      fuzz_activation(choices);
    } else {
      fuzz_router(choices);
    }
  } catch (const Error& error) {
    demand_refusal(error);
  }
  return 0;
}
