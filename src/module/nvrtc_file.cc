// SPDX-License-Identifier: Apache-2.0
// The search for libnvrtc: a list of (how, folders) that is walked until one holds a library that is new enough.
#include "module/nvrtc_file.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "base/env.h"
#include "base/fs.h"
#include "module/build_id.h"
#include "moesaic/error.h"
#include "tables/arch_table.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using base::Env;

constexpr const char* kLibraryPrefix = "libnvrtc.so";

std::vector<std::string> matches(const std::string& pattern) {
  std::vector<std::string> paths;
  glob_t found{};
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  return paths;
}

// Glob patterns of folders that we did not write must not act as patterns.
std::string escaped(const std::string& folder) {
  std::string text;
  for (const char c : folder) {
    if (c == '*' || c == '?' || c == '[' || c == '\\') text.push_back('\\');
    text.push_back(c);
  }
  return text;
}

// 13000 for ".../libnvrtc-builtins.so.13.0.88"; 0 where the name tells nothing.
int version_in_name(const std::string& path) {
  const std::string name = fs::path(path).filename().string();
  const std::size_t so = name.find(".so.");
  if (so == std::string::npos) return 0;
  const char* at = name.data() + so + 4;
  const char* end = name.data() + name.size();
  int major = 0, minor = 0;
  const auto first = std::from_chars(at, end, major);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return 0;
  if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc()) return 0;
  return 1000 * major + 10 * minor;
}

// A toolkit keeps the version in libnvrtc's own real name, a wheel only in that of the builtins library beside it.
int version_of(const std::string& library) {
  const int own = version_in_name(library);
  if (own != 0) return own;
  for (const std::string& builtins : matches(escaped(base::folder_of(library)) + "/libnvrtc-builtins.so.*")) {
    const int version = version_in_name(builtins);
    if (version != 0) return version;
  }
  return 0;
}

// The newest libnvrtc of a folder, as a real path; "" where there is none.
std::string library_in(const std::string& folder) {
  std::vector<std::string> found;
  for (const std::string& path : matches(escaped(folder) + "/" + kLibraryPrefix + "*")) {
    std::error_code error;
    if (fs::is_regular_file(path, error)) found.push_back(base::real_path(path));
  }
  const auto newest = std::max_element(found.begin(), found.end(), [](const std::string& a, const std::string& b) {
    return version_of(a) < version_of(b);
  });
  return newest == found.end() ? std::string() : *newest;
}

// Where libnvrtc lies below the root of a toolkit, an unpacked wheel or a site folder.
std::vector<std::string> library_folders(const std::string& root) {
  return {root,
          root + "/lib64",
          root + "/lib",
          root + "/targets/x86_64-linux/lib",
          root + "/nvidia/cu13/lib",
          root + "/nvidia/cuda_nvrtc/lib"};
}

std::vector<std::string> split_paths(const std::string& text) {
  std::vector<std::string> paths;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t end = std::min(text.find(':', begin), text.size());
    if (end > begin) paths.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return paths;
}

// Folders named in a file of the dynamic loader's configuration, its include lines followed once.
void add_loader_config(const std::string& file, int depth, std::vector<std::string>& folders) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const std::size_t first = line.find_first_not_of(" \t");
    if (first == std::string::npos || line[first] == '#') continue;
    line = line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
    if (line.rfind("include ", 0) != 0) {
      folders.push_back(line);
    } else if (depth > 0) {
      for (const std::string& included : matches(line.substr(8))) add_loader_config(included, depth - 1, folders);
    }
  }
}

std::vector<std::string> loader_folders() {
  std::vector<std::string> folders = split_paths(base::env_value(Env::kLibraryPath).value_or(""));
  add_loader_config("/etc/ld.so.conf", 1, folders);
  for (const char* folder :
       {"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"}) {
    folders.emplace_back(folder);
  }
  return folders;
}

// Prefixes of the Python in use: of this process (an interpreter that loaded the library), of an activated
// environment, and of the first python3 of PATH.
std::vector<std::string> python_prefixes() {
  std::vector<std::string> prefixes;
  const auto add_interpreter = [&prefixes](const std::string& path) {
    if (fs::path(path).filename().string().rfind("python3", 0) == 0) {
      prefixes.push_back(base::folder_of(base::folder_of(path)));
    }
  };
  if (const auto environment = base::env_value(Env::kVirtualEnv)) prefixes.push_back(*environment);
  add_interpreter(base::real_path("/proc/self/exe"));
  for (const std::string& folder : split_paths(base::env_value(Env::kPath).value_or(""))) {
    std::error_code error;
    if (!fs::exists(folder + "/python3", error)) continue;
    prefixes.push_back(base::folder_of(folder));  // that of a virtual environment, whose python3 is a link
    add_interpreter(base::real_path(folder + "/python3"));
    break;
  }
  return prefixes;
}

// The folder that the package with this library (or executable) lies in, where NVRTC's package may lie beside it: the
// site folder of an environment that need be neither activated nor on PATH.
std::string own_site_folder() {
  Dl_info info{};
  const bool known = ::dladdr(reinterpret_cast<const void*>(&find_nvrtc), &info) != 0 && info.dli_fname != nullptr;
  const std::string name = known ? info.dli_fname : "";
  // An executable is known by argv[0], which need be no path.
  const std::string file = name.find('/') == std::string::npos ? "/proc/self/exe" : name;
  return base::folder_of(base::folder_of(base::real_path(file)));
}

std::vector<std::string> site_folders() {
  std::vector<std::string> folders;
  const auto add = [&folders](const std::string& pattern) {
    for (const std::string& folder : matches(pattern)) folders.push_back(folder);
  };
  for (const std::string& prefix : python_prefixes()) {
    add(escaped(prefix) + "/lib/python3*/site-packages");
    add(escaped(prefix) + "/lib/python3*/dist-packages");
    add(escaped(prefix) + "/local/lib/python3*/dist-packages");
  }
  if (const auto home = base::env_value(Env::kHome)) add(escaped(*home) + "/.local/lib/python3*/site-packages");
  return folders;
}

struct Searcher {
  NvrtcSearch result;

  // Takes the library unless it is too old or no shared library at all.
  bool take(const std::string& library, const std::string& how) {
    NvrtcFile file{library, {}, version_of(library), how};
    if (file.version != 0 && file.version < kMinNvrtcVersion) {
      result.passed_over.push_back(fmt::format("{}: {} is NVRTC {}, 12.8 or later is needed", how, library,
                                               tables::cuda_version_name(file.version)));
      return false;
    }
    try {
      file.build_id = elf_build_id(library);
    } catch (const Error& error) {
      result.passed_over.push_back(fmt::format("{}: {}", how, error.what()));
      return false;
    }
    result.file = std::move(file);
    return true;
  }

  bool search(const std::vector<std::string>& folders, const std::string& how) {
    const std::size_t before = result.passed_over.size();
    for (const std::string& folder : folders) {
      const std::string library = library_in(folder);
      if (!library.empty() && take(library, how)) return true;
    }
    if (result.passed_over.size() == before) {
      result.passed_over.push_back(fmt::format("{}: no {}", how, kLibraryPrefix));
    }
    return false;
  }

  bool search_site(const std::string& site, const std::string& how) {
    return search({site + "/nvidia/cu13/lib", site + "/nvidia/cuda_nvrtc/lib"}, how);
  }
};

}  // namespace

std::string NvrtcSearch::why_none() const { return fmt::format("{}", fmt::join(passed_over, "; ")); }

NvrtcSearch find_nvrtc(const std::optional<std::string>& given) {
  Searcher searcher;
  const auto wanted = given ? given : base::env_value(Env::kNvrtc);
  if (wanted) {
    const std::string how = given ? "the given NVRTC" : base::env_name(Env::kNvrtc);
    std::error_code error;
    if (fs::is_regular_file(*wanted, error)) {
      searcher.take(base::real_path(*wanted), how);
    } else {
      searcher.search(library_folders(*wanted), fmt::format("{} ({})", how, *wanted));
    }
    return searcher.result;
  }
  if (const auto home = base::env_value(Env::kCudaHome)) {
    if (searcher.search(library_folders(*home), fmt::format("CUDA_HOME ({})", *home))) return searcher.result;
  } else {
    searcher.result.passed_over.emplace_back("CUDA_HOME: not set");
  }
  const std::string own = own_site_folder();
  std::error_code error;
  if (fs::is_directory(own + "/nvidia", error) &&
      searcher.search_site(own, fmt::format("beside this library ({})", own))) {
    return searcher.result;
  }
  if (searcher.search(loader_folders(), "loader path")) return searcher.result;
  if (searcher.search(library_folders("/usr/local/cuda"), "/usr/local/cuda")) return searcher.result;
  for (const std::string& site : site_folders()) {
    if (searcher.search_site(site, fmt::format("Python ({})", site))) return searcher.result;
  }
  return searcher.result;
}

}  // namespace moesaic::module
