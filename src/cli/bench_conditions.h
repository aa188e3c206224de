// SPDX-License-Identifier: Apache-2.0
// Power and clocks of a GPU while something is measured, read by NVML where it is there; nothing is ever set.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_library.h"

namespace moesaic::cli {

/// Of one measured interval. What NVML does not tell is empty.
struct Conditions {
  std::optional<double> watts;                             // mean
  std::optional<double> sm_mhz, least_sm_mhz, memory_mhz;  // between repeats: mean, least, mean
};

/// NVML and one device of it.
class Nvml {
 public:
  /// Names for the loader.
  static std::vector<std::string> files() { return {"libnvidia-ml.so.1"}; }
  Nvml(const std::vector<std::string>& files, const std::string& pci_bus_id);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  /// Empty: the device can be asked.
  const std::string& why_not() const noexcept { return why_not_; }

  enum class Clock { kSm = 1, kMemory = 2 };  // nvmlClockType_t
  std::optional<double> mhz(Clock clock) const;
  /// Since the driver was loaded.
  std::optional<double> joules() const;

 private:
  BenchLibrary library_;
  std::string why_not_;
  bool started_ = false;
  void* device_ = nullptr;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*device_by_bus_)(const char* pci_bus_id, void** device) = nullptr;
  int (*energy_)(void* device, unsigned long long* millijoules) = nullptr;
  int (*clock_)(void* device, int clock, unsigned* mhz) = nullptr;
};

/// Reads an interval: from its creation to `finish`, clocks at every `sample`. Between repeats, where the GPU has only
/// just become idle: a thread that asks the driver during a repeat would hold up its launches.
class ConditionMeter {
 public:
  explicit ConditionMeter(const Nvml& nvml);
  void sample();
  Conditions finish() const;

 private:
  const Nvml& nvml_;
  std::chrono::steady_clock::time_point begin_;
  std::optional<double> begin_joules_;
  std::vector<double> sm_mhz_, memory_mhz_;
};

}  // namespace moesaic::cli
