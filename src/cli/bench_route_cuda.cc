// SPDX-License-Identifier: Apache-2.0
// The router on a GPU: a graph of several runs, each from logits of its own to memory of its own.
#include <algorithm>

#include "cli/bench_cuda.h"
#include "cli/bench_route.h"

namespace moesaic::cli {
namespace {

using cuda::DeviceBuffer;

/// Runs of a graph: every routing as often as every other.
int runs_of(const cuda::DeviceInfo& info, std::size_t bytes) {
  const int sets = std::max(memory_sets(info, bytes), kBenchRoutings);
  return (sets + kBenchRoutings - 1) / kBenchRoutings * kBenchRoutings;
}

RouteBenchPoint measure(const RouteBenchOptions& o, const Router& router, const cuda::Stream& stream, int tokens) {
  const RouterConfig& c = o.router;
  RouteBenchPoint point = route_point(router, c, tokens);
  const std::size_t written_bytes = route_sizes(c, tokens).total();
  const int runs =
      runs_of(cuda::device_info(c.device.index), static_cast<std::size_t>(point.bytes_read) + written_bytes);
  const std::vector<float> host_bias = route_bias(c);
  DeviceBuffer workspace(c.device, std::max<std::size_t>(router.workspace_bytes(tokens), 1)),
      bias(c.device, std::max<std::size_t>(host_bias.size() * 4, 1));
  bias.upload(host_bias.data(), host_bias.size() * 4);
  std::vector<DeviceBuffer> logits, written;
  for (int i = 0; i < runs; ++i) {
    const std::vector<float> host = bench_logits(o.routing, tokens, c.num_experts, i % kBenchRoutings);
    logits.emplace_back(c.device, host.size() * 4).upload(host.data(), host.size() * 4);
    written.emplace_back(c.device, written_bytes);
  }
  point.time = bench_time(graph_us(c.device, stream, runs, [&](int i, void* s) {
    const auto set = static_cast<std::size_t>(i);
    RouteRun run = route_run(c, tokens, logits[set].data(), bias.data(), written[set].data());
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    router.run(run, s);
  }));
  return point;
}

}  // namespace

RouteBenchResult bench_route_cuda(const RouteBenchOptions& o) {
  const cuda::Stream stream(o.router.device);
  RouteBenchResult result;
  const Router router = Router::create(o.router, o.modules);
  result.ceilings = measure_ceilings(o.router.device, o.modules, stream);
  for (const int tokens : o.tokens) result.points.push_back(measure(o, router, stream, tokens));
  return result;
}

}  // namespace moesaic::cli
