// SPDX-License-Identifier: Apache-2.0
// GPUs by name, and what a healthy one of them reaches at least: below it, a measurement says something about the
// machine (another program, a power cap, a bad board), not about kernels.
#pragma once

#include <array>
#include <string_view>

namespace moesaic::tables {

struct DeviceRow {
  const char* name;  // part of the driver's name; a board with other memory or power has another
  double least_read_bytes_per_us, least_matrix_flops_per_us;
};

inline constexpr std::array kDeviceTable = {
    DeviceRow{"H100 80GB HBM3", 3.05e6, 690e6},
    DeviceRow{"H200", 4.3e6, 650e6},  // 4.47 to 4.61 TB/s, 663 to 688 TFLOP/s were measured; it has the H100's 700 W
};

/// The row of a device, or nullptr.
constexpr const DeviceRow* find_device(std::string_view name) noexcept {
  for (const DeviceRow& row : kDeviceTable) {
    if (name.find(row.name) != std::string_view::npos) return &row;
  }
  return nullptr;
}

}  // namespace moesaic::tables
