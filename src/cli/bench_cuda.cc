// SPDX-License-Identifier: Apache-2.0
// The layer on a GPU: one CUDA graph per routing, replayed in turn, so that weights come from DRAM as in a model.
#include <algorithm>
#include <deque>
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
    double touched = touched_weight_bytes(config, config.num_experts);
    for (const BenchRouting& routing : o.routings) {
      touched = std::min(touched, touched_weight_bytes(config, routing_load(routing, config, fewest).touched_experts));
    }
    const double wanted = static_cast<double>(kL2Multiple * cuda::device_info(o.device.index).l2_bytes);
    int count = 1;
    while (count < kBenchRoutings && count * touched < wanted) count *= 2;
    return count;
  }

  FusedMoe layer_;
  int count_;
  std::vector<DeviceBuffer> prepared_;
};

/// Runs of one size, each routing with weights and logits of its own.
class LayerRuns {
 public:
  LayerRuns(const BenchLayers& bench, int tokens, const BenchRouting& routing)
      : bench_(bench),
        tokens_(tokens),
        io_(tables::get_recipe(config().recipe).io),
        x_(config().device, elements() * 2),
        y_(config().device, elements() * 2),
        workspace_(config().device, bench.layer().workspace_bytes(tokens)) {
    x_.upload(bench_numbers(elements(), io_).data(), elements() * 2);
    for (int seed = 0; seed < kBenchRoutings; ++seed) {
      const std::vector<float> host = bench_logits(routing, tokens, config().num_experts, seed);
      logits_.emplace_back(config().device, host.size() * 4).upload(host.data(), host.size() * 4);
    }
  }

  const MoeConfig& config() const { return bench_.layer().config(); }
  void enqueue(int seed, void* stream) const {
    MoeRun run;
    run.x = TensorView(x_.data(), io_, {tokens_, config().hidden});
    run.router_logits =
        TensorView(logits_[static_cast<std::size_t>(seed)].data(), DType::kF32, {tokens_, config().num_experts});
    run.out = TensorView(y_.data(), io_, {tokens_, config().hidden});
    run.prepared = bench_.prepared(seed);
    run.workspace = workspace_.data();
    run.workspace_bytes = workspace_.size();
    bench_.layer().run(run, stream);
  }

 private:
  std::size_t elements() const { return static_cast<std::size_t>(tokens_) * static_cast<std::size_t>(config().hidden); }

  const BenchLayers& bench_;
  int tokens_;
  DType io_;
  DeviceBuffer x_, y_, workspace_;
  std::vector<DeviceBuffer> logits_;
};

/// A graph for each routing, launched one after the other.
class Rounds {
 public:
  /// `launches`: as Graph's.
  Rounds(const LayerRuns& runs, const cuda::Stream& stream, int launches)
      : stream_(stream), timer_(runs.config().device) {
    for (int seed = 0; seed < kBenchRoutings; ++seed) {
      const auto enqueue = [&](void* s) { runs.enqueue(seed, s); };
      graphs_.push_back(std::make_unique<cuda::Graph>(runs.config().device, stream, enqueue, launches));
    }
  }

  /// Repeats of as many rounds as are long enough to time.
  Repeated repeated() {
    rounds_us(1);  // the first launch of a graph brings it to the GPU
    const int rounds = std::clamp(static_cast<int>(kRepeatUs / std::max(rounds_us(1), 1.0)) + 1, 1, 1000);
    return {static_cast<double>(rounds) * kBenchRoutings, [this, rounds] { return rounds_us(rounds); }};
  }

 private:
  static constexpr double kRepeatUs = 10000;

  double rounds_us(int rounds) {
    timer_.start(stream_);
    for (int r = 0; r < rounds; ++r) {
      for (const auto& graph : graphs_) graph->launch(stream_);
    }
    return timer_.stop_us(stream_);
  }

  const cuda::Stream& stream_;
  cuda::Timer timer_;
  std::vector<std::unique_ptr<cuda::Graph>> graphs_;
};

/// What each launch takes: graphs of the first launch, the first two, and so on, in turns.
std::vector<LaunchShare> measure_shares(const LayerRuns& runs, const cuda::Stream& stream, const Nvml& nvml) {
  std::vector<LaunchShare> launches =
      name_launches(cuda::launched_kernels(runs.config().device, stream, [&](void* s) { runs.enqueue(0, s); }));
  std::deque<Rounds> prefixes;
  std::vector<Repeated> work;
  for (std::size_t i = 1; i <= launches.size(); ++i) {
    work.push_back(prefixes.emplace_back(runs, stream, static_cast<int>(i)).repeated());
  }
  std::vector<double> us;
  for (const BenchTime& time : measure_in_turns(work, kMeasuredUs, nvml).times) us.push_back(time.us);
  fill_shares(us, launches);
  return launches;
}

BenchPoint measure_point(const BenchOptions& o, const BenchLayers& bench, const cuda::Stream& stream, const Nvml& nvml,
                         int tokens, const BenchRouting& routing) {
  const LayerRuns runs(bench, tokens, routing);
  Rounds rounds(runs, stream, -1);
  const TurnTimes measured = measure_in_turns({rounds.repeated()}, kMeasuredUs, nvml);
  BenchPoint p;
  p.tokens = tokens;
  p.routing = routing;
  p.time = measured.times[0];
  p.conditions = measured.conditions;
  p.kernels = bench.layer().kernels(tokens);
  if (o.shares) p.launches = measure_shares(runs, stream, nvml);
  return p;
}

}  // namespace

BenchResult bench_moe_cuda(const BenchOptions& o) {
  BenchResult result;
  const cuda::DeviceGuard guard(o.device.index);
  const cuda::Stream stream(o.device);
  const Nvml nvml(Nvml::files(), cuda::device_info(o.device.index).pci_bus_id);
  result.nvml = nvml.why_not();
  result.ceilings = measure_ceilings(o.device, o.modules, stream);
  measure_matrix_rate(o.device, stream, CublasLt(CublasLt::files()), nvml, result.ceilings);
  const MoeConfig config = bench_config(o);
  const BenchLayers bench(o, config);
  for (const int tokens : o.tokens) {
    for (const BenchRouting& routing : o.routings) {
      BenchPoint point = measure_point(o, bench, stream, nvml, tokens, routing);
      fill_floor(config, result.ceilings, point);
      result.points.push_back(std::move(point));
    }
  }
  return result;
}

}  // namespace moesaic::cli
