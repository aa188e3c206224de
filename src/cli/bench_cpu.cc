// SPDX-License-Identifier: Apache-2.0
// The layer on the CPU. Times are wall times; on shared machines only ratios within one run mean anything.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>

#include "cli/bench.h"
#include "cli/bench_weights.h"
#include "moesaic/error.h"
#include "moesaic/quantize.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

using Clock = std::chrono::steady_clock;

double since_us(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Wall time of `work` on all cores, each with its own slice index.
template <typename Work>
double parallel_us(int threads, const Work& work) {
  const Clock::time_point begin = Clock::now();
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) pool.emplace_back([&work, t] { work(t); });
  for (std::thread& thread : pool) thread.join();
  return since_us(begin);
}

/// Memory rates by all threads. Other programs of the machine disturb them, so they are measured again and again, in
/// turns with what is compared with them; medians count.
class MemoryRates {
 public:
  MemoryRates()
      : threads_(static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))),
        words_((std::size_t{256} << 20) / 8 / static_cast<std::size_t>(threads_) / kStreams * kStreams),
        source_(static_cast<std::size_t>(threads_), std::vector<std::uint64_t>(words_, 3)),
        target_(source_),
        sums_(static_cast<std::size_t>(threads_) * 64) {}

  void measure() {
    read_us_.push_back(parallel_us(threads_, [&](int t) { read(static_cast<std::size_t>(t)); }));
    copy_us_.push_back(parallel_us(threads_, [&](int t) {
      const auto i = static_cast<std::size_t>(t);
      std::memcpy(target_[i].data(), source_[i].data(), 8 * words_);
    }));
  }

  Ceilings ceilings() const {
    const double bytes = 8.0 * static_cast<double>(words_) * threads_;
    Ceilings c;
    c.device = fmt::format("cpu, {} threads", threads_);
    c.read_bytes_per_us = bytes / median(read_us_);
    c.copy_bytes_per_us = 2.0 * bytes / median(copy_us_);
    return c;
  }

 private:
  // Four streams: one alone does not keep a core's memory requests busy.
  static constexpr std::size_t kStreams = 4;
  void read(std::size_t thread) {
    const std::uint64_t* from = source_[thread].data();
    const std::size_t length = words_ / kStreams;
    std::uint64_t sums[8] = {};
    for (std::size_t i = 0; i + 8 <= length; i += 8) {
      for (std::size_t stream = 0; stream < kStreams; ++stream) {
        const std::uint64_t* line = from + stream * length + i;
        __builtin_prefetch(line + 512);  // past the page, where hardware does not look
        for (int j = 0; j < 8; ++j) sums[j] ^= line[j];
      }
    }
    for (const std::uint64_t sum : sums) sums_[thread * 64] ^= sum;
  }

  int threads_;
  std::size_t words_;  // of a thread
  std::vector<std::vector<std::uint64_t>> source_, target_;
  std::vector<std::uint64_t> sums_;
  std::vector<double> read_us_, copy_us_;
};

/// Memory that begins on the boundary which layers ask for.
class AlignedBytes {
 public:
  explicit AlignedBytes(std::size_t bytes) : storage_(new unsigned char[bytes + 256]), bytes_(bytes) {}
  void* data() const { return storage_.get() + (256 - reinterpret_cast<std::uintptr_t>(storage_.get()) % 256) % 256; }
  std::size_t size() const { return bytes_; }

 private:
  std::unique_ptr<unsigned char[]> storage_;
  std::size_t bytes_;
};

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
    const Clock::time_point begin = Clock::now();
    bench.layer.run(run);
    return since_us(begin);
  }
};

/// `wide`: the same shape with 16-bit weights, run in turns so that both see the same machine; nullptr: none.
BenchPoint measure_point(const CpuLayer& bench, const CpuLayer* wide, int tokens, MemoryRates& rates) {
  const MoeConfig& c = bench.layer.config();
  CpuRun run(bench, tokens);
  std::optional<CpuRun> wide_run;
  if (wide != nullptr) wide_run.emplace(*wide, tokens);
  std::vector<double> times, wide_times;
  for (int seed = 0; seed < kBenchRoutings + 1; ++seed) {
    const std::vector<float> logits = bench_logits(tokens, c.num_experts, seed);
    rates.measure();
    const double us = run.time_us(logits), wide_us = wide_run ? wide_run->time_us(logits) : 0.0;
    if (seed == 0) continue;  // warm-up
    times.push_back(us);
    wide_times.push_back(wide_us);
  }
  BenchPoint p;
  p.tokens = tokens;
  // Medians: every routing touches about as much, and other programs of the machine only ever add time.
  p.time_us = median(times);
  p.bf16_us = median(wide_times);
  p.spread =
      (*std::max_element(times.begin(), times.end()) - *std::min_element(times.begin(), times.end())) / p.time_us;
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
    result.points.push_back(measure_point(bench, wide ? &*wide : nullptr, tokens, rates));
  }
  result.ceilings = rates.ceilings();
  for (BenchPoint& point : result.points) {
    fill_floor(config, result.ceilings, mean_touched(config, point.tokens), point);
  }
  return result;
}

}  // namespace moesaic::cli
