// SPDX-License-Identifier: Apache-2.0
// Files under construction: published, given up, left behind by the killed.
#include "base/temporary_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>

#include "base/fs.h"
#include "tests/module/child.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::base {
namespace {

namespace fs = std::filesystem;
using testing::Child;
using testing::expect_error;
using testing::TemporaryFolder;

std::ptrdiff_t files_in(const std::string& folder) {
  return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
}

TEST(TemporaryFile, PublishedOrGone) {
  const TemporaryFolder folder;
  {
    TemporaryFile file(folder / "a");
    file.write("one");
    file.publish();
  }
  EXPECT_EQ(read_file(folder / "a", 10), "one");
  {
    const TemporaryFile file(folder / "a");
    file.write("two");
  }
  EXPECT_EQ(read_file(folder / "a", 10), "one");
  EXPECT_EQ(files_in(folder.path()), 1);
  expect_error(ErrorKind::kIo, {"missing/a", "No such file"}, [&] { TemporaryFile file(folder / "missing/a"); });
}

TEST(TemporaryFile, WhatAKilledProcessLeftGoesWithTheNextAndWhatIsInUseStays) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  const Child child([&] {
    const TemporaryFile file(path);
    file.write("half");
    kill(getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(child.wait(), 128 + SIGKILL);
  EXPECT_EQ(files_in(folder.path()), 1);
  for (const char* foreign : {"a.tmp.x", "a.tmp.12", "a.tmp.1.2.3", "a.tmp.1.2x", "b.tmp.1.2", "a.tmp..1"}) {
    std::ofstream(folder / foreign) << "not ours";
  }
  fs::create_directory(folder / "a.tmp.1.1");
  std::optional<TemporaryFile> in_use(path);
  EXPECT_EQ(files_in(folder.path()), 8);
  {
    TemporaryFile next(path);
    EXPECT_EQ(files_in(folder.path()), 9);
    next.publish();
  }
  in_use->write("late");
  in_use->publish();
  in_use.reset();
  EXPECT_EQ(read_file(path, 10), "late");
  EXPECT_EQ(files_in(folder.path()), 8);
}

TEST(TemporaryFile, WithoutLocksNothingIsTakenForLeftBehind) {
  const TemporaryFolder folder;
  std::ofstream(folder / "a.tmp.1.2") << "of a process that may be alive";
  fail_locks_for_test(ENOLCK);
  write_file_atomic(folder / "a", "one");
  fail_locks_for_test(0);
  EXPECT_EQ(files_in(folder.path()), 2);
  write_file_atomic(folder / "a", "two");
  EXPECT_EQ(files_in(folder.path()), 1);
}

}  // namespace
}  // namespace moesaic::base
