// SPDX-License-Identifier: Apache-2.0
// Building kernels ahead of time: the kernels that dispatch can ask for, for many architectures at once.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "module/bundle.h"
#include "module/kernel_instance.h"
#include "module/maker.h"
#include "module/record.h"
#include "moesaic/module.h"
#include "tables/arch_list.h"

namespace moesaic::module {

struct BuildRequest {
  tables::ArchList archs;
  std::uint32_t recipes = ~0u, ops = ~0u;  // bit masks
  tables::Problem problem;                 // of a model; rows that cannot serve it are left out
  std::vector<Target> ptx;                 // "compute_80": also PTX of the rows that any later GPU can run
  int jobs = 0;                            // 0: by cores and free memory
  bool nvcc = false;                       // compile with nvcc: the same text, with line numbers for profilers
};

/// A kernel of the set and the architectures that ask for it (several where they share a target).
struct PlannedKernel {
  KernelInstance instance;
  std::string identity;
  std::vector<const tables::ArchRow*> archs;  // none: PTX
};

/// An architecture that the compiler at hand cannot serve.
struct SkippedArch {
  const tables::ArchRow* arch;
  std::string reason;  // names the CUDA version that it needs
};

/// The kernels of a request, each once; needs no compiler.
std::vector<PlannedKernel> plan_set(const BuildRequest& request);
/// Architectures of `archs` that a compiler cannot serve.
std::vector<SkippedArch> skipped_archs(const std::vector<const tables::ArchRow*>& archs, const CompilerFacts& compiler);

struct BuiltKernel {
  PlannedKernel planned;
  std::shared_ptr<const Cubin> cubin;
};

struct BuildProgress {
  std::size_t done, total;
  const BuiltKernel& kernel;  // the one just finished
};

struct BuildResult {
  std::vector<BuiltKernel> kernels;  // in the order of the plan; empty when stopped
  std::vector<SkippedArch> skipped;
  std::string compiler;  // "nvrtc 13.0 build-id ...", "nvcc 13.0 build ..."
  int jobs = 0;
  double seconds = 0;
  bool stopped = false;

  /// One line per kernel that must not ship (spills, a stack frame, messages of ptxas), with its reasons.
  std::vector<std::string> violations() const;
};

/// Calls `progress` (one call at a time) after each kernel, asks `stop` before each. Kernels come from the cache or
/// from NVRTC; bundles are not looked at. Throws Error: kUnsupported (no NVRTC; an architecture named in the request
/// and not just part of "all" cannot be compiled, or nothing can; a request without kernels), kCompile.
BuildResult build_set(const BuildRequest& request, const ModuleOptions& modules,
                      const std::function<void(const BuildProgress&)>& progress = {},
                      const std::function<bool()>& stop = {});

/// The kernels of a build as bundle items.
std::vector<BundleItem> bundle_items(const BuildResult& result);

}  // namespace moesaic::module
