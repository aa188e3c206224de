// SPDX-License-Identifier: Apache-2.0
// Files: limits, whole-or-not-at-all writes, locks.
#include "base/fs.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::base {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

std::size_t files_in(const std::string& folder) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& item : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}

TEST(Fs, AtomicWriteReplacesAndLeavesNothingElse) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "a", "one");
  write_file_atomic(folder / "a", std::string("tw\0o", 4));
  EXPECT_EQ(read_file(folder / "a", 100), std::string("tw\0o", 4));
  EXPECT_EQ(files_in(folder.path()), 1u);
}

TEST(Fs, FailedWriteLeavesNothing) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "taken");
  expect_error(ErrorKind::kIo, {"taken"}, [&] { write_file_atomic(folder / "taken", "x"); });
  EXPECT_EQ(files_in(folder.path()), 1u);
  expect_error(ErrorKind::kIo, {"missing"}, [&] { write_file_atomic(folder / "missing/a", "x"); });
}

TEST(Fs, ReadRefusesLargeMissingAndIrregularFiles) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "a", "12345");
  EXPECT_EQ(read_file(folder / "a", 5), "12345");
  expect_error(ErrorKind::kIo, {"5 bytes", "at most 4"}, [&] { read_file(folder / "a", 4); });
  expect_error(ErrorKind::kIo, {"No such file"}, [&] { read_file(folder / "b", 4); });
  expect_error(ErrorKind::kIo, {"not a regular file"}, [&] { read_file(folder.path(), 4); });
}

TEST(FileLock, ExcludesAndRemovesItsFile) {
  const TemporaryFolder folder;
  std::atomic<int> inside{0}, most{0};
  const auto work = [&] {
    for (int i = 0; i < 50; ++i) {
      const auto lock = FileLock::acquire(folder / "lock");
      ASSERT_TRUE(lock.has_value());
      const int now = ++inside;
      if (now > most) most = now;
      std::this_thread::yield();
      --inside;
    }
  };
  std::thread a(work), b(work), c(work);
  a.join();
  b.join();
  c.join();
  EXPECT_EQ(most, 1);
  EXPECT_EQ(files_in(folder.path()), 0u);
}

TEST(FileLock, DiesWithItsProcess) {
  const TemporaryFolder folder;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto lock = FileLock::acquire(folder / "lock");
    if (write(ready[1], "x", 1) != 1) _exit(1);
    pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(FileLock::acquire(folder / "lock").has_value());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  close(ready[0]);
  close(ready[1]);
}

TEST(FileLock, UnwritableFolderGivesNone) { EXPECT_FALSE(FileLock::acquire("/dev/null/lock").has_value()); }

}  // namespace
}  // namespace moesaic::base
