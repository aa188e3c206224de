// SPDX-License-Identifier: Apache-2.0
// Plan, skip what the compiler cannot do, make the rest in parallel.
#include "module/aot.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>

#include "module/jobs.h"
#include "module/maker.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

bool contains(const std::vector<const tables::ArchRow*>& rows, const tables::ArchRow* row) {
  return std::find(rows.begin(), rows.end(), row) != rows.end();
}

// The PTX of an architecture alone, "compute_90a" of "sm_90a": for tests, which can run it without that GPU.
bool is_exact_ptx(const Target& target, const tables::ArchRow& arch) {
  return target.is_ptx() && sm_of(target) == arch.sm && target.name.ends_with('a') &&
         std::string_view(arch.exact_target).ends_with('a');
}

// PTX outlives its architecture only where it uses nothing of it alone: baseline rows.
std::vector<KernelInstance> ptx_instances(const Target& target, const BuildRequest& request) {
  std::vector<KernelInstance> instances;
  for (const tables::ArchRow& arch : tables::kArchTable) {
    const bool exact = is_exact_ptx(target, arch);
    if (!exact && target.name != fmt::format("compute_{}", arch.sm)) continue;
    for (KernelInstance& instance : instances_of(arch, request.recipes, request.ops, request.problem)) {
      if (!exact && instance.row->code_kind != tables::CodeKind::kBaseline) continue;
      instance.target = target;
      instances.push_back(instance);
    }
    return instances;
  }
  throw Error(ErrorKind::kInvalidArgument, fmt::format("target '{}' is not known; PTX targets are compute_ followed by "
                                                       "one of {}",
                                                       target.name, tables::known_archs()));
}

// The newest CUDA version that one of the rows for `arch` needs.
int cuda_needed_by_rows(const tables::ArchRow& arch) {
  int needed = arch.min_cuda;
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (serves_any(row, arch, ~0u)) needed = std::max(needed, cuda_needed(row, arch));
  }
  return needed;
}

// Takes what the compiler cannot serve out of the request.
std::vector<SkippedArch> drop_skipped(BuildRequest& request, const CompilerFacts& compiler) {
  std::vector<SkippedArch> skipped = skipped_archs(request.archs.rows, compiler);
  for (const SkippedArch& skip : skipped) {
    if (contains(request.archs.named, skip.arch)) {
      throw Error(ErrorKind::kUnsupported, fmt::format("architecture {}: {}", skip.arch->sm, skip.reason));
    }
    auto& rows = request.archs.rows;
    rows.erase(std::find(rows.begin(), rows.end(), skip.arch));
  }
  if (request.archs.rows.empty() && !skipped.empty()) {
    throw Error(ErrorKind::kUnsupported, fmt::format("compile: {}", skipped.front().reason));
  }
  return skipped;
}

std::optional<Nvcc> wanted_nvcc() {
  auto nvcc = find_nvcc();
  if (nvcc && nvcc->version >= kMinNvrtcVersion) return nvcc;
  throw Error(
      ErrorKind::kUnsupported,
      nvcc ? fmt::format("compile: {} is nvcc {}, 12.8 or later is needed", nvcc->path,
                         tables::cuda_version_name(nvcc->version))
           : "compile: no nvcc in CUDA_HOME, PATH or /usr/local/cuda that runs; install a CUDA toolkit of 12.8 or "
             "later, or compile with NVRTC");
}

}  // namespace

std::vector<PlannedKernel> plan_set(const BuildRequest& request) {
  std::vector<PlannedKernel> plan;
  std::map<std::string, std::size_t> known;
  const auto add = [&](KernelInstance instance, const tables::ArchRow* arch) {
    std::string id = identity(instance);
    const auto [at, is_new] = known.emplace(id, plan.size());
    if (is_new) plan.push_back({std::move(instance), std::move(id), {}});
    if (arch != nullptr) plan[at->second].archs.push_back(arch);
  };
  for (const tables::ArchRow* arch : request.archs.rows) {
    for (KernelInstance& instance : instances_of(*arch, request.recipes, request.ops, request.problem)) {
      add(std::move(instance), arch);
    }
  }
  for (const Target& target : request.ptx) {
    for (KernelInstance& instance : ptx_instances(target, request)) add(std::move(instance), nullptr);
  }
  return plan;
}

std::vector<SkippedArch> skipped_archs(const std::vector<const tables::ArchRow*>& archs,
                                       const CompilerFacts& compiler) {
  std::vector<SkippedArch> skipped;
  for (const tables::ArchRow* arch : archs) {
    const int needed = cuda_needed_by_rows(*arch);
    const auto& known = compiler.supported;
    if (std::find(known.begin(), known.end(), arch->sm) != known.end() && compiler.version >= needed) continue;
    skipped.push_back({arch, fmt::format("needs CUDA {} or later, the {} here is {}", tables::cuda_version_name(needed),
                                         compiler.product, tables::cuda_version_name(compiler.version))});
  }
  return skipped;
}

std::vector<std::string> BuildResult::violations() const {
  std::vector<std::string> lines;
  for (const BuiltKernel& kernel : kernels) {
    std::string line = violation_of(*kernel.cubin);
    if (!line.empty()) lines.push_back(std::move(line));
  }
  return lines;
}

BuildResult build_set(const BuildRequest& request, const ModuleOptions& modules,
                      const std::function<void(const BuildProgress&)>& progress, const std::function<bool()>& stop) {
  const auto start = std::chrono::steady_clock::now();
  const Maker maker(modules, request.nvcc ? wanted_nvcc() : std::nullopt);
  const CompilerFacts compiler = maker.compiler();
  BuildRequest possible = request;
  BuildResult result;
  result.skipped = drop_skipped(possible, compiler);
  result.compiler = compiler.name;
  result.jobs = job_count(request.jobs);
  for (PlannedKernel& planned : plan_set(possible)) result.kernels.push_back({std::move(planned), nullptr});
  if (result.kernels.empty()) {
    throw Error(ErrorKind::kUnsupported,
                "compile: no kernel row serves these architectures, recipes and ops; `moesaic "
                "kernels` lists the rows");
  }

  std::mutex mutex;
  std::size_t done = 0;
  run_jobs(
      result.jobs, result.kernels.size(),
      [&](std::size_t i) {
        BuiltKernel& kernel = result.kernels[i];
        kernel.cubin = std::make_shared<const Cubin>(maker.make(kernel.planned.instance, kernel.planned.identity));
        const std::lock_guard lock(mutex);
        ++done;
        if (progress) progress({done, result.kernels.size(), kernel});
      },
      stop);
  result.stopped = done != result.kernels.size();
  if (result.stopped) result.kernels.clear();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::vector<BundleItem> bundle_items(const BuildResult& result) {
  std::vector<BundleItem> items;
  for (const BuiltKernel& kernel : result.kernels) items.push_back({kernel.planned.instance, kernel.cubin});
  return items;
}

}  // namespace moesaic::module
