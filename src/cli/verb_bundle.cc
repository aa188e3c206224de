// SPDX-License-Identifier: Apache-2.0
// `moesaic bundle list|verify`: what a bundle holds, and whether this library can use it.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "cli/cli.h"
#include "cli/text_table.h"
#include "module/aot.h"
#include "module/bundle.h"

namespace moesaic::cli {
namespace {

struct BundleOptions {
  std::string file;
  bool json = false;
};

int list_bundle(const BundleOptions& options) {
  const module::Bundle bundle(options.file);
  nlohmann::json entries = nlohmann::json::array();
  TextTable table({"kernel", "op", "target", "bytes", "registers", "compiler", "identity"});
  for (const module::KernelRecord& record : bundle.records()) {
    entries.push_back(module::to_json(record));
    table.add({record.entry, record.op, record.target, std::to_string(record.size),
               record.facts.registers < 0 ? "-" : std::to_string(record.facts.registers),
               "CUDA " + tables::cuda_version_name(record.cuda_version), record.identity});
  }
  if (options.json) {
    const nlohmann::json report = {{"file", bundle.path()},
                                   {"moesaic", bundle.made_by()},
                                   {"module_abi", bundle.module_abi()},
                                   {"entries", entries}};
    fmt::print("{}\n", report.dump(2));
  } else {
    fmt::print("{}{} kernels, made by moesaic {} with module ABI {}\n", table.aligned(), bundle.records().size(),
               bundle.made_by(), bundle.module_abi());
  }
  return 0;
}

// Identities of every kernel that this library could ask for.
std::set<std::string> known_identities() {
  module::BuildRequest request;
  for (const tables::ArchRow& arch : tables::kArchTable) {
    request.archs.rows.push_back(&arch);
    request.ptx.push_back({fmt::format("compute_{}", arch.sm)});
  }
  std::set<std::string> identities;
  for (const module::PlannedKernel& planned : module::plan_set(request)) identities.insert(planned.identity);
  return identities;
}

int verify_bundle(const BundleOptions& options) {
  const module::Bundle bundle(options.file);
  std::vector<std::string> problems = bundle.damage();
  const std::string refusal = bundle.refusal();
  if (!refusal.empty()) problems.push_back(refusal);
  const std::set<std::string> known = known_identities();
  for (const module::KernelRecord& record : bundle.records()) {
    if (known.count(record.identity) != 0) continue;
    problems.push_back(fmt::format("{} for {} was made from another kernel text: this library never asks for it",
                                   record.entry, record.target));
  }
  if (options.json) {
    const nlohmann::json report = {{"file", bundle.path()},
                                   {"kernels", bundle.records().size()},
                                   {"sound", problems.empty()},
                                   {"problems", problems}};
    fmt::print("{}\n", report.dump(2));
  } else {
    for (const std::string& problem : problems) fmt::print("{}\n", problem);
    fmt::print("{}: {} kernels, {}\n", bundle.path(), bundle.records().size(),
               problems.empty() ? "sound" : fmt::format("{} problems", problems.size()));
  }
  return problems.empty() ? 0 : 1;
}

void add_bundle_verb(CLI::App& parent, const char* name, const char* help, int (*run)(const BundleOptions&),
                     Action& action) {
  CLI::App* verb = parent.add_subcommand(name, help);
  const auto options = std::make_shared<BundleOptions>();
  verb->add_option("file", options->file, "The bundle")->required();
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([&action, options, run] { action = [options, run] { return run(*options); }; });
}

}  // namespace

void add_bundle(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("bundle", "List or verify a bundle");
  add_bundle_verb(*verb, "list", "What a bundle holds", list_bundle, action);
  add_bundle_verb(*verb, "verify", "Check every kernel, and that this library can use it", verify_bundle, action);
}

}  // namespace moesaic::cli
