// SPDX-License-Identifier: Apache-2.0
// A regular file mapped read-only.
#include "checkpoint/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "checkpoint/printable.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {
namespace {

[[noreturn]] void fail(const std::string& path, const char* step) {
  std::string reason = std::generic_category().message(errno);
  throw Error(ErrorKind::kIo, fmt::format("{} {}: {}", step, in_quotes(path), reason));
}

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail(path, "cannot open");
  struct stat status {};
  if (fstat(file.fd, &status) != 0) fail(path, "cannot stat");
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorKind::kIo, fmt::format("cannot read {}: not a regular file", in_quotes(path)));
  }
  if (status.st_size == 0) return;
  void* mapping = mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (mapping == MAP_FAILED) fail(path, "cannot map");
  data_ = static_cast<const std::byte*>(mapping);
  size_ = static_cast<std::size_t>(status.st_size);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

void release_pages(const void* data, std::size_t size) noexcept {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(data) + page - 1) / page * page;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(data) + size) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

bool path_exists(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0;
}

}  // namespace moesaic::checkpoint
