// SPDX-License-Identifier: Apache-2.0
// The functions of libnvrtc by dlsym; nvrtc.h gives types only.
#include "module/nvrtc.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <glob.h>
#include <nvrtc.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "base/fs.h"
#include "moesaic/error.h"
#include "tables/arch_table.h"

namespace moesaic::module {

struct Nvrtc::Functions {
  decltype(&nvrtcGetErrorString) error_string;
  decltype(&nvrtcVersion) version;
  decltype(&nvrtcGetNumSupportedArchs) num_supported_archs;
  decltype(&nvrtcGetSupportedArchs) supported_archs;
  decltype(&nvrtcCreateProgram) create;
  decltype(&nvrtcDestroyProgram) destroy;
  decltype(&nvrtcCompileProgram) compile;
  decltype(&nvrtcGetProgramLogSize) log_size;
  decltype(&nvrtcGetProgramLog) log;
  decltype(&nvrtcGetCUBINSize) cubin_size;
  decltype(&nvrtcGetCUBIN) cubin;
  decltype(&nvrtcGetPTXSize) ptx_size;
  decltype(&nvrtcGetPTX) ptx;
};

namespace {

/// What works where an NVRTC does not; messages end in it.
constexpr const char* kInstead =
    "name another NVRTC of 12.8 or later in MOESAIC_NVRTC (`pip install nvidia-cuda-nvrtc`), or make the kernels "
    "elsewhere: a bundle (`moesaic compile --out`, MOESAIC_BUNDLE) or a package (`moesaic package`)";

template <typename Function>
void resolve(void* library, const std::string& path, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function == nullptr) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("NVRTC {}: it has no {}, so it is none or too old; {}", path, name, kInstead));
  }
}

// libnvrtc opens its builtins library by bare name, which finds nothing where its folder is not on the loader path;
// one that is loaded already is found.
void load_builtins(const std::string& folder) {
  glob_t found{};
  if (::glob((folder + "/libnvrtc-builtins.so.*").c_str(), 0, nullptr, &found) == 0) {
    for (std::size_t i = 0; i < found.gl_pathc; ++i) ::dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
  }
  ::globfree(&found);
}

void* open_library(const std::string& path) {
  load_builtins(base::folder_of(path));
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = ::dlerror();
    throw Error(ErrorKind::kUnsupported,
                fmt::format("NVRTC {} cannot be loaded: {}; {}", path, why ? why : "unknown", kInstead));
  }
  return library;
}

}  // namespace

std::shared_ptr<const Nvrtc> Nvrtc::load(const NvrtcFile& file) {
  static std::mutex& mutex = *new std::mutex;
  static auto& loaded = *new std::map<std::string, std::shared_ptr<const Nvrtc>>;
  const std::lock_guard lock(mutex);
  std::shared_ptr<const Nvrtc>& known = loaded[file.path];
  if (known) return known;

  void* library = open_library(file.path);
  const auto functions = std::make_shared<Functions>();
  resolve(library, file.path, "nvrtcGetErrorString", functions->error_string);
  resolve(library, file.path, "nvrtcVersion", functions->version);
  resolve(library, file.path, "nvrtcGetNumSupportedArchs", functions->num_supported_archs);
  resolve(library, file.path, "nvrtcGetSupportedArchs", functions->supported_archs);
  resolve(library, file.path, "nvrtcCreateProgram", functions->create);
  resolve(library, file.path, "nvrtcDestroyProgram", functions->destroy);
  resolve(library, file.path, "nvrtcCompileProgram", functions->compile);
  resolve(library, file.path, "nvrtcGetProgramLogSize", functions->log_size);
  resolve(library, file.path, "nvrtcGetProgramLog", functions->log);
  resolve(library, file.path, "nvrtcGetCUBINSize", functions->cubin_size);
  resolve(library, file.path, "nvrtcGetCUBIN", functions->cubin);
  resolve(library, file.path, "nvrtcGetPTXSize", functions->ptx_size);
  resolve(library, file.path, "nvrtcGetPTX", functions->ptx);

  std::shared_ptr<Nvrtc> nvrtc(new Nvrtc);
  int major = 0, minor = 0, count = 0;
  functions->version(&major, &minor);
  nvrtc->version_ = 1000 * major + 10 * minor;
  if (nvrtc->version_ < kMinNvrtcVersion) {
    throw Error(ErrorKind::kUnsupported, fmt::format("NVRTC {} is version {}; {}", file.path,
                                                     tables::cuda_version_name(nvrtc->version_), kInstead));
  }
  functions->num_supported_archs(&count);
  nvrtc->supported_.resize(static_cast<std::size_t>(std::max(count, 0)));
  functions->supported_archs(nvrtc->supported_.data());
  nvrtc->functions_ = functions;
  nvrtc->path_ = file.path;
  return known = nvrtc;
}

bool Nvrtc::supports(int sm) const noexcept {
  return std::find(supported_.begin(), supported_.end(), sm) != supported_.end();
}

std::vector<std::string> compile_flags(const Target& target) {
  std::vector<std::string> flags = {"--gpu-architecture=" + target.name, "--std=c++20"};
  // ptxas' report of registers, stack and spills; PTX has not met ptxas yet.
  if (!target.is_ptx()) flags.emplace_back("--ptxas-options=-v");
  return flags;
}

namespace {

std::vector<const char*> c_strings(const std::vector<std::string>& texts) {
  std::vector<const char*> pointers;
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  return pointers;
}

}  // namespace

NvrtcOutput Nvrtc::compile(const KernelInstance& instance) const {
  const Functions& nvrtc = *functions_;
  const auto check = [&](nvrtcResult result, const char* step, const std::string& log) {
    if (result == NVRTC_SUCCESS) return;
    throw Error(ErrorKind::kCompile,
                fmt::format("kernel {} for {}: {} failed in NVRTC {} ({}): {}; {}{}{}", entry_name(instance),
                            instance.target.name, step, tables::cuda_version_name(version_), path_,
                            nvrtc.error_string(result), kInstead, log.empty() ? "" : "\n", log));
  };

  const std::string main = main_text(instance);
  const std::string name = entry_name(instance) + ".cu";
  std::vector<std::string> paths, texts;
  for (SourceText& header : program_headers(instance)) {
    paths.push_back(std::move(header.path));
    texts.push_back(std::move(header.text));
  }
  nvrtcProgram program = nullptr;
  check(nvrtc.create(&program, main.c_str(), name.c_str(), static_cast<int>(paths.size()), c_strings(texts).data(),
                     c_strings(paths).data()),
        "creating the program", {});
  const std::shared_ptr<void> owner(nullptr, [&](void*) { nvrtc.destroy(&program); });

  const std::vector<std::string> flags = compile_flags(instance.target);
  const nvrtcResult result = nvrtc.compile(program, static_cast<int>(flags.size()), c_strings(flags).data());
  NvrtcOutput output;
  std::size_t size = 0;
  if (nvrtc.log_size(program, &size) == NVRTC_SUCCESS && size > 1) {
    output.log.resize(size);
    nvrtc.log(program, output.log.data());
    output.log.resize(size - 1);  // the log's NUL
  }
  check(result, "compiling", output.log);

  const bool ptx = instance.target.is_ptx();
  check(ptx ? nvrtc.ptx_size(program, &size) : nvrtc.cubin_size(program, &size), "getting the image", {});
  output.image.resize(size);
  check(ptx ? nvrtc.ptx(program, output.image.data()) : nvrtc.cubin(program, output.image.data()), "getting the image",
        {});
  return output;
}

}  // namespace moesaic::module
