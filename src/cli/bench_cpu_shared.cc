// SPDX-License-Identifier: Apache-2.0
// Memory rates of the CPU.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "cli/bench_cpu.h"

namespace moesaic::cli {
namespace {

// One stream alone does not keep a core's memory requests busy.
constexpr std::size_t kStreams = 4;

/// Wall time of `work` on all cores, each with its own slice index.
template <typename Work>
double parallel_us(int threads, const Work& work) {
  return wall_us([&] {
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t) pool.emplace_back([&work, t] { work(static_cast<std::size_t>(t)); });
    for (std::thread& thread : pool) thread.join();
  });
}

}  // namespace

MemoryRates::MemoryRates()
    : threads_(static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))),
      words_((std::size_t{256} << 20) / 8 / static_cast<std::size_t>(threads_) / kStreams * kStreams),
      source_(static_cast<std::size_t>(threads_), std::vector<std::uint64_t>(words_, 3)),
      target_(source_),
      sums_(static_cast<std::size_t>(threads_) * 64) {}

void MemoryRates::measure() {
  read_us_.push_back(parallel_us(threads_, [&](std::size_t t) { read(t); }));
  copy_us_.push_back(
      parallel_us(threads_, [&](std::size_t t) { std::memcpy(target_[t].data(), source_[t].data(), 8 * words_); }));
}

Ceilings MemoryRates::ceilings() const {
  const double bytes = 8.0 * static_cast<double>(words_) * threads_;
  Ceilings c;
  c.device = fmt::format("cpu, {} threads", threads_);
  c.read_bytes_per_us = bytes / median(read_us_);
  c.copy_bytes_per_us = 2.0 * bytes / median(copy_us_);
  return c;
}

void MemoryRates::read(std::size_t thread) {
  const std::uint64_t* from = source_[thread].data();
  const std::size_t length = words_ / kStreams;
  std::uint64_t sums[8] = {};
  for (std::size_t i = 0; i + 8 <= length; i += 8) {
    for (std::size_t stream = 0; stream < kStreams; ++stream) {
      const std::uint64_t* line = from + stream * length + i;
      __builtin_prefetch(line + 512);  // past the page, where hardware does not look
      for (int j = 0; j < 8; ++j) sums[j] ^= line[j];
    }
  }
  for (const std::uint64_t sum : sums) sums_[thread * 64] ^= sum;
}

}  // namespace moesaic::cli
