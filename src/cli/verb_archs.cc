// SPDX-License-Identifier: Apache-2.0
// `moesaic archs`: the architecture table, and which rows the compiler at hand serves.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/cli.h"
#include "cli/text_table.h"
#include "module/aot.h"
#include "module/maker.h"
#include "moesaic/error.h"
#include "tables/arch_table.h"

namespace moesaic::cli {
namespace {

// What the compiler at hand says of an architecture: "yes", or what it needs; "no NVRTC" where there is none.
std::string compiles(const tables::ArchRow& arch, const std::optional<module::CompilerFacts>& compiler) {
  if (!compiler) return "no NVRTC";
  const auto skipped = module::skipped_archs({&arch}, *compiler);
  return skipped.empty() ? "yes" : skipped.front().reason;
}

int print_archs(bool json) {
  const module::Maker maker({});
  std::optional<module::CompilerFacts> compiler;
  if (maker.search().file) compiler = maker.compiler();
  nlohmann::json rows = nlohmann::json::array();
  TextTable table(
      {"SM", "family", "exact target", "family target", "CUDA", "shared memory", "capabilities", "compiles"});
  for (const tables::ArchRow& arch : tables::kArchTable) {
    const std::string exact_cuda = tables::cuda_version_name(arch.min_cuda);
    const std::string family_cuda = tables::cuda_version_name(arch.min_cuda_family);
    const std::string compiled = compiles(arch, compiler);
    rows.push_back({{"sm", arch.sm},
                    {"family", tables::family_name(arch.family)},
                    {"exact_target", arch.exact_target},
                    {"family_target", arch.family_target},
                    {"min_cuda", exact_cuda},
                    {"min_cuda_family", family_cuda},
                    {"smem_per_block", arch.smem_per_block},
                    {"capabilities", tables::capability_names(arch.caps)},
                    {"compiles", compiled}});
    table.add({std::to_string(arch.sm), tables::family_name(arch.family), arch.exact_target, arch.family_target,
               exact_cuda == family_cuda ? exact_cuda : fmt::format("{} (family {})", exact_cuda, family_cuda),
               std::to_string(arch.smem_per_block), tables::capability_names(arch.caps), compiled});
  }
  fmt::print("{}", json ? rows.dump(2) + "\n" : table.aligned());
  return 0;
}

}  // namespace

void add_archs(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("archs", "The architecture table");
  const auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "Print JSON");
  verb->callback([&action, json] { action = [json] { return print_archs(*json); }; });
}

}  // namespace moesaic::cli
