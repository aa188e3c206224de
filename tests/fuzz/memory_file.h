// SPDX-License-Identifier: Apache-2.0
// A file in memory, for parsers that take a path.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <string>
#include <string_view>

namespace moesaic::testing {

/// One file of a process, written anew by each `hold`.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fchmod(fd_, 0600) != 0) std::abort();  // made for everybody to write
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { close(fd_); }

  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }
  /// The path of a file with these bytes.
  std::string hold(std::string_view bytes) const {
    const bool written =
        ftruncate(fd_, 0) == 0 && pwrite(fd_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size());
    if (!written) std::abort();
    return path();
  }

 private:
  int fd_;
};

}  // namespace moesaic::testing
