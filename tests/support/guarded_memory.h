// SPDX-License-Identifier: Apache-2.0
// Host memory with guard bytes before and behind it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace moesaic::testing {

/// `size` bytes, `skip` bytes behind a multiple of 256, filled with `content`, between guards.
class GuardedMemory {
 public:
  explicit GuardedMemory(std::size_t size, unsigned char content = 0xff, std::size_t skip = 0)
      : size_(size), bytes_(with_guards(size + skip), kGuardByte) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data()) + kGuard;
    begin_ = kGuard + (256 - address % 256) % 256 + skip;
    std::fill_n(bytes_.begin() + static_cast<std::ptrdiff_t>(begin_), size, content);
  }

  void* data() { return bytes_.data() + begin_; }
  std::size_t size() const { return size_; }
  std::string text() const { return {bytes_.begin() + begin(), bytes_.begin() + begin() + size()}; }
  /// True while nothing outside has been written.
  bool intact() const {
    const auto is_guard = [](unsigned char byte) { return byte == kGuardByte; };
    return std::all_of(bytes_.begin(), bytes_.begin() + begin(), is_guard) &&
           std::all_of(bytes_.begin() + begin() + static_cast<std::ptrdiff_t>(size_), bytes_.end(), is_guard);
  }

 private:
  // The bound tells GCC that the sum does not wrap, which it warns about.
  static std::size_t with_guards(std::size_t size) { return std::min(size, kLargest) + 2 * kGuard + 256; }

  static constexpr std::size_t kGuard = 4096, kLargest = std::size_t{1} << 32;
  static constexpr unsigned char kGuardByte = 0xd7;
  std::ptrdiff_t begin() const { return static_cast<std::ptrdiff_t>(begin_); }

  std::size_t size_, begin_ = 0;
  std::vector<unsigned char> bytes_;
};

}  // namespace moesaic::testing
