// SPDX-License-Identifier: Apache-2.0
// `moesaic kernels`: the kernel table; with --target, what the compiler makes of each kernel.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/build_progress.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/kernel_masks.h"
#include "cli/text_table.h"
#include "module/aot.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

struct KernelsOptions {
  std::string target;
  std::vector<std::string> recipes, ops;
  int jobs = 0;
  bool json = false;
};

std::string recipe_names(std::uint32_t mask) {
  std::string names;
  for (int i = 0; i < tables::kNumRecipes; ++i) {
    if ((mask >> static_cast<unsigned>(i) & 1u) == 0) continue;
    names += fmt::format("{}{}", names.empty() ? "" : " ", tables::kRecipeTable[static_cast<std::size_t>(i)].name);
  }
  return names;
}

std::string family_names(std::uint32_t mask) {
  if (mask == tables::kAllFamilies) return "all";
  std::string names;
  for (unsigned i = 0; tables::kAllFamilies >> i != 0; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    names += fmt::format("{}{}", names.empty() ? "" : " ", tables::family_name(static_cast<tables::Family>(i)));
  }
  return names;
}

int print_table(const KernelsOptions& options) {
  const std::uint32_t recipes = recipe_mask(options.recipes), ops = op_mask(options.ops);
  nlohmann::json rows = nlohmann::json::array();
  TextTable table({"kernel", "op", "recipes", "families", "needs", "code", "source", "configs"});
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if ((row.recipes & recipes) == 0 || (ops >> static_cast<unsigned>(row.op) & 1u) == 0) continue;
    std::vector<std::string> configs;
    for (const abi::KernelConfig& config : row.configs) configs.push_back(tables::config_name(row, config));
    rows.push_back({{"name", row.name},
                    {"op", tables::op_name(row.op)},
                    {"recipes", recipe_names(row.recipes)},
                    {"families", family_names(row.families)},
                    {"needs", tables::capability_names(row.needs)},
                    {"code", tables::code_kind_name(row.code_kind)},
                    {"source", row.source},
                    {"configs", configs}});
    table.add({row.name, tables::op_name(row.op), recipe_names(row.recipes), family_names(row.families),
               tables::capability_names(row.needs), tables::code_kind_name(row.code_kind), row.source,
               fmt::format("{}", fmt::join(configs, " "))});
  }
  fmt::print("{}", options.json ? rows.dump(2) + "\n" : table.aligned());
  return 0;
}

std::string number(int value) { return value < 0 ? "-" : std::to_string(value); }

// "compute_80": PTX; anything else names an architecture, whose rows choose their targets by code kind.
module::BuildRequest request_for(const KernelsOptions& options) {
  module::BuildRequest request;
  request.recipes = recipe_mask(options.recipes);
  request.ops = op_mask(options.ops);
  request.jobs = options.jobs;
  if (module::Target{options.target}.is_ptx()) {
    request.ptx.push_back({options.target});
    return request;
  }
  request.archs = arch_list({options.target});
  if (request.archs.named.size() != 1 || request.archs.rows.size() != 1) {
    throw UsageError(fmt::format("--target takes one architecture, got '{}'", options.target));
  }
  return request;
}

void print_built(const module::BuildResult& result, const KernelsOptions& options,
                 const std::vector<std::string>& violations) {
  nlohmann::json kernels = nlohmann::json::array();
  TextTable table({"kernel", "target", "registers", "stack", "static smem", "dynamic smem", "spills", "code bytes",
                   "compile s", "from"});
  for (const module::BuiltKernel& kernel : result.kernels) {
    const module::Cubin& cubin = *kernel.cubin;
    const module::KernelFacts& facts = cubin.facts;
    const int dynamic_smem = abi::smem_bytes(kernel.planned.instance.config());
    nlohmann::json row = module::to_json(module::make_record(kernel.planned.instance, cubin));
    row["dynamic_smem_bytes"] = dynamic_smem;
    row["origin"] = module::origin_name(cubin.origin);
    kernels.push_back(std::move(row));
    table.add({cubin.entry, cubin.target, number(facts.registers), number(facts.stack_bytes),
               number(facts.static_smem_bytes), std::to_string(dynamic_smem), number(facts.spill_bytes),
               number(facts.code_bytes), fmt::format("{:.2f}", facts.compile_seconds),
               module::origin_name(cubin.origin)});
  }
  const nlohmann::json report = {
      {"compiler", result.compiler}, {"seconds", result.seconds}, {"kernels", kernels}, {"violations", violations}};
  if (options.json) {
    fmt::print("{}\n", report.dump(2));
  } else {
    fmt::print("{}{} kernels, {}, {:.1f} s\n", table.aligned(), result.kernels.size(), result.compiler, result.seconds);
  }
}

int compile_and_print(const KernelsOptions& options) {
  const module::BuildRequest request = request_for(options);
  const InterruptGuard guard;
  BuildProgressPrinter printer;
  module::BuildResult result;
  try {
    result = module::build_set(
        request, {}, [&printer](const module::BuildProgress& progress) { printer.show(progress); },
        InterruptGuard::interrupted);
  } catch (const Error& error) {
    printer.finish();
    if (error.kind() == ErrorKind::kInvalidArgument) throw UsageError(error.what());
    throw;
  }
  printer.finish();
  if (result.stopped) throw Error(ErrorKind::kCompile, "kernels: interrupted");
  const std::vector<std::string> violations = result.violations();
  print_built(result, options, violations);
  for (const std::string& line : violations) fmt::print(stderr, "moesaic: error: must not ship: {}\n", line);
  return violations.empty() ? 0 : 1;
}

}  // namespace

void add_kernels(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("kernels", "The kernel table; with --target, registers, spills and sizes");
  const auto options = std::make_shared<KernelsOptions>();
  verb->add_option("--target", options->target, "Compile for this architecture (sm_90a, 9.0, ...) or compute_80");
  verb->add_option("--recipe", options->recipes, "Recipes, by comma or blank; default: all");
  verb->add_option("--op", options->ops, "Ops, by comma or blank; default: all");
  verb->add_option("--jobs", options->jobs, "Kernels compiled at once; default: by cores and free memory")
      ->check(CLI::PositiveNumber);
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([&action, options] {
    action = [options] { return options->target.empty() ? print_table(*options) : compile_and_print(*options); };
  });
}

}  // namespace moesaic::cli
