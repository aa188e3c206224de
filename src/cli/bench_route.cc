// SPDX-License-Identifier: Apache-2.0
// What both measurements of the router share, and the one on the CPU.
#include "cli/bench_route.h"

#include "cli/bench_cpu.h"

namespace moesaic::cli {
namespace {

constexpr int kRateEvery = 4;  // routings between measurements of the memory rates, which take longer than they

RouteBenchPoint measure(const RouteBenchOptions& o, const Router& router, int tokens, MemoryRates& rates) {
  const RouterConfig& c = o.router;
  const AlignedBytes workspace(router.workspace_bytes(tokens)), written(route_sizes(c, tokens).total());
  const std::vector<float> bias = route_bias(c);
  std::vector<double> times;
  for (int seed = 0; seed < kBenchRoutings + 1; ++seed) {
    const std::vector<float> logits = bench_logits(o.routing, tokens, c.num_experts, seed);
    RouteRun run = route_run(c, tokens, logits.data(), bias.data(), written.data());
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    if (seed % kRateEvery == 0) rates.measure();
    const double us = wall_us([&] { router.run(run); });
    if (seed > 0) times.push_back(us);  // the first is the warm-up
  }
  RouteBenchPoint point = route_point(router, c, tokens);
  point.time = bench_time(times);
  return point;
}

}  // namespace

RouteBenchSizes route_sizes(const RouterConfig& c, int tokens) {
  const std::size_t slots = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(c.top_k) * 4;
  return {slots, slots, (static_cast<std::size_t>(c.num_experts) + 1) * 4, slots, slots, slots};
}

RouteRun route_run(const RouterConfig& c, int tokens, const void* logits, const void* bias, void* written) {
  const RouteBenchSizes sizes = route_sizes(c, tokens);
  auto* at = static_cast<unsigned char*>(written);
  const auto place = [&](std::size_t bytes, DType dtype, std::initializer_list<std::int64_t> shape) {
    const TensorView view(static_cast<void*>(at), dtype, shape);
    at += bytes;
    return view;
  };
  const std::int64_t slots = c.top_k, rows = tokens * slots;
  RouteRun run;
  run.logits = TensorView(logits, DType::kF32, {tokens, c.num_experts});
  if (has_selection_bias(c.routing.method)) run.selection_bias = TensorView(bias, DType::kF32, {c.num_experts});
  run.ids = place(sizes.ids, DType::kI32, {tokens, slots});
  run.weights = place(sizes.weights, DType::kF32, {tokens, slots});
  run.row_token = place(sizes.row_token, DType::kI32, {rows});
  run.row_weight = place(sizes.row_weight, DType::kF32, {rows});
  run.slot_row = place(sizes.slot_row, DType::kI32, {tokens, slots});
  run.row_offsets = place(sizes.row_offsets, DType::kI32, {c.num_experts + 1});
  return run;
}

RouteBenchPoint route_point(const Router& router, const RouterConfig& c, int tokens) {
  RouteBenchPoint point;
  point.tokens = tokens;
  point.bytes_read = 4.0 * (static_cast<double>(tokens) * c.num_experts + static_cast<double>(route_bias(c).size()));
  point.bytes_written = static_cast<double>(route_sizes(c, tokens).total());
  point.kernels = router.kernels(tokens);
  return point;
}

std::vector<float> route_bias(const RouterConfig& c) {
  if (!has_selection_bias(c.routing.method)) return {};
  std::vector<float> bias = bench_logits({}, 1, c.num_experts, kBenchRoutings);  // a seed that no routing has
  for (float& b : bias) b *= 0.1f;  // moves some choices and leaves experts about as likely as each other
  return bias;
}

RouteBenchResult bench_route_cpu(const RouteBenchOptions& o) {
  const Router router = Router::create(o.router, o.modules);
  MemoryRates rates;
  RouteBenchResult result;
  for (const int tokens : o.tokens) result.points.push_back(measure(o, router, tokens, rates));
  result.ceilings = rates.ceilings();
  return result;
}

}  // namespace moesaic::cli
