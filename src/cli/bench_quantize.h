// SPDX-License-Identifier: Apache-2.0
// `moesaic bench quantize`: what is measured, shared by the CPU and the GPU measurement.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/cli.h"
#include "moesaic/quantize.h"

namespace moesaic::cli {

struct QuantBenchOptions {
  std::vector<QuantSpec> specs;
  std::int64_t rows = 0, cols = 0;  // of what is quantised
  DType dtype = DType::kBF16;
  std::optional<Activation> activation;
  Device device;
  ModuleOptions modules;
};

struct QuantBenchPoint {
  QuantSpec spec;
  double bytes_read = 0, bytes_written = 0;  // x once; codes, scales, zero points, row scales
  BenchTime time;
  double copy_us = 0;  // the faster way of copying that reads and writes as many bytes
};

/// Bytes of the memory of one run.
struct QuantBenchSizes {
  std::size_t x, codes, scales, zeros, row_scales;
  std::size_t total() const { return x + codes + scales + zeros + row_scales; }
};
QuantBenchSizes bench_sizes(const QuantBenchOptions& options, const QuantSpec& spec);
/// Tensors of one run at the given addresses.
QuantizeRun bench_run(const QuantBenchOptions& options, const QuantSpec& spec, void* x, void* codes, void* scales,
                      void* zeros, void* row_scales, void* global_scale);
/// Normal numbers, a stretch that is repeated over x.
std::vector<unsigned char> bench_pattern(DType dtype);
inline constexpr float kBenchGlobalScale = 500.0f;

/// The point without its times.
QuantBenchPoint bench_point(const QuantBenchOptions& options, const QuantSpec& spec);

std::vector<QuantBenchPoint> bench_quantize_cpu(const QuantBenchOptions& options);
std::vector<QuantBenchPoint> bench_quantize_cuda(const QuantBenchOptions& options);

/// Adds `quantize` to the verb `bench`.
void add_bench_quantize(CLI::App& bench, Action& action);

}  // namespace moesaic::cli
