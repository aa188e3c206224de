// SPDX-License-Identifier: Apache-2.0
// What measurements on a GPU share: its rates, replays of graphs, memory that no cache holds.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "backend_cuda/device.h"
#include "backend_cuda/device_memory.h"
#include "cli/bench.h"

namespace moesaic::cli {

/// Memory that runs go through before one comes back to what it has read: more than any cache keeps of it.
inline constexpr std::size_t kL2Multiple = 3;
/// Runs of one graph_us: the gaps between launches are part of the time, the start of the graph is not.
inline constexpr int kLeastRuns = 8;

/// Read and copy rate, measured now, and the published matrix rate.
Ceilings measure_ceilings(Device device, const ModuleOptions& modules, const cuda::Stream& stream);

/// Microseconds of one run out of a graph of `runs`, for every repeat.
std::vector<double> graph_us(Device device, const cuda::Stream& stream, int runs,
                             const std::function<void(int run, void* stream)>& enqueue);

/// Sets of memory, of `bytes` that a run touches each, that a graph goes through: kL2Multiple L2 caches' worth.
int memory_sets(const cuda::DeviceInfo& info, std::size_t bytes);

}  // namespace moesaic::cli
