// SPDX-License-Identifier: Apache-2.0
// Made by the system's calls, removed by the C++ library.
#include "base/temporary_folder.h"

#include <fmt/format.h>
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): mkdtemp
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/fs.h"
#include "moesaic/error.h"

namespace moesaic::base {
namespace {

[[noreturn]] void throw_not_made(const std::string& path) {
  throw Error(ErrorKind::kIo, fmt::format("make folder {}: {}", path, std::strerror(errno)));
}

}  // namespace

TemporaryFolder TemporaryFolder::of_system(const std::string& purpose) {
  std::error_code error;
  const auto system = std::filesystem::temp_directory_path(error);
  std::string path = (error ? std::filesystem::path("/tmp") : system) / fmt::format("moesaic-{}-XXXXXX", purpose);
  if (::mkdtemp(path.data()) == nullptr) throw_not_made(path);
  return TemporaryFolder(std::move(path));
}

TemporaryFolder TemporaryFolder::beside(const std::string& path) {
  std::string folder = temporary_beside(path);
  if (::mkdir(folder.c_str(), 0755) != 0) throw_not_made(folder);
  return TemporaryFolder(std::move(folder));
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace moesaic::base
