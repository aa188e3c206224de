// SPDX-License-Identifier: Apache-2.0
// Program text, names and identity of a kernel, and the ahead-of-time set of an architecture.
#include "module/kernel_instance.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <type_traits>

#include "base/hash.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

constexpr const char* kConfigHeader = "kernels/abi/config.h";

// All fields are int, so that a new field needs no line here.
static_assert(std::is_trivially_copyable_v<abi::KernelConfig> && sizeof(abi::KernelConfig) % sizeof(int) == 0);

std::string initializer(const abi::KernelConfig& config) {
  std::array<int, sizeof(config) / sizeof(int)> fields;
  std::memcpy(fields.data(), &config, sizeof(config));
  return fmt::format("{{{}}}", fmt::join(fields, ", "));
}

}  // namespace

int sm_of(const Target& target) {
  int sm = 0;
  for (const char c : target.name) {
    if (c >= '0' && c <= '9') sm = 10 * sm + (c - '0');
  }
  return sm;
}

int features_of(const Target& target) {
  const tables::ArchRow* arch = tables::find_arch(sm_of(target));
  if (arch == nullptr) return 0;
  const bool specific = target.name.back() == 'a' || target.name.back() == 'f';
  return ((arch->caps & tables::kFp8Convert) != 0 ? abi::kConvertFp8 : 0) |
         (specific && (arch->caps & tables::kFp4Convert) != 0 ? abi::kConvertFp4 : 0) |
         ((arch->caps & tables::kTma) != 0 ? abi::kDependentLaunch | abi::kClusters : 0);
}

Target target_for(const tables::KernelRow& row, const tables::ArchRow& arch) {
  switch (row.code_kind) {
    case tables::CodeKind::kExact:
      return {arch.exact_target};
    case tables::CodeKind::kFamily:
      return {arch.family_target};
    case tables::CodeKind::kBaseline:
      break;
  }
  return {fmt::format("sm_{}", arch.sm)};
}

int cuda_needed(const tables::KernelRow& row, const tables::ArchRow& arch) {
  return row.code_kind == tables::CodeKind::kFamily ? arch.min_cuda_family : arch.min_cuda;
}

Target portable_ptx_target() { return {fmt::format("compute_{}", tables::kArchTable.front().sm)}; }

std::string entry_name(const KernelInstance& instance) {
  return fmt::format("moesaic_{}_{}", instance.row->name, tables::config_name(*instance.row, instance.config()));
}

std::string main_text(const KernelInstance& instance) {
  const tables::KernelRow& row = *instance.row;
  const int min_blocks = instance.config().min_blocks > 0 ? instance.config().min_blocks : 1;
  // Parameters lie in constant memory, which is cold: all lines of it are read while the kernel before still runs (for
  // a use that changes nothing, since waiting twice is waiting once). Then what that one has written is there. Where
  // few blocks run, those of the kernel behind may come up; where many do, they would crowd on the SMs that are free
  // first (measured: 5% slower), so they come up as the last ones end. Some kernels wait and let others come up
  // themselves: persistent ones, whose blocks all run from the beginning, and those that stream.
  const bool dependent = (features_of(instance.target) & abi::kDependentLaunch) != 0;
  const char* touch =
      "  unsigned touched = 0;\n"
      "#pragma unroll\n"
      "  for (unsigned i = 0; i < sizeof(p) / 4; i += 16) touched ^= reinterpret_cast<const unsigned*>(&p)[i];\n"
      "  asm volatile(\"{ .reg .pred any; setp.eq.u32 any, %0, 1; @any griddepcontrol.wait; }\" ::\"r\"(touched));\n";
  const char* wait =
      "  asm volatile(\"griddepcontrol.wait;\" ::: \"memory\");\n"
      "  if (gridDim.x * gridDim.y <= 32u) asm volatile(\"griddepcontrol.launch_dependents;\");\n";
  return fmt::format(
      "#include \"moesaic_config.h\"\n"
      "#include \"{}\"\n"
      "extern \"C\" __global__ void __launch_bounds__(moesaic::abi::threads(moesaic::kConfig), {})\n"
      "{}(const __grid_constant__ moesaic::abi::{} p) {{\n"
      "{}{}"
      "  moesaic::{}<moesaic::kConfig>(p);\n"
      "}}\n",
      row.source, min_blocks, entry_name(instance), row.params, dependent ? touch : "",
      dependent && !abi::waits_itself(instance.config()) ? wait : "", row.body);
}

std::string config_text(const KernelInstance& instance) {
  abi::KernelConfig config = instance.config();
  config.features = features_of(instance.target);
  return fmt::format(
      "#pragma once\n"
      "#include \"{}\"\n"
      "namespace moesaic {{\n"
      "inline constexpr abi::KernelConfig kConfig{};\n"
      "}}\n",
      kConfigHeader, initializer(config));
}

std::vector<SourceText> program_headers(const KernelInstance& instance) {
  std::vector<SourceText> headers = source_closure(instance.row->source);
  for (SourceText& source : source_closure(kConfigHeader)) {
    bool known = false;
    for (const SourceText& header : headers) known = known || header.path == source.path;
    if (!known) headers.push_back(std::move(source));
  }
  headers.push_back({"moesaic_config.h", config_text(instance)});
  return headers;
}

std::string identity(const KernelInstance& instance) {
  return base::Sha256()
      .add(closure_digest(instance.row->source))
      .add(closure_digest(kConfigHeader))
      .add(instance.row->name)
      .add(main_text(instance))
      .add(config_text(instance))
      .add(instance.target.name)
      .add(std::to_string(abi::kModuleAbi))
      .hex();
}

bool serves_any(const tables::KernelRow& row, const tables::ArchRow& arch, std::uint32_t recipes) {
  for (int recipe = 0; recipe < tables::kNumRecipes; ++recipe) {
    if ((recipes >> static_cast<unsigned>(recipe) & 1u) != 0 && tables::why_not(row, arch, recipe).empty()) return true;
  }
  return false;
}

std::vector<KernelInstance> instances_of(const tables::ArchRow& arch, std::uint32_t recipes, std::uint32_t ops,
                                         const tables::Problem& problem) {
  std::vector<KernelInstance> instances;
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if ((ops >> static_cast<unsigned>(row.op) & 1u) == 0) continue;
    if (row.supports != nullptr && row.supports(problem) != nullptr) continue;
    if (!serves_any(row, arch, recipes)) continue;
    for (int config = 0; config < static_cast<int>(row.configs.size()); ++config) {
      instances.push_back({&row, config, target_for(row, arch)});
    }
  }
  return instances;
}

std::vector<KernelInstance> instances_for(const tables::ArchRow& arch, std::uint32_t recipes, std::uint32_t ops) {
  return instances_of(arch, recipes, ops, {});
}

}  // namespace moesaic::module
