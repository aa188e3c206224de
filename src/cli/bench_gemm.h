// SPDX-License-Identifier: Apache-2.0
// `moesaic bench gemm`: what is measured, shared by the CPU and the GPU measurement.
#pragma once

#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/cli.h"
#include "moesaic/gemm.h"

namespace moesaic::cli {

struct GemmBenchOptions {
  GemmConfig gemm;
  std::vector<int> rows;  // of all groups together
  ModuleOptions modules;
};

struct GemmBenchPoint {
  int rows = 0;
  BenchTime time;
  BenchTime cublas;  // the same product by cuBLASLt, measured in turns; 0: not measured
  Conditions conditions;
  int touched_groups = 0;       // that have rows
  double weight_bytes = 0;      // of these
  double activation_bytes = 0;  // x and out
  double flops = 0;
  double floor_us = 0;
  std::vector<std::string> kernels;

  double bytes() const { return weight_bytes + activation_bytes; }
};

struct GemmBenchResult {
  Ceilings ceilings;
  std::string cublas;  // what was compared with, or why nothing was; on a GPU
  std::string nvml;    // why there are no conditions; empty: there are
  std::vector<GemmBenchPoint> points;
};

/// Why there is no product of cuBLASLt beside this one; empty: there can be.
std::string why_no_peer(const GemmConfig& config);
/// The point without time and floor.
GemmBenchPoint gemm_point(const Gemm& gemm, int rows);
/// Rows spread evenly: [groups + 1]; one group: empty, for a run of one group needs none.
std::vector<std::int32_t> gemm_offsets(const GemmConfig& config, int rows);
/// Tensors of one run, from and to 16-bit numbers. `offsets`: gemm_offsets.
GemmRun gemm_run(const GemmConfig& config, int rows, const void* x, const void* offsets, void* out);

/// Plain FP64 loops: to see the verb work, not to know a speed.
GemmBenchResult bench_gemm_cpu(const GemmBenchOptions& options);
GemmBenchResult bench_gemm_cuda(const GemmBenchOptions& options);

/// Adds `gemm` to the verb `bench`.
void add_bench_gemm(CLI::App& bench, Action& action);

}  // namespace moesaic::cli
