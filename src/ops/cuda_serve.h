// SPDX-License-Identifier: Apache-2.0
// What every op on a GPU does at creation: finds the table row of the device, loads the kernels of a plan.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend_cuda/device.h"
#include "backend_cuda/kernel.h"
#include "kernels/abi/params.h"
#include "moesaic/module.h"
#include "moesaic/tensor.h"
#include "plan/moe_plan.h"

namespace moesaic::ops {

/// What serves a device.
struct Served {
  tables::ArchRow arch;
  std::optional<std::string> target;  // instead of the row's own targets
  std::string force_kernel;           // row, or row/config, that must serve its op; or empty
};

/// Row of the device's SM; an unknown SM gets the oldest row's limits and PTX code, with a notice, or
/// Error(kUnsupported) with MOESAIC_STRICT.
Served serve(int sm, const ModuleOptions& modules);

/// What the planner is told of a device.
plan::DeviceRates rates_of(const cuda::DeviceInfo& info);

/// abi::SourceType of bf16, f16 or f32.
int source_type(DType dtype);

/// Kernels on a device by (row, config).
class LoadedKernels {
 public:
  /// Makes or finds all of `wanted` and loads them. Throws Error as module::Store and cuda::Kernel::load.
  void load(const std::vector<plan::Choice>& wanted, const Served& served, Device device, const ModuleOptions& modules);
  /// Requires: among those that were loaded.
  const cuda::Kernel& at(const plan::Choice& c) const { return kernels_.find({c.row, c.config_index})->second; }

 private:
  std::map<std::pair<const tables::KernelRow*, int>, cuda::Kernel> kernels_;
};

/// Enqueues the routing kernel that does everything in one launch.
void launch_fused_route(cuda::LaunchChain& chain, const cuda::Kernel& kernel, const abi::KernelConfig& config,
                        const abi::RouteParams& params);

}  // namespace moesaic::ops
