// SPDX-License-Identifier: Apache-2.0
// NVRTC, loaded at run time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "module/kernel_instance.h"
#include "module/nvrtc_file.h"

namespace moesaic::module {

/// What NVRTC made of a program.
struct NvrtcOutput {
  std::vector<char> image;  // cubin, or PTX text with its final NUL
  std::string log;
};

/// A loaded libnvrtc; stays loaded until the process ends. Thread-safe: NVRTC compiles in parallel threads (measured on
/// two cores with 12.9 and 13.0: two threads 0.57 s, one after the other 1.07 s).
class Nvrtc {
 public:
  /// Loads a library once per process and path. Throws Error(kUnsupported): it cannot be loaded, lacks a function, or
  /// is older than 12.8.
  static std::shared_ptr<const Nvrtc> load(const NvrtcFile& file);

  /// 1000 * major + 10 * minor.
  int version() const noexcept { return version_; }
  /// SMs that it compiles for (nvrtcGetSupportedArchs), ascending.
  const std::vector<int>& supported_archs() const noexcept { return supported_; }
  bool supports(int sm) const noexcept;

  /// Compiles a kernel with the flags of `compile_flags`. Throws Error(kCompile) with the log, and what else would
  /// work.
  NvrtcOutput compile(const KernelInstance& instance) const;

 private:
  Nvrtc() = default;
  struct Functions;
  std::shared_ptr<const Functions> functions_;
  std::string path_;
  int version_ = 0;
  std::vector<int> supported_;
};

/// Flags of a target: part of the cache key and of the manifest.
std::vector<std::string> compile_flags(const Target& target);

}  // namespace moesaic::module
