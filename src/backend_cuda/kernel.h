// SPDX-License-Identifier: Apache-2.0
// A cubin on a device, ready to launch.
#pragma once

#include <memory>

#include "module/store.h"

namespace moesaic::cuda {

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

/// One loaded kernel. Copies share the module; launching takes no lock.
class Kernel {
 public:
  Kernel() = default;
  /// Loads the image now, not at the first launch. Throws Error(kUnsupported) when the driver is older than the toolkit
  /// that made it (names both), Error(kCuda) otherwise.
  static Kernel load(const module::Cubin& cubin, int device, int dynamic_smem_bytes);

  /// Enqueues on `stream` (a CUstream) of the current device. `params` is the kernel's parameter struct.
  void launch(Grid grid, int threads, const void* params, void* stream) const;

 private:
  std::shared_ptr<void> module_;
  void* function_ = nullptr;
  unsigned smem_bytes_ = 0;
};

}  // namespace moesaic::cuda
