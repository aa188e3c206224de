// SPDX-License-Identifier: Apache-2.0
// Limits from the kernel's own files; a small thread pool.
#include "module/jobs.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace moesaic::module {
namespace {

// The first number of a file; -1 where there is none ("max").
long long number_in(const char* path) {
  std::ifstream file(path);
  long long number = -1;
  return file >> number ? number : -1;
}

// "200000 100000" in cpu.max: two cores.
int quota_cores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  long long quota = 0, period = 0;
  if (!(file >> quota >> period) || period <= 0) return 1 << 20;
  return static_cast<int>(std::max(1ll, (quota + period - 1) / period));
}

}  // namespace

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int affinity = ::sched_getaffinity(0, sizeof(set), &set) == 0
                           ? CPU_COUNT(&set)
                           : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(affinity, quota_cores()));
}

long long free_memory_bytes() {
  long long available = -1;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string word; meminfo >> word;) {
    if (word == "MemAvailable:" && meminfo >> available) {
      available *= 1024;
      break;
    }
  }
  const long long limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (limit < 0 || used < 0) return available;
  const long long left = std::max(0ll, limit - used);
  return available < 0 ? left : std::min(available, left);
}

int jobs_for(int cores, long long free_memory) {
  if (free_memory < 0) return std::max(1, cores);
  return static_cast<int>(std::clamp<long long>(free_memory / kBytesPerJob, 1, std::max(1, cores)));
}

int job_count(int wanted) { return wanted > 0 ? wanted : jobs_for(usable_cores(), free_memory_bytes()); }

void run_jobs(int jobs, std::size_t count, const std::function<void(std::size_t)>& work,
              const std::function<bool()>& stop) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
  const auto run = [&] {
    for (;;) {
      if (failed || (stop && stop())) return;
      const std::size_t item = next.fetch_add(1);
      if (item >= count) return;
      try {
        work(item);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        failed = true;
      }
    }
  };
  std::vector<std::thread> threads;
  const std::size_t wanted = std::min<std::size_t>(static_cast<std::size_t>(std::max(jobs, 1)), count);
  for (std::size_t i = 1; i < wanted; ++i) threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace moesaic::module
