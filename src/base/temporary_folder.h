// SPDX-License-Identifier: Apache-2.0
// A folder that is removed with all it holds.
#pragma once

#include <string>
#include <utility>

namespace moesaic::base {

class TemporaryFolder {
 public:
  /// A new folder in the system's folder for temporary files, named after `purpose`. Throws Error(kIo).
  static TemporaryFolder of_system(const std::string& purpose);
  /// A new folder beside `path`, on the same file system. Throws Error(kIo).
  static TemporaryFolder beside(const std::string& path);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const noexcept { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  explicit TemporaryFolder(std::string path) noexcept : path_(std::move(path)) {}

  std::string path_;
};

}  // namespace moesaic::base
