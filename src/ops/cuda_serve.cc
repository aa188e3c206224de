// SPDX-License-Identifier: Apache-2.0
// Device to table row; plans to loaded kernels.
#include "ops/cuda_serve.h"

#include <fmt/format.h>

#include "base/env.h"
#include "base/log.h"
#include "kernels/abi/params.h"
#include "module/store.h"
#include "moesaic/error.h"

namespace moesaic::ops {

Served serve(int sm, const ModuleOptions& modules) {
  std::optional<std::string> target = modules.force_target;
  if (!target) target = base::env_value(base::Env::kForceTarget);
  std::string kernel = modules.force_kernel.value_or("");
  if (kernel.empty()) kernel = base::env_value(base::Env::kForceKernel).value_or("");
  if (const tables::ArchRow* row = tables::find_arch(sm)) {
    // PTX of an older architecture has that one's rows.
    const tables::ArchRow* forced = target ? tables::find_arch(module::sm_of({*target})) : nullptr;
    return {forced != nullptr ? *forced : *row, target, kernel};
  }
  const std::string ptx = module::portable_ptx_target().name;
  const std::string message = fmt::format(
      "SM{}.{} is newer than this version knows: served by {} PTX of the portable kernels", sm / 10, sm % 10, ptx);
  if (base::env_switch(base::Env::kStrict).value_or(false)) {
    throw Error(ErrorKind::kUnsupported, message + "; MOESAIC_STRICT=1 makes that an error");
  }
  base::log(LogLevel::kNotice, message);
  tables::ArchRow row = tables::kArchTable.front();
  row.sm = sm;
  return {row, target ? target : ptx, kernel};
}

plan::DeviceRates rates_of(const cuda::DeviceInfo& info) {
  plan::DeviceRates rates;
  // DDR: two transfers a clock; 87% of it is what reads reach (measured on H100). Unknown clocks keep the default.
  const double peak = 2.0 * info.memory_clock_khz * 1e3 * info.memory_bus_bits / 8.0 / 1e6;
  if (peak > 1e4) rates.dram_bytes_per_us = 0.87 * peak;
  rates.sm_count = info.sm_count;
  return rates;
}

int source_type(DType dtype) {
  return dtype == DType::kF32 ? abi::kSourceF32 : dtype == DType::kBF16 ? abi::kSourceBf16 : abi::kSourceFp16;
}

void LoadedKernels::load(const std::vector<plan::Choice>& wanted, const Served& served, Device device,
                         const ModuleOptions& modules) {
  std::vector<module::KernelInstance> instances;
  for (const plan::Choice& c : wanted) {
    if (!kernels_.emplace(std::pair{c.row, c.config_index}, cuda::Kernel()).second) continue;
    module::Target target = served.target ? module::Target{*served.target} : module::target_for(*c.row, served.arch);
    instances.push_back({c.row, c.config_index, std::move(target)});
  }
  module::Store store(modules);
  const auto cubins = store.get_all(instances);
  for (std::size_t i = 0; i < instances.size(); ++i) {
    kernels_[{instances[i].row, instances[i].config_index}] =
        cuda::Kernel::load(*cubins[i], device.index, abi::smem_bytes(instances[i].config()));
  }
}

void launch_fused_route(cuda::LaunchChain& chain, const cuda::Kernel& kernel, const abi::KernelConfig& config,
                        const abi::RouteParams& params) {
  constexpr int kFewTokens = 4;  // the warps of one block have chosen for so many before a cluster has come up
  const int blocks = kernel.has_clusters() && params.tokens > kFewTokens ? abi::kRouteCluster : 1;
  // Four of the block's warps, which is launched the sooner.
  const bool one = params.tokens == 1 && abi::chooses_apart(params);
  const int threads = one ? abi::kRouteOneThreads : abi::threads(config);
  chain.launch(kernel, {static_cast<unsigned>(blocks)}, threads, params, blocks);
}

}  // namespace moesaic::ops
