// SPDX-License-Identifier: Apache-2.0
// A kernel from the cache or, where it is not there, from NVRTC. The ahead-of-time build and the store both make
// kernels here and nowhere else.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "module/cache.h"
#include "module/nvrtc.h"
#include "module/nvrtc_file.h"
#include "moesaic/module.h"

namespace moesaic::module {

/// Thread-safe. Nothing is searched or loaded before it is needed.
class Maker {
 public:
  explicit Maker(const ModuleOptions& options);

  const Cache& cache() const noexcept { return cache_; }
  /// Where NVRTC is; searched once.
  const NvrtcSearch& search() const;
  /// NVRTC, loaded. Throws Error(kUnsupported) that names the places searched.
  std::shared_ptr<const Nvrtc> nvrtc() const;

  /// The cached kernel, or nullopt. Without any NVRTC on the machine there is no key, and no hit.
  std::optional<Cubin> find(const KernelInstance& instance, const std::string& identity) const;
  /// The cached kernel, or a new one, which is added to the cache. Of several processes that want the same kernel one
  /// compiles; NVRTC is loaded only by that one. Throws Error: kUnsupported (no NVRTC), kCompile.
  Cubin make(const KernelInstance& instance, const std::string& identity) const;
  /// Keeps the kernel's cache entry from eviction until this process ends.
  void hold(const KernelInstance& instance, const std::string& identity) const;

 private:
  std::string key(const KernelInstance& instance, const std::string& identity) const;
  Cubin compile(const KernelInstance& instance, const std::string& identity) const;
  void add_to_cache(const std::string& key, const KernelInstance& instance, const Cubin& cubin,
                    const base::FileLock& lock) const;

  std::optional<std::string> nvrtc_path_;
  Cache cache_;
  std::optional<std::uint64_t> limit_;  // bytes of the cache
  mutable std::once_flag searched_;
  mutable NvrtcSearch search_;
  mutable std::once_flag warned_;
};

}  // namespace moesaic::module
