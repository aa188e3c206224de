// SPDX-License-Identifier: Apache-2.0
// What both measurements of quantisers share, and the one on the CPU: all its threads, against a copy by all threads.
#include "cli/bench_quantize.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>

#include "backend_cpu/backend_cpu.h"
#include "cli/bench_cpu.h"
#include "tables/quant_table.h"

namespace moesaic::cli {
namespace {

constexpr std::int64_t kPattern = 1 << 18;  // elements
constexpr int kRepeats = 9;

template <typename Work>
std::vector<double> repeat_us(const Work& work) {
  work();  // the warm-up
  std::vector<double> times;
  for (int i = 0; i < kRepeats; ++i) times.push_back(wall_us(work));
  return times;
}

double copy_us(double bytes) {
  const auto threads = std::max<std::size_t>(1, std::thread::hardware_concurrency());
  const std::size_t share = static_cast<std::size_t>(bytes / 2) / threads + 1;
  const std::vector<unsigned char> from(share * threads, 3);
  std::vector<unsigned char> to(from.size(), 1);
  return median(repeat_us([&] {
    std::vector<std::thread> pool;
    for (std::size_t t = 0; t < threads; ++t) {
      pool.emplace_back([&, t] { std::memcpy(&to[t * share], &from[t * share], share); });
    }
    for (std::thread& thread : pool) thread.join();
  }));
}

}  // namespace

QuantBenchSizes bench_sizes(const QuantBenchOptions& o, const QuantSpec& spec) {
  const QuantSizes sizes = quant_sizes(spec, o.rows, o.cols);
  const auto elements = static_cast<std::size_t>(o.rows * o.cols) * (o.activation ? 2 : 1);
  return {elements * dtype_size(o.dtype), static_cast<std::size_t>(sizes.code_bytes),
          static_cast<std::size_t>(sizes.scale_bytes), static_cast<std::size_t>(sizes.zero_bytes),
          spec.format == QuantFormat::kNvfp4Row ? static_cast<std::size_t>(o.rows) * sizeof(float) : 0};
}

QuantizeRun bench_run(const QuantBenchOptions& o, const QuantSpec& spec, void* x, void* codes, void* scales,
                      void* zeros, void* row_scales, void* global_scale) {
  const QuantSizes sizes = quant_sizes(spec, o.rows, o.cols);
  const QuantTraits traits = quant_traits(spec);
  const int scale_size = tables::scale_size(traits.scales);
  const DType scale_type = scale_size == 1 ? DType::kU8 : scale_size == 2 ? DType::kBF16 : DType::kF32;
  QuantizeRun run;
  run.x = TensorView(x, o.dtype, {o.rows, o.cols * (o.activation ? 2 : 1)});
  run.codes = TensorView(codes, DType::kU8, {o.rows, o.cols * tables::code_bits(traits.codes) / 8});
  run.scales = spec.layout == ScaleLayout::kLinear
                   ? TensorView(scales, scale_type, {sizes.scale_rows, sizes.scale_cols})
                   : TensorView(scales, scale_type, {sizes.scale_bytes});
  if (sizes.zero_bytes > 0) run.zeros = TensorView(zeros, DType::kU8, {o.rows, sizes.scale_cols});
  if (tables::quant_row(spec.format).global_scale) run.global_scale = TensorView(global_scale, DType::kF32, {1});
  if (spec.format == QuantFormat::kNvfp4Row) run.row_scales = TensorView(row_scales, DType::kF32, {o.rows});
  return run;
}

std::vector<unsigned char> bench_pattern(DType dtype) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  std::vector<unsigned char> bytes(static_cast<std::size_t>(kPattern) * dtype_size(dtype));
  for (std::int64_t i = 0; i < kPattern; ++i) {
    const float value = normal(rng);
    if (dtype == DType::kF32) {
      std::memcpy(&bytes[static_cast<std::size_t>(4 * i)], &value, 4);
    } else {
      const std::uint16_t bits = cpu::encode_16bit(value, dtype);
      std::memcpy(&bytes[static_cast<std::size_t>(2 * i)], &bits, 2);
    }
  }
  return bytes;
}

QuantBenchPoint bench_point(const QuantBenchOptions& o, const QuantSpec& spec) {
  const QuantBenchSizes sizes = bench_sizes(o, spec);
  QuantBenchPoint point;
  point.spec = spec;
  point.bytes_read = static_cast<double>(sizes.x);
  point.bytes_written = static_cast<double>(sizes.total() - sizes.x);
  return point;
}

std::vector<QuantBenchPoint> bench_quantize_cpu(const QuantBenchOptions& o) {
  std::vector<QuantBenchPoint> points;
  const std::vector<unsigned char> pattern = bench_pattern(o.dtype);
  for (const QuantSpec& spec : o.specs) {
    const Quantizer quantizer = Quantizer::create(spec, o.device, {}, o.activation ? &*o.activation : nullptr);
    const QuantBenchSizes sizes = bench_sizes(o, spec);
    std::vector<unsigned char> x(sizes.x), codes(sizes.codes), zeros(sizes.zeros);
    for (std::size_t at = 0; at < x.size(); at += pattern.size()) {
      std::memcpy(&x[at], pattern.data(), std::min(pattern.size(), x.size() - at));
    }
    std::vector<float> scales(sizes.scales / sizeof(float) + 1), row_scales(sizes.row_scales / sizeof(float));
    float global = kBenchGlobalScale;
    const QuantizeRun run =
        bench_run(o, spec, x.data(), codes.data(), scales.data(), zeros.data(), row_scales.data(), &global);
    QuantBenchPoint point = bench_point(o, spec);
    point.time = bench_time(repeat_us([&] { quantizer.quantize(run); }));
    point.copy_us = copy_us(point.bytes_read + point.bytes_written);
    points.push_back(point);
  }
  return points;
}

}  // namespace moesaic::cli
