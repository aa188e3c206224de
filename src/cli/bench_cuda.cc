// SPDX-License-Identifier: Apache-2.0
// The layer on a GPU: one CUDA graph per routing, replayed in turn, so that weights come from DRAM as in a model.
#include <algorithm>
#include <memory>

#include "backend_cuda/device.h"
#include "backend_cuda/device_memory.h"
#include "backend_cuda/device_weights.h"
#include "cli/bench.h"
#include "cli/bench_cuda.h"
#include "cli/bench_weights.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

using cuda::DeviceBuffer;

/// Layers of the same weights in memory of their own, as many as make routings meet weights that no cache holds.
class BenchLayers {
 public:
  BenchLayers(const BenchOptions& o, const MoeConfig& config)
      : layer_(FusedMoe::create(config, o.modules)), count_(layers_needed(o, config)) {
    const BenchWeights host(config, tables::get_model(o.model).biases);
    const cuda::DeviceWeights weights(config.device, host.views());
    for (int i = 0; i < count_; ++i) prepared_.emplace_back(config.device, layer_.prepared_bytes());
    layer_.prepare(weights.views(), prepared_.front().data());
    cuda::synchronize(config.device);
    const cuda::DeviceGuard guard(config.device.index);
    for (int i = 1; i < count_; ++i) {
      cuda::copy_async(prepared_[static_cast<std::size_t>(i)], prepared_.front(), layer_.prepared_bytes(), nullptr);
    }
    cuda::synchronize(config.device);
  }

  const FusedMoe& layer() const { return layer_; }
  /// Weights for a routing.
  const void* prepared(int seed) const { return prepared_[static_cast<std::size_t>(seed % count_)].data(); }

 private:
  /// A divisor of the number of routings, so that rounds join without meeting a layer twice in a row.
  static int layers_needed(const BenchOptions& o, const MoeConfig& config) {
    static_assert((kBenchRoutings & (kBenchRoutings - 1)) == 0, "halves of it divide it");
    const int fewest = *std::min_element(o.tokens.begin(), o.tokens.end());
    const double touched = touched_weight_bytes(config, mean_touched(config, fewest));
    const double wanted = static_cast<double>(kL2Multiple * cuda::device_info(o.device.index).l2_bytes);
    int count = 1;
    while (count < kBenchRoutings && count * touched < wanted) count *= 2;
    return count;
  }

  FusedMoe layer_;
  int count_;
  std::vector<DeviceBuffer> prepared_;
};

BenchPoint measure_point(const BenchLayers& bench, const cuda::Stream& stream, int tokens) {
  const MoeConfig& c = bench.layer().config();
  const DType io = tables::get_recipe(c.recipe).io;
  const auto elements = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(c.hidden);
  DeviceBuffer x(c.device, elements * 2), y(c.device, elements * 2),
      workspace(c.device, bench.layer().workspace_bytes(tokens));
  x.upload(bench_numbers(elements, io).data(), elements * 2);
  std::vector<DeviceBuffer> logits;
  std::vector<std::unique_ptr<cuda::Graph>> graphs;
  for (int seed = 0; seed < kBenchRoutings; ++seed) {
    const std::vector<float> host = bench_logits(tokens, c.num_experts, seed);
    logits.emplace_back(c.device, host.size() * 4);
    logits.back().upload(host.data(), host.size() * 4);
    MoeRun run;
    run.x = TensorView(x.data(), io, {tokens, c.hidden});
    run.router_logits = TensorView(logits.back().data(), DType::kF32, {tokens, c.num_experts});
    run.out = TensorView(y.data(), io, {tokens, c.hidden});
    run.prepared = bench.prepared(seed);
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    graphs.push_back(std::make_unique<cuda::Graph>(c.device, stream, [&](void* s) { bench.layer().run(run, s); }));
  }
  // One timed repeat is a round over all routings; small layers repeat rounds so that a repeat is long enough to time.
  cuda::Timer timer(c.device);
  const auto round_us = [&](int rounds) {
    timer.start(stream);
    for (int r = 0; r < rounds; ++r) {
      for (const auto& graph : graphs) graph->launch(stream);
    }
    return timer.stop_us(stream) / (rounds * kBenchRoutings);
  };
  const double first = round_us(1);
  const int rounds = std::clamp(static_cast<int>(10000.0 / (first * kBenchRoutings)), 1, 40);
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    const double us = round_us(rounds);
    if (i >= 2) times.push_back(us);
  }
  BenchPoint p;
  p.tokens = tokens;
  p.time = bench_time(times);
  p.kernels = bench.layer().kernels(tokens);
  return p;
}

}  // namespace

BenchResult bench_moe_cuda(const BenchOptions& o) {
  BenchResult result;
  const cuda::Stream stream(o.device);
  result.ceilings = measure_ceilings(o.device, o.modules, stream);
  const MoeConfig config = bench_config(o);
  const BenchLayers bench(o, config);
  for (const int tokens : o.tokens) {
    BenchPoint point = measure_point(bench, stream, tokens);
    fill_floor(config, result.ceilings, mean_touched(config, tokens), point);
    result.points.push_back(std::move(point));
  }
  return result;
}

}  // namespace moesaic::cli
