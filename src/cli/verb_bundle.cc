// SPDX-License-Identifier: Apache-2.0
// `moesaic bundle list|verify|sign`: what a bundle holds, whether this library may use it, and who vouches for it.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/env.h"
#include "cli/cli.h"
#include "cli/text_table.h"
#include "module/aot.h"
#include "module/bundle.h"

namespace moesaic::cli {
namespace {

struct BundleOptions {
  std::string file;
  std::optional<std::string> key;
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
    nlohmann::json report = {{"file", bundle.path()},
                             {"moesaic", bundle.made_by()},
                             {"module_abi", bundle.module_abi()},
                             {"signed_by", nullptr},
                             {"entries", entries}};
    if (bundle.signature()) report["signed_by"] = bundle.signature()->public_key;
    fmt::print("{}\n", report.dump(2));
  } else {
    fmt::print("{}{} kernels, made by moesaic {} with module ABI {}, {}\n", table.aligned(), bundle.records().size(),
               bundle.made_by(), bundle.module_abi(),
               bundle.signature() ? "signed by " + bundle.signature()->public_key + " (`bundle verify` checks it)"
                                  : "not signed");
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
  const auto key = options.key ? options.key : base::env_value(base::Env::kBundleKey);
  for (const std::string& refusal : {bundle.refusal(), bundle.distrust(key)}) {
    if (!refusal.empty()) problems.push_back(refusal);
  }
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

int sign_bundle(const BundleOptions& options) {
  module::Bundle(options.file).sign(*options.key);
  const module::Bundle bundle(options.file);
  const std::string signer = bundle.signature()->public_key;
  if (options.json) {
    fmt::print("{}\n", nlohmann::json{{"file", bundle.path()}, {"signed_by", signer}}.dump(2));
  } else {
    fmt::print("{}: {} kernels, signed by {}\n", bundle.path(), bundle.records().size(), signer);
  }
  return 0;
}

std::shared_ptr<BundleOptions> add_bundle_verb(CLI::App& verb, int (*run)(const BundleOptions&), Action& action) {
  auto options = std::make_shared<BundleOptions>();
  verb.add_option("file", options->file, "The bundle")->required();
  verb.add_flag("--json", options->json, "Print JSON");
  verb.callback([&action, options, run] { action = [options, run] { return run(*options); }; });
  return options;
}

}  // namespace

void add_bundle(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("bundle", "List, verify or sign a bundle");
  add_bundle_verb(*verb->add_subcommand("list", "What a bundle holds"), list_bundle, action);
  CLI::App* verify = verb->add_subcommand("verify", "Check every kernel, and that this library may use it");
  const auto verified = add_bundle_verb(*verify, verify_bundle, action);
  verify->add_option("--key", verified->key,
                     "Ed25519 public key (PEM) that must have signed it; else MOESAIC_BUNDLE_KEY");
  CLI::App* sign = verb->add_subcommand("sign", "Sign a bundle, in place of the signature that it has");
  const auto signed_one = add_bundle_verb(*sign, sign_bundle, action);
  sign->add_option("--key", signed_one->key, "Ed25519 private key (PEM)")->required();
}

}  // namespace moesaic::cli
