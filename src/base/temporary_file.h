// SPDX-License-Identifier: Apache-2.0
// A file under construction: it gets its name whole or not at all, and one that a killed process left is removed.
#pragma once

#include <string>
#include <string_view>

namespace moesaic::base {

/// A new empty file beside `path`, locked while the process lives, removed unless `publish` succeeds. Files for the
/// same `path` that nobody has locked are what killed processes left, and go first; where the file system cannot lock
/// they stay.
class TemporaryFile {
 public:
  /// Throws Error(kIo): it cannot be made.
  explicit TemporaryFile(const std::string& path);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  /// Its name until it is published, for writers that open it by name.
  const std::string& name() const noexcept { return name_; }
  /// Appends. Throws Error(kIo).
  void write(std::string_view bytes) const;
  /// Makes it durable and names it `path`, in the place of what is there. Throws Error(kIo).
  void publish();

 private:
  std::string path_, name_;
  int fd_ = -1;
  bool published_ = false;
};

}  // namespace moesaic::base
