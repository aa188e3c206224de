// SPDX-License-Identifier: Apache-2.0
// Where kernel packages lie, and what a store takes from them.
#include "module/packages.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>

#include "base/env.h"
#include "base/fs.h"
#include "base/log.h"
#include "module/aot.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFilePrefix = "moesaic-kernels-", kPythonPrefix = "moesaic_kernels_", kArch = "sm";
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

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

/// Paths in `folder` whose name begins so, in the order of their names; a folder that cannot be read has none.
std::vector<fs::path> entries_of(const fs::path& folder, std::string_view start) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end; item.increment(error)) {
    if (starts_with(item->path().filename().string(), start)) paths.push_back(item->path());
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

std::vector<const tables::ArchRow*> archs_of(const Target& target) {
  std::vector<const tables::ArchRow*> archs;
  for (const tables::ArchRow& arch : tables::kArchTable) {
    if (target.name == fmt::format("sm_{}", arch.sm) || target.name == arch.exact_target ||
        target.name == arch.family_target) {
      archs.push_back(&arch);
    }
  }
  return archs;
}

std::string other_text(const std::string& path) {
  return fmt::format(
      "package {} has kernels made from another kernel text: they are not used; install the package that "
      "was made for this library",
      path);
}

}  // namespace

std::string package_arch_name(int sm) { return fmt::format("{}{}", kArch, sm); }
std::string package_name(int sm) { return fmt::format("{}{}", kFilePrefix, package_arch_name(sm)); }
std::string package_python_name(int sm) { return fmt::format("{}{}", kPythonPrefix, package_arch_name(sm)); }

int package_sm(std::string_view file_name) {
  constexpr std::string_view kZip = ".zip";
  if (file_name.size() < kZip.size() || file_name.substr(file_name.size() - kZip.size()) != kZip) return 0;
  std::string_view name = file_name.substr(0, file_name.size() - kZip.size());
  const bool whole = starts_with(name, kFilePrefix);
  if (whole) name.remove_prefix(kFilePrefix.size());
  if (!starts_with(name, kArch)) return 0;
  name.remove_prefix(kArch.size());
  int sm = 0;
  const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), sm);
  const bool ended = stop == name.data() + name.size() || (whole && *stop == '-');
  return error == std::errc() && ended && tables::find_arch(sm) != nullptr ? sm : 0;
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
      if (path.extension() == ".zip") files.push_back({path.string(), package_sm(path.filename().string())});
    }
  }
  return files;
}

PackageState inspect_package(const PackageFile& file) {
  PackageState state;
  const tables::ArchRow* arch = tables::find_arch(file.sm);
  if (arch == nullptr) {
    state.why_not = fmt::format("it is not named as a package is (sm followed by one of {})", tables::known_archs());
    return state;
  }
  BuildRequest request;
  request.archs.rows = {arch};
  std::set<std::string> known;
  for (const PlannedKernel& planned : plan_set(request)) known.insert(planned.identity);
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
  const auto archs = archs_of(target);
  for (Opened& package : packages_) {
    const auto is_ours = [&](const tables::ArchRow* arch) { return arch->sm == package.file.sm; };
    if (std::none_of(archs.begin(), archs.end(), is_ours)) continue;
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
  if (!text.empty() || instance.target.is_ptx()) return text;
  std::string names;
  for (const tables::ArchRow* arch : archs_of(instance.target)) {
    names += (names.empty() ? "" : " or ") + package_name(arch->sm);
  }
  return names.empty() ? "" : fmt::format("; no package {} is installed", names);
}

}  // namespace moesaic::module
