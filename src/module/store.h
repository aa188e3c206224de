// SPDX-License-Identifier: Apache-2.0
// (row, config, target) -> cubin bytes: bundles, then installed packages, then the cache on disk, then NVRTC.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "module/kernel_instance.h"
#include "module/record.h"
#include "moesaic/module.h"

namespace moesaic::module {

/// Finds or makes kernels. Thread-safe; keeps what it found for its lifetime. Opening is cheap: NVRTC is located only
/// when a kernel is missing everywhere else.
class Store {
 public:
  explicit Store(const ModuleOptions& options = {});
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// Throws Error: kUnsupported (JIT off and not found: names kernel, architecture and the command that would add it),
  /// kCompile (with the log), kIo.
  std::shared_ptr<const Cubin> get(const KernelInstance& instance);
  /// Gets many, compiling what is missing in parallel (jobs 0: by cores and free memory); order as given.
  std::vector<std::shared_ptr<const Cubin>> get_all(const std::vector<KernelInstance>& instances, int jobs = 0);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::module
