// SPDX-License-Identifier: Apache-2.0
// The layer on the CPU. Times are wall times; on shared machines only ratios within one run mean anything.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "cli/bench.h"
#include "moesaic/error.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

using Clock = std::chrono::steady_clock;

double since_us(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

/// Median wall time of `work` on all cores, each with its own slice index.
template <typename Work>
double parallel_us(int threads, Work work) {
  std::vector<double> times;
  for (int repeat = 0; repeat < 7; ++repeat) {
    const Clock::time_point begin = Clock::now();
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t) pool.emplace_back([&work, t] { work(t); });
    for (std::thread& thread : pool) thread.join();
    times.push_back(since_us(begin));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

Ceilings measure_ceilings() {
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const std::size_t words = (std::size_t{256} << 20) / 8 / static_cast<std::size_t>(threads);
  std::vector<std::vector<std::uint64_t>> source(static_cast<std::size_t>(threads),
                                                 std::vector<std::uint64_t>(words, 3));
  std::vector<std::vector<std::uint64_t>> target = source;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(threads) * 64);
  const double bytes = 8.0 * static_cast<double>(words) * threads;
  Ceilings c;
  c.device = fmt::format("cpu, {} threads", threads);
  c.read_bytes_per_us = bytes / parallel_us(threads, [&](int t) {
                          std::uint64_t sum = 0;
                          for (const std::uint64_t word : source[static_cast<std::size_t>(t)]) sum ^= word;
                          sums[static_cast<std::size_t>(t) * 64] = sum;
                        });
  c.copy_bytes_per_us = 2.0 * bytes / parallel_us(threads, [&](int t) {
                          const auto i = static_cast<std::size_t>(t);
                          std::memcpy(target[i].data(), source[i].data(), 8 * words);
                        });
  return c;
}

struct CpuLayer {
  FusedMoe layer;
  std::vector<std::uint16_t> source;
  std::vector<unsigned char> prepared;

  explicit CpuLayer(const MoeConfig& c) : layer(FusedMoe::create(c)) {
    const DType io = tables::get_recipe(c.recipe).io;
    const std::int64_t widest = std::max(c.intermediate, c.shared.intermediate);
    source.resize(static_cast<std::size_t>(3 * widest * c.hidden));
    std::uint32_t state = 1;
    for (std::uint16_t& b : source) {
      state = state * 1664525u + 1013904223u;
      b = static_cast<std::uint16_t>(io == DType::kBF16 ? ((state >> 16 & 0x80ff) | 0x3c00)
                                                        : ((state >> 16 & 0x87ff) | 0x2000));
    }
    const auto views = [&](std::int64_t rows) {
      ExpertWeights e;
      e.gate = {source.data(), io, rows, c.hidden, c.hidden, 1};
      if (is_gated(c.activation.kind)) e.up = {source.data() + rows * c.hidden, io, rows, c.hidden, c.hidden, 1};
      e.down = {source.data() + 2 * rows * c.hidden, io, c.hidden, rows, rows, 1};
      return e;
    };
    MoeWeights weights;
    weights.experts.assign(static_cast<std::size_t>(c.num_experts), views(c.intermediate));
    if (c.shared.intermediate > 0) weights.shared = views(c.shared.intermediate);
    if (c.shared.gated) weights.shared_gate = {source.data(), io, c.hidden, 1};
    prepared.resize(layer.prepared_bytes() + 256);
    layer.prepare(weights, aligned(prepared));
  }

  static void* aligned(std::vector<unsigned char>& bytes) {
    return bytes.data() + (256 - reinterpret_cast<std::uintptr_t>(bytes.data()) % 256) % 256;
  }
};

BenchPoint measure_point(CpuLayer& bench, int tokens) {
  const MoeConfig& c = bench.layer.config();
  const DType io = tables::get_recipe(c.recipe).io;
  std::vector<std::uint16_t> x(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(c.hidden));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = bench.source[(i * 7) % bench.source.size()];
  std::vector<std::uint16_t> y(x.size());
  std::vector<unsigned char> workspace(bench.layer.workspace_bytes(tokens) + 256);
  std::vector<double> times;
  for (int seed = 0; seed < kBenchRoutings + 1; ++seed) {
    const std::vector<float> logits = bench_logits(tokens, c.num_experts, seed);
    MoeRun run;
    run.x = TensorView(x.data(), io, {tokens, c.hidden});
    run.router_logits = TensorView(logits.data(), DType::kF32, {tokens, c.num_experts});
    run.out = TensorView(y.data(), io, {tokens, c.hidden});
    run.prepared = CpuLayer::aligned(bench.prepared);
    run.workspace = CpuLayer::aligned(workspace);
    run.workspace_bytes = workspace.size() - 256;
    const Clock::time_point begin = Clock::now();
    bench.layer.run(run);
    if (seed > 0) times.push_back(since_us(begin));  // the first is the warm-up
  }
  BenchPoint p;
  p.tokens = tokens;
  for (const double us : times) p.time_us += us / static_cast<double>(times.size());
  p.spread =
      (*std::max_element(times.begin(), times.end()) - *std::min_element(times.begin(), times.end())) / p.time_us;
  p.kernels = bench.layer.kernels(tokens);
  return p;
}

}  // namespace

BenchResult bench_moe_cpu(const BenchOptions& o) {
  BenchResult result;
  result.ceilings = measure_ceilings();
  const MoeConfig config = bench_config(o);
  CpuLayer bench(config);
  for (const int tokens : o.tokens) {
    BenchPoint point = measure_point(bench, tokens);
    fill_floor(config, result.ceilings, mean_touched(config, tokens), point);
    result.points.push_back(std::move(point));
  }
  return result;
}

}  // namespace moesaic::cli
