// SPDX-License-Identifier: Apache-2.0
// `moesaic bench route`: what is measured, shared by the CPU and the GPU measurement.
#pragma once

#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/cli.h"
#include "moesaic/route.h"

namespace moesaic::cli {

struct RouteBenchOptions {
  RouterConfig router;
  std::vector<int> tokens;
  BenchRouting routing;
  ModuleOptions modules;
};

/// One point: kBenchRoutings routings in turns, rows sorted.
struct RouteBenchPoint {
  int tokens = 0;
  BenchTime time;
  double bytes_read = 0, bytes_written = 0;  // logits and bias; ids, weights and the four lists of rows
  double floor_us = 0;                       // a copy that reads and writes as many bytes
  std::vector<std::string> kernels;
};

struct RouteBenchResult {
  Ceilings ceilings;
  std::vector<RouteBenchPoint> points;
};

/// Bytes of what one run writes.
struct RouteBenchSizes {
  std::size_t ids, weights, row_offsets, row_token, row_weight, slot_row;
  std::size_t total() const { return ids + weights + row_offsets + row_token + row_weight + slot_row; }
};
RouteBenchSizes route_sizes(const RouterConfig& config, int tokens);
/// Tensors of one run: what it writes lies one behind another at `written`. `bias`: for methods that have one.
RouteRun route_run(const RouterConfig& config, int tokens, const void* logits, const void* bias, void* written);
/// The point without time and floor.
RouteBenchPoint route_point(const Router& router, const RouterConfig& config, int tokens);
/// Selection bias [E]; other methods: empty.
std::vector<float> route_bias(const RouterConfig& config);

RouteBenchResult bench_route_cpu(const RouteBenchOptions& options);
RouteBenchResult bench_route_cuda(const RouteBenchOptions& options);

/// Adds `route` to the verb `bench`.
void add_bench_route(CLI::App& bench, Action& action);

}  // namespace moesaic::cli
