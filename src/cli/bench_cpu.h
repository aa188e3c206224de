// SPDX-License-Identifier: Apache-2.0
// What measurements on the CPU share: wall times, memory rates, aligned memory.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cli/bench.h"

namespace moesaic::cli {

/// Wall time of `work`, microseconds.
template <typename Work>
double wall_us(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
}

/// Memory rates by all threads. Other programs of the machine disturb them, so they are measured again and again, in
/// turns with what is compared with them; medians count.
class MemoryRates {
 public:
  MemoryRates();

  void measure();
  /// Requires: measured.
  Ceilings ceilings() const;

 private:
  void read(std::size_t thread);

  int threads_;
  std::size_t words_;  // of a thread
  std::vector<std::vector<std::uint64_t>> source_, target_;
  std::vector<std::uint64_t> sums_;
  std::vector<double> read_us_, copy_us_;
};

/// Memory that begins on the boundary which layers ask for.
class AlignedBytes {
 public:
  explicit AlignedBytes(std::size_t bytes) : storage_(new unsigned char[bytes + 256]), bytes_(bytes) {}
  void* data() const { return storage_.get() + (256 - reinterpret_cast<std::uintptr_t>(storage_.get()) % 256) % 256; }
  std::size_t size() const { return bytes_; }

 private:
  std::unique_ptr<unsigned char[]> storage_;
  std::size_t bytes_;
};

}  // namespace moesaic::cli
