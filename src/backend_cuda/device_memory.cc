// SPDX-License-Identifier: Apache-2.0
// Owners of device memory, streams, events and graphs.
#include "backend_cuda/device_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "backend_cuda/device.h"
#include "backend_cuda/driver.h"
#include "moesaic/error.h"

namespace moesaic::cuda {
namespace {

CUdeviceptr address(const void* data, std::size_t offset = 0) { return reinterpret_cast<CUdeviceptr>(data) + offset; }

void check_range(std::size_t size, std::size_t bytes, std::size_t offset) {
  if (offset > size || bytes > size - offset) {
    throw Error(ErrorKind::kInternal,
                fmt::format("device buffer of {} bytes: access of {} bytes at {}", size, bytes, offset));
  }
}

// A copy from pageable memory returns once it is staged, a memset at once; streams that do not wait for the default
// stream would see the old content.
void wait_for_copy() { MOESAIC_CU(stream_synchronize, nullptr); }

/// What `enqueue` puts on the stream.
class CapturedGraph {
 public:
  CapturedGraph(const Stream& stream, const std::function<void(void*)>& enqueue) {
    auto* const cu_stream = static_cast<CUstream>(stream.get());
    MOESAIC_CU(stream_begin_capture, cu_stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
    try {
      enqueue(stream.get());
    } catch (...) {
      driver().stream_end_capture(cu_stream, &graph_);
      destroy();
      throw;
    }
    MOESAIC_CU(stream_end_capture, cu_stream, &graph_);
  }
  ~CapturedGraph() { destroy(); }
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  CUgraph get() const noexcept { return graph_; }

  /// Its nodes, first to last. Edges of launches that wait in the kernel carry data, which older queries refuse.
  std::vector<CUgraphNode> chain() const {
    if (!driver().looks_into_graphs()) {
      throw Error(ErrorKind::kUnsupported, "launches of a graph: the driver is older than CUDA 12.3; update it");
    }
    std::size_t count = 0;
    MOESAIC_CU(graph_root_nodes, graph_, nullptr, &count);
    std::vector<CUgraphNode> nodes;
    while (count > 0) {
      if (count != 1) {
        throw Error(ErrorKind::kInternal,
                    fmt::format("launches of a graph: {} side by side behind launch {}", count, nodes.size()));
      }
      CUgraphNode next = nullptr;
      CUgraphEdgeData edge{};
      if (nodes.empty()) {
        MOESAIC_CU(graph_root_nodes, graph_, &next, &count);
      } else {
        MOESAIC_CU(graph_dependent_nodes, nodes.back(), &next, &edge, &count);
      }
      nodes.push_back(next);
      count = 0;
      MOESAIC_CU(graph_dependent_nodes, next, nullptr, nullptr, &count);
    }
    return nodes;
  }

 private:
  void destroy() noexcept {
    if (graph_ != nullptr) driver().graph_destroy(graph_);
    graph_ = nullptr;
  }
  CUgraph graph_ = nullptr;
};

}  // namespace

DeviceBuffer::DeviceBuffer(Device device, std::size_t bytes) : device_(device), size_(bytes) {
  if (bytes == 0) return;
  const DeviceGuard guard(device.index);
  CUdeviceptr pointer = 0;
  const CUresult result = driver().memory_alloc(&pointer, bytes);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    throw Error(ErrorKind::kCuda, fmt::format("{}: not enough device memory for {} bytes", device_name(device), bytes));
  }
  check(result, "memory_alloc");
  data_ = reinterpret_cast<void*>(pointer);
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  try {
    const DeviceGuard guard(device_.index);
    driver().memory_free(address(data_));
  } catch (const Error&) {
    // The driver is going down with the process; so is the memory.
  }
}

void DeviceBuffer::swap(DeviceBuffer& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
}

void DeviceBuffer::upload(const void* source, std::size_t bytes, std::size_t offset) {
  check_range(size_, bytes, offset);
  if (bytes == 0) return;
  const DeviceGuard guard(device_.index);
  MOESAIC_CU(memory_to_device, address(data_, offset), source, bytes);
  wait_for_copy();
}

void DeviceBuffer::download(void* target, std::size_t bytes, std::size_t offset) const {
  check_range(size_, bytes, offset);
  if (bytes == 0) return;
  const DeviceGuard guard(device_.index);
  MOESAIC_CU(context_synchronize);
  MOESAIC_CU(memory_to_host, target, address(data_, offset), bytes);
}

void DeviceBuffer::fill(unsigned char value) {
  if (size_ == 0) return;
  const DeviceGuard guard(device_.index);
  MOESAIC_CU(memory_set, address(data_), value, size_);
  wait_for_copy();
}

void upload(Device device, void* target, const void* source, std::size_t bytes, void* stream) {
  const DeviceGuard guard(device.index);
  MOESAIC_CU(stream_synchronize, static_cast<CUstream>(stream));
  MOESAIC_CU(memory_to_device, address(target), source, bytes);
  wait_for_copy();
}

void download(Device device, void* target, const void* source, std::size_t bytes, void* stream) {
  const DeviceGuard guard(device.index);
  MOESAIC_CU(stream_synchronize, static_cast<CUstream>(stream));
  MOESAIC_CU(memory_to_host, target, address(source), bytes);
}

void synchronize(Device device) { synchronize(device.index); }

void copy_async(DeviceBuffer& target, const DeviceBuffer& source, std::size_t bytes, void* stream) {
  check_range(std::min(target.size(), source.size()), bytes, 0);
  const DeviceGuard guard(target.device().index);
  MOESAIC_CU(memory_copy_async, address(target.data()), address(source.data()), bytes, static_cast<CUstream>(stream));
}

void copy_async(void* target, const void* source, std::size_t bytes, void* stream) {
  MOESAIC_CU(memory_copy_async, address(target), address(source), bytes, static_cast<CUstream>(stream));
}

void upload_async(void* target, const void* source, std::size_t bytes, void* stream) {
  MOESAIC_CU(memory_to_device_async, address(target), source, bytes, static_cast<CUstream>(stream));
}

void fill_async(void* data, unsigned char value, std::size_t bytes, void* stream) {
  MOESAIC_CU(memory_set_async, address(data), value, bytes, static_cast<CUstream>(stream));
}

Stream::Stream(Device device) : device_(device) {
  const DeviceGuard guard(device.index);
  CUstream stream = nullptr;
  MOESAIC_CU(stream_create, &stream, CU_STREAM_NON_BLOCKING);
  stream_ = stream;
}

Stream::~Stream() { driver().stream_destroy(static_cast<CUstream>(stream_)); }

void Stream::synchronize() const {
  const DeviceGuard guard(device_.index);
  MOESAIC_CU(stream_synchronize, static_cast<CUstream>(stream_));
}

Graph::Graph(Device device, const Stream& stream, const std::function<void(void*)>& enqueue, int launches)
    : device_(device) {
  const DeviceGuard guard(device.index);
  const CapturedGraph captured(stream, enqueue);
  if (launches >= 0) {
    const std::vector<CUgraphNode> chain = captured.chain();
    // From the last one on, so that what is left is a chain all the time.
    for (std::size_t i = chain.size(); i > static_cast<std::size_t>(launches); --i) {
      MOESAIC_CU(graph_destroy_node, chain[i - 1]);
    }
  }
  CUgraphExec exec = nullptr;
  MOESAIC_CU(graph_instantiate, &exec, captured.get(), 0);
  exec_ = exec;
}

Graph::~Graph() {
  if (exec_ != nullptr) driver().graph_exec_destroy(static_cast<CUgraphExec>(exec_));
}

void Graph::launch(const Stream& stream) const {
  MOESAIC_CU(graph_launch, static_cast<CUgraphExec>(exec_), static_cast<CUstream>(stream.get()));
}

std::vector<std::string> launched_kernels(Device device, const Stream& stream,
                                          const std::function<void(void*)>& enqueue) {
  const DeviceGuard guard(device.index);
  const CapturedGraph captured(stream, enqueue);
  std::vector<std::string> names;
  for (CUgraphNode node : captured.chain()) {
    CUDA_KERNEL_NODE_PARAMS params{};
    MOESAIC_CU(graph_kernel_params, node, &params);
    const char* name = nullptr;
    MOESAIC_CU(function_name, &name, params.func);
    names.emplace_back(name);
  }
  return names;
}

Timer::Timer(Device device) : device_(device) {
  const DeviceGuard guard(device.index);
  CUevent begin = nullptr, end = nullptr;
  MOESAIC_CU(event_create, &begin, CU_EVENT_DEFAULT);
  begin_ = begin;
  MOESAIC_CU(event_create, &end, CU_EVENT_DEFAULT);
  end_ = end;
}

Timer::~Timer() {
  if (begin_ != nullptr) driver().event_destroy(static_cast<CUevent>(begin_));
  if (end_ != nullptr) driver().event_destroy(static_cast<CUevent>(end_));
}

void Timer::start(const Stream& stream) {
  MOESAIC_CU(event_record, static_cast<CUevent>(begin_), static_cast<CUstream>(stream.get()));
}

double Timer::stop_us(const Stream& stream) {
  MOESAIC_CU(event_record, static_cast<CUevent>(end_), static_cast<CUstream>(stream.get()));
  MOESAIC_CU(event_synchronize, static_cast<CUevent>(end_));
  float milliseconds = 0;
  MOESAIC_CU(event_elapsed, &milliseconds, static_cast<CUevent>(begin_), static_cast<CUevent>(end_));
  return 1000.0 * static_cast<double>(milliseconds);
}

}  // namespace moesaic::cuda
