// SPDX-License-Identifier: Apache-2.0
// POSIX file calls behind base/fs.h.
#include "base/fs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

#include "base/temporary_file.h"
#include "base/trust.h"
#include "moesaic/error.h"

namespace moesaic::base {
namespace {

[[noreturn]] void throw_io(const char* operation, const std::string& path, int error) {
  throw Error(ErrorKind::kIo, fmt::format("{} {}: {}", operation, path, std::strerror(error)));
}

// A file descriptor that closes itself.
struct Fd {
  int value;
  explicit Fd(int fd) : value(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (value >= 0) ::close(value);
  }
};

std::atomic<int> lock_error_for_test{0};

// flock that goes on after signals; false: errno says why.
bool lock_file(int fd, int operation) {
  if (const int error = lock_error_for_test; error != 0) {
    errno = error;
    return false;
  }
  int result = 0;
  do {
    result = ::flock(fd, operation);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

// True where `path` still names the open file.
bool is_file_at(int fd, const std::string& path) {
  struct stat held {
  }, named{};
  return ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

}  // namespace

namespace {

std::string read_whole(const std::string& path, std::uint64_t max_bytes, bool only_trusted) {
  // Without O_NONBLOCK a named pipe in a file's place would wait for a writer for ever; regular files do not care.
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (fd.value < 0 || ::fstat(fd.value, &status) != 0) throw_io("read", path, errno);
  if (!S_ISREG(status.st_mode)) throw Error(ErrorKind::kIo, fmt::format("read {}: not a regular file", path));
  if (only_trusted) {
    const std::string why = why_untrusted(fd.value, path);
    if (!why.empty()) throw Error(ErrorKind::kIo, why);
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > max_bytes) {
    throw Error(ErrorKind::kIo, fmt::format("read {}: {} bytes, at most {} are accepted", path, size, max_bytes));
  }
  std::string bytes(size, '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::read(fd.value, bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_io("read", path, errno);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace

std::string read_file(const std::string& path, std::uint64_t max_bytes) { return read_whole(path, max_bytes, false); }

std::string read_trusted_file(const std::string& path, std::uint64_t max_bytes) {
  return read_whole(path, max_bytes, true);
}

void write_all(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_io("write", path, errno);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void write_file_synced(const std::string& path, std::string_view bytes) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (fd.value < 0) throw_io("write", path, errno);
  write_all(fd.value, bytes, path);
  if (::fsync(fd.value) != 0) throw_io("fsync", path, errno);
}

void sync_folder(const std::string& folder) noexcept {
  const Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.value >= 0) ::fsync(fd.value);
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  TemporaryFile file(path);
  file.write(bytes);
  file.publish();
}

void make_folders(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0755) == 0 || errno != ENOENT) return;
  const std::string parent = std::filesystem::path(folder).parent_path().string();
  if (parent.empty() || parent == folder) return;
  make_folders(parent);
  ::mkdir(folder.c_str(), 0755);
}

void move_file_synced(const std::string& from, const std::string& to) {
  const Fd fd(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.value < 0 || ::fsync(fd.value) != 0) throw_io("fsync", from, errno);
  if (std::rename(from.c_str(), to.c_str()) != 0) throw_io("rename to", to, errno);
  sync_folder(folder_of(to));
}

std::string temporary_beside(const std::string& path) {
  static std::atomic<unsigned> counter{0};
  return fmt::format("{}.tmp.{}.{}", path, ::getpid(), counter.fetch_add(1));
}

std::string real_path(const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  return error ? path : real.string();
}

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

void fail_locks_for_test(int error) noexcept { lock_error_for_test = error; }

std::optional<FileLock> FileLock::try_acquire(const std::string& path, bool& held) {
  held = false;
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return std::nullopt;
    if (!lock_file(fd, LOCK_EX | LOCK_NB)) {
      held = errno == EWOULDBLOCK;
      if (!held) return FileLock(fd, path, false);
      ::close(fd);
      return std::nullopt;
    }
    // The former holder removed the file on release: what we locked may no longer be what the next one opens.
    if (is_file_at(fd, path)) {
      char host[256] = {};
      ::gethostname(host, sizeof(host) - 1);
      const std::string text = fmt::format("process {} on host {}\n", ::getpid(), host);
      // Only for messages: a full disk leaves them without it.
      [[maybe_unused]] const bool written = ::ftruncate(fd, 0) == 0 && ::pwrite(fd, text.data(), text.size(), 0) > 0;
      return FileLock(fd, path, true);
    }
    ::close(fd);
  }
}

std::optional<FileLock> FileLock::acquire(const std::string& path, const std::function<bool()>& give_up) {
  constexpr std::chrono::milliseconds kLongestSleep{50};
  for (std::chrono::milliseconds sleep{1};; sleep = std::min(2 * sleep, kLongestSleep)) {
    bool held = false;
    if (auto lock = try_acquire(path, held)) return lock;
    if (!held || (give_up && give_up())) return std::nullopt;
    std::this_thread::sleep_for(sleep);
  }
}

std::string FileLock::holder(const std::string& path) {
  try {
    std::string text = read_file(path, 512);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    if (text.rfind("process ", 0) == 0) return text;
  } catch (const Error&) {
    // released meanwhile
  }
  return "another process";
}

FileLock::FileLock(FileLock&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), locked_(other.locked_) {}

FileLock::~FileLock() {
  if (fd_ < 0) return;
  // The file may have been replaced meanwhile (a cleared cache): another process' lock is not ours to remove.
  if (is_file_at(fd_, path_)) ::unlink(path_.c_str());
  ::close(fd_);
}

namespace {

std::shared_ptr<const void> locked_file(const std::string& path, int operation) {
  auto fd = std::make_shared<const Fd>(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  // Whoever had claimed the file may have removed it meanwhile.
  if (fd->value < 0 || !lock_file(fd->value, operation) || !is_file_at(fd->value, path)) return nullptr;
  return fd;
}

}  // namespace

std::shared_ptr<const void> hold_file(const std::string& path) { return locked_file(path, LOCK_SH); }

std::shared_ptr<const void> claim_file(const std::string& path) { return locked_file(path, LOCK_EX | LOCK_NB); }

bool hold_open_file(int fd, const std::string& path) noexcept {
  return !lock_file(fd, LOCK_SH) || is_file_at(fd, path);
}

void touch_file(const std::string& path) noexcept { ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0); }

}  // namespace moesaic::base
