// SPDX-License-Identifier: Apache-2.0
// A kernel from the cache or, where it is not there, from NVRTC or nvcc. The ahead-of-time build and the store both
// make kernels here and nowhere else.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "module/cache.h"
#include "module/nvcc.h"
#include "module/nvrtc.h"
#include "module/nvrtc_file.h"
#include "moesaic/module.h"

namespace moesaic::module {

/// The compiler at hand.
struct CompilerFacts {
  std::string name;     // "nvrtc 13.0 build-id ...", as records have it
  std::string product;  // "NVRTC", for messages
  int version = 0;      // 1000 * major + 10 * minor
  std::vector<int> supported;
};

/// Thread-safe. Nothing is searched or loaded before it is needed.
class Maker {
 public:
  /// With NVRTC, or with this nvcc.
  explicit Maker(const ModuleOptions& options, std::optional<Nvcc> nvcc = {});

  /// Why the cache is not used: others may write to its folder; "": it is, as far as it can be.
  const std::string& cache_refusal() const noexcept { return cache_refusal_; }
  /// Where NVRTC is; searched once.
  const NvrtcSearch& search() const;
  /// NVRTC, loaded. Throws Error(kUnsupported) that names the places searched.
  std::shared_ptr<const Nvrtc> nvrtc() const;
  /// Throws as `nvrtc` where that is the compiler.
  CompilerFacts compiler() const;

  /// The cached kernel, or nullopt. Without any compiler on the machine there is no key, and no hit.
  std::optional<Cubin> find(const KernelInstance& instance, const std::string& identity) const;
  /// The cached kernel, or a new one, which is added to the cache. Of several processes that want the same kernel one
  /// compiles; NVRTC is loaded only by that one. Throws Error: kUnsupported (no NVRTC), kCompile (also where this
  /// process or the other one takes longer than MOESAIC_COMPILE_TIMEOUT).
  Cubin make(const KernelInstance& instance, const std::string& identity) const;
  /// Keeps the kernel's cache entry from eviction until this process ends.
  void hold(const KernelInstance& instance, const std::string& identity) const;

 private:
  bool has_compiler() const { return nvcc_.has_value() || search().file.has_value(); }
  std::vector<std::string> flags(const Target& target) const;
  std::string key(const KernelInstance& instance, const std::string& identity) const;
  // nullopt: the cache cannot be written, or another process has made the kernel meanwhile.
  std::optional<base::FileLock> wait_for_lock(const KernelInstance& instance, const std::string& identity,
                                              const std::string& key, std::optional<Cubin>& from_another) const;
  Cubin compile(const KernelInstance& instance, const std::string& identity) const;
  void add_to_cache(const std::string& key, const KernelInstance& instance, const Cubin& cubin,
                    const base::FileLock& lock) const;

  std::optional<std::string> nvrtc_path_;
  std::optional<Nvcc> nvcc_;
  Cache cache_;
  std::optional<std::uint64_t> limit_;  // bytes of the cache
  std::chrono::seconds time_limit_;     // 0: none
  std::string cache_refusal_;
  mutable std::once_flag searched_;
  mutable NvrtcSearch search_;
  mutable std::once_flag warned_;
};

}  // namespace moesaic::module
