// SPDX-License-Identifier: Apache-2.0
// The CUDA driver, loaded at run time; the only header with cuda.h in it, included by this folder alone.
#pragma once

#include <cuda.h>

#include <string>

namespace moesaic::cuda {

/// The driver functions that the library calls. Names are those of libcuda.so.1.
struct Driver {
  CUresult (*init)(unsigned);
  CUresult (*driver_version)(int*);
  CUresult (*device_count)(int*);
  CUresult (*device_get)(CUdevice*, int);
  CUresult (*device_name)(char*, int, CUdevice);
  CUresult (*device_attribute)(int*, CUdevice_attribute, CUdevice);
  CUresult (*device_memory)(std::size_t*, CUdevice);
  CUresult (*primary_retain)(CUcontext*, CUdevice);
  CUresult (*context_push)(CUcontext);
  CUresult (*context_pop)(CUcontext*);
  CUresult (*context_synchronize)();
  CUresult (*error_name)(CUresult, const char**);
  CUresult (*error_string)(CUresult, const char**);
  CUresult (*module_load)(CUmodule*, const void*, unsigned, CUjit_option*, void**);
  CUresult (*module_unload)(CUmodule);
  CUresult (*module_function)(CUfunction*, CUmodule, const char*);
  CUresult (*function_attribute)(int*, CUfunction_attribute, CUfunction);
  CUresult (*function_set_attribute)(CUfunction, CUfunction_attribute, int);
  CUresult (*launch)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void**,
                     void**);
  CUresult (*launch_ex)(const CUlaunchConfig*, CUfunction, void**, void**);
  CUresult (*memory_alloc)(CUdeviceptr*, std::size_t);
  CUresult (*memory_free)(CUdeviceptr);
  CUresult (*memory_to_device)(CUdeviceptr, const void*, std::size_t);
  CUresult (*memory_to_device_async)(CUdeviceptr, const void*, std::size_t, CUstream);
  CUresult (*memory_to_host)(void*, CUdeviceptr, std::size_t);
  CUresult (*memory_copy_async)(CUdeviceptr, CUdeviceptr, std::size_t, CUstream);
  CUresult (*memory_set)(CUdeviceptr, unsigned char, std::size_t);
  CUresult (*memory_set_async)(CUdeviceptr, unsigned char, std::size_t, CUstream);
  CUresult (*stream_create)(CUstream*, unsigned);
  CUresult (*stream_destroy)(CUstream);
  CUresult (*stream_synchronize)(CUstream);
  CUresult (*stream_begin_capture)(CUstream, CUstreamCaptureMode);
  CUresult (*stream_end_capture)(CUstream, CUgraph*);
  CUresult (*graph_instantiate)(CUgraphExec*, CUgraph, unsigned long long);
  CUresult (*graph_launch)(CUgraphExec, CUstream);
  CUresult (*graph_exec_destroy)(CUgraphExec);
  CUresult (*graph_destroy)(CUgraph);
  CUresult (*event_create)(CUevent*, unsigned);
  CUresult (*event_record)(CUevent, CUstream);
  CUresult (*event_synchronize)(CUevent);
  CUresult (*event_elapsed)(float*, CUevent, CUevent);
  CUresult (*event_destroy)(CUevent);

  // For kernels of SM90 and later; nullptr where the driver does not have it.
  decltype(&cuTensorMapEncodeTiled) tensor_map_encode;

  // For measurements alone; nullptr where the driver does not have them (the last two came with CUDA 12.3).
  CUresult (*device_pci_bus_id)(char*, int, CUdevice);
  CUresult (*graph_root_nodes)(CUgraph, CUgraphNode*, std::size_t*);
  CUresult (*graph_destroy_node)(CUgraphNode);
  CUresult (*graph_kernel_params)(CUgraphNode, CUDA_KERNEL_NODE_PARAMS*);
  CUresult (*graph_dependent_nodes)(CUgraphNode, CUgraphNode*, CUgraphEdgeData*, std::size_t*);
  CUresult (*function_name)(const char**, CUfunction);
  bool looks_into_graphs() const noexcept {
    return graph_root_nodes != nullptr && graph_destroy_node != nullptr && graph_kernel_params != nullptr &&
           graph_dependent_nodes != nullptr && function_name != nullptr;
  }
};

/// The loaded and initialised driver. Throws Error(kCuda) saying what is missing.
const Driver& driver();

/// Throws Error(kCuda): call, CUDA's name and text of the error.
void check(CUresult result, const char* call);

#define MOESAIC_CU(member, ...) ::moesaic::cuda::check(::moesaic::cuda::driver().member(__VA_ARGS__), #member)

}  // namespace moesaic::cuda
