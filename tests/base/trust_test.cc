// SPDX-License-Identifier: Apache-2.0
// Who is trusted with files that hold code.
#include "base/trust.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/fs.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::base {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

constexpr uid_t kMe = 1000, kOther = 1001;
constexpr gid_t kMyGroup = 1000, kUsers = 100;

Ownership of(uid_t owner, gid_t group, mode_t mode, uid_t user = kMe, uid_t home_owner = kMe) {
  return {owner, group, mode, user, kMyGroup, home_owner};
}

TEST(Trust, OwnFilesAndThoseOfRootThatNobodyElseMayWrite) {
  for (const mode_t mode : {0600u, 0644u, 0755u, 0400u, S_IFDIR | 0755u}) {
    EXPECT_EQ(why_untrusted(of(kMe, kUsers, mode), "x"), "");
    EXPECT_EQ(why_untrusted(of(0, kUsers, mode), "x"), "");
  }
  EXPECT_EQ(why_untrusted(of(kMe, kMyGroup, 0664), "x"), "") << "the user's own group, as umask 002 leaves it";
  EXPECT_EQ(why_untrusted(of(0, 0, 0664), "x"), "");
}

TEST(Trust, RefusalsSayWhatToDo) {
  const auto expect_words = [](const std::string& why, const std::vector<std::string>& words) {
    for (const std::string& word : words) EXPECT_NE(why.find(word), std::string::npos) << why;
  };
  expect_words(why_untrusted(of(kOther, kMyGroup, 0600), "/c/x"), {"/c/x belongs to user 1001", "user 1000", "chown"});
  expect_words(why_untrusted(of(kMe, kMyGroup, 0666), "/c/x"), {"everybody", "0666", "`chmod go-w /c/x`"});
  expect_words(why_untrusted(of(0, 0, S_IFDIR | 01777), "/tmp"), {"everybody", "1777", "a folder of your own"});
  expect_words(why_untrusted(of(kMe, kMyGroup, S_IFDIR | 0777), "/c"), {"everybody", "0777", "`chmod -R go-w /c`"});
  expect_words(why_untrusted(of(kMe, kUsers, 0664), "/c/x"), {"group 100", "0664", "`chmod g-w /c/x`"});
}

TEST(Trust, RootAlsoTrustsTheOwnerOfHome) {
  EXPECT_EQ(why_untrusted(of(kMe, kMyGroup, 0644, 0, kMe), "x"), "");
  EXPECT_NE(why_untrusted(of(kMe, kMyGroup, 0644, 0, 0), "x"), "");
  EXPECT_NE(why_untrusted(of(kMe, kMyGroup, 0644, 0, kOther), "x"), "");
  EXPECT_NE(why_untrusted(of(kOther, kMyGroup, 0644, kMe, kOther), "x"), "") << "others look at themselves and root";
}

TEST(Trust, FilesOnDisk) {
  const TemporaryFolder folder;
  EXPECT_EQ(why_untrusted(folder / "none"), "");
  EXPECT_EQ(why_untrusted(folder.path()), "");
  std::ofstream(folder / "file") << "12345";
  ASSERT_EQ(chmod((folder / "file").c_str(), 0644), 0);
  EXPECT_EQ(read_trusted_file(folder / "file", 5), "12345");
  std::filesystem::create_symlink(folder / "file", folder / "link");
  ASSERT_EQ(chmod((folder / "file").c_str(), 0646), 0);
  for (const char* name : {"file", "link"}) {
    EXPECT_NE(why_untrusted(folder / name), "");
    expect_error(ErrorKind::kIo, {name, "everybody", "chmod"}, [&] { read_trusted_file(folder / name, 5); });
  }
  EXPECT_EQ(read_file(folder / "file", 5), "12345");
}

TEST(Trust, FoldersThatHoldAFileAndWhatItsNameLeadsTo) {
  const TemporaryFolder folder;
  namespace fs = std::filesystem;
  for (const char* name : {"real", "links", "open"}) fs::create_directory(folder / name);
  fs::permissions(folder / "real", fs::perms(0755));
  fs::permissions(folder / "links", fs::perms(0755));
  std::ofstream(folder / "real/file") << "12345";
  fs::create_symlink(folder / "real/file", folder / "links/file");
  fs::create_symlink(folder / "real", folder / "links/folder");
  for (const char* name : {"real/file", "links/file", "links/folder/file", "real/none"}) {
    EXPECT_EQ(why_folders_untrusted(folder / name), "") << name;
  }
  fs::permissions(folder / "real", fs::perms(0777));
  for (const char* name : {"real/file", "links/file", "links/folder/file", "real/none"}) {
    const std::string why = why_folders_untrusted(folder / name);
    EXPECT_NE(why.find("everybody may write to"), std::string::npos) << name << ": " << why;
  }
  const fs::path before = fs::current_path();
  fs::current_path(folder / "real");
  EXPECT_NE(why_folders_untrusted("file").find(real_path(folder / "real")), std::string::npos) << "not as .";
  fs::current_path(before);
  fs::permissions(folder / "real", fs::perms(0755));
  fs::permissions(folder / "links", fs::perms(0777));
  EXPECT_EQ(why_folders_untrusted(folder / "real/file"), "");
  EXPECT_NE(why_folders_untrusted(folder / "links/file"), "");
  // Folders of the system, as packages lie in, and the one that everybody shares.
  EXPECT_EQ(why_folders_untrusted("/usr/share/file"), "");
  EXPECT_EQ(why_folders_untrusted("/etc/passwd"), "");
  struct stat tmp {};
  if (stat("/tmp", &tmp) == 0 && (tmp.st_mode & S_IWOTH) != 0) {
    EXPECT_NE(why_folders_untrusted("/tmp/file"), "");
  }
}

TEST(Trust, FoldersAreMadeForTheirOwnerAlone) {
  const TemporaryFolder folder;
  const mode_t old = umask(0);
  make_folders(folder / "a/b//c/");
  write_file_atomic(folder / "a/b/c/file", "x");
  umask(old);
  for (const char* name : {"a", "a/b", "a/b/c", "a/b/c/file"}) EXPECT_EQ(why_untrusted(folder / name), "") << name;
  make_folders(folder / "a/b");
  make_folders("/dev/null/a");  // what cannot be made is no error here
}

}  // namespace
}  // namespace moesaic::base
