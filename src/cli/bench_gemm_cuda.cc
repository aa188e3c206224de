// SPDX-License-Identifier: Apache-2.0
// Products on a GPU: a graph of several runs, each with weights, x and out in memory of its own, so many that the L2
// cache holds little of what comes next.
#include <algorithm>
#include <optional>

#include "backend_cuda/device_weights.h"
#include "cli/bench_cuda.h"
#include "cli/bench_gemm.h"
#include "cli/bench_weights.h"
#include "moesaic/error.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

using cuda::DeviceBuffer;

/// Prepared weights, all groups of the same numbers in memory of their own.
DeviceBuffer prepare(const Gemm& gemm) {
  const GemmConfig& c = gemm.config();
  BenchMatrices memory;
  MoeWeights host;
  host.experts.resize(1);
  host.experts[0].gate = memory.matrix(c.recipe, c.int4, c.n, c.k);
  const cuda::DeviceWeights device(c.device, host);
  DeviceBuffer prepared(c.device, gemm.prepared_bytes());
  const GemmWeights group{device.views().experts[0].gate, {}};
  gemm.prepare(std::vector<GemmWeights>(static_cast<std::size_t>(c.groups), group), prepared.data());
  cuda::synchronize(c.device);
  return prepared;
}

/// Copies of the weights, as many as the point that touches least of them needs.
std::vector<DeviceBuffer> rotated_weights(const GemmBenchOptions& o, const Gemm& gemm, const cuda::DeviceInfo& info) {
  const GemmBenchPoint least = gemm_point(gemm, *std::min_element(o.rows.begin(), o.rows.end()));
  std::vector<DeviceBuffer> copies;
  copies.push_back(prepare(gemm));
  const std::size_t bytes = gemm.prepared_bytes();
  // Groups without rows take memory that runs do not go through.
  const int fitting = static_cast<int>(std::min<std::size_t>(info.memory_bytes / 2 / bytes, 256));
  const int count = std::min(memory_sets(info, static_cast<std::size_t>(least.bytes())), fitting);
  const cuda::DeviceGuard guard(o.gemm.device.index);
  for (int i = 1; i < count; ++i) {
    copies.emplace_back(o.gemm.device, bytes);
    cuda::copy_async(copies.back(), copies.front(), bytes, nullptr);
  }
  cuda::synchronize(o.gemm.device);
  return copies;
}

/// What all points are measured with.
struct Bench {
  const Gemm& gemm;
  const cuda::DeviceInfo& info;
  const cuda::Stream& stream;
  const std::vector<DeviceBuffer>& weights;
  const Nvml& nvml;
  const CublasLt* cublas;  // nullptr: no product of its beside ours
};

GemmBenchPoint measure(const Bench& bench, int rows) {
  const Gemm& gemm = bench.gemm;
  const GemmConfig& c = gemm.config();
  GemmBenchPoint point = gemm_point(gemm, rows);
  const auto elements = [&](int cols) { return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols); };
  const int sets = std::min(memory_sets(bench.info, static_cast<std::size_t>(point.bytes())),
                            static_cast<int>(bench.weights.size()));
  const std::vector<std::int32_t> host_offsets = gemm_offsets(c, rows);
  DeviceBuffer offsets(c.device, std::max<std::size_t>(host_offsets.size() * 4, 1)),
      workspace(c.device, std::max<std::size_t>(gemm.workspace_bytes(rows), 1));
  offsets.upload(host_offsets.data(), host_offsets.size() * 4);
  const std::vector<std::uint16_t> numbers = bench_numbers(elements(c.k), tables::get_recipe(c.recipe).io);
  std::vector<DeviceBuffer> x, out;
  for (int i = 0; i < sets; ++i) {
    x.emplace_back(c.device, numbers.size() * 2).upload(numbers.data(), numbers.size() * 2);
    out.emplace_back(c.device, elements(c.n) * 2);
  }
  GraphRuns ours(c.device, bench.stream, std::max(sets, kLeastRuns), [&](int i, void* s) {
    const auto set = static_cast<std::size_t>(i % sets);
    GemmRun run = gemm_run(c, rows, x[set].data(), offsets.data(), out[set].data());
    run.prepared = bench.weights[set].data();
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    gemm.run(run, s);
  });
  std::vector<Repeated> work = {ours.repeated()};
  std::optional<CublasRuns> theirs;
  if (bench.cublas != nullptr) {
    try {
      theirs.emplace(c.device, bench.stream, *bench.cublas, tables::get_recipe(c.recipe).io, rows, c.n, c.k);
      work.push_back(theirs->repeated());
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;  // else a point without a peer
    }
  }
  const TurnTimes measured = measure_in_turns(work, kMeasuredUs, bench.nvml);
  point.time = measured.times[0];
  point.conditions = measured.conditions;
  if (theirs) point.cublas = measured.times[1];
  return point;
}

}  // namespace

GemmBenchResult bench_gemm_cuda(const GemmBenchOptions& o) {
  const Device device = o.gemm.device;
  const cuda::DeviceInfo info = cuda::device_info(device.index);
  const cuda::DeviceGuard guard(device.index);
  const cuda::Stream stream(device);
  const Gemm gemm = Gemm::create(o.gemm, o.modules);
  const CublasLt cublas(CublasLt::files());
  const Nvml nvml(Nvml::files(), info.pci_bus_id);
  GemmBenchResult result;
  result.nvml = nvml.why_not();
  result.ceilings = measure_ceilings(device, o.modules, stream);
  measure_matrix_rate(device, stream, cublas, nvml, result.ceilings);
  const std::string why_not = cublas.why_not().empty() ? why_no_peer(o.gemm) : cublas.why_not();
  result.cublas = why_not.empty() ? cublas.name() : "not compared with cuBLASLt: " + why_not;
  const std::vector<DeviceBuffer> weights = rotated_weights(o, gemm, info);
  const Bench bench{gemm, info, stream, weights, nvml, why_not.empty() ? &cublas : nullptr};
  for (const int rows : o.rows) result.points.push_back(measure(bench, rows));
  return result;
}

}  // namespace moesaic::cli
