// SPDX-License-Identifier: Apache-2.0
// dlopen, and what to say when it finds nothing.
#include "cli/bench_library.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moesaic::cli {

BenchLibrary::BenchLibrary(const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    library_ = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library_ != nullptr) return;
  }
  why_not_ = fmt::format("none of {} can be loaded (LD_LIBRARY_PATH takes other folders)", fmt::join(files, ", "));
}

void* BenchLibrary::symbol(const char* name) {
  if (!why_not_.empty()) return nullptr;
  void* found = dlsym(library_, name);
  if (found == nullptr) why_not_ = fmt::format("the library that was loaded has no {}", name);
  return found;
}

}  // namespace moesaic::cli
