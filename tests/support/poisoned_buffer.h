// SPDX-License-Identifier: Apache-2.0
// Device memory whose bytes are NaN until somebody writes them, with a guard behind it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "backend_cuda/device_memory.h"

namespace moesaic::testing {

constexpr unsigned char kPoison = 0xff;  // NaN in every float type, -1 as an integer

/// `bytes` of device memory and a guard behind them, poisoned.
class PoisonedBuffer {
 public:
  PoisonedBuffer(Device device, std::size_t bytes) : buffer_(device, bytes + kGuard), bytes_(bytes) {
    buffer_.fill(kPoison);
  }
  template <typename T>
  PoisonedBuffer(Device device, const std::vector<T>& content) : PoisonedBuffer(device, content.size() * sizeof(T)) {
    upload(content.data(), bytes_);
  }

  void* data() const { return buffer_.data(); }
  std::size_t size() const { return bytes_; }
  void upload(const void* source, std::size_t bytes) { buffer_.upload(source, bytes); }
  /// Everything, the guard too, is as it was at first.
  void poison() { buffer_.fill(kPoison); }
  template <typename T>
  std::vector<T> fetch() const {
    std::vector<T> values(bytes_ / sizeof(T));
    buffer_.download(values.data(), bytes_);
    return values;
  }
  bool intact() const {
    std::vector<unsigned char> guard(kGuard);
    buffer_.download(guard.data(), kGuard, bytes_);
    return std::all_of(guard.begin(), guard.end(), [](unsigned char byte) { return byte == kPoison; });
  }
  cuda::DeviceBuffer release() { return std::move(buffer_); }

 private:
  static constexpr std::size_t kGuard = 4096;

  cuda::DeviceBuffer buffer_;
  std::size_t bytes_;
};

}  // namespace moesaic::testing
