// SPDX-License-Identifier: Apache-2.0
// The vendor's product on a GPU: the matrix rate of this machine, and a peer of dense products.
#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "cli/bench_cuda.h"
#include "cli/bench_weights.h"
#include "moesaic/error.h"
#include "tables/arch_table.h"

namespace moesaic::cli {
namespace {

using cuda::DeviceBuffer;

constexpr int kMatrixSizes[] = {4096, 8192};
constexpr int kTrials = 3;  // replays that choose an algorithm, behind one that does not count

std::vector<DeviceBuffer> sets_of(Device device, int sets, std::int64_t rows, std::int64_t cols, DType type) {
  const std::vector<std::uint16_t> numbers = bench_numbers(static_cast<std::size_t>(rows * cols), type);
  std::vector<DeviceBuffer> buffers;
  for (int i = 0; i < sets; ++i) {
    buffers.emplace_back(device, numbers.size() * 2).upload(numbers.data(), numbers.size() * 2);
  }
  return buffers;
}

}  // namespace

CublasRuns::CublasRuns(Device device, const cuda::Stream& stream, const CublasLt& cublas, DType type, int m, int n,
                       int k)
    : product_(cublas, type, m, n, k), workspace_(device, CublasProduct::kWorkspaceBytes) {
  const auto bytes = 2.0 * (static_cast<double>(m) * k + static_cast<double>(n) * k + static_cast<double>(m) * n);
  sets_ = memory_sets(cuda::device_info(device.index), static_cast<std::size_t>(bytes));
  x_ = sets_of(device, sets_, m, k, type);
  w_ = sets_of(device, sets_, n, k, type);
  out_ = sets_of(device, sets_, m, n, type);
  double best_us = 0;
  for (int algorithm = 0; algorithm < product_.algorithms(); ++algorithm) {
    // Its kernel is loaded at the first call, which a capture forbids.
    const cuda::DeviceGuard guard(device.index);
    product_.enqueue(algorithm, x_[0].data(), w_[0].data(), out_[0].data(), workspace_.data(), stream.get());
    stream.synchronize();
    std::unique_ptr<GraphRuns> graph = graph_of(device, stream, algorithm);
    std::vector<double> times;
    for (int i = 0; i <= kTrials; ++i) times.push_back(graph->replay_us());
    const double us = *std::min_element(times.begin() + 1, times.end());
    if (graph_ != nullptr && us >= best_us) continue;
    best_us = us;
    graph_ = std::move(graph);
  }
}

std::unique_ptr<GraphRuns> CublasRuns::graph_of(Device device, const cuda::Stream& stream, int algorithm) const {
  return std::make_unique<GraphRuns>(device, stream, std::max(sets_, kLeastRuns), [&](int run, void* s) {
    const auto set = static_cast<std::size_t>(run % sets_);
    product_.enqueue(algorithm, x_[set].data(), w_[set].data(), out_[set].data(), workspace_.data(), s);
  });
}

void measure_matrix_rate(Device device, const cuda::Stream& stream, const CublasLt& cublas, const Nvml& nvml,
                         Ceilings& c) {
  std::string why_not = cublas.why_not();
  try {
    for (const int size : why_not.empty() ? std::span<const int>(kMatrixSizes) : std::span<const int>()) {
      CublasRuns runs(device, stream, cublas, DType::kBF16, size, size, size);
      const double us = measure_in_turns({runs.repeated()}, kMeasuredUs, nvml).times[0].us;
      const double rate = 2.0 * size * size * size / us;
      if (rate <= c.matrix_flops_per_us) continue;
      c.matrix_flops_per_us = rate;
      c.matrix_measured = true;
      c.matrix_source = fmt::format("{} at {}^3, measured now", cublas.name(), size);
    }
  } catch (const Error& error) {
    why_not = error.what();
  }
  if (c.matrix_measured) return;
  const tables::ArchRow* arch = tables::find_arch(cuda::device_info(device.index).sm);
  c.matrix_flops_per_us = arch != nullptr ? arch->matrix_flops_per_us : 0;
  c.matrix_source = fmt::format("{}, for cuBLASLt is not there: {}",
                                c.matrix_flops_per_us > 0 ? "published" : "nobody has measured it", why_not);
}

}  // namespace moesaic::cli
