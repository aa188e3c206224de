// SPDX-License-Identifier: Apache-2.0
// A libcuda.so.1 without a GPU: a driver of the version in MOESAIC_FAKE_DRIVER (13000) that answers every image with
// the number in MOESAIC_FAKE_LOAD (a CUresult). What loading a kernel does not ask does nothing.
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace {

int handle = 0;  // contexts, modules and functions are its address

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

const char* name_of(int result) {
  switch (result) {
    case 0:
      return "CUDA_SUCCESS";
    case 200:
      return "CUDA_ERROR_INVALID_IMAGE";
    case 209:
      return "CUDA_ERROR_NO_BINARY_FOR_GPU";
    case 218:
      return "CUDA_ERROR_INVALID_PTX";
    case 222:
      return "CUDA_ERROR_UNSUPPORTED_PTX_VERSION";
    default:
      return "CUDA_ERROR_UNKNOWN";
  }
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = number("MOESAIC_FAKE_DRIVER", 13000), 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int index) { return *device = index, 0; }
int cuDeviceGetName(char* name, int size, int) { return std::strncpy(name, "fake", static_cast<std::size_t>(size)), 0; }
int cuDeviceGetPCIBusId(char* name, int size, int) {
  return std::strncpy(name, "0000:3b:00.0", static_cast<std::size_t>(size)), 0;
}
// Compute capability 9.0: attributes 75 and 76.
int cuDeviceGetAttribute(int* value, int which, int) { return *value = which == 75 ? 9 : which == 76 ? 0 : 1, 0; }
int cuDeviceTotalMem_v2(std::size_t* bytes, int) { return *bytes = std::size_t{1} << 30, 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &handle, 0; }
int cuGetErrorName(int result, const char** name) { return *name = name_of(result), 0; }
int cuGetErrorString(int, const char** text) { return *text = "as the test says", 0; }
int cuModuleLoadDataEx(void** module, const void*, unsigned, int*, void** values) {
  std::strcpy(static_cast<char*>(values[0]), "ptxas says why");
  *module = &handle;
  return number("MOESAIC_FAKE_LOAD", 0);
}
int cuModuleGetFunction(void** function, void*, const char*) { return *function = &handle, 0; }
int cuFuncGetAttribute(int* value, int, void*) { return *value = 0, 0; }

#define MOESAIC_NOTHING(name) \
  int name() { return 0; }
MOESAIC_NOTHING(cuCtxPushCurrent_v2)
MOESAIC_NOTHING(cuCtxPopCurrent_v2)
MOESAIC_NOTHING(cuCtxSynchronize)
MOESAIC_NOTHING(cuModuleUnload)
MOESAIC_NOTHING(cuFuncSetAttribute)
MOESAIC_NOTHING(cuLaunchKernel)
MOESAIC_NOTHING(cuLaunchKernelEx)
MOESAIC_NOTHING(cuMemAlloc_v2)
MOESAIC_NOTHING(cuMemFree_v2)
MOESAIC_NOTHING(cuMemcpyHtoD_v2)
MOESAIC_NOTHING(cuMemcpyHtoDAsync_v2)
MOESAIC_NOTHING(cuMemcpyDtoH_v2)
MOESAIC_NOTHING(cuMemcpyDtoDAsync_v2)
MOESAIC_NOTHING(cuMemsetD8_v2)
MOESAIC_NOTHING(cuMemsetD8Async)
MOESAIC_NOTHING(cuStreamCreate)
MOESAIC_NOTHING(cuStreamDestroy_v2)
MOESAIC_NOTHING(cuStreamSynchronize)
MOESAIC_NOTHING(cuStreamBeginCapture_v2)
MOESAIC_NOTHING(cuStreamEndCapture)
MOESAIC_NOTHING(cuGraphInstantiateWithFlags)
MOESAIC_NOTHING(cuGraphLaunch)
MOESAIC_NOTHING(cuGraphExecDestroy)
MOESAIC_NOTHING(cuGraphDestroy)
MOESAIC_NOTHING(cuGraphGetRootNodes)
MOESAIC_NOTHING(cuGraphDestroyNode)
MOESAIC_NOTHING(cuGraphKernelNodeGetParams_v2)
MOESAIC_NOTHING(cuEventCreate)
MOESAIC_NOTHING(cuEventRecord)
MOESAIC_NOTHING(cuEventSynchronize)
MOESAIC_NOTHING(cuEventElapsedTime)
MOESAIC_NOTHING(cuEventDestroy_v2)

}  // extern "C"
