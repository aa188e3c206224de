// SPDX-License-Identifier: Apache-2.0
// Rates of a GPU, and replays of graphs.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "backend_cuda/kernel.h"
#include "cli/bench_cuda.h"
#include "kernels/abi/params.h"
#include "module/store.h"
#include "tables/arch_table.h"

namespace moesaic::cli {
namespace {

using cuda::DeviceBuffer;

constexpr int kGraphRepeats = 11;

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

}  // namespace

Ceilings measure_ceilings(Device device, const ModuleOptions& modules, const cuda::Stream& stream) {
  const cuda::DeviceInfo info = cuda::device_info(device.index);
  Ceilings c;
  c.device =
      fmt::format("{} (cuda:{}, SM{}.{}, {} SMs)", info.name, info.index, info.sm / 10, info.sm % 10, info.sm_count);
  const std::size_t bytes = std::min<std::size_t>(std::size_t{2} << 30, info.memory_bytes / 8);
  DeviceBuffer source(device, bytes), target(device, bytes), never(device, 4);
  source.fill(0x3c);
  target.fill(0);
  const double copy = median_us(device, stream, 11, [&](void* s) { cuda::copy_async(target, source, bytes, s); });
  c.copy_bytes_per_us = 2.0 * static_cast<double>(bytes) / copy;
  module::Store store(modules);
  const cuda::Kernel probe =
      cuda::Kernel::load(*store.get({&kProbeRow, 0, {fmt::format("sm_{}", info.sm)}}), info.index, 0);
  const abi::ReadProbeParams p{source.data(), static_cast<long long>(bytes / 16), static_cast<unsigned*>(never.data())};
  const auto blocks = static_cast<unsigned>(4 * info.sm_count);
  const double read = median_us(device, stream, 11, [&](void* s) {
    const cuda::DeviceGuard guard(device.index);
    probe.launch({blocks}, abi::threads(kProbeConfigs[0]), &p, s);
  });
  c.read_bytes_per_us = static_cast<double>(bytes) / read;
  return c;
}

GraphRuns::GraphRuns(Device device, const cuda::Stream& stream, int runs,
                     const std::function<void(int run, void* stream)>& enqueue)
    : stream_(stream),
      runs_(runs),
      graph_(device, stream,
             [&](void* s) {
               const cuda::DeviceGuard guard(device.index);
               for (int i = 0; i < runs; ++i) enqueue(i, s);
             }),
      timer_(device) {}

double GraphRuns::replay_us() {
  timer_.start(stream_);
  graph_.launch(stream_);
  return timer_.stop_us(stream_);
}

std::vector<double> graph_us(Device device, const cuda::Stream& stream, int runs,
                             const std::function<void(int run, void* stream)>& enqueue) {
  GraphRuns graph(device, stream, runs, enqueue);
  std::vector<double> times;
  for (int i = 0; i < kGraphRepeats + kWarmUps; ++i) {
    const double us = graph.replay_us() / runs;
    if (i >= kWarmUps) times.push_back(us);
  }
  return times;
}

int memory_sets(const cuda::DeviceInfo& info, std::size_t bytes) {
  return static_cast<int>(
      std::clamp<std::size_t>(kL2Multiple * info.l2_bytes / std::max<std::size_t>(bytes, 1) + 1, 2, 256));
}

}  // namespace moesaic::cli
