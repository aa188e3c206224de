// SPDX-License-Identifier: Apache-2.0
// Where kernel packages lie, and what a store takes from them.
#include "module/packages.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/env.h"
#include "base/fs.h"
#include "base/log.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFilePrefix = "moesaic-kernels-", kPythonPrefix = "moesaic_kernels_";
constexpr const char* kBelowPrefix = "share/moesaic/kernels";  // cubins do not depend on the machine's own processor

std::mutex& state_mutex() {
  static std::mutex mutex;
  return mutex;
}

std::optional<std::vector<std::string>>& folders_for_test() {
  static std::optional<std::vector<std::string>> folders;
  return folders;
}

// A package that cannot serve is worth one line, not one for each store or kernel.
void warn_once(const std::string& path, const std::string& message) {
  static std::set<std::string> warned;
  {
    const std::lock_guard lock(state_mutex());
    if (!warned.insert(path + message).second) return;
  }
  base::log_warning(message);
}

/// Paths in `folder` whose name begins so, in the order of their names; a folder that cannot be read has none.
std::vector<fs::path> entries_of(const fs::path& folder, std::string_view start) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end; item.increment(error)) {
    if (item->path().filename().string().starts_with(start)) paths.push_back(item->path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void add_folder(std::vector<std::string>& folders, const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return;
  const std::string real = base::real_path(folder.string());
  if (std::find(folders.begin(), folders.end(), real) == folders.end()) folders.push_back(real);
}

void add_site(std::vector<std::string>& folders, const fs::path& site) {
  for (const fs::path& folder : entries_of(site, kPythonPrefix)) add_folder(folders, folder);
}

/// The prefix that a folder of programs or libraries belongs to; "": none. Only the usual names count: a program that
/// lies in /tmp must not take kernels from a folder there that anybody can make.
fs::path prefix_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (name == "bin" || name == "lib" || name == "lib64") return folder.parent_path();
  if (folder.parent_path().filename() == "lib") return folder.parent_path().parent_path();  // lib/x86_64-linux-gnu
  return {};
}

/// The shared library, or the executable, that holds this code.
std::string own_file() {
  Dl_info info{};
  link_map* map = nullptr;
  const bool known =
      dladdr1(reinterpret_cast<void*>(&own_file), &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0;
  // The executable's own name is empty there, and argv[0] in `info`.
  return known && map != nullptr && map->l_name != nullptr && *map->l_name != '\0' ? map->l_name : "/proc/self/exe";
}

/// The packages that can have kernels of a target.
std::vector<std::string> packages_of(const Target& target) {
  if (target.name == portable_ptx_target().name) return {std::string(kPtxPackage)};
  std::vector<std::string> packages;
  for (const tables::ArchRow& arch : tables::kArchTable) {
    if (target.name == fmt::format("sm_{}", arch.sm) || target.name == arch.exact_target ||
        target.name == arch.family_target) {
      packages.push_back(package_of_arch(arch.sm));
    }
  }
  return packages;
}

std::string other_text(const std::string& path) {
  return fmt::format(
      "package {} has kernels made from another kernel text: they are not used; install the package that "
      "was made for this library",
      path);
}

}  // namespace

std::string package_of_arch(int sm) { return fmt::format("sm{}", sm); }
std::string package_name(std::string_view package) { return fmt::format("{}{}", kFilePrefix, package); }
std::string package_python_name(std::string_view package) { return fmt::format("{}{}", kPythonPrefix, package); }

BuildRequest whole_package(std::string_view package) {
  BuildRequest request;
  if (package == kPtxPackage) request.ptx = {portable_ptx_target()};
  for (const tables::ArchRow& arch : tables::kArchTable) {
    if (package == package_of_arch(arch.sm)) request.archs.rows = {&arch};
  }
  return request;
}

std::string package_of_file(std::string_view file_name) {
  constexpr std::string_view kZip = ".zip";
  if (!file_name.ends_with(kZip)) return {};
  std::string_view name = file_name.substr(0, file_name.size() - kZip.size());
  if (name.starts_with(kFilePrefix)) {
    name.remove_prefix(kFilePrefix.size());
    name = name.substr(0, name.find('-'));  // a version may follow
  }
  const BuildRequest request = whole_package(name);
  return request.archs.rows.empty() && request.ptx.empty() ? std::string() : std::string(name);
}

std::vector<std::string> package_folders_of(const std::string& file) {
  std::vector<std::string> folders;
  // A link to a library is as good a neighbour as the library: environments are made of links.
  for (const fs::path& folder :
       {fs::path(base::real_path(base::folder_of(file))), fs::path(base::folder_of(base::real_path(file)))}) {
    if (folder.filename() == "moesaic") add_site(folders, folder.parent_path());
    const fs::path prefix = prefix_of(folder);
    if (prefix.empty()) continue;
    for (const fs::path& python : entries_of(prefix / "lib", "python3")) {
      add_site(folders, python / "site-packages");
      add_site(folders, python / "dist-packages");
    }
    add_folder(folders, prefix / kBelowPrefix);
  }
  return folders;
}

std::vector<std::string> package_folders() {
  if (!base::env_switch(base::Env::kPackages).value_or(true)) return {};
  {
    const std::lock_guard lock(state_mutex());
    if (folders_for_test()) return *folders_for_test();
  }
  std::vector<std::string> folders = package_folders_of(own_file());
  add_folder(folders, kSystemPackageFolder);
  return folders;
}

void set_package_folders_for_test(std::optional<std::vector<std::string>> folders) {
  const std::lock_guard lock(state_mutex());
  folders_for_test() = std::move(folders);
}

std::vector<PackageFile> package_files(const std::vector<std::string>& folders) {
  std::vector<PackageFile> files;
  for (const std::string& folder : folders) {
    for (const fs::path& path : entries_of(folder, "")) {
      if (path.extension() == ".zip") files.push_back({path.string(), package_of_file(path.filename().string())});
    }
  }
  return files;
}

PackageState inspect_package(const PackageFile& file) {
  PackageState state;
  if (file.package.empty()) {
    state.why_not = fmt::format("it is not named as a package is ({}, or sm followed by one of {})", kPtxPackage,
                                tables::known_archs());
    return state;
  }
  std::set<std::string> known;
  for (const PlannedKernel& planned : plan_set(whole_package(file.package))) known.insert(planned.identity);
  state.wanted = known.size();
  try {
    const Bundle bundle(file.path);
    state.kernels = bundle.records().size();
    state.bytes = fs::file_size(file.path);
    state.made_by = bundle.made_by();
    state.why_not = bundle.refusal();
    if (state.why_not.empty()) state.why_not = bundle.distrust(base::env_value(base::Env::kBundleKey));
    if (!state.why_not.empty()) return state;
    const std::vector<std::string> damage = bundle.damage();
    if (!damage.empty()) state.why_not = fmt::format("it is damaged: {}", damage.front());
    for (const KernelRecord& record : bundle.records()) {
      if (state.why_not.empty() && known.count(record.identity) == 0) state.why_not = other_text(file.path);
    }
  } catch (const std::exception& error) {
    state.why_not = error.what();
  }
  return state;
}

Packages::Packages() : on_(base::env_switch(base::Env::kPackages).value_or(true)) {}

void Packages::refuse(Opened& package, const std::string& reason) {
  package.refusal = reason;
  warn_once(package.file.path, fmt::format("kernel package not used: {}", reason));
}

std::vector<Packages::Opened*> Packages::opened_for(const Target& target) {
  if (!listed_) {
    listed_ = true;
    for (PackageFile& file : package_files(package_folders())) packages_.push_back({std::move(file), nullptr, {}});
  }
  std::vector<Opened*> found;
  const auto ours = packages_of(target);
  for (Opened& package : packages_) {
    if (std::find(ours.begin(), ours.end(), package.file.package) == ours.end()) continue;
    found.push_back(&package);
    if (package.bundle != nullptr || !package.refusal.empty()) continue;
    try {
      package.bundle = open_bundle(package.file.path);
    } catch (const Error& error) {
      refuse(package, error.what());
    }
  }
  return found;
}

std::optional<Cubin> Packages::find(const KernelInstance& instance, const std::string& identity) {
  if (!on_) return std::nullopt;
  const std::lock_guard lock(mutex_);
  for (Opened* package : opened_for(instance.target)) {
    if (!package->refusal.empty()) continue;
    try {
      if (auto found = package->bundle->get(identity)) return found;
    } catch (const Error& error) {
      refuse(*package, error.what());
      continue;
    }
    if (package->bundle->other_text(instance, identity) != nullptr) {
      warn_once(package->file.path, other_text(package->file.path));
    }
  }
  return std::nullopt;
}

std::string Packages::why_not(const KernelInstance& instance, const std::string& identity) {
  if (!on_) return fmt::format("; kernel packages are off ({})", base::env_name(base::Env::kPackages));
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const Opened* package : opened_for(instance.target)) {
    const std::string& path = package->file.path;
    const bool stale = package->bundle != nullptr && package->bundle->other_text(instance, identity) != nullptr;
    text += "; " + (!package->refusal.empty() ? "not used: " + package->refusal
                    : stale                   ? other_text(path)
                                              : fmt::format("package {} does not have it", path));
  }
  if (!text.empty()) return text;
  std::string names;
  for (const std::string& package : packages_of(instance.target)) {
    names += (names.empty() ? "" : " or ") + package_name(package);
  }
  return names.empty() ? "" : fmt::format("; no package {} is installed", names);
}

}  // namespace moesaic::module
