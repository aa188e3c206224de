// SPDX-License-Identifier: Apache-2.0
// Lookup, lock, look again, compile, store.
#include "module/maker.h"

#include <fmt/format.h>

#include <chrono>
#include <string_view>
#include <utility>
#include <vector>

#include "base/env.h"
#include "base/log.h"
#include "module/build_id.h"
#include "module/compile_limit.h"
#include "module/ptxas_log.h"
#include "moesaic/error.h"

namespace moesaic::module {

Maker::Maker(const ModuleOptions& options, std::optional<Nvcc> nvcc)
    : nvrtc_path_(options.nvrtc),
      nvcc_(std::move(nvcc)),
      cache_(cache_folder(options.cache_dir)),
      limit_(base::env_bytes(base::Env::kCacheLimit)),
      time_limit_(compile_limit()) {
  cache_refusal_ = cache_.distrust();
  if (!cache_refusal_.empty()) cache_ = Cache("");
}

const NvrtcSearch& Maker::search() const {
  std::call_once(searched_, [this] { search_ = find_nvrtc(nvrtc_path_); });
  return search_;
}

std::shared_ptr<const Nvrtc> Maker::nvrtc() const {
  if (!search().file) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("NVRTC 12.8 or later was not found ({}); install a CUDA toolkit or `pip install "
                            "nvidia-cuda-nvrtc`, or name it in MOESAIC_NVRTC",
                            search().why_none()));
  }
  return Nvrtc::load(*search().file);
}

CompilerFacts Maker::compiler() const {
  if (nvcc_) {
    return {fmt::format("nvcc {} build {}", tables::cuda_version_name(nvcc_->version), nvcc_->build), "nvcc",
            nvcc_->version, nvcc_->supported};
  }
  const auto loaded = nvrtc();
  return {fmt::format("nvrtc {} build-id {}", tables::cuda_version_name(loaded->version()), search().file->build_id),
          "NVRTC", loaded->version(), loaded->supported_archs()};
}

std::vector<std::string> Maker::flags(const Target& target) const {
  return nvcc_ ? nvcc_flags(target) : compile_flags(target);
}

std::string Maker::key(const KernelInstance& instance, const std::string& identity) const {
  return cache_key(identity, nvcc_ ? "nvcc " + nvcc_->build : search().file->build_id, flags(instance.target));
}

std::optional<Cubin> Maker::find(const KernelInstance& instance, const std::string& identity) const {
  if (!has_compiler()) return std::nullopt;
  return cache_.lookup(key(instance, identity), identity, nullptr);
}

void Maker::hold(const KernelInstance& instance, const std::string& identity) const {
  if (has_compiler()) cache_.hold(key(instance, identity));
}

Cubin Maker::make(const KernelInstance& instance, const std::string& identity) const {
  if (!has_compiler()) nvrtc();  // throws
  const std::string entry_key = key(instance, identity);
  if (auto found = cache_.lookup(entry_key, identity, nullptr)) return *std::move(found);

  std::optional<Cubin> from_another;
  const auto lock = wait_for_lock(instance, identity, entry_key, from_another);
  if (from_another) return *std::move(from_another);
  if (!lock) {
    Cubin cubin = compile(instance, identity);
    std::call_once(warned_, [this] {
      const std::string why =
          cache_refusal_.empty() ? fmt::format("kernel cache '{}' cannot be written", cache_.folder()) : cache_refusal_;
      base::log_warning(
          fmt::format("{}; kernels are kept in memory only; MOESAIC_CACHE_DIR can name another folder", why));
    });
    return cubin;
  }
  // Whoever held the lock before us may have made it.
  std::string damage;
  if (auto found = cache_.lookup(entry_key, identity, &damage)) return *std::move(found);
  if (!damage.empty()) {
    base::log_warning(fmt::format("kernel cache entry {} ({} for {}) is damaged and made again: {}", entry_key,
                                  entry_name(instance), instance.target.name, damage));
  }
  Cubin cubin = compile(instance, identity);
  add_to_cache(entry_key, instance, cubin, *lock);
  return cubin;
}

std::optional<base::FileLock> Maker::wait_for_lock(const KernelInstance& instance, const std::string& identity,
                                                   const std::string& key, std::optional<Cubin>& from_another) const {
  const auto start = std::chrono::steady_clock::now();
  return cache_.lock(key, [&] {
    from_another = cache_.lookup(key, identity, nullptr);
    if (from_another) return true;
    if (time_limit_.count() == 0 || std::chrono::steady_clock::now() - start < time_limit_) return false;
    throw Error(
        ErrorKind::kCompile,
        fmt::format("kernel {} for {}: another process has been compiling it for {} s (MOESAIC_COMPILE_TIMEOUT; 0: "
                    "no limit): {}; end it if it hangs, or name another cache folder (MOESAIC_CACHE_DIR) or a "
                    "bundle (MOESAIC_BUNDLE)",
                    entry_name(instance), instance.target.name, time_limit_.count(), cache_.lock_holder(key)));
  });
}

namespace {

// What a broken compiler gives must not stay in the cache, where it would fail at every load from then on.
void check_image(const KernelInstance& instance, const std::vector<char>& image, const std::string& compiler) {
  const bool ptx = instance.target.is_ptx();
  const bool sound = ptx ? std::string_view(image.data(), image.size()).find(entry_name(instance)) != std::string::npos
                         : elf_code_bytes(image.data(), image.size()) > 0;
  if (sound) return;
  throw Error(ErrorKind::kCompile,
              fmt::format("kernel {} for {}: {} gave {} bytes that are no {}; install it again, or name another one "
                          "in MOESAIC_NVRTC",
                          entry_name(instance), instance.target.name, compiler, image.size(), ptx ? "PTX" : "cubin"));
}

}  // namespace

Cubin Maker::compile(const KernelInstance& instance, const std::string& identity) const {
  const CompilerFacts facts = compiler();
  const auto start = std::chrono::steady_clock::now();
  NvrtcOutput output =
      nvcc_ ? compile_with_nvcc(*nvcc_, instance, time_limit_) : compile_within(time_limit_, nvrtc(), instance);
  Cubin cubin;
  cubin.facts = read_ptxas_log(output.log);
  cubin.facts.compile_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  check_image(instance, output.image, fmt::format("{} {}", facts.product, nvcc_ ? nvcc_->path : search().file->path));
  if (!instance.target.is_ptx()) {
    cubin.facts.code_bytes = elf_code_bytes(output.image.data(), output.image.size());
  }
  cubin.image = std::move(output.image);
  cubin.entry = entry_name(instance);
  cubin.identity = identity;
  cubin.target = instance.target.name;
  cubin.compiler = facts.name;
  cubin.cuda_version = facts.version;
  cubin.flags = flags(instance.target);
  cubin.origin = Origin::kCompiled;
  return cubin;
}

void Maker::add_to_cache(const std::string& key, const KernelInstance& instance, const Cubin& cubin,
                         const base::FileLock& lock) const {
  const std::string failure = cache_.store(key, instance, cubin, lock);
  try {
    if (failure.empty() && limit_) cache_.trim(*limit_, key);
  } catch (const Error& error) {
    base::log_warning(fmt::format("{}; the cache may outgrow MOESAIC_CACHE_LIMIT", error.what()));
  }
  if (!failure.empty()) {
    std::call_once(warned_, [&] {
      base::log_warning(
          fmt::format("kernel cache: {}; kernels are kept in memory only; free space there, or let MOESAIC_CACHE_DIR "
                      "name another folder",
                      failure));
    });
  } else if (!lock.keeps_others_out()) {
    std::call_once(warned_, [&] {
      base::log_warning(fmt::format(
          "kernel cache '{}' lies on a file system without locks: processes that start together may compile "
          "the same kernel; MOESAIC_CACHE_DIR can name a local folder",
          cache_.folder()));
    });
  }
}

}  // namespace moesaic::module
