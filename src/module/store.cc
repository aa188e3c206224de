// SPDX-License-Identifier: Apache-2.0
// Bundles, packages, cache, NVRTC: in this order, each kernel once per store.
#include "module/store.h"

#include <fmt/format.h>

#include <future>
#include <map>
#include <mutex>
#include <optional>

#include "base/env.h"
#include "base/log.h"
#include "module/announcer.h"
#include "module/bundle.h"
#include "module/jobs.h"
#include "module/maker.h"
#include "module/packages.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

using CubinPointer = std::shared_ptr<const Cubin>;

std::vector<std::string> bundle_paths(const ModuleOptions& options) {
  std::vector<std::string> paths = options.bundles;
  const std::string variable = base::env_value(base::Env::kBundle).value_or("");
  for (std::size_t begin = 0; begin < variable.size();) {
    const std::size_t end = std::min(variable.find(':', begin), variable.size());
    if (end > begin) paths.push_back(variable.substr(begin, end - begin));
    begin = end + 1;
  }
  return paths;
}

// "recipe" for the command that would make a kernel: the first that its row serves.
const char* first_recipe(const tables::KernelRow& row) {
  for (int i = 0; i < tables::kNumRecipes; ++i) {
    if ((row.recipes >> static_cast<unsigned>(i) & 1u) != 0)
      return tables::kRecipeTable[static_cast<std::size_t>(i)].name;
  }
  return "bf16";
}

std::string command_for(const KernelInstance& instance) {
  const std::string& target = instance.target.name;
  const std::string arch = instance.target.is_ptx() ? "all --ptx" : target.substr(std::string_view("sm_").size());
  return fmt::format("moesaic compile --arch {} --recipe {} --op {} --out kernels.zip", arch,
                     first_recipe(*instance.row), tables::op_name(instance.row->op));
}

std::string describe(const KernelInstance& instance) {
  return fmt::format("{} for {}", entry_name(instance), instance.target.name);
}

}  // namespace

struct Store::Impl {
  explicit Impl(const ModuleOptions& options) : maker(options) {
    jit = options.jit ? *options.jit : base::env_switch(base::Env::kJit).value_or(true);
    for (const std::string& path : bundle_paths(options)) bundles.push_back(open_bundle(path));
  }

  std::optional<Cubin> find(const KernelInstance& instance, const std::string& id) {
    for (const auto& bundle : bundles) {
      if (auto found = bundle->get(id)) return found;
    }
    if (auto found = packages.find(instance, id)) return found;
    auto cached = maker.find(instance, id);
    if (cached) maker.hold(instance, id);
    return cached;
  }

  // What bundles and packages say of a kernel that they do not give, for messages.
  std::string seen(const KernelInstance& instance, const std::string& id) {
    std::string text;
    for (const auto& bundle : bundles) {
      const bool stale = bundle->other_text(instance, id) != nullptr;
      text += fmt::format("; bundle {}: {}", bundle->path(),
                          stale ? "has it made from another kernel text" : "does not have it");
    }
    text += packages.why_not(instance, id);
    if (!maker.cache_refusal().empty()) text += fmt::format("; the cache is not used: {}", maker.cache_refusal());
    return text;
  }

  [[noreturn]] void throw_missing(const KernelInstance& instance, const std::string& id) {
    const char* no_cache = maker.search().file ? "" : "; no NVRTC here, so the cache cannot be looked up";
    throw Error(ErrorKind::kUnsupported,
                fmt::format("kernel {} is in no bundle, no package and not cached, and compiling is off "
                            "(MOESAIC_JIT){}{}; add it with `{}`",
                            describe(instance), seen(instance, id), no_cache, command_for(instance)));
  }

  Cubin make(const KernelInstance& instance, const std::string& id) {
    if (!jit) throw_missing(instance, id);
    for (const auto& bundle : bundles) {
      if (bundle->other_text(instance, id) == nullptr) continue;
      base::log_warning(
          fmt::format("bundle {} has {} made from another kernel text: not used", bundle->path(), describe(instance)));
    }
    if (!maker.search().file) {
      throw Error(
          ErrorKind::kUnsupported,
          fmt::format("kernel {} is in no bundle, no package and cannot be compiled here: no NVRTC 12.8 or later "
                      "was found ({}){}; add it to a bundle elsewhere with `{}`, or install NVRTC (pip install "
                      "nvidia-cuda-nvrtc)",
                      describe(instance), maker.search().why_none(), seen(instance, id), command_for(instance)));
    }
    Cubin cubin = maker.make(instance, id);
    maker.hold(instance, id);
    if (cubin.origin == Origin::kCompiled) {
      Announcer::compiled(describe(instance), cubin.facts.compile_seconds);
      for (const std::string& complaint : cubin.facts.complaints) {
        base::log_warning(fmt::format("kernel {}: {}", describe(instance), complaint));
      }
    }
    return cubin;
  }

  // Finds or makes a kernel, once however many threads ask: the first works, the others wait for it.
  template <typename Work>
  CubinPointer once(const std::string& id, const Work& work) {
    std::promise<CubinPointer> promise;
    std::shared_future<CubinPointer> waiting;
    {
      const std::lock_guard lock(mutex);
      const auto known = kernels.find(id);
      if (known != kernels.end()) {
        waiting = known->second;
      } else {
        kernels.emplace(id, promise.get_future().share());
      }
    }
    if (waiting.valid()) return waiting.get();
    try {
      auto made = std::make_shared<const Cubin>(work());
      promise.set_value(made);
      return made;
    } catch (...) {
      promise.set_exception(std::current_exception());
      const std::lock_guard lock(mutex);
      kernels.erase(id);  // the next one may try again: NVRTC may have been installed
      throw;
    }
  }

  CubinPointer get(const KernelInstance& instance, const std::string& id) {
    return once(id, [&] {
      auto found = find(instance, id);
      return found ? *std::move(found) : make(instance, id);
    });
  }

  bool missing(const KernelInstance& instance, const std::string& id) {
    {
      const std::lock_guard lock(mutex);
      if (kernels.count(id) != 0) return false;
    }
    auto found = find(instance, id);
    if (!found) return true;
    once(id, [&] { return *std::move(found); });
    return false;
  }

  Maker maker;
  bool jit = true;
  std::vector<std::unique_ptr<Bundle>> bundles;
  Packages packages;
  std::mutex mutex;  // of kernels
  std::map<std::string, std::shared_future<CubinPointer>> kernels;
};

Store::Store(const ModuleOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Store::~Store() = default;

std::shared_ptr<const Cubin> Store::get(const KernelInstance& instance) { return get_all({instance}, 1).front(); }

std::vector<std::shared_ptr<const Cubin>> Store::get_all(const std::vector<KernelInstance>& instances, int jobs) {
  std::vector<std::string> ids;
  std::vector<std::size_t> missing;
  for (std::size_t i = 0; i < instances.size(); ++i) {
    ids.push_back(identity(instances[i]));
    if (impl_->missing(instances[i], ids[i])) missing.push_back(i);
  }
  if (!missing.empty()) {
    const KernelInstance& first = instances[missing.front()];
    std::optional<Announcer> announcer;
    if (impl_->jit) {
      announcer.emplace(missing.size() == 1 ? "kernel " + describe(first)
                                            : fmt::format("{} kernels, {} first", missing.size(), describe(first)));
    }
    const int cap = missing.size() == 1 ? 1 : job_count(jobs);
    run_jobs(cap, missing.size(), [&](std::size_t i) { impl_->get(instances[missing[i]], ids[missing[i]]); });
  }
  std::vector<CubinPointer> cubins;
  for (std::size_t i = 0; i < instances.size(); ++i) cubins.push_back(impl_->get(instances[i], ids[i]));
  return cubins;
}

}  // namespace moesaic::module
