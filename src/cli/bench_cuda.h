// SPDX-License-Identifier: Apache-2.0
// What measurements on a GPU share: its rates, replays of graphs, memory that no cache holds.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "backend_cuda/device.h"
#include "backend_cuda/device_memory.h"
#include "cli/bench.h"
#include "cli/bench_cublas.h"
#include "cli/bench_turns.h"

namespace moesaic::cli {

/// Memory that runs go through before one comes back to what it has read: more than any cache keeps of it.
inline constexpr std::size_t kL2Multiple = 3;
/// Runs of one graph_us: the gaps between launches are part of the time, the start of the graph is not.
inline constexpr int kLeastRuns = 8;

/// Read and copy rate, measured now.
Ceilings measure_ceilings(Device device, const ModuleOptions& modules, const cuda::Stream& stream);
/// Fills the matrix rate: of `cublas`, the better one of two sizes, or the published one where that is not there.
void measure_matrix_rate(Device device, const cuda::Stream& stream, const CublasLt& cublas, const Nvml& nvml,
                         Ceilings& ceilings);

/// A graph of several runs.
class GraphRuns {
 public:
  GraphRuns(Device device, const cuda::Stream& stream, int runs,
            const std::function<void(int run, void* stream)>& enqueue);
  /// Microseconds of one replay.
  double replay_us();
  /// For measure_in_turns; not beyond the life of this object.
  Repeated repeated() {
    return {static_cast<double>(runs_), [this] { return replay_us(); }};
  }

 private:
  const cuda::Stream& stream_;
  int runs_;
  cuda::Graph graph_;
  cuda::Timer timer_;
};

/// Microseconds of one run out of a graph of `runs`, for every repeat.
std::vector<double> graph_us(Device device, const cuda::Stream& stream, int runs,
                             const std::function<void(int run, void* stream)>& enqueue);

/// cuBLASLt's product [m, k] x [n, k] of 16-bit numbers: a graph of runs on rotated memory of its own, by the fastest
/// of its algorithms.
class CublasRuns {
 public:
  CublasRuns(Device device, const cuda::Stream& stream, const CublasLt& cublas, DType type, int m, int n, int k);
  Repeated repeated() { return graph_->repeated(); }

 private:
  std::unique_ptr<GraphRuns> graph_of(Device device, const cuda::Stream& stream, int algorithm) const;

  CublasProduct product_;
  int sets_ = 0;
  cuda::DeviceBuffer workspace_;
  std::vector<cuda::DeviceBuffer> x_, w_, out_;
  std::unique_ptr<GraphRuns> graph_;
};

/// Sets of memory, of `bytes` that a run touches each, that a graph goes through: kL2Multiple L2 caches' worth.
int memory_sets(const cuda::DeviceInfo& info, std::size_t bytes);

}  // namespace moesaic::cli
