// SPDX-License-Identifier: Apache-2.0
// THE one list of environment variables that the library reads. Nothing else calls getenv.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace moesaic::base {

enum class Env {
  kBundle,
  kBundleKey,
  kPackages,
  kCacheDir,
  kCacheLimit,
  kJit,
  kCompileTimeout,
  kNvrtc,
  kForceKernel,
  kForceTarget,
  kDependentLaunch,
  kQuantiseHidden,
  kStrict,
  kThreads,
  kCudaHome,
  kLibraryPath,
  kVirtualEnv,
  kPath,
  kXdgCacheHome,
  kHome,
};

struct EnvVariable {
  Env id;
  const char* name;
  const char* meaning;
};

/// All variables, those of this library first.
std::span<const EnvVariable> env_variables() noexcept;
/// Name of a variable, for messages.
const char* env_name(Env id) noexcept;
/// Its value now; a variable that is set to nothing counts as not set.
std::optional<std::string> env_value(Env id);
/// A switch: on, 1, true, yes or off, 0, false, no. Throws Error(kInvalidArgument) on anything else.
std::optional<bool> env_switch(Env id);
/// A number >= `least`. Throws Error(kInvalidArgument) on anything else.
std::optional<int> env_number(Env id, int least);
/// A number of bytes, or of 1024-fold units: 500000, 200K, 512M, 2G. Throws Error(kInvalidArgument) on anything else.
std::optional<std::uint64_t> env_bytes(Env id);

}  // namespace moesaic::base
