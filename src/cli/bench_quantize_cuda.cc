// SPDX-License-Identifier: Apache-2.0
// Quantisers on a GPU: a CUDA graph of several runs, each on memory of its own, so many that the L2 cache holds little
// of what comes next; copies of as many bytes are measured in the same way.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "backend_cuda/device.h"
#include "backend_cuda/device_memory.h"
#include "backend_cuda/kernel.h"
#include "cli/bench_cuda.h"
#include "cli/bench_quantize.h"
#include "kernels/abi/params.h"
#include "module/store.h"

namespace moesaic::cli {
namespace {

using cuda::DeviceBuffer;

constexpr std::array kCopyConfigs = {abi::KernelConfig{.warps_tokens = 8, .warps_rows = 1, .warps_k = 1}};
// Not a row of the kernel table: no op.
const tables::KernelRow kCopyRow = {"copy_probe",
                                    tables::Op::kPrepare,
                                    1,
                                    tables::kAllFamilies,
                                    tables::kMmaSync,
                                    tables::CodeKind::kBaseline,
                                    "kernels/common/copy_probe.cuh",
                                    "copy_probe",
                                    "CopyProbeParams",
                                    kCopyConfigs,
                                    [](const tables::Problem&) -> const char* { return nullptr; }};

/// Memory of one run.
struct RunMemory {
  DeviceBuffer x, codes, scales, zeros, row_scales;
  RunMemory(Device device, const QuantBenchSizes& s)
      : x(device, s.x),
        codes(device, s.codes),
        scales(device, s.scales),
        zeros(device, std::max<std::size_t>(s.zeros, 1)),
        row_scales(device, std::max<std::size_t>(s.row_scales, 1)) {}
};

/// The faster of the driver's copy and a kernel that copies.
double copy_us(const QuantBenchOptions& o, const cuda::DeviceInfo& info, const cuda::Stream& stream, double bytes) {
  const std::size_t half = static_cast<std::size_t>(bytes / 2) / 16 * 16 + 16;
  const int sets = memory_sets(info, 2 * half), runs = std::max(sets, kLeastRuns);
  std::vector<DeviceBuffer> from, to;
  for (int i = 0; i < sets; ++i) {
    from.emplace_back(o.device, half).fill(0x3c);
    to.emplace_back(o.device, half).fill(0);
  }
  const double driver = median(graph_us(o.device, stream, runs, [&](int i, void* s) {
    const auto set = static_cast<std::size_t>(i % sets);
    cuda::copy_async(to[set], from[set], half, s);
  }));
  module::Store store(o.modules);
  const cuda::Kernel kernel =
      cuda::Kernel::load(*store.get({&kCopyRow, 0, {fmt::format("sm_{}", info.sm)}}), info.index, 0);
  const int threads = abi::threads(kCopyConfigs[0]);
  const auto blocks = static_cast<unsigned>((half / 16 + static_cast<std::size_t>(threads) * 4 - 1) /
                                            (static_cast<std::size_t>(threads) * 4));
  const double own = median(graph_us(o.device, stream, runs, [&](int i, void* s) {
    const auto set = static_cast<std::size_t>(i % sets);
    const abi::CopyProbeParams p{from[set].data(), to[set].data(), static_cast<long long>(half / 16)};
    kernel.launch({blocks}, threads, &p, s);
  }));
  return std::min(driver, own);
}

QuantBenchPoint measure(const QuantBenchOptions& o, const cuda::DeviceInfo& info, const cuda::Stream& stream,
                        const QuantSpec& spec, const std::vector<unsigned char>& pattern) {
  const Quantizer quantizer = Quantizer::create(spec, o.device, o.modules, o.activation ? &*o.activation : nullptr);
  const QuantBenchSizes sizes = bench_sizes(o, spec);
  const int sets = memory_sets(info, sizes.total()), runs = std::max(sets, kLeastRuns);
  DeviceBuffer global(o.device, sizeof(float));
  global.upload(&kBenchGlobalScale, sizeof(float));
  std::vector<RunMemory> memory;
  for (int i = 0; i < sets; ++i) {
    RunMemory& m = memory.emplace_back(o.device, sizes);
    for (std::size_t at = 0; at < sizes.x; at += pattern.size()) {
      m.x.upload(pattern.data(), std::min(pattern.size(), sizes.x - at), at);
    }
  }
  QuantBenchPoint point = bench_point(o, spec);
  point.time = bench_time(graph_us(o.device, stream, runs, [&](int i, void* s) {
    const RunMemory& m = memory[static_cast<std::size_t>(i % sets)];
    quantizer.quantize(bench_run(o, spec, m.x.data(), m.codes.data(), m.scales.data(), m.zeros.data(),
                                 m.row_scales.data(), global.data()),
                       s);
  }));
  memory.clear();
  point.copy_us = copy_us(o, info, stream, point.bytes_read + point.bytes_written);
  return point;
}

}  // namespace

std::vector<QuantBenchPoint> bench_quantize_cuda(const QuantBenchOptions& o) {
  const cuda::DeviceInfo info = cuda::device_info(o.device.index);
  const cuda::Stream stream(o.device);
  const std::vector<unsigned char> pattern = bench_pattern(o.dtype);
  std::vector<QuantBenchPoint> points;
  for (const QuantSpec& spec : o.specs) points.push_back(measure(o, info, stream, spec, pattern));
  return points;
}

}  // namespace moesaic::cli
