// SPDX-License-Identifier: Apache-2.0
// The layer on a GPU: one CUDA graph per routing, replayed in turn, so that weights come from DRAM as in a model.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>

#include "backend_cuda/device.h"
#include "backend_cuda/device_memory.h"
#include "backend_cuda/kernel.h"
#include "cli/bench.h"
#include "kernels/abi/params.h"
#include "module/store.h"
#include "tables/arch_table.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

using cuda::DeviceBuffer;

constexpr std::array kProbeConfigs = {abi::KernelConfig{.warps_tokens = 16, .warps_rows = 1, .warps_k = 1}};
// Not a row of the kernel table: no op of the layer.
const tables::KernelRow kProbeRow = {"read_probe",
                                     tables::Op::kPrepare,
                                     1,
                                     tables::kAllFamilies,
                                     tables::kMmaSync,
                                     tables::CodeKind::kBaseline,
                                     "kernels/common/read_probe.cuh",
                                     "read_probe",
                                     "ReadProbeParams",
                                     kProbeConfigs,
                                     [](const tables::Problem&) -> const char* { return nullptr; }};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Median microseconds of `work`, enqueued `repeats` times one by one after a warm-up.
template <typename Work>
double median_us(Device device, const cuda::Stream& stream, int repeats, Work work) {
  cuda::Timer timer(device);
  std::vector<double> times;
  for (int i = 0; i < repeats + 3; ++i) {
    timer.start(stream);
    work(stream.get());
    const double us = timer.stop_us(stream);
    if (i >= 3) times.push_back(us);
  }
  return median(times);
}

Ceilings measure_ceilings(const BenchOptions& o, const cuda::Stream& stream) {
  const cuda::DeviceInfo info = cuda::device_info(o.device.index);
  Ceilings c;
  c.device =
      fmt::format("{} (cuda:{}, SM{}.{}, {} SMs)", info.name, info.index, info.sm / 10, info.sm % 10, info.sm_count);
  const tables::ArchRow* arch = tables::find_arch(info.sm);
  c.matrix_flops_per_us = arch != nullptr ? arch->matrix_flops_per_us : 0;
  const std::size_t bytes = std::min<std::size_t>(std::size_t{2} << 30, info.memory_bytes / 8);
  DeviceBuffer source(o.device, bytes), target(o.device, bytes), never(o.device, 4);
  source.fill(0x3c);
  target.fill(0);
  const double copy = median_us(o.device, stream, 11, [&](void* s) { cuda::copy_async(target, source, bytes, s); });
  c.copy_bytes_per_us = 2.0 * static_cast<double>(bytes) / copy;
  module::Store store(o.modules);
  const cuda::Kernel probe =
      cuda::Kernel::load(*store.get({&kProbeRow, 0, {fmt::format("sm_{}", info.sm)}}), info.index, 0);
  const abi::ReadProbeParams p{source.data(), static_cast<long long>(bytes / 16), static_cast<unsigned*>(never.data())};
  const auto blocks = static_cast<unsigned>(4 * info.sm_count);
  const double read = median_us(o.device, stream, 11, [&](void* s) {
    const cuda::DeviceGuard guard(o.device.index);
    probe.launch({blocks}, abi::threads(kProbeConfigs[0]), &p, s);
  });
  c.read_bytes_per_us = static_cast<double>(bytes) / read;
  return c;
}

/// Cheap random 16-bit floats of size about 0.02.
std::vector<std::uint16_t> random_bits(std::size_t count, DType dtype) {
  std::vector<std::uint16_t> bits(count);
  std::uint64_t state = 0x9e3779b97f4a7c15ull;
  for (std::uint16_t& b : bits) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const auto r = static_cast<std::uint32_t>(state >> 33);
    // Sign and mantissa random; exponents of 2^-7 and 2^-6.
    b = static_cast<std::uint16_t>(dtype == DType::kBF16 ? ((r & 0x80ff) | 0x3c00) : ((r & 0x87ff) | 0x2000));
  }
  return bits;
}

/// Prepared weights: every expert prepared from the same random source, at its own place.
class BenchLayer {
 public:
  BenchLayer(const MoeConfig& config, const ModuleOptions& modules)
      : layer_(FusedMoe::create(config, modules)), prepared_(config.device, layer_.prepared_bytes()) {
    const DType io = tables::get_recipe(config.recipe).io;
    const int widest = std::max(config.intermediate, config.shared.intermediate);
    const auto elements =
        static_cast<std::size_t>(3) * static_cast<std::size_t>(config.hidden) * static_cast<std::size_t>(widest);
    const std::vector<std::uint16_t> bits = random_bits(elements, io);
    DeviceBuffer source(config.device, elements * 2);
    source.upload(bits.data(), elements * 2);
    MoeWeights weights;
    const ExpertWeights expert = views(config, static_cast<const char*>(source.data()), config.intermediate, io);
    weights.experts.assign(static_cast<std::size_t>(config.num_experts), expert);
    if (config.shared.intermediate > 0) {
      weights.shared = views(config, static_cast<const char*>(source.data()), config.shared.intermediate, io);
    }
    if (config.shared.gated) weights.shared_gate = {source.data(), io, config.hidden, 1};
    layer_.prepare(weights, prepared_.data());
    cuda::synchronize(config.device);
  }

  const FusedMoe& layer() const { return layer_; }
  const void* prepared() const { return prepared_.data(); }

 private:
  static ExpertWeights views(const MoeConfig& c, const char* data, std::int64_t rows, DType io) {
    const std::int64_t matrix = rows * c.hidden;
    ExpertWeights e;
    e.gate = {data, io, rows, c.hidden, c.hidden, 1};
    if (is_gated(c.activation.kind)) e.up = {data + 2 * matrix, io, rows, c.hidden, c.hidden, 1};
    e.down = {data + 4 * matrix, io, c.hidden, rows, rows, 1};
    return e;
  }

  FusedMoe layer_;
  DeviceBuffer prepared_;
};

BenchPoint measure_point(const BenchLayer& bench, const cuda::Stream& stream, int tokens) {
  const MoeConfig& c = bench.layer().config();
  const DType io = tables::get_recipe(c.recipe).io;
  const auto elements = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(c.hidden);
  DeviceBuffer x(c.device, elements * 2), y(c.device, elements * 2),
      workspace(c.device, bench.layer().workspace_bytes(tokens));
  x.upload(random_bits(elements, io).data(), elements * 2);
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
    run.prepared = bench.prepared();
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
  p.time_us = median(times);
  p.spread =
      (*std::max_element(times.begin(), times.end()) - *std::min_element(times.begin(), times.end())) / p.time_us;
  p.kernels = bench.layer().kernels(tokens);
  return p;
}

}  // namespace

BenchResult bench_moe_cuda(const BenchOptions& o) {
  BenchResult result;
  const cuda::Stream stream(o.device);
  result.ceilings = measure_ceilings(o, stream);
  const MoeConfig config = bench_config(o);
  const BenchLayer bench(config, o.modules);
  for (const int tokens : o.tokens) {
    BenchPoint point = measure_point(bench, stream, tokens);
    fill_floor(config, result.ceilings, mean_touched(config, tokens), point);
    result.points.push_back(std::move(point));
  }
  return result;
}

}  // namespace moesaic::cli
