// SPDX-License-Identifier: Apache-2.0
// Device memory, streams, events and graphs with owners, for the command line, tests and benchmarks. The library's own
// `run` allocates nothing and does not use them.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "moesaic/tensor.h"

namespace moesaic::cuda {

/// Memory on one device, freed with the object. Throws Error(kCuda).
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Device device, std::size_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceBuffer();

  Device device() const noexcept { return device_; }
  void* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  /// Copies from the host; done on return, for every stream.
  void upload(const void* source, std::size_t bytes, std::size_t offset = 0);
  /// Waits for the device, then copies to the host.
  void download(void* target, std::size_t bytes, std::size_t offset = 0) const;
  /// Sets every byte; done on return, for every stream.
  void fill(unsigned char value);

 private:
  void swap(DeviceBuffer& other) noexcept;
  Device device_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Waits for `stream` (a CUstream of the device), then copies between host and device memory; done on return, for every
/// stream.
void upload(Device device, void* target, const void* source, std::size_t bytes, void* stream);
void download(Device device, void* target, const void* source, std::size_t bytes, void* stream);

/// Waits for all work of a device.
void synchronize(Device device);

/// Enqueues a copy of the first `bytes` bytes on `stream` (a CUstream of the buffers' device).
void copy_async(DeviceBuffer& target, const DeviceBuffer& source, std::size_t bytes, void* stream);

/// The same between pointers into memory of the current device, whose the stream is.
void copy_async(void* target, const void* source, std::size_t bytes, void* stream);

/// Enqueues a copy from host memory, which must stay as it is until the stream, one of the current device, has come so
/// far.
void upload_async(void* target, const void* source, std::size_t bytes, void* stream);

/// Enqueues setting `bytes` bytes of device memory to `value` on `stream` (a CUstream of the current device).
void fill_async(void* data, unsigned char value, std::size_t bytes, void* stream);

/// A stream; `get` is the CUstream that FusedMoe takes.
class Stream {
 public:
  explicit Stream(Device device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  void* get() const noexcept { return stream_; }
  void synchronize() const;

 private:
  Device device_;
  void* stream_ = nullptr;
};

/// What `enqueue` puts on the stream, captured as a CUDA graph.
class Graph {
 public:
  /// `launches`: only the first so many of them, where all together are one chain; below 0: all.
  Graph(Device device, const Stream& stream, const std::function<void(void* stream)>& enqueue, int launches = -1);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(const Stream& stream) const;

 private:
  Device device_;
  void* exec_ = nullptr;
};

/// Entry names of the kernels that `enqueue` launches, where they are one chain, in order. Nothing is run. Throws
/// Error(kUnsupported) with a driver that cannot tell.
std::vector<std::string> launched_kernels(Device device, const Stream& stream,
                                          const std::function<void(void* stream)>& enqueue);

/// Microseconds on the device between two points of a stream.
class Timer {
 public:
  explicit Timer(Device device);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  void start(const Stream& stream);
  /// Waits for the stop event.
  double stop_us(const Stream& stream);

 private:
  Device device_;
  void* begin_ = nullptr;
  void* end_ = nullptr;
};

}  // namespace moesaic::cuda
