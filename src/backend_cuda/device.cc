// SPDX-License-Identifier: Apache-2.0
// Device properties, the primary context, and its guard.
#include "backend_cuda/device.h"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <exception>
#include <mutex>

#include "backend_cuda/driver.h"
#include "moesaic/error.h"

namespace moesaic::cuda {
namespace {

constexpr int kMaxDevices = 64;

int attribute(CUdevice device, CUdevice_attribute which) {
  int value = 0;
  MOESAIC_CU(device_attribute, &value, which, device);
  return value;
}

int device_count() {
  int count = 0;
  MOESAIC_CU(device_count, &count);
  return count;
}

CUdevice get_device(int index) {
  const int count = device_count();
  if (index < 0 || index >= count || index >= kMaxDevices) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("device cuda:{}: this machine has {} CUDA device{}", index, count, count == 1 ? "" : "s"));
  }
  CUdevice device = 0;
  MOESAIC_CU(device_get, &device, index);
  return device;
}

/// The retained primary context. Lock-free once it is there: `run` goes through it.
CUcontext primary_context(int index) {
  static std::array<std::atomic<CUcontext>, kMaxDevices> contexts{};
  static std::mutex mutex;
  if (index >= 0 && index < kMaxDevices) {
    if (CUcontext context = contexts[static_cast<std::size_t>(index)].load(std::memory_order_acquire)) return context;
  }
  const CUdevice device = get_device(index);
  const std::lock_guard lock(mutex);
  auto& slot = contexts[static_cast<std::size_t>(index)];
  if (slot.load() == nullptr) {
    CUcontext context = nullptr;
    MOESAIC_CU(primary_retain, &context, device);
    slot.store(context, std::memory_order_release);
  }
  return slot.load();
}

}  // namespace

std::string why_no_cuda() noexcept {
  try {
    return device_count() > 0 ? "" : "the CUDA driver finds no device";
  } catch (const std::exception& e) {
    return e.what();
  }
}

int driver_version() noexcept {
  try {
    int version = 0;
    MOESAIC_CU(driver_version, &version);
    return version;
  } catch (const std::exception&) {
    return 0;
  }
}

DeviceInfo device_info(int index) {
  const CUdevice device = get_device(index);
  DeviceInfo info;
  info.index = index;
  char name[256] = {};
  MOESAIC_CU(device_name, name, sizeof(name) - 1, device);
  info.name = name;
  if (driver().device_pci_bus_id != nullptr) {
    MOESAIC_CU(device_pci_bus_id, name, sizeof(name) - 1, device);
    info.pci_bus_id = name;
  }
  info.sm = 10 * attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
            attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  info.sm_count = attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  info.l2_bytes = static_cast<std::size_t>(attribute(device, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE));
  info.memory_clock_khz = attribute(device, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
  info.memory_bus_bits = attribute(device, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
  MOESAIC_CU(device_memory, &info.memory_bytes, device);
  return info;
}

std::vector<DeviceInfo> list_devices() {
  std::vector<DeviceInfo> devices;
  if (!why_no_cuda().empty()) return devices;
  for (int i = 0; i < device_count(); ++i) devices.push_back(device_info(i));
  return devices;
}

std::vector<int> list_sms() {
  std::vector<int> sms;
  for (const DeviceInfo& device : list_devices()) sms.push_back(device.sm);
  return sms;
}

DeviceGuard::DeviceGuard(int index) { MOESAIC_CU(context_push, primary_context(index)); }

DeviceGuard::~DeviceGuard() {
  CUcontext popped = nullptr;
  driver().context_pop(&popped);
}

void synchronize(int index) {
  const DeviceGuard guard(index);
  MOESAIC_CU(context_synchronize);
}

}  // namespace moesaic::cuda
