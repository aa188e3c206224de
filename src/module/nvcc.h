// SPDX-License-Identifier: Apache-2.0
// nvcc, a developer's second compiler over the same text, ahead of time only: its cubins have line numbers for
// profilers. Nothing looks for it at run time.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "module/kernel_instance.h"
#include "module/nvrtc.h"

namespace moesaic::module {

/// An nvcc that tells its version.
struct Nvcc {
  std::string path;
  int version = 0;             // 1000 * major + 10 * minor
  std::string build;           // "cuda_13.0.r13.0/compiler.36424714_0": who it is, part of every cache key
  std::vector<int> supported;  // SMs, ascending
};

/// The first of CUDA_HOME, the folders of PATH and /usr/local/cuda; nullopt: there is none that runs.
std::optional<Nvcc> find_nvcc();

/// Flags of a target, with line numbers: part of the cache key and of the manifest.
std::vector<std::string> nvcc_flags(const Target& target);

/// Compiles in a folder that is removed afterwards. Throws Error: kCompile with the log, or that it took longer than
/// `limit` (0: none) and was ended; kIo.
NvrtcOutput compile_with_nvcc(const Nvcc& nvcc, const KernelInstance& instance, std::chrono::seconds limit);

}  // namespace moesaic::module
