// SPDX-License-Identifier: Apache-2.0
// The environment variables, their meaning, and how their values are read.
#include "base/env.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "moesaic/error.h"

namespace moesaic::base {
namespace {

constexpr std::array kVariables = {
    EnvVariable{Env::kBundle, "MOESAIC_BUNDLE", "kernel bundles (zip files, separated by ':') that are searched first"},
    EnvVariable{Env::kBundleKey, "MOESAIC_BUNDLE_KEY",
                "file with an Ed25519 public key (PEM); bundles that it has not signed are refused"},
    EnvVariable{Env::kPackages, "MOESAIC_PACKAGES",
                "off: kernel packages installed on this machine are not looked for"},
    EnvVariable{Env::kCacheDir, "MOESAIC_CACHE_DIR", "folder of the kernel cache; default: the XDG cache folder"},
    EnvVariable{
        Env::kCacheLimit, "MOESAIC_CACHE_LIMIT",
        "size of the kernel cache (bytes, or with K, M or G); kernels unused for longest are removed beyond it"},
    EnvVariable{Env::kJit, "MOESAIC_JIT", "off: never compile at run time; a missing kernel is an error"},
    EnvVariable{Env::kCompileTimeout, "MOESAIC_COMPILE_TIMEOUT",
                "seconds that compiling a kernel, or waiting for another process that does, may take; default: 300; "
                "0: no limit"},
    EnvVariable{Env::kNvrtc, "MOESAIC_NVRTC",
                "where NVRTC is: libnvrtc.so, its folder, a CUDA toolkit or a Python site folder"},
    EnvVariable{Env::kForceKernel, "MOESAIC_FORCE_KERNEL", "kernel row, or row/config, that must serve its op"},
    EnvVariable{Env::kForceTarget, "MOESAIC_FORCE_TARGET", "compile and load for this target; compute_ names give PTX"},
    EnvVariable{Env::kDependentLaunch, "MOESAIC_DEPENDENT_LAUNCH",
                "off: kernels of an op are launched one after the other, without programmatic dependent launch"},
    EnvVariable{
        Env::kQuantiseHidden, "MOESAIC_QUANTISE_HIDDEN",
        "off: GEMM 1 never quantises its result itself; a launch of its own does, as where scales are not static"},
    EnvVariable{Env::kStrict, "MOESAIC_STRICT", "1: a GPU that the architecture table does not list is an error"},
    EnvVariable{Env::kThreads, "MOESAIC_THREADS", "threads of the CPU backend; default: all cores"},
    EnvVariable{Env::kCudaHome, "CUDA_HOME", "a CUDA toolkit, searched for NVRTC"},
    EnvVariable{Env::kLibraryPath, "LD_LIBRARY_PATH", "folders of shared libraries, searched for NVRTC"},
    EnvVariable{Env::kVirtualEnv, "VIRTUAL_ENV", "the Python environment in use, searched for NVRTC"},
    EnvVariable{Env::kPath, "PATH", "tells which Python is in use, whose site folders are searched for NVRTC"},
    EnvVariable{Env::kXdgCacheHome, "XDG_CACHE_HOME", "parent of the default cache folder"},
    EnvVariable{Env::kHome, "HOME", "parent of the default cache folder where XDG_CACHE_HOME is not set"},
};

constexpr bool listed_in_enum_order() {
  for (std::size_t i = 0; i < kVariables.size(); ++i) {
    if (static_cast<std::size_t>(kVariables[i].id) != i) return false;
  }
  return true;
}
static_assert(listed_in_enum_order());

}  // namespace

std::span<const EnvVariable> env_variables() noexcept { return kVariables; }

const char* env_name(Env id) noexcept { return kVariables[static_cast<std::size_t>(id)].name; }

std::optional<std::string> env_value(Env id) {
  const char* value = std::getenv(env_name(id));
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::optional<bool> env_switch(Env id) {
  const auto value = env_value(id);
  if (!value) return std::nullopt;
  for (const char* on : {"on", "1", "true", "yes", "ON"}) {
    if (*value == on) return true;
  }
  for (const char* off : {"off", "0", "false", "no", "OFF"}) {
    if (*value == off) return false;
  }
  throw Error(ErrorKind::kInvalidArgument, fmt::format("environment variable {} is '{}'; accepted: on, 1, true, yes, "
                                                       "off, 0, false, no",
                                                       env_name(id), *value));
}

std::optional<int> env_number(Env id, int least) {
  const auto value = env_value(id);
  if (!value) return std::nullopt;
  int number = 0;
  const char* end = value->data() + value->size();
  const auto [stop, error] = std::from_chars(value->data(), end, number);
  if (error == std::errc() && stop == end && number >= least) return number;
  throw Error(ErrorKind::kInvalidArgument, fmt::format("environment variable {} is '{}'; accepted: a number from {} on",
                                                       env_name(id), *value, least));
}

std::optional<std::uint64_t> env_bytes(Env id) {
  const auto value = env_value(id);
  if (!value) return std::nullopt;
  constexpr std::string_view kUnits = "KMG";
  const std::size_t unit = kUnits.find(value->back());
  const unsigned shift = unit == std::string_view::npos ? 0 : 10 * (static_cast<unsigned>(unit) + 1);
  std::uint64_t number = 0;
  const char* end = value->data() + value->size() - (shift > 0 ? 1 : 0);
  const auto [stop, error] = std::from_chars(value->data(), end, number);
  if (error == std::errc() && stop == end && number > 0 && number <= UINT64_MAX >> shift) return number << shift;
  throw Error(
      ErrorKind::kInvalidArgument,
      fmt::format("environment variable {} is '{}'; accepted: a number of bytes from 1 on, or one with K, M or G "
                  "(512M, 2G)",
                  env_name(id), *value));
}

}  // namespace moesaic::base
