// SPDX-License-Identifier: Apache-2.0
// A libcuda.so.1 without a GPU: a driver of the version in MOESAIC_FAKE_DRIVER (13000) that answers every image with
// the number in MOESAIC_FAKE_LOAD (a CUresult). Memory has addresses and no content. Captures keep what was launched;
// by the clock that events read, a graph takes 5 us and 7 for each launch.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <set>
#include <string>

namespace {

int handle = 0;  // contexts and modules are its address; functions are their names

struct Graph;
struct Node {
  void* function;
  Graph* graph;
  std::size_t index;
};
struct Graph {
  std::deque<Node> nodes;
};
Graph* captured = nullptr;
double clock_us = 0;

int launch(void* function) {
  if (captured != nullptr) captured->nodes.push_back({function, captured, captured->nodes.size()});
  return 0;
}

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
int cuModuleGetFunction(void** function, void*, const char* name) {
  static std::set<std::string> names;
  return *function = const_cast<char*>(names.insert(name).first->c_str()), 0;
}
int cuFuncGetName(const char** name, void* function) { return *name = static_cast<const char*>(function), 0; }
int cuLaunchKernel(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                   void**) {
  return launch(function);
}
int cuLaunchKernelEx(const void*, void* function, void**, void**) { return launch(function); }
int cuMemAlloc_v2(std::uint64_t* address, std::size_t bytes) {
  static std::uint64_t next = std::uint64_t{1} << 40;
  *address = next;
  next += (bytes + 255) / 256 * 256;
  return 0;
}
int cuStreamBeginCapture_v2(void*, int) { return captured = new Graph, 0; }
int cuStreamEndCapture(void*, void** graph) {
  *graph = captured;
  captured = nullptr;
  return 0;
}
int cuGraphGetRootNodes(Graph* graph, Node** nodes, std::size_t* count) {
  if (nodes != nullptr) *nodes = &graph->nodes.front();
  return *count = graph->nodes.empty() ? 0 : 1, 0;
}
int cuGraphNodeGetDependentNodes_v2(Node* node, Node** nodes, void* edges, std::size_t* count) {
  if (nodes != nullptr && edges == nullptr) return 405;  // CUDA_ERROR_LOSSY_QUERY
  const bool last = node->index + 1 == node->graph->nodes.size();
  if (nodes != nullptr) *nodes = &node->graph->nodes[node->index + 1];
  return *count = last ? 0 : 1, 0;
}
int cuGraphKernelNodeGetParams_v2(Node* node, void* params) {
  std::memcpy(params, &node->function, sizeof(node->function));  // its first member
  return 0;
}
int cuGraphDestroyNode(Node* node) {
  if (node->index + 1 != node->graph->nodes.size()) return 1;  // what was behind it would hang in the air
  return node->graph->nodes.pop_back(), 0;
}
int cuGraphDestroy(Graph* graph) { return delete graph, 0; }
int cuGraphInstantiateWithFlags(double** exec, Graph* graph, unsigned long long) {
  return *exec = new double(5.0 + 7.0 * static_cast<double>(graph->nodes.size())), 0;
}
int cuGraphExecDestroy(double* exec) { return delete exec, 0; }
int cuGraphLaunch(const double* exec, void*) { return clock_us += *exec, 0; }
int cuEventCreate(double** event, unsigned) { return *event = new double(0), 0; }
int cuEventDestroy_v2(double* event) { return delete event, 0; }
int cuEventRecord(double* event, void*) { return *event = clock_us, 0; }
int cuEventElapsedTime(float* milliseconds, const double* begin, const double* end) {
  return *milliseconds = static_cast<float>((*end - *begin) / 1000), 0;
}
// A compiler that looks for the driver asks it for tables of which there are none.
int cuGetExportTable(const void**, const void*) { return 801; }
int cuFuncGetAttribute(int* value, int, void*) { return *value = 0, 0; }

#define MOESAIC_NOTHING(name) \
  int name() { return 0; }
MOESAIC_NOTHING(cuCtxPushCurrent_v2)
MOESAIC_NOTHING(cuCtxPopCurrent_v2)
MOESAIC_NOTHING(cuCtxSynchronize)
MOESAIC_NOTHING(cuModuleUnload)
MOESAIC_NOTHING(cuFuncSetAttribute)
MOESAIC_NOTHING(cuMemFree_v2)
MOESAIC_NOTHING(cuMemcpyHtoD_v2)
MOESAIC_NOTHING(cuMemcpyHtoDAsync_v2)
MOESAIC_NOTHING(cuMemcpyDtoH_v2)
MOESAIC_NOTHING(cuMemcpyDtoDAsync_v2)
MOESAIC_NOTHING(cuMemsetD8_v2)
MOESAIC_NOTHING(cuMemsetD8Async)
MOESAIC_NOTHING(cuTensorMapEncodeTiled)
MOESAIC_NOTHING(cuStreamCreate)
MOESAIC_NOTHING(cuStreamDestroy_v2)
MOESAIC_NOTHING(cuStreamSynchronize)
MOESAIC_NOTHING(cuEventSynchronize)

}  // extern "C"
