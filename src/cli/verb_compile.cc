// SPDX-License-Identifier: Apache-2.0
// `moesaic compile`: kernels ahead of time, into the cache and, with --out, into a bundle.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/fs.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/kernel_build.h"
#include "cli/text_table.h"
#include "module/aot.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

struct CompileOptions {
  KernelChoice kernels;
  std::string out, compiler = "nvrtc";
  bool list = false, ptx = false, json = false;
};

void check_out(const std::string& out) {
  std::error_code error;
  require_writable("--out", out, base::folder_of(out));
  if (std::filesystem::is_directory(out, error)) {
    throw Error(ErrorKind::kIo, fmt::format("--out {}: it is a folder", out));
  }
}

std::string arch_names(const module::PlannedKernel& planned) {
  std::string names;
  for (const tables::ArchRow* arch : planned.archs) names += fmt::format("{}{}", names.empty() ? "" : " ", arch->sm);
  return names.empty() ? "any later (PTX)" : names;
}

int print_list(const module::BuildRequest& request, bool json) {
  nlohmann::json rows = nlohmann::json::array();
  TextTable table({"row", "config", "op", "target", "for SM", "identity"});
  for (const module::PlannedKernel& planned : module::plan_set(request)) {
    const tables::KernelRow& row = *planned.instance.row;
    const std::string config = tables::config_name(row, planned.instance.config());
    rows.push_back({{"row", row.name},
                    {"config", config},
                    {"op", tables::op_name(row.op)},
                    {"target", planned.instance.target.name},
                    {"archs", arch_names(planned)},
                    {"entry", module::entry_name(planned.instance)},
                    {"identity", planned.identity}});
    table.add({row.name, config, tables::op_name(row.op), planned.instance.target.name, arch_names(planned),
               planned.identity});
  }
  fmt::print("{}", json ? rows.dump(2) + "\n" : table.aligned());
  return 0;
}

// Per architecture; a kernel that several share counts for each of them.
struct ArchSummary {
  int kernels = 0, compiled = 0;
  double seconds = 0;  // of compiling in this run
  std::size_t bytes = 0;

  void add(const module::Cubin& cubin) {
    ++kernels;
    bytes += cubin.image.size();
    if (cubin.origin != module::Origin::kCompiled) return;
    ++compiled;
    seconds += cubin.facts.compile_seconds;
  }
};

std::map<std::string, ArchSummary> summarize(const module::BuildResult& result) {
  std::map<std::string, ArchSummary> by_arch;
  for (const module::BuiltKernel& kernel : result.kernels) {
    for (const tables::ArchRow* arch : kernel.planned.archs) by_arch[fmt::format("{:4}", arch->sm)].add(*kernel.cubin);
    if (kernel.planned.archs.empty()) by_arch[" PTX"].add(*kernel.cubin);
  }
  return by_arch;
}

void print_summary(const module::BuildResult& result, const CompileOptions& options,
                   const std::vector<std::string>& violations) {
  nlohmann::json archs = nlohmann::json::array(), skipped = nlohmann::json::array();
  TextTable table({"  SM", "kernels", "compiled", "seconds", "bytes"});
  std::size_t compiled = 0, bytes = 0;
  for (const auto& [name, sum] : summarize(result)) {
    archs.push_back({{"arch", name.substr(name.find_first_not_of(' '))},
                     {"kernels", sum.kernels},
                     {"compiled", sum.compiled},
                     {"seconds", sum.seconds},
                     {"bytes", sum.bytes}});
    table.add({name, std::to_string(sum.kernels), std::to_string(sum.compiled), fmt::format("{:.2f}", sum.seconds),
               std::to_string(sum.bytes)});
  }
  for (const module::BuiltKernel& kernel : result.kernels) {
    bytes += kernel.cubin->image.size();
    compiled += kernel.cubin->origin == module::Origin::kCompiled ? 1 : 0;
  }
  std::string skipped_lines;
  for (const module::SkippedArch& skip : result.skipped) {
    skipped.push_back({{"arch", std::to_string(skip.arch->sm)}, {"reason", skip.reason}});
    skipped_lines += fmt::format("skipped {}: {}\n", skip.arch->sm, skip.reason);
  }
  if (options.json) {
    const nlohmann::json report = {
        {"archs", archs},       {"skipped", skipped},          {"kernels", result.kernels.size()},
        {"compiled", compiled}, {"seconds", result.seconds},   {"bytes", bytes},
        {"jobs", result.jobs},  {"compiler", result.compiler}, {"violations", violations},
        {"out", options.out}};
    fmt::print("{}\n", report.dump(2));
    return;
  }
  fmt::print("{}{}{} kernels ({} compiled, {} from the cache), {} bytes, {:.2f} s with {} jobs, {}\n", table.aligned(),
             skipped_lines, result.kernels.size(), compiled, result.kernels.size() - compiled, bytes, result.seconds,
             result.jobs, result.compiler);
}

int compile(const CompileOptions& options) {
  module::BuildRequest request = request_for(options.kernels);
  request.nvcc = options.compiler == "nvcc";
  if (options.ptx) request.ptx.push_back(module::portable_ptx_target());
  if (options.list) return print_list(request, options.json);
  if (!options.out.empty()) check_out(options.out);

  const InterruptGuard guard;
  const module::BuildResult result = build_kernels(request, "compile");
  const std::vector<std::string> violations = result.violations();
  bool written = false;
  if (violations.empty() && !options.out.empty()) {
    written = module::write_bundle(options.out, module::bundle_items(result), InterruptGuard::interrupted);
    if (!written) throw Error(ErrorKind::kIo, fmt::format("compile: interrupted; {} was not written", options.out));
  }
  print_summary(result, options, violations);
  for (const std::string& line : violations) fmt::print(stderr, "moesaic: error: must not ship: {}\n", line);
  if (written && !options.json) fmt::print("bundle {}\n", options.out);
  return violations.empty() ? 0 : 1;
}

}  // namespace

void add_compile(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("compile", "Compile kernels ahead of time, into the cache or a bundle");
  const auto options = std::make_shared<CompileOptions>();
  add_kernel_choice(*verb, options->kernels);
  verb->add_option("--out", options->out, "Bundle to write; without it kernels go to the cache alone");
  verb->add_option("--compiler", options->compiler, "nvrtc, or nvcc: the same text with line numbers for profilers")
      ->check(CLI::IsMember({"nvrtc", "nvcc"}))
      ->capture_default_str();
  verb->add_flag("--ptx", options->ptx, "Add PTX for GPUs newer than the architecture table");
  verb->add_flag("--list", options->list, "Print rows and identities, compile nothing");
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([&action, options] { action = [options] { return compile(*options); }; });
}

}  // namespace moesaic::cli
