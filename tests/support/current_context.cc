// SPDX-License-Identifier: Apache-2.0
// The driver's own functions on contexts.
#include "support/current_context.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace moesaic::testing {
namespace {

template <typename Function>
Function driver_function(const char* name) {
  static void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  void* const function = library == nullptr ? nullptr : dlsym(library, name);
  if (function == nullptr) throw std::runtime_error(std::string("the CUDA driver has no ") + name);
  return reinterpret_cast<Function>(function);
}

/// Calls a function of the driver, which returns 0 when all is well.
template <typename... Arguments>
void call(const char* name, Arguments... arguments) {
  const int result = driver_function<int (*)(Arguments...)>(name)(arguments...);
  if (result != 0) throw std::runtime_error(std::string(name) + " returned " + std::to_string(result));
}

}  // namespace

void* current_context() {
  void* context = nullptr;
  call("cuCtxGetCurrent", &context);
  return context;
}

// Version 2 is what every driver since CUDA 4 has.
OtherContext::OtherContext(int device) {
  call("cuInit", 0u);
  int number = 0;
  call("cuDeviceGet", &number, device);
  call("cuCtxCreate_v2", &context_, 0u, number);
}

OtherContext::~OtherContext() {
  driver_function<int (*)(void*)>("cuCtxDestroy_v2")(context_);  // also takes it off the thread
}

}  // namespace moesaic::testing
