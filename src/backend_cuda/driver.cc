// SPDX-License-Identifier: Apache-2.0
// Loads libcuda and turns its error codes into errors.
#include "backend_cuda/driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "moesaic/error.h"

namespace moesaic::cuda {
namespace {

template <typename Function>
void resolve_optional(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

template <typename Function>
void resolve(void* library, const char* name, Function& function) {
  resolve_optional(library, name, function);
  if (function == nullptr) {
    throw Error(ErrorKind::kCuda,
                fmt::format("the CUDA driver (libcuda.so.1) has no {}: a driver for CUDA 12 or later is needed", name));
  }
}

void resolve_devices(void* lib, Driver& d) {
  resolve(lib, "cuInit", d.init);
  resolve(lib, "cuDriverGetVersion", d.driver_version);
  resolve(lib, "cuDeviceGetCount", d.device_count);
  resolve(lib, "cuDeviceGet", d.device_get);
  resolve(lib, "cuDeviceGetName", d.device_name);
  resolve(lib, "cuDeviceGetAttribute", d.device_attribute);
  resolve(lib, "cuDeviceTotalMem_v2", d.device_memory);
  resolve(lib, "cuDevicePrimaryCtxRetain", d.primary_retain);
  resolve(lib, "cuCtxPushCurrent_v2", d.context_push);
  resolve(lib, "cuCtxPopCurrent_v2", d.context_pop);
  resolve(lib, "cuCtxSynchronize", d.context_synchronize);
  resolve(lib, "cuGetErrorName", d.error_name);
  resolve(lib, "cuGetErrorString", d.error_string);
}

void resolve_kernels_and_memory(void* lib, Driver& d) {
  resolve(lib, "cuModuleLoadDataEx", d.module_load);
  resolve(lib, "cuModuleUnload", d.module_unload);
  resolve(lib, "cuModuleGetFunction", d.module_function);
  resolve(lib, "cuFuncGetAttribute", d.function_attribute);
  resolve(lib, "cuFuncSetAttribute", d.function_set_attribute);
  resolve(lib, "cuLaunchKernel", d.launch);
  resolve(lib, "cuLaunchKernelEx", d.launch_ex);
  resolve(lib, "cuMemAlloc_v2", d.memory_alloc);
  resolve(lib, "cuMemFree_v2", d.memory_free);
  resolve(lib, "cuMemcpyHtoD_v2", d.memory_to_device);
  resolve(lib, "cuMemcpyHtoDAsync_v2", d.memory_to_device_async);
  resolve(lib, "cuMemcpyDtoH_v2", d.memory_to_host);
  resolve(lib, "cuMemcpyDtoDAsync_v2", d.memory_copy_async);
  resolve(lib, "cuMemsetD8_v2", d.memory_set);
  resolve(lib, "cuMemsetD8Async", d.memory_set_async);
  resolve_optional(lib, "cuTensorMapEncodeTiled", d.tensor_map_encode);
}

void resolve_streams(void* lib, Driver& d) {
  resolve(lib, "cuStreamCreate", d.stream_create);
  resolve(lib, "cuStreamDestroy_v2", d.stream_destroy);
  resolve(lib, "cuStreamSynchronize", d.stream_synchronize);
  resolve(lib, "cuStreamBeginCapture_v2", d.stream_begin_capture);
  resolve(lib, "cuStreamEndCapture", d.stream_end_capture);
  resolve(lib, "cuGraphInstantiateWithFlags", d.graph_instantiate);
  resolve(lib, "cuGraphLaunch", d.graph_launch);
  resolve(lib, "cuGraphExecDestroy", d.graph_exec_destroy);
  resolve(lib, "cuGraphDestroy", d.graph_destroy);
  resolve(lib, "cuEventCreate", d.event_create);
  resolve(lib, "cuEventRecord", d.event_record);
  resolve(lib, "cuEventSynchronize", d.event_synchronize);
  resolve(lib, "cuEventElapsedTime", d.event_elapsed);
  resolve(lib, "cuEventDestroy_v2", d.event_destroy);
}

void resolve_for_measurements(void* lib, Driver& d) {
  resolve_optional(lib, "cuDeviceGetPCIBusId", d.device_pci_bus_id);
  resolve_optional(lib, "cuGraphGetRootNodes", d.graph_root_nodes);
  resolve_optional(lib, "cuGraphDestroyNode", d.graph_destroy_node);
  resolve_optional(lib, "cuGraphKernelNodeGetParams_v2", d.graph_kernel_params);
  resolve_optional(lib, "cuGraphNodeGetDependentNodes_v2", d.graph_dependent_nodes);
  resolve_optional(lib, "cuFuncGetName", d.function_name);
}

Driver load() {
  void* lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (lib == nullptr) {
    throw Error(ErrorKind::kCuda, "no CUDA driver on this machine (libcuda.so.1 cannot be loaded); use device cpu");
  }
  Driver d{};
  resolve_devices(lib, d);
  resolve_kernels_and_memory(lib, d);
  resolve_streams(lib, d);
  resolve_for_measurements(lib, d);
  if (const CUresult result = d.init(0); result != CUDA_SUCCESS) {
    const char* name = nullptr;
    d.error_name(result, &name);
    throw Error(ErrorKind::kCuda,
                fmt::format("the CUDA driver does not start: cuInit: {}", name ? name : "unknown error"));
  }
  return d;
}

}  // namespace

const Driver& driver() {
  static const Driver loaded = load();  // a failed load is tried again at the next call
  return loaded;
}

void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  const char* name = nullptr;
  const char* text = nullptr;
  driver().error_name(result, &name);
  driver().error_string(result, &text);
  throw Error(ErrorKind::kCuda,
              fmt::format("CUDA driver: {}: {} ({})", call, name ? name : "unknown error", text ? text : ""));
}

}  // namespace moesaic::cuda
