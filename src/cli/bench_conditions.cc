// SPDX-License-Identifier: Apache-2.0
// NVML by its documented ABI. Power is energy over time: the power that NVML tells on recent GPUs is the last second's.
#include "cli/bench_conditions.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace moesaic::cli {
namespace {

std::optional<double> mean(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

Nvml::Nvml(const std::vector<std::string>& files, const std::string& pci_bus_id) : library_(files) {
  library_.find("nvmlInit_v2", init_);
  library_.find("nvmlShutdown", shutdown_);
  library_.find("nvmlDeviceGetHandleByPciBusId_v2", device_by_bus_);
  library_.find("nvmlDeviceGetTotalEnergyConsumption", energy_);
  library_.find("nvmlDeviceGetClockInfo", clock_);
  why_not_ = library_.why_not();
  if (!why_not_.empty()) return;
  if (const int status = init_(); status != 0) {
    why_not_ = fmt::format("nvmlInit_v2 answers {}", status);
    return;
  }
  started_ = true;
  if (const int status = device_by_bus_(pci_bus_id.c_str(), &device_); status != 0) {
    why_not_ = fmt::format("nvmlDeviceGetHandleByPciBusId_v2({}) answers {}", pci_bus_id, status);
  }
}

Nvml::~Nvml() {
  if (started_) shutdown_();
}

std::optional<double> Nvml::mhz(Clock clock) const {
  unsigned value = 0;
  if (!why_not_.empty() || clock_(device_, static_cast<int>(clock), &value) != 0) return std::nullopt;
  return value;
}

std::optional<double> Nvml::joules() const {
  unsigned long long value = 0;
  if (!why_not_.empty() || energy_(device_, &value) != 0) return std::nullopt;
  return static_cast<double>(value) / 1000;
}

ConditionMeter::ConditionMeter(const Nvml& nvml)
    : nvml_(nvml), begin_(std::chrono::steady_clock::now()), begin_joules_(nvml.joules()) {}

void ConditionMeter::sample() {
  if (const auto mhz = nvml_.mhz(Nvml::Clock::kSm)) sm_mhz_.push_back(*mhz);
  if (const auto mhz = nvml_.mhz(Nvml::Clock::kMemory)) memory_mhz_.push_back(*mhz);
}

Conditions ConditionMeter::finish() const {
  Conditions c;
  const auto joules = nvml_.joules();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin_;
  if (joules && begin_joules_) c.watts = (*joules - *begin_joules_) / seconds.count();
  c.sm_mhz = mean(sm_mhz_);
  if (!sm_mhz_.empty()) c.least_sm_mhz = *std::min_element(sm_mhz_.begin(), sm_mhz_.end());
  c.memory_mhz = mean(memory_mhz_);
  return c;
}

}  // namespace moesaic::cli
