// SPDX-License-Identifier: Apache-2.0
// What both measurements of products share, and the one on the CPU, whose Gemm is the oracle.
#include "cli/bench_gemm.h"

#include <algorithm>

#include "cli/bench_cpu.h"
#include "cli/bench_weights.h"
#include "moesaic/quantize.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

constexpr int kRepeats = 3;  // FP64 loops are slow, and no cache decides about them

GemmBenchPoint measure(const Gemm& gemm, const AlignedBytes& prepared, int rows, MemoryRates& rates) {
  const GemmConfig& c = gemm.config();
  const auto elements = [&](int cols) { return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols); };
  const std::vector<std::uint16_t> x = bench_numbers(elements(c.k), tables::get_recipe(c.recipe).io);
  std::vector<std::uint16_t> out(elements(c.n));
  const std::vector<std::int32_t> offsets = gemm_offsets(c, rows);
  const AlignedBytes workspace(gemm.workspace_bytes(rows));
  GemmRun run = gemm_run(c, rows, x.data(), offsets.data(), out.data());
  run.prepared = prepared.data();
  run.workspace = workspace.data();
  run.workspace_bytes = workspace.size();
  std::vector<double> times;
  for (int i = 0; i < kRepeats; ++i) {
    rates.measure();
    times.push_back(wall_us([&] { gemm.run(run); }));
  }
  GemmBenchPoint point = gemm_point(gemm, rows);
  point.time = bench_time(times);
  return point;
}

}  // namespace

std::string why_no_peer(const GemmConfig& c) {
  if (c.groups > 1) return "it has no groups of different sizes";
  return weight_spec(c.recipe, c.int4) ? "compared are one group's products of bf16 and of fp16" : "";
}

GemmBenchPoint gemm_point(const Gemm& gemm, int rows) {
  const GemmConfig& c = gemm.config();
  GemmBenchPoint point;
  point.rows = rows;
  point.touched_groups = std::min(rows, c.groups);
  point.weight_bytes = point.touched_groups * weight_matrix_bytes(c.recipe, c.int4, c.n, c.k);
  point.activation_bytes = 2.0 * rows * (static_cast<double>(c.k) + c.n);
  point.flops = 2.0 * rows * c.k * c.n;
  point.kernels = gemm.kernels(rows);
  return point;
}

std::vector<std::int32_t> gemm_offsets(const GemmConfig& c, int rows) {
  if (c.groups == 1) return {};
  std::vector<std::int32_t> offsets;
  for (std::int64_t g = 0; g <= c.groups; ++g) offsets.push_back(static_cast<std::int32_t>(rows * g / c.groups));
  return offsets;
}

GemmRun gemm_run(const GemmConfig& c, int rows, const void* x, const void* offsets, void* out) {
  const DType io = tables::get_recipe(c.recipe).io;
  GemmRun run;
  run.x = TensorView(x, io, {rows, c.k});
  run.out = TensorView(out, io, {rows, c.n});
  if (c.groups > 1) run.group_offsets = TensorView(offsets, DType::kI32, {c.groups + 1});
  return run;
}

GemmBenchResult bench_gemm_cpu(const GemmBenchOptions& o) {
  const Gemm gemm = Gemm::create(o.gemm, o.modules);
  BenchMatrices memory;
  const MatrixView w = memory.matrix(o.gemm.recipe, o.gemm.int4, o.gemm.n, o.gemm.k);
  const AlignedBytes prepared(gemm.prepared_bytes());
  gemm.prepare(std::vector<GemmWeights>(static_cast<std::size_t>(o.gemm.groups), GemmWeights{w, {}}), prepared.data());
  MemoryRates rates;
  GemmBenchResult result;
  for (const int rows : o.rows) result.points.push_back(measure(gemm, prepared, rows, rates));
  result.ceilings = rates.ceilings();
  return result;
}

}  // namespace moesaic::cli
