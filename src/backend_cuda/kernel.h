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
  /// that made it, or refuses it for this GPU (names both versions, and what would work), Error(kCuda) otherwise.
  static Kernel load(const module::Cubin& cubin, int device, int dynamic_smem_bytes);

  /// Enqueues on `stream` (a CUstream) of the current device. `params` is the kernel's parameter struct.
  void launch(Grid grid, int threads, const void* params, void* stream) const;
  /// The same in clusters of so many neighbouring blocks (along x). `behind`: an op launches this kernel behind another
  /// of its own; its blocks come up while that one's last ones run, and wait for them by themselves
  /// (module::main_text), unless target, driver or MOESAIC_DEPENDENT_LAUNCH say no.
  void launch(Grid grid, int threads, const void* params, void* stream, bool behind, int cluster) const;
  /// Whether the target has clusters.
  bool has_clusters() const { return has_clusters_; }

 private:
  std::shared_ptr<void> module_;
  void* function_ = nullptr;
  unsigned smem_bytes_ = 0;
  bool waits_itself_ = false, has_clusters_ = false;
};

/// Kernels that one op launches behind each other: the first waits for whatever is on the stream.
class LaunchChain {
 public:
  explicit LaunchChain(void* stream) : stream_(stream) {}
  template <typename Params>
  void launch(const Kernel& kernel, Grid grid, int threads, const Params& params, int cluster = 1) {
    kernel.launch(grid, threads, &params, stream_, !first_, cluster);
    first_ = false;
  }

 private:
  void* stream_;
  bool first_ = true;
};

}  // namespace moesaic::cuda
