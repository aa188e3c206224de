// SPDX-License-Identifier: Apache-2.0
// Loads cubins, checks that the driver can, launches.
#include "backend_cuda/kernel.h"

#include <fmt/format.h>

#include "backend_cuda/device.h"
#include "backend_cuda/driver.h"
#include "base/env.h"
#include "module/kernel_instance.h"
#include "moesaic/error.h"
#include "tables/arch_table.h"

namespace moesaic::cuda {
namespace {

/// What to do where the driver knows less than the compiler did.
std::string what_would_work(int driver) {
  const std::string version = tables::cuda_version_name(driver);
  return fmt::format(
      "update the driver, compile with an NVRTC of CUDA {} or earlier (MOESAIC_NVRTC), or use a bundle made with one "
      "(MOESAIC_BUNDLE)",
      version);
}

/// A cubin needs a driver of the same major version or later; PTX needs one of the same version or later.
void check_driver(const module::Cubin& cubin) {
  const int driver = driver_version();
  const bool ptx = module::Target{cubin.target}.is_ptx();
  const bool too_old = ptx ? cubin.cuda_version > driver : cubin.cuda_version / 1000 > driver / 1000;
  if (!too_old) return;
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{} for {} was made by {} (CUDA {}), the driver supports CUDA {}: {}", cubin.entry,
                          cubin.target, cubin.compiler, tables::cuda_version_name(cubin.cuda_version),
                          tables::cuda_version_name(driver), what_would_work(driver)));
}

/// The answers of a driver to an image that is not for it: too new, or for another GPU.
bool is_refusal(CUresult result) {
  return result == CUDA_ERROR_NO_BINARY_FOR_GPU || result == CUDA_ERROR_UNSUPPORTED_PTX_VERSION ||
         result == CUDA_ERROR_INVALID_PTX || result == CUDA_ERROR_INVALID_IMAGE;
}

CUmodule load_image(const module::Cubin& cubin, int device) {
  char log[4096] = {};
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(static_cast<std::uintptr_t>(sizeof(log) - 1))};
  CUmodule module = nullptr;
  const CUresult result = driver().module_load(&module, cubin.image.data(), 2, options, values);
  if (result == CUDA_SUCCESS) return module;
  const char* name = nullptr;
  driver().error_name(result, &name);
  const std::string failure = fmt::format("{} for {} (made by {}) does not load: {} {}", cubin.entry, cubin.target,
                                          cubin.compiler, name ? name : "unknown error", log);
  if (!is_refusal(result)) throw Error(ErrorKind::kCuda, failure);
  const int driver = driver_version();
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{}; made with CUDA {}, the driver supports CUDA {} and the GPU is SM {}: {}", failure,
                          tables::cuda_version_name(cubin.cuda_version), tables::cuda_version_name(driver),
                          device_info(device).sm, what_would_work(driver)));
}

/// Programmatic edges can be captured in graphs since CUDA 12.3.
bool can_wait_itself(const module::Cubin& cubin) {
  return (module::features_of({cubin.target}) & abi::kDependentLaunch) != 0 && driver_version() >= 12030 &&
         base::env_switch(base::Env::kDependentLaunch).value_or(true);
}

}  // namespace

Kernel Kernel::load(const module::Cubin& cubin, int device, int dynamic_smem_bytes) {
  check_driver(cubin);
  const DeviceGuard guard(device);
  Kernel kernel;
  CUmodule module = load_image(cubin, device);
  kernel.module_ = std::shared_ptr<void>(module, [device](void* loaded) {
    try {
      const DeviceGuard unload_guard(device);
      driver().module_unload(static_cast<CUmodule>(loaded));
    } catch (const Error&) {
      // The driver is going down with the process; so is the module.
    }
  });
  CUfunction function = nullptr;
  MOESAIC_CU(module_function, &function, module, cubin.entry.c_str());
  // Also forces a lazily loaded function onto the device, so that a first launch under graph capture loads nothing.
  int static_bytes = 0;
  MOESAIC_CU(function_attribute, &static_bytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function);
  if (dynamic_smem_bytes > 0) {
    MOESAIC_CU(function_set_attribute, function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, dynamic_smem_bytes);
  }
  kernel.function_ = function;
  kernel.smem_bytes_ = static_cast<unsigned>(dynamic_smem_bytes);
  kernel.waits_itself_ = can_wait_itself(cubin);
  kernel.has_clusters_ = (module::features_of({cubin.target}) & abi::kClusters) != 0;
  return kernel;
}

void Kernel::launch(Grid grid, int threads, const void* params, void* stream) const {
  void* arguments[] = {const_cast<void*>(params)};
  MOESAIC_CU(launch, static_cast<CUfunction>(function_), grid.x, grid.y, grid.z, static_cast<unsigned>(threads), 1, 1,
             smem_bytes_, static_cast<CUstream>(stream), arguments, nullptr);
}

void Kernel::launch(Grid grid, int threads, const void* params, void* stream, bool behind, int cluster) const {
  CUlaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (behind && waits_itself_) {
    attributes[count].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attributes[count++].value.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attributes[count++].value.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  }
  if (count == 0) return launch(grid, threads, params, stream);
  CUlaunchConfig config{};
  config.gridDimX = grid.x, config.gridDimY = grid.y, config.gridDimZ = grid.z;
  config.blockDimX = static_cast<unsigned>(threads), config.blockDimY = 1, config.blockDimZ = 1;
  config.sharedMemBytes = smem_bytes_;
  config.hStream = static_cast<CUstream>(stream);
  config.attrs = attributes;
  config.numAttrs = count;
  void* arguments[] = {const_cast<void*>(params)};
  MOESAIC_CU(launch_ex, &config, static_cast<CUfunction>(function_), arguments, nullptr);
}

}  // namespace moesaic::cuda
