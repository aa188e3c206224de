// SPDX-License-Identifier: Apache-2.0
// Names "<path>.tmp.<pid>.<n>" with flock on them: a process number alone says nothing in another container.
#include "base/temporary_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/fs.h"
#include "moesaic/error.h"

namespace moesaic::base {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void throw_io(const std::string& path, const char* step) {
  throw Error(ErrorKind::kIo, fmt::format("write {}: {}: {}", path, step, std::strerror(errno)));
}

// "12.0" in "kernels.zip.tmp.12.0".
bool is_process_and_number(const std::string& text) {
  const std::size_t dot = text.find('.');
  return dot != std::string::npos && dot > 0 && dot + 1 < text.size() && text.find_first_not_of("0123456789") == dot &&
         text.find_first_not_of("0123456789", dot + 1) == std::string::npos;
}

void remove_left_behind(const std::string& path) {
  const std::string prefix = fs::path(path).filename().string() + ".tmp.";
  std::error_code error;
  for (fs::directory_iterator item(folder_of(path), error), end; !error && item != end; item.increment(error)) {
    const std::string name = item->path().filename().string();
    std::error_code inner;
    if (name.rfind(prefix, 0) != 0 || !is_process_and_number(name.substr(prefix.size())) ||
        !fs::is_regular_file(item->symlink_status(inner))) {
      continue;
    }
    if (const auto claim = claim_file(item->path().string())) ::unlink(item->path().c_str());
  }
}

}  // namespace

TemporaryFile::TemporaryFile(const std::string& path) : path_(path) {
  remove_left_behind(path);
  for (;;) {
    name_ = temporary_beside(path);
    fd_ = ::open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd_ < 0 && errno == EEXIST) continue;  // left by a process of our number, where nothing locks
    if (fd_ < 0) throw_io(path_, "the file cannot be made");
    // Between the two calls another process may have taken it for one left behind.
    if (hold_open_file(fd_, name_)) return;
    ::close(fd_);
  }
}

TemporaryFile::~TemporaryFile() {
  if (!published_) ::unlink(name_.c_str());
  ::close(fd_);
}

void TemporaryFile::write(std::string_view bytes) const { write_all(fd_, bytes, path_); }

void TemporaryFile::publish() {
  if (::fsync(fd_) != 0) throw_io(path_, "fsync");
  if (std::rename(name_.c_str(), path_.c_str()) != 0) throw_io(path_, "rename");
  published_ = true;
  sync_folder(folder_of(path_));
}

}  // namespace moesaic::base
