// SPDX-License-Identifier: Apache-2.0
// `moesaic doctor`: what this machine has and what is in force. Looks only: makes no folder, compiles nothing.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "backend_cuda/device.h"
#include "base/env.h"
#include "cli/cli.h"
#include "module/bundle.h"
#include "module/cache.h"
#include "module/compile_limit.h"
#include "module/nvcc.h"
#include "module/nvrtc_file.h"
#include "module/packages.h"
#include "tables/arch_table.h"

namespace moesaic::cli {
namespace {

using nlohmann::json;

json device_facts() {
  json list = json::array();
  for (const cuda::DeviceInfo& device : cuda::list_devices()) {
    list.push_back({{"name", fmt::format("cuda:{}", device.index)},
                    {"model", device.name},
                    {"sm", device.sm},
                    {"in_table", tables::find_arch(device.sm) != nullptr},
                    {"sm_count", device.sm_count},
                    {"l2_bytes", device.l2_bytes},
                    {"memory_bytes", device.memory_bytes}});
  }
  return list;
}

json cuda_facts() {
  const std::string why = cuda::why_no_cuda();
  return {{"usable", why.empty()}, {"why_not", why}, {"driver", tables::cuda_version_name(cuda::driver_version())}};
}

json nvrtc_facts() {
  const module::NvrtcSearch search = module::find_nvrtc(std::nullopt);
  if (!search.file) return {{"found", false}, {"why", search.why_none()}};
  return {{"found", true},
          {"path", search.file->path},
          {"version", tables::cuda_version_name(search.file->version)},
          {"build_id", search.file->build_id},
          {"found_by", search.file->found_by}};
}

json nvcc_facts() {
  const auto nvcc = module::find_nvcc();
  if (!nvcc) return {{"found", false}};
  return {{"found", true}, {"path", nvcc->path}, {"version", tables::cuda_version_name(nvcc->version)}};
}

json cache_facts() {
  const module::Cache cache(module::cache_folder(std::nullopt));
  json facts = {{"folder", cache.folder()}, {"entries", 0}, {"damaged", 0}, {"bytes", 0}, {"limit", nullptr}};
  facts["distrust"] = cache.distrust();
  if (const auto limit = base::env_bytes(base::Env::kCacheLimit)) facts["limit"] = *limit;
  if (cache.folder().empty()) return facts;
  for (const module::CacheEntry& entry : cache.list()) {
    facts["entries"] = facts["entries"].get<int>() + 1;
    if (!entry.damage.empty()) facts["damaged"] = facts["damaged"].get<int>() + 1;
    facts["bytes"] = facts["bytes"].get<std::uint64_t>() + entry.record.size;
  }
  return facts;
}

json bundle_facts() {
  json list = json::array();
  const std::string files = base::env_value(base::Env::kBundle).value_or("");
  for (std::size_t begin = 0; begin < files.size();) {
    const std::size_t end = std::min(files.find(':', begin), files.size());
    const std::string file = files.substr(begin, end - begin);
    begin = end + 1;
    if (file.empty()) continue;
    json facts = {{"file", file}};
    try {
      const module::Bundle bundle(file);
      facts["kernels"] = bundle.records().size();
      facts["bytes"] = std::filesystem::file_size(file);
      facts["made_by"] = bundle.made_by();
      const std::string distrust = bundle.distrust(base::env_value(base::Env::kBundleKey));
      if (!bundle.refusal().empty()) facts["error"] = bundle.refusal();
      if (!distrust.empty()) facts["error"] = distrust;
    } catch (const std::exception& error) {
      facts["error"] = error.what();
    }
    list.push_back(std::move(facts));
  }
  return list;
}

json package_facts() {
  const std::vector<std::string> folders = module::package_folders();
  json files = json::array();
  for (const module::PackageFile& file : module::package_files(folders)) {
    const module::PackageState state = module::inspect_package(file);
    json facts = {{"file", file.path}, {"package", file.package}, {"kernels", state.kernels}, {"wanted", state.wanted}};
    facts["bytes"] = state.bytes;
    facts["made_by"] = state.made_by;
    if (!state.why_not.empty()) facts["error"] = state.why_not;
    files.push_back(std::move(facts));
  }
  return {{"folders", folders}, {"files", files}};
}

json environment_facts() {
  json facts = json::object();
  for (const base::EnvVariable& variable : base::env_variables()) {
    if (const auto value = base::env_value(variable.id)) facts[variable.name] = *value;
  }
  base::env_switch(base::Env::kJit);  // a value that the library would refuse is said here
  base::env_switch(base::Env::kStrict);
  base::env_number(base::Env::kThreads, 1);
  module::compile_limit();
  return facts;
}

json doctor_facts() {
  json facts = {{"version", module::library_version()},
                {"backends", {{"cpu", cpu::fast_target()}, {"cuda", cuda_facts()}}},
                {"devices", device_facts()},
                {"nvrtc", nvrtc_facts()},
                {"nvcc", nvcc_facts()},
                {"cache", cache_facts()},
                {"bundles", bundle_facts()},
                {"packages", package_facts()},
                {"environment", environment_facts()}};
  return facts;
}

std::string megabytes(const json& bytes) { return fmt::format("{:.1f} MB", bytes.get<double>() / 1e6); }

std::string nvrtc_text(const json& nvrtc) {
  if (!nvrtc["found"]) return "none; " + nvrtc["why"].get<std::string>();
  return fmt::format("{} {} (by {}, build-id {})", nvrtc["version"].get<std::string>(),
                     nvrtc["path"].get<std::string>(), nvrtc["found_by"].get<std::string>(),
                     nvrtc["build_id"].get<std::string>());
}

std::string package_text(const json& package) {
  const std::string file = package["file"];
  if (package.contains("error")) return file + ": not used: " + package["error"].get<std::string>();
  return fmt::format("{}: {}, {} of {} kernels, {}", file, package["package"].get<std::string>(),
                     package["kernels"].get<int>(), package["wanted"].get<int>(), megabytes(package["bytes"]));
}

std::string to_text(const json& facts) {
  std::string text;
  const auto line = [&](const std::string& what, const std::string& value) {
    text += fmt::format("{:<12}{}\n", what, value);
  };
  line("moesaic", facts["version"]);
  line("CPU", facts["backends"]["cpu"]);
  const json& cuda = facts["backends"]["cuda"];
  line("driver",
       cuda["usable"] ? "CUDA " + cuda["driver"].get<std::string>() : "no GPU: " + cuda["why_not"].get<std::string>());
  for (const json& device : facts["devices"]) {
    line(device["name"], fmt::format("{}, SM{}{}, {} multiprocessors, {}", device["model"].get<std::string>(),
                                     device["sm"].get<int>(), device["in_table"] ? "" : " (not in the table)",
                                     device["sm_count"].get<int>(), megabytes(device["memory_bytes"])));
  }
  line("NVRTC", nvrtc_text(facts["nvrtc"]));
  const json& nvcc = facts["nvcc"];
  line("nvcc", nvcc["found"] ? fmt::format("{} {} (developers only)", nvcc["version"].get<std::string>(),
                                           nvcc["path"].get<std::string>())
                             : "none (not needed)");
  const json& cache = facts["cache"];
  const std::string limit = cache["limit"].is_null() ? "no limit" : "limit " + megabytes(cache["limit"]);
  line("cache",
       fmt::format("{}: {} kernels, {} ({}), {} damaged", cache["folder"].get<std::string>(),
                   cache["entries"].get<int>(), megabytes(cache["bytes"]), limit, cache["damaged"].get<int>()));
  if (const std::string distrust = cache["distrust"]; !distrust.empty()) line("cache", "not used: " + distrust);
  if (facts["bundles"].empty()) line("bundles", "none");
  for (const json& bundle : facts["bundles"]) {
    const std::string file = bundle["file"];
    line("bundle", bundle.contains("error") ? file + ": " + bundle["error"].get<std::string>()
                                            : fmt::format("{}: {} kernels, {}", file, bundle["kernels"].get<int>(),
                                                          megabytes(bundle["bytes"])));
  }
  if (facts["packages"]["files"].empty()) line("packages", "none");
  for (const json& package : facts["packages"]["files"]) line("package", package_text(package));
  for (const auto& [name, value] : facts["environment"].items())
    line("environment", name + "=" + value.get<std::string>());
  return text;
}

int print_doctor(bool as_json) {
  const json facts = doctor_facts();
  fmt::print("{}", as_json ? facts.dump(2) + "\n" : to_text(facts));
  return 0;
}

/// What `--help` ends with: every environment variable that is read.
std::string environment_help() {
  std::string text = "Environment variables:\n";
  for (const base::EnvVariable& variable : base::env_variables())
    text += fmt::format("  {:<26}{}\n", variable.name, variable.meaning);
  return text;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("doctor", "What this machine has and what is in force");
  const auto as_json = std::make_shared<bool>(false);
  verb->footer(environment_help());
  verb->add_flag("--json", *as_json, "Print JSON");
  verb->callback([&action, as_json] { action = [as_json] { return print_doctor(*as_json); }; });
}

}  // namespace moesaic::cli
