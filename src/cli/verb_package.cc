// SPDX-License-Identifier: Apache-2.0
// `moesaic package`: the kernels of each architecture, and PTX, as a package that the library finds where it is
// installed.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/kernel_build.h"
#include "cli/package_writer.h"
#include "cli/text_table.h"
#include "module/aot.h"
#include "module/bundle.h"
#include "module/packages.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

struct PackageOptions {
  KernelChoice kernels;
  std::string bundle, key, output = ".", format;
  bool ptx = false, json = false;
};

const std::pair<const char*, PackageFormat> kFormats[] = {
    {"zip", PackageFormat::kZip}, {"deb", PackageFormat::kDeb}, {"wheel", PackageFormat::kWheel}};

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const auto& [name, format] : kFormats) names.emplace_back(name);
  return names;
}

PackageFormat format_called(const std::string& name) {
  return std::find_if(std::begin(kFormats), std::end(kFormats), [&](const auto& one) { return one.first == name; })
      ->second;
}

/// The kernels of each architecture, and why others have none.
struct Sets {
  std::vector<KernelPackage> packages;
  std::vector<module::SkippedArch> skipped;
};

/// A package to be made, and the kernels of the request that it is to have.
struct Part {
  std::string name;
  const tables::ArchRow* arch;  // nullptr: PTX
  bool named;                   // not just part of "all"
  module::BuildRequest request;

  bool has(const module::PlannedKernel& kernel) const {
    const auto& archs = kernel.archs;
    return arch == nullptr ? kernel.instance.target.is_ptx()
                           : std::find(archs.begin(), archs.end(), arch) != archs.end();
  }
};

std::vector<Part> parts_of(const module::BuildRequest& request) {
  std::vector<Part> parts;
  const auto& named = request.archs.named;
  for (const tables::ArchRow* arch : request.archs.rows) {
    const bool is_named = std::find(named.begin(), named.end(), arch) != named.end();
    parts.push_back({module::package_of_arch(arch->sm), arch, is_named, request});
    parts.back().request.archs.rows = {arch};
    parts.back().request.ptx.clear();
  }
  if (!request.ptx.empty()) {
    parts.push_back({std::string(module::kPtxPackage), nullptr, true, request});
    parts.back().request.archs.rows.clear();
  }
  return parts;
}

void add_kernel(KernelPackage& package, const module::KernelInstance& instance, module::Cubin cubin) {
  cubin.facts.compile_seconds = 0;  // equal kernels, equal packages
  package.kernels.push_back({instance, std::make_shared<const module::Cubin>(std::move(cubin))});
}

// A package is whole or refused: one that lacks kernels would be noticed where nothing can make them.
std::optional<KernelPackage> from_bundle(const module::Bundle& bundle, const Part& part) {
  KernelPackage package{part.name, {}, {}, {}};
  const std::vector<module::PlannedKernel> plan = module::plan_set(part.request);
  const module::PlannedKernel* lacking = nullptr;
  for (const module::PlannedKernel& planned : plan) {
    auto cubin = bundle.get(planned.identity);
    if (cubin) {
      add_kernel(package, planned.instance, *std::move(cubin));
    } else if (lacking == nullptr) {
      lacking = &planned;
    }
  }
  if (lacking == nullptr) return package;
  if (package.kernels.empty() && !part.named) return std::nullopt;
  const bool stale = bundle.other_text(lacking->instance, lacking->identity) != nullptr;
  throw Error(
      ErrorKind::kUnsupported,
      fmt::format("package: bundle {} lacks {} of {} kernels of {}, the first is {} for {} ({}); name fewer with "
                  "--recipe, --op or --model, {}or leave --bundle out",
                  bundle.path(), plan.size() - package.kernels.size(), plan.size(), part.name,
                  module::entry_name(lacking->instance), lacking->instance.target.name,
                  stale ? "made from another kernel text" : "not there",
                  part.arch == nullptr ? "make it with `moesaic compile --ptx`, " : ""));
}

Sets sets_of_bundle(const std::string& path, const module::BuildRequest& request) {
  const std::unique_ptr<module::Bundle> bundle = module::open_bundle(path);
  Sets sets;
  for (const Part& part : parts_of(request)) {
    if (auto package = from_bundle(*bundle, part)) {
      sets.packages.push_back(*std::move(package));
    } else {
      sets.skipped.push_back({part.arch, fmt::format("bundle {} has no kernel for it", path)});
    }
  }
  return sets;
}

Sets sets_by_compiling(const module::BuildRequest& request) {
  const module::BuildResult result = build_kernels(request, "package");
  Sets sets;
  sets.skipped = result.skipped;
  for (const Part& part : parts_of(request)) {
    KernelPackage package{part.name, {}, {}, {}};
    for (const module::BuiltKernel& kernel : result.kernels) {
      if (part.has(kernel.planned)) add_kernel(package, kernel.planned.instance, *kernel.cubin);
    }
    if (!package.kernels.empty()) sets.packages.push_back(std::move(package));
  }
  return sets;
}

void refuse_violations(const KernelPackage& package) {
  for (const module::BundleItem& item : package.kernels) {
    const std::string violation = module::violation_of(*item.cubin);
    if (!violation.empty()) throw Error(ErrorKind::kUnsupported, "package: must not ship: " + violation);
  }
}

std::string contents_of(const KernelPackage& package) {
  const std::size_t whole = module::plan_set(module::whole_package(package.name)).size();
  const std::size_t here = package.kernels.size();
  return here == whole ? fmt::format("All {} kernels.", whole)
                       : fmt::format("A selection: {} of {} kernels.", here, whole);
}

int write_packages(const PackageOptions& options) {
  module::BuildRequest request = request_for(options.kernels);
  if (options.ptx) request.ptx.push_back(module::portable_ptx_target());
  require_writable("--output", options.output, options.output);
  const InterruptGuard guard;
  Sets sets = options.bundle.empty() ? sets_by_compiling(request) : sets_of_bundle(options.bundle, request);
  for (const KernelPackage& package : sets.packages) refuse_violations(package);
  if (sets.packages.empty()) throw Error(ErrorKind::kUnsupported, "package: no kernels: " + sets.skipped.at(0).reason);

  nlohmann::json files = nlohmann::json::array(), skipped = nlohmann::json::array();
  TextTable table({"of", "kernels", "bytes", "package"});
  for (KernelPackage& package : sets.packages) {
    if (InterruptGuard::interrupted()) throw Error(ErrorKind::kIo, "package: interrupted; what was written is whole");
    package.contents = contents_of(package);
    package.key = options.key;
    const std::string path = write_package(format_called(options.format), package, options.output);
    const std::uintmax_t bytes = std::filesystem::file_size(path);
    files.push_back({{"package", package.name}, {"kernels", package.kernels.size()}, {"bytes", bytes}, {"file", path}});
    table.add({package.name, std::to_string(package.kernels.size()), std::to_string(bytes), path});
  }
  std::string skipped_lines;
  for (const module::SkippedArch& skip : sets.skipped) {
    skipped.push_back({{"arch", std::to_string(skip.arch->sm)}, {"reason", skip.reason}});
    skipped_lines += fmt::format("skipped {}: {}\n", skip.arch->sm, skip.reason);
  }
  if (options.json) {
    fmt::print("{}\n", nlohmann::json{{"packages", files}, {"skipped", skipped}}.dump(2));
  } else {
    fmt::print("{}{}", table.aligned(), skipped_lines);
  }
  return 0;
}

}  // namespace

void add_package(CLI::App& app, Action& action) {
  CLI::App* verb =
      app.add_subcommand("package", "A package of kernels for each architecture, for machines with a driver");
  const auto options = std::make_shared<PackageOptions>();
  add_kernel_choice(*verb, options->kernels);
  verb->add_flag("--ptx", options->ptx, "Also a package of PTX, for GPUs newer than the architecture table");
  verb->add_option("--format", options->format, "zip (a bundle by itself), deb (for Debian), wheel (for Python)")
      ->required()
      ->check(CLI::IsMember(format_names()));
  verb->add_option("--bundle", options->bundle, "Take the kernels from this bundle; without it they are compiled");
  verb->add_option("--key", options->key, "Sign the bundles with this Ed25519 private key (PEM)");
  verb->add_option("--output", options->output, "Folder to write to; default: the current one");
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([&action, options] { action = [options] { return write_packages(*options); }; });
}

}  // namespace moesaic::cli
