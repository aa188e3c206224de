// SPDX-License-Identifier: Apache-2.0
// A libcuda.so.1 whose GPU is the simulator: device tests run on it, PTX alone (MOESAIC_FORCE_TARGET=compute_80). It
// does everything as it is called; streams are in name only. MOESAIC_SIM_ARCH: compute capability, 80 unless said;
// MOESAIC_SIM_ASYNC=late: asynchronous copies and products happen as late as they may; MOESAIC_SIM_SEED: of the order
// in which warps run.
#include <cuda.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>

#include "simulator/device_memory.h"
#include "simulator/machine.h"

namespace {

namespace sim = moesaic::sim;

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

struct Function {
  const sim::Program* program;
  const sim::Entry* entry;
  std::string name;
};
struct Module {
  sim::Program program;
  std::map<std::string, std::unique_ptr<Function>> functions;
};
using Work = std::function<CUresult()>;
struct Graph {
  std::vector<Work> work;
};

int context = 0;  // its address is the context
// Of this thread: the graph that takes what is launched. Streams that are captured at once, by one thread, are not met.
thread_local Graph* captured = nullptr;
std::atomic<unsigned> launches{0};

// Of each stream: what its last kernel may yet write as the next begins.
std::mutex last_mutex;
std::map<CUstream, std::shared_ptr<const sim::Places>> last_writes;

// Runs the kernel, which may begin before the one before has ended. With MOESAIC_SIM_REPORT it says what that was good
// for.
void run_behind(sim::Launch what, const std::string& name, CUstream stream, bool early) {
  sim::Dependence dependence;
  what.dependence = &dependence;
  if (early) {
    const std::scoped_lock lock(last_mutex);
    dependence.under_way = last_writes[stream];
  }
  sim::run(what);
  if (std::getenv("MOESAIC_SIM_REPORT") != nullptr) {
    std::fprintf(stderr, "simulator: %s: %zu bytes read early\n", name.c_str(), dependence.read_early);
  }
  const std::scoped_lock lock(last_mutex);
  last_writes[stream] = dependence.behind();
}

CUresult do_now_or_later(Work work) {
  if (captured == nullptr) return work();
  captured->work.push_back(std::move(work));
  return CUDA_SUCCESS;
}

CUresult launch(const Function& function, const CUlaunchConfig& config, void** parameters) {
  unsigned cluster = 1;
  bool early = false;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttributeValue& value = config.attrs[i].value;
    if (config.attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) cluster = value.clusterDim.x;
    if (config.attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
      early = value.programmaticStreamSerializationAllowed != 0;
    }
  }
  const char* async = std::getenv("MOESAIC_SIM_ASYNC");
  sim::Launch what{.program = *function.program,
                   .entry = *function.entry,
                   .grid = {config.gridDimX, config.gridDimY, config.gridDimZ},
                   .threads = config.blockDimX,
                   .cluster_blocks = cluster,
                   .dynamic_shared = config.sharedMemBytes,
                   .parameters = {},
                   .asynchronous = async != nullptr && std::strcmp(async, "late") == 0 ? sim::Asynchronous::kLate
                                                                                       : sim::Asynchronous::kEarly,
                   .seed = static_cast<unsigned>(number("MOESAIC_SIM_SEED", 0)) + 1000 * launches++};
  what.parameters.resize(function.entry->parameter_bytes);
  for (const sim::Parameter& parameter : function.entry->parameters) {
    std::memcpy(what.parameters.data() + parameter.offset, *parameters++, parameter.bytes);
  }
  return do_now_or_later([what = std::move(what), name = function.name, stream = config.hStream, early] {
    try {
      run_behind(what, name, stream, early);
    } catch (const sim::Fault& fault) {
      std::fprintf(stderr, "simulator: %s: %s\n", name.c_str(), fault.what());
      return CUDA_ERROR_LAUNCH_FAILED;
    }
    return CUDA_SUCCESS;
  });
}

CUresult copy(void* to, const void* from, std::size_t bytes, CUdeviceptr device) {
  try {
    if (bytes > 0) sim::device_bytes(device, bytes, 1);
  } catch (const sim::Fault& fault) {
    std::fprintf(stderr, "simulator: copy: %s\n", fault.what());
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::memcpy(to, from, bytes);
  return CUDA_SUCCESS;
}

}  // namespace

#undef cuEventElapsedTime  // the library asks for the one that CUDA 12 has too

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
// Asked by NVRTC, of every driver that it finds.
CUresult cuGetExportTable(const void** table, const CUuuid*) { return *table = nullptr, CUDA_ERROR_NOT_FOUND; }
CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int index) { return *device = index, CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  return std::snprintf(name, static_cast<std::size_t>(size), "simulator"), CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) {
  const int arch = number("MOESAIC_SIM_ARCH", 80);
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return *value = arch / 10, CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return *value = arch % 10, CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return *value = 4, CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      return *value = 1 << 20, CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return *value = 227 * 1024, CUDA_SUCCESS;
    default:
      return *value = 1, CUDA_SUCCESS;
  }
}
CUresult cuDeviceTotalMem(std::size_t* bytes, CUdevice) { return *bytes = std::size_t{4} << 30, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext* to, CUdevice) {
  return *to = reinterpret_cast<CUcontext>(&context), CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxPopCurrent(CUcontext* to) { return *to = reinterpret_cast<CUcontext>(&context), CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext* to) { return *to = reinterpret_cast<CUcontext>(&context), CUDA_SUCCESS; }
CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult result, const char** name) {
  return *name = result == CUDA_SUCCESS ? "CUDA_SUCCESS" : "CUDA_ERROR_LAUNCH_FAILED", CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, const char** text) { return *text = "see the simulator's message", CUDA_SUCCESS; }

CUresult cuModuleLoadDataEx(CUmodule* to, const void* image, unsigned, CUjit_option*, void**) {
  const char* text = static_cast<const char*>(image);
  if (std::strncmp(text, "\177ELF", 4) == 0) {
    std::fprintf(stderr, "simulator: runs PTX, not machine code: set MOESAIC_FORCE_TARGET to compute_80 or the like\n");
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  auto module = std::make_unique<Module>();
  try {
    module->program = sim::read_program(text);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "simulator: %s\n", e.what());
    return CUDA_ERROR_INVALID_PTX;
  }
  for (const auto& [name, entry] : module->program.entries) {
    module->functions[name] = std::make_unique<Function>(Function{&module->program, &entry, name});
  }
  *to = reinterpret_cast<CUmodule>(module.release());
  return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) {
  delete reinterpret_cast<Module*>(module);
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* to, CUmodule module, const char* name) {
  auto& functions = reinterpret_cast<Module*>(module)->functions;
  const auto found = functions.find(name);
  if (found == functions.end()) return CUDA_ERROR_NOT_FOUND;
  *to = reinterpret_cast<CUfunction>(found->second.get());
  return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute, CUfunction function) {
  *value = static_cast<int>(reinterpret_cast<Function*>(function)->entry->shared_bytes);
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }

CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                        unsigned shared, CUstream stream, void** parameters, void**) {
  const CUlaunchConfig config{x, y, z, threads, 1, 1, shared, stream, nullptr, 0};
  return launch(*reinterpret_cast<Function*>(function), config, parameters);
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void**) {
  return launch(*reinterpret_cast<Function*>(function), *config, parameters);
}

CUresult cuMemAlloc(CUdeviceptr* to, std::size_t bytes) {
  return *to = sim::allocate(bytes), *to == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr address) { return sim::release(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, std::size_t bytes) {
  return copy(reinterpret_cast<void*>(to), from, bytes, to);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, std::size_t bytes, CUstream) {
  return do_now_or_later([=] { return copy(reinterpret_cast<void*>(to), from, bytes, to); });
}
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, std::size_t bytes) {
  return copy(to, reinterpret_cast<const void*>(from), bytes, from);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream) {
  return do_now_or_later(
      [=] { return copy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes, to); });
}
CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, std::size_t bytes) {
  sim::device_bytes(to, bytes, 1);
  return std::memset(reinterpret_cast<void*>(to), value, bytes), CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes, CUstream) {
  return do_now_or_later([=] { return cuMemsetD8(to, value, bytes); });
}

CUresult cuStreamCreate(CUstream* to, unsigned) { return *to = reinterpret_cast<CUstream>(new int), CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream stream) { return delete reinterpret_cast<int*>(stream), CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamBeginCapture(CUstream, CUstreamCaptureMode) { return captured = new Graph, CUDA_SUCCESS; }
CUresult cuStreamEndCapture(CUstream, CUgraph* to) {
  *to = reinterpret_cast<CUgraph>(captured);
  captured = nullptr;
  return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* to, CUgraph graph, unsigned long long) {
  return *to = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph*>(graph))), CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec graph, CUstream) {
  for (const Work& work : reinterpret_cast<Graph*>(graph)->work) {
    if (const CUresult result = work(); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec graph) { return delete reinterpret_cast<Graph*>(graph), CUDA_SUCCESS; }
CUresult cuGraphDestroy(CUgraph graph) { return delete reinterpret_cast<Graph*>(graph), CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent* to, unsigned) { return *to = reinterpret_cast<CUevent>(new int), CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent, CUstream) { return CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent) { return CUDA_SUCCESS; }
CUresult cuEventElapsedTime(float* ms, CUevent, CUevent) { return *ms = 1.0f, CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent event) { return delete reinterpret_cast<int*>(event), CUDA_SUCCESS; }

}  // extern "C"
