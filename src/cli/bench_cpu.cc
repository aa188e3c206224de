// SPDX-License-Identifier: Apache-2.0
// The layer on the CPU. Times are wall times; on shared machines only ratios within one run mean anything.
#include <algorithm>
#include <optional>

#include "cli/bench.h"
#include "cli/bench_cpu.h"
#include "cli/bench_weights.h"
#include "moesaic/error.h"
#include "moesaic/quantize.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

/// Every expert has the same weights, in memory of its own.
struct CpuLayer {
  FusedMoe layer;
  AlignedBytes prepared;

  CpuLayer(const MoeConfig& c, bool biases) : layer(FusedMoe::create(c)), prepared(layer.prepared_bytes()) {
    layer.prepare(BenchWeights(c, biases).views(), prepared.data());
  }
};

/// A layer with everything that runs of one size need.
struct CpuRun {
  const CpuLayer& bench;
  std::vector<std::uint16_t> x, y;
  AlignedBytes workspace;

  CpuRun(const CpuLayer& layer, int tokens)
      : bench(layer),
        x(bench_numbers(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(layer.layer.config().hidden),
                        tables::get_recipe(layer.layer.config().recipe).io)),
        y(x.size()),
        workspace(layer.layer.workspace_bytes(tokens)) {}

  double time_us(const std::vector<float>& logits) {
    const MoeConfig& c = bench.layer.config();
    const DType io = tables::get_recipe(c.recipe).io;
    const auto tokens = static_cast<std::int64_t>(x.size()) / c.hidden;
    MoeRun run;
    run.x = TensorView(x.data(), io, {tokens, c.hidden});
    run.router_logits = TensorView(logits.data(), DType::kF32, {tokens, c.num_experts});
    run.out = TensorView(y.data(), io, {tokens, c.hidden});
    run.prepared = bench.prepared.data();
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    return wall_us([&] { bench.layer.run(run); });
  }
};

/// `wide`: the same shape with 16-bit weights, run in turns so that both see the same machine; nullptr: none.
BenchPoint measure_point(const CpuLayer& bench, const CpuLayer* wide, int tokens, const BenchRouting& routing,
                         MemoryRates& rates) {
  const MoeConfig& c = bench.layer.config();
  CpuRun run(bench, tokens);
  std::optional<CpuRun> wide_run;
  if (wide != nullptr) wide_run.emplace(*wide, tokens);
  std::vector<double> times, wide_times;
  for (int seed = -1; seed < kBenchRoutings; ++seed) {  // the first is the warm-up
    const std::vector<float> logits = bench_logits(routing, tokens, c.num_experts, std::max(seed, 0));
    rates.measure();
    const double us = run.time_us(logits), wide_us = wide_run ? wide_run->time_us(logits) : 0.0;
    if (seed < 0) continue;
    times.push_back(us);
    wide_times.push_back(wide_us);
  }
  BenchPoint p;
  p.tokens = tokens;
  p.routing = routing;
  // Medians: every routing touches about as much, and other programs of the machine only ever add time.
  p.time = bench_time(times);
  p.bf16_us = median(wide_times);
  p.kernels = bench.layer.kernels(tokens);
  return p;
}

}  // namespace

BenchResult bench_moe_cpu(const BenchOptions& o) {
  const MoeConfig config = bench_config(o);
  const bool biases = tables::get_model(o.model).biases;
  const CpuLayer bench(config, biases);
  std::optional<CpuLayer> wide;
  if (weight_spec(config.recipe, config.int4)) {
    MoeConfig wide_config = config;
    wide_config.recipe = "bf16";
    wide_config.shared.recipe.clear();
    wide.emplace(wide_config, biases);
  }
  MemoryRates rates;
  BenchResult result;
  for (const int tokens : o.tokens) {
    for (const BenchRouting& routing : o.routings) {
      result.points.push_back(measure_point(bench, wide ? &*wide : nullptr, tokens, routing, rates));
    }
  }
  result.ceilings = rates.ceilings();
  for (BenchPoint& point : result.points) fill_floor(config, result.ceilings, point);
  return result;
}

}  // namespace moesaic::cli
