// SPDX-License-Identifier: Apache-2.0
// Where kernels come from: bundles made ahead of time, the cache on disk, NVRTC just in time.
#pragma once

#include <optional>
#include <string>
#include <vector>

#pragma GCC visibility push(default)
namespace moesaic {

/// Fields that are not set are taken from the environment (`moesaic doctor` prints which), then from defaults.
struct ModuleOptions {
  std::vector<std::string> bundles;      // zip files, searched in order; then MOESAIC_BUNDLE, then installed packages
  std::optional<std::string> cache_dir;  // else MOESAIC_CACHE_DIR, else the XDG cache folder
  std::optional<bool> jit;               // false: a kernel that is in no bundle and not cached is an error; MOESAIC_JIT
  std::optional<std::string> nvrtc;      // path of libnvrtc; else MOESAIC_NVRTC, CUDA_HOME, the loader path, ...
  std::optional<std::string> force_kernel;  // row, or row/config, that must serve its op; MOESAIC_FORCE_KERNEL
  std::optional<std::string> force_target;  // compile and load for this target, e.g. "compute_80" (PTX, tests)
};

}  // namespace moesaic
#pragma GCC visibility pop
