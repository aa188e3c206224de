// SPDX-License-Identifier: Apache-2.0
// Memory of a device in the C interface, for callers without an allocator of their own.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

#include "backend_cuda/device_memory.h"
#include "capi/handles.h"
#include "capi/structs.h"

namespace moesaic::capi {
namespace {

constexpr std::align_val_t kAlignment{256};  // what prepared weights and workspaces begin at

std::unique_ptr<moesaic_memory> host_memory(std::size_t bytes) {
  const std::shared_ptr<void> owner(::operator new(bytes, kAlignment),
                                    [](void* data) { ::operator delete(data, kAlignment); });
  return std::make_unique<moesaic_memory>(moesaic_memory{Device{}, owner.get(), owner});
}

std::unique_ptr<moesaic_memory> device_memory(Device device, std::size_t bytes) {
  const auto owner = std::make_shared<cuda::DeviceBuffer>(device, bytes);
  return std::make_unique<moesaic_memory>(moesaic_memory{device, owner->data(), owner});
}

}  // namespace
}  // namespace moesaic::capi

// The functions of the C interface.
using namespace moesaic;        // NOLINT(google-build-using-namespace): C names outside of every namespace
using namespace moesaic::capi;  // NOLINT(google-build-using-namespace)

moesaic_status moesaic_memory_create(DLDevice device, size_t bytes, moesaic_memory** memory) {
  constexpr const char* kOperation = "memory_create";
  return guarded(kOperation, [&] {
    check_given(kOperation, "memory", memory, "where the handle goes");
    *memory = nullptr;
    const Device where = to_device(kOperation, device);
    const std::size_t wanted = std::max<std::size_t>(bytes, 1);
    *memory = (where.type == DeviceType::kCpu ? host_memory(wanted) : device_memory(where, wanted)).release();
  });
}

void* moesaic_memory_data(const moesaic_memory* memory) { return memory == nullptr ? nullptr : memory->data; }

void moesaic_memory_destroy(moesaic_memory* memory) { delete memory; }

moesaic_status moesaic_synchronize(DLDevice device) {
  constexpr const char* kOperation = "synchronize";
  return guarded(kOperation, [&] {
    const Device where = to_device(kOperation, device);
    if (where.type == DeviceType::kCuda) cuda::synchronize(where);
  });
}
