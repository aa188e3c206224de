// SPDX-License-Identifier: Apache-2.0
// Files: whole reads with a limit, whole-or-not-at-all writes, and locks that die with their process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace moesaic::base {

/// The bytes of a file. Throws Error(kIo): missing, unreadable, no regular file, or larger than `max_bytes`.
std::string read_file(const std::string& path, std::uint64_t max_bytes);

/// Writes all of it to an open file; `path` is its name for messages. Throws Error(kIo).
void write_all(int fd, std::string_view bytes, const std::string& path);
/// Writes and fsyncs a new or truncated file. Throws Error(kIo).
void write_file_synced(const std::string& path, std::string_view bytes);
/// Makes a folder's entries durable; ignores file systems that cannot.
void sync_folder(const std::string& folder) noexcept;
/// Writes to a temporary file beside `path`, fsyncs, renames: readers see the old bytes or the new ones. Throws
/// Error(kIo), leaving nothing behind.
void write_file_atomic(const std::string& path, std::string_view bytes);

/// Fsyncs a file that another program wrote and gives it its name, on the same file system. Throws Error(kIo).
void move_file_synced(const std::string& from, const std::string& to);

/// Makes a folder and those that it lies in, for others to read at most; errors show when it is used.
void make_folders(const std::string& folder);
/// A name beside `path` that no other process or thread uses: "<path>.tmp.<pid>.<n>".
std::string temporary_beside(const std::string& path);
/// The real path, or `path` itself where it does not exist.
std::string real_path(const std::string& path);
/// The folder that holds `path`; "." for a bare name.
std::string folder_of(const std::string& path);

/// For tests: file locks fail with this error number (ENOLCK, as on a network file system without a lock service) in
/// this process; 0: they work again.
void fail_locks_for_test(int error) noexcept;

/// An exclusive lock on a lock file. Held until destroyed; the kernel drops it when the process dies, so nothing blocks
/// after a kill. The file names its holder and is removed with the lock.
class FileLock {
 public:
  /// Waits for the lock, asking `give_up` (where given) at least every 50 ms. nullopt: it said yes, or the file cannot
  /// be made (folder missing, not writable, disk full). On a file system that cannot lock the result keeps nobody out.
  static std::optional<FileLock> acquire(const std::string& path, const std::function<bool()>& give_up = {});
  /// Who holds the lock: "process 12 on host x"; "another process" where that cannot be read.
  static std::string holder(const std::string& path);
  /// False where the file system cannot lock.
  bool keeps_others_out() const noexcept { return locked_; }

  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&&) = delete;
  FileLock(const FileLock&) = delete;
  ~FileLock();

 private:
  static std::optional<FileLock> try_acquire(const std::string& path, bool& held);
  FileLock(int fd, std::string path, bool locked) : fd_(fd), path_(std::move(path)), locked_(locked) {}
  int fd_;
  std::string path_;
  bool locked_;
};

/// Says to every process that `path` is in use, until the result and the process are gone; the file needs no writing.
/// null: it is not there, or the file system cannot lock.
std::shared_ptr<const void> hold_file(const std::string& path);
/// The same for an open file, named `path`, until it is closed. False: it has lost its name. True also where the file
/// system cannot lock.
bool hold_open_file(int fd, const std::string& path) noexcept;
/// Keeps `path` from being held while the result lives. null: it is held, or that cannot be known.
std::shared_ptr<const void> claim_file(const std::string& path);
/// Sets a file's time to now; does nothing where that is not allowed.
void touch_file(const std::string& path) noexcept;

}  // namespace moesaic::base
