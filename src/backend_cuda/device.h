// SPDX-License-Identifier: Apache-2.0
// Devices as the driver sees them, and the guard that makes one current.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace moesaic::cuda {

struct DeviceInfo {
  int index = 0;
  std::string name, pci_bus_id;  // the latter as "0000:3b:00.0"; empty: not told
  int sm = 0;                    // 10 * major + minor
  int sm_count = 0;
  std::size_t l2_bytes = 0, memory_bytes = 0;
  int memory_clock_khz = 0, memory_bus_bits = 0;
};

/// Why no GPU can be used, or empty. Never throws.
std::string why_no_cuda() noexcept;
/// Version of the driver, 1000 * major + 10 * minor; 0 without one.
int driver_version() noexcept;
/// All devices; empty without a driver.
std::vector<DeviceInfo> list_devices();
/// SMs (10 * major + minor) of all devices, for architecture lists with "native".
std::vector<int> list_sms();
/// Throws Error(kCuda) without a driver, Error(kInvalidArgument) for an ordinal that is not there.
DeviceInfo device_info(int index);

/// Makes the primary context of a device current for its lifetime; the calling thread's own context comes back after.
/// The context is retained once per device and process.
class DeviceGuard {
 public:
  explicit DeviceGuard(int index);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
};

/// Waits for all work of a device.
void synchronize(int index);

}  // namespace moesaic::cuda
