// SPDX-License-Identifier: Apache-2.0
// One kernel to be made: (row, config, target), its text, entry name and identity.
#pragma once

#include <string>
#include <vector>

#include "tables/arch_table.h"
#include "tables/kernel_table.h"

namespace moesaic::module {

/// What a kernel is compiled for. `name` is what NVRTC's --gpu-architecture takes: "sm_90", "sm_90a", "sm_100f" give
/// a cubin; "compute_80" gives PTX that the driver compiles.
struct Target {
  std::string name;
  bool is_ptx() const { return name.rfind("compute_", 0) == 0; }
};

/// The target of a row on an architecture, by the row's code kind.
Target target_for(const tables::KernelRow& row, const tables::ArchRow& arch);
/// The first CUDA version (1000 * major + 10 * minor) that knows that target.
int cuda_needed(const tables::KernelRow& row, const tables::ArchRow& arch);
/// What serves a GPU that the table does not list: PTX of the oldest architecture, which the driver compiles.
Target portable_ptx_target();

struct KernelInstance {
  const tables::KernelRow* row = nullptr;
  int config_index = 0;
  Target target;

  const abi::KernelConfig& config() const { return row->configs[static_cast<std::size_t>(config_index)]; }
};

/// "moesaic_<row>_<config>": extern "C", known before compiling.
std::string entry_name(const KernelInstance& instance);

/// The architecture in a target's name: 90 of "sm_90a" and of "compute_90".
int sm_of(const Target& target);
/// abi::Feature bits of a target; those of e2m1 are in exact and family targets alone.
int features_of(const Target& target);
/// The program handed to the compiler: includes "moesaic_config.h" and the row's source, defines the entry.
std::string main_text(const KernelInstance& instance);
/// The generated header "moesaic_config.h": `moesaic::kConfig` and the target.
std::string config_text(const KernelInstance& instance);

/// A text that a source includes, path below the repository root as in #include "kernels/...".
struct SourceText {
  std::string path;
  std::string text;
};
/// What the compiler gets beside `main_text`: everything included, and moesaic_config.h.
std::vector<SourceText> program_headers(const KernelInstance& instance);
/// The embedded text of `path` with everything it includes, each once, sorted by path.
std::vector<SourceText> source_closure(const std::string& path);
/// SHA-256 over paths and texts of the closure.
std::string closure_digest(const std::string& path);
/// For tests of invalidation: replaces one embedded text for this process (empty text: restores it).
void override_source_for_test(const std::string& path, const std::string& text);

/// SHA-256 (64 hex digits) over the source closure, row name, config, target and module ABI. Bundles key by it.
std::string identity(const KernelInstance& instance);

/// Every (row, config) that serves one of `recipes` and `ops` (bit masks; ~0u: all) on `arch`: the AOT set.
std::vector<KernelInstance> instances_for(const tables::ArchRow& arch, std::uint32_t recipes, std::uint32_t ops);

/// The same, without rows that cannot serve `problem`.
std::vector<KernelInstance> instances_of(const tables::ArchRow& arch, std::uint32_t recipes, std::uint32_t ops,
                                         const tables::Problem& problem);
/// Whether a row serves one of `recipes` on `arch`; all its configs do then (a static_assert of the table).
bool serves_any(const tables::KernelRow& row, const tables::ArchRow& arch, std::uint32_t recipes);

}  // namespace moesaic::module
