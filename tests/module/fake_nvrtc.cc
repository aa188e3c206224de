// SPDX-License-Identifier: Apache-2.0
// A libnvrtc.so that compiles nothing, at once or never: what it does is told by MOESAIC_FAKE_NVRTC ("", fail, garbage,
// crash, hang, slow: 3 ms, "until PATH": until that file is there). Its "cubins" are its own bytes, a sound ELF file,
// and the name of the program.
#pragma GCC visibility push(default)
#include <nvrtc.h>
#pragma GCC visibility pop

#include <dlfcn.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): raise
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

struct _nvrtcProgram {
  std::string name, image, log;
};

namespace {

std::string mode() {
  const char* value = std::getenv("MOESAIC_FAKE_NVRTC");
  return value == nullptr ? "" : value;
}

std::string own_bytes() {
  Dl_info info{};
  dladdr(reinterpret_cast<const void*>(&own_bytes), &info);
  std::stringstream bytes;
  bytes << std::ifstream(info.dli_fname, std::ios::binary).rdbuf();
  return bytes.str();
}

}  // namespace

const char* nvrtcGetErrorString(nvrtcResult result) { return result == NVRTC_SUCCESS ? "success" : "fake failure"; }

nvrtcResult nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetNumSupportedArchs(int* count) {
  *count = 1;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetSupportedArchs(int* archs) {
  *archs = 80;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcCreateProgram(nvrtcProgram* program, const char*, const char* name, int, const char* const*,
                               const char* const*) {
  *program = new _nvrtcProgram{name, {}, {}};
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcDestroyProgram(nvrtcProgram* program) {
  delete *program;
  *program = nullptr;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int count, const char* const* flags) {
  const std::string what = mode();
  if (what == "crash") raise(SIGSEGV);
  if (what == "slow") usleep(3000);
  const std::string until = "until ";
  while (what.rfind(until, 0) == 0 && access(what.c_str() + until.size(), F_OK) != 0) usleep(1000);
  while (what == "hang") pause();
  if (what == "fail") {
    program->log = "fake.cu(1): error: this compiler fails";
    return NVRTC_ERROR_COMPILATION;
  }
  program->image = what == "garbage" ? "Segmentation fault (core dumped)" : own_bytes() + program->name;
  for (int i = 0; i < count; ++i) program->image += flags[i];
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t* size) {
  *size = program->log.size() + 1;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char* log) {
  std::memcpy(log, program->log.c_str(), program->log.size() + 1);
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t* size) {
  *size = program->image.size();
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char* image) {
  std::memcpy(image, program->image.data(), program->image.size());
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetPTXSize(nvrtcProgram program, size_t* size) { return nvrtcGetCUBINSize(program, size); }

nvrtcResult nvrtcGetPTX(nvrtcProgram program, char* image) { return nvrtcGetCUBIN(program, image); }
