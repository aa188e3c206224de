// SPDX-License-Identifier: Apache-2.0
// How many kernels to compile at once, and doing so.
#pragma once

#include <cstddef>
#include <functional>

namespace moesaic::module {

/// Memory that one compilation may take: the largest kernels stay below 300 MB (NVRTC 12.9 and 13.0), twice that for
/// safety.
inline constexpr long long kBytesPerJob = 600ll << 20;

/// Cores that this process may use (affinity and cgroup quota), at least 1.
int usable_cores();
/// Memory that can be taken without swapping (MemAvailable, cgroup limit), bytes; -1: unknown.
long long free_memory_bytes();
/// min(cores, memory / kBytesPerJob), at least 1. Memory below 0 does not count.
int jobs_for(int cores, long long free_memory);
/// `wanted` where it is > 0, else by cores and free memory.
int job_count(int wanted);

/// Calls work(0..count-1) from `jobs` threads, lowest first; returns when all are done. After an exception or once
/// `stop` says true no new item is begun; the first exception is thrown again.
void run_jobs(int jobs, std::size_t count, const std::function<void(std::size_t)>& work,
              const std::function<bool()>& stop = {});

}  // namespace moesaic::module
