// SPDX-License-Identifier: Apache-2.0
// A cache that is read-only, full, without locks, shared by two builds of the library or moved about; the compiler is a
// fake one.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/fs.h"
#include "module/bundle.h"
#include "module/cache.h"
#include "module/store.h"
#include "tests/module/child.h"
#include "tests/module/fake_cubin.h"
#include "tests/module/fire_cases.h"
#include "tests/module/log_lines.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using testing::Child;
using testing::expect_error;
using testing::LogLines;
using testing::ScopedEnv;
using testing::small_instance;
using testing::TemporaryFolder;

constexpr int kNotPossibleHere = 77;
constexpr uid_t kNobody = 65534;

struct HostileDisk : ::testing::Test {
  TemporaryFolder folder;
  KernelInstance first = small_instance("sm_80"), second = small_instance("sm_90");

  ModuleOptions options(const std::string& nvrtc = MOESAIC_FAKE_NVRTC) const {
    return testing::compiling_options(folder / "cache", nvrtc);
  }
  Origin origin_of(const KernelInstance& instance, const std::string& nvrtc = MOESAIC_FAKE_NVRTC) const {
    return Store(options(nvrtc)).get(instance)->origin;
  }
  // What `body` expects holds in a process of its own. False: the process could not be made what it had to be.
  static bool holds_in_child(const std::function<bool()>& body) {
    const Child child([&] {
      if (!body()) return kNotPossibleHere;
      return ::testing::Test::HasFailure() ? 1 : 0;
    });
    const int code = child.wait();
    if (code == kNotPossibleHere) return false;
    EXPECT_EQ(code, 0);
    return true;
  }
};

// ---- read-only ------------------------------------------------------------------------------------------------------

// Root writes everywhere: it becomes somebody else, who must still be able to read the compiler.
bool become_unprivileged() {
  if (geteuid() == 0 && (setgid(kNobody) != 0 || setuid(kNobody) != 0)) return false;
  return access(MOESAIC_FAKE_NVRTC "/libnvrtc.so", R_OK) == 0;
}

void make_read_only(const std::string& root) {
  for (const auto& item : fs::recursive_directory_iterator(root)) {
    fs::permissions(item.path(), item.is_directory() ? fs::perms(0555) : fs::perms(0444));
  }
  fs::permissions(root, fs::perms(0555));
}

void make_writable(const std::string& root) {
  fs::permissions(root, fs::perms(0755));
  for (const auto& item : fs::recursive_directory_iterator(root)) fs::permissions(item.path(), fs::perms(0755));
}

TEST_F(HostileDisk, ReadOnlyCacheServesWhatItHoldsAndTheRestIsCompiledInMemory) {
  ASSERT_EQ(Child([&] { return origin_of(first) == Origin::kCompiled ? 0 : 1; }).wait(), 0);
  make_read_only(folder.path());
  const bool possible = holds_in_child([&] {
    if (!become_unprivileged()) return false;
    const LogLines log;
    Store store(options());
    EXPECT_EQ(store.get(first)->origin, Origin::kCache);
    EXPECT_TRUE(log.lines.empty());
    EXPECT_EQ(store.get(second)->origin, Origin::kCompiled);
    EXPECT_EQ(store.get(small_instance("sm_86"))->origin, Origin::kCompiled);
    EXPECT_TRUE(log.one_with({"cannot be written", "memory only", "MOESAIC_CACHE_DIR"}));
    return true;
  });
  make_writable(folder.path());
  if (!possible) GTEST_SKIP() << "the unprivileged user cannot read " MOESAIC_FAKE_NVRTC;
  EXPECT_EQ(Cache(folder / "cache").list().size(), 1u);
}

TEST_F(HostileDisk, DamagedEntryOfAReadOnlyCacheIsCompiledInMemory) {
  ASSERT_EQ(Child([&] { return origin_of(first) == Origin::kCompiled ? 0 : 1; }).wait(), 0);
  const std::string key = Cache(folder / "cache").list().at(0).key;
  fs::resize_file(folder / ("cache/" + key.substr(0, 2) + "/" + key + "/kernel.cubin"), 10);
  make_read_only(folder.path());
  const bool possible = holds_in_child([&] {
    if (!become_unprivileged()) return false;
    const LogLines log;
    EXPECT_EQ(origin_of(first), Origin::kCompiled);
    EXPECT_TRUE(log.one_with({"cannot be written"}));
    return true;
  });
  make_writable(folder.path());
  if (!possible) GTEST_SKIP() << "the unprivileged user cannot read " MOESAIC_FAKE_NVRTC;
}

// ---- full -----------------------------------------------------------------------------------------------------------

// Mounts a small file system that this process alone sees; false: it may not.
bool mount_small_disk(const std::string& at) {
  fs::create_directories(at);
  return unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("small", at.c_str(), "tmpfs", 0, "size=1m,mode=0755") == 0;
}

void fill(const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  const std::string page(4096, 'x');
  while (file.write(page.data(), static_cast<std::streamsize>(page.size())).flush()) {
  }
}

TEST_F(HostileDisk, FullDiskStillGivesKernelsAndHeals) {
  const bool possible = holds_in_child([&] {
    const std::string disk = folder / "cache";
    if (!mount_small_disk(disk)) return false;
    EXPECT_EQ(origin_of(first), Origin::kCompiled);
    fill(disk + "/filler");
    const std::string bundle = disk + "/kernels.zip";
    {
      const LogLines log;
      const auto cubin = Store(options()).get(second);
      EXPECT_EQ(cubin->origin, Origin::kCompiled);
      EXPECT_EQ(origin_of(first), Origin::kCache);
      EXPECT_TRUE(log.one_with({"memory only", "MOESAIC_CACHE_DIR"}));
      expect_error(ErrorKind::kIo, {bundle, "disk full"}, [&] { write_bundle(bundle, {{second, cubin}}); });
    }
    EXPECT_FALSE(fs::exists(bundle));
    EXPECT_EQ(Cache(disk).list().size(), 1u);
    for (const auto& item : fs::recursive_directory_iterator(disk)) {
      EXPECT_EQ(item.path().string().find(".tmp."), std::string::npos) << item.path();
    }
    fs::remove(disk + "/filler");
    EXPECT_EQ(origin_of(second), Origin::kCompiled);
    EXPECT_EQ(origin_of(second), Origin::kCache);
    EXPECT_TRUE(write_bundle(bundle, {{second, Store(options()).get(second)}}));
    return true;
  });
  if (!possible) GTEST_SKIP() << "this process may not mount a file system: " << std::strerror(EPERM);
}

TEST_F(HostileDisk, ReadOnlyMountServesWhatItHolds) {
  const bool possible = holds_in_child([&] {
    const std::string disk = folder / "cache";
    if (!mount_small_disk(disk)) return false;
    EXPECT_EQ(origin_of(first), Origin::kCompiled);
    EXPECT_EQ(mount("small", disk.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr), 0);
    const LogLines log;
    EXPECT_EQ(origin_of(first), Origin::kCache);
    EXPECT_EQ(origin_of(second), Origin::kCompiled);
    EXPECT_TRUE(log.one_with({"cannot be written", "memory only"}));
    return true;
  });
  if (!possible) GTEST_SKIP() << "this process may not mount a file system: " << std::strerror(EPERM);
}

// ---- without locks --------------------------------------------------------------------------------------------------

TEST_F(HostileDisk, WithoutLocksKernelsAreStillKept) {
  for (const int error : {ENOLCK, EOPNOTSUPP, ENOSYS}) {
    EXPECT_TRUE(holds_in_child([&] {
      base::fail_locks_for_test(error);
      Cache(folder / "cache").clear();
      const LogLines log;
      EXPECT_EQ(origin_of(first), Origin::kCompiled);
      EXPECT_TRUE(log.one_with({"without locks", "MOESAIC_CACHE_DIR"}));
      EXPECT_EQ(origin_of(first), Origin::kCache);
      return true;
    }));
  }
}

TEST_F(HostileDisk, ManyProcessesWithoutLocksAllSucceedAndLeaveOneEntryEach) {
  const ScopedEnv slow("MOESAIC_FAKE_NVRTC", "slow");
  const testing::StartingGate gate;
  std::vector<Child> children;
  for (int i = 0; i < 40; ++i) {
    children.emplace_back([&] {
      base::fail_locks_for_test(ENOLCK);
      const LogLines log;
      gate.wait();
      return Store(options()).get_all(testing::small_instances(), 1).size() == 10 && log.lines.size() <= 1 ? 0 : 1;
    });
  }
  gate.open();
  for (const Child& child : children) EXPECT_EQ(child.wait(), 0);
  const auto entries = Cache(folder / "cache").list();
  EXPECT_EQ(entries.size(), 10u);
  for (const CacheEntry& entry : entries) EXPECT_EQ(entry.damage, "");
  for (const auto& item : fs::recursive_directory_iterator(folder / "cache")) {
    EXPECT_EQ(item.path().string().find(".tmp."), std::string::npos) << item.path();
  }
}

// ---- several builds, moved and touched files ------------------------------------------------------------------------

TEST_F(HostileDisk, TwoBuildsWithDifferentKernelTextShareACache) {
  const std::string source = first.row->source;
  std::string text;
  for (const SourceText& part : source_closure(source)) {
    if (part.path == source) text = part.text;
  }
  const auto origin_in_build = [&](const std::string& build_text) {
    return Child([&] {
             override_source_for_test(source, build_text);
             return static_cast<int>(origin_of(first));
           })
        .wait();
  };
  const std::string other = text + "// another build\n";
  const int compiled = static_cast<int>(Origin::kCompiled), cached = static_cast<int>(Origin::kCache);
  EXPECT_EQ(origin_in_build(text), compiled);
  EXPECT_EQ(origin_in_build(other), compiled);
  EXPECT_EQ(origin_in_build(text), cached);
  EXPECT_EQ(origin_in_build(other), cached);
  const auto entries = Cache(folder / "cache").list();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_NE(entries[0].record.identity, entries[1].record.identity);
}

TEST_F(HostileDisk, TimesSpellingsAndAReinstalledCompilerChangeNothing) {
  const auto origin = [&](const std::string& nvrtc) {
    return Child([&] { return static_cast<int>(origin_of(first, nvrtc)); }).wait();
  };
  const int cached = static_cast<int>(Origin::kCache);
  EXPECT_EQ(origin(MOESAIC_FAKE_NVRTC), static_cast<int>(Origin::kCompiled));
  for (const int hours : {-100'000, 100'000}) {
    for (const auto& item : fs::recursive_directory_iterator(folder / "cache")) {
      fs::last_write_time(item.path(), fs::file_time_type::clock::now() + std::chrono::hours(hours));
    }
    EXPECT_EQ(origin(MOESAIC_FAKE_NVRTC), cached);
  }
  EXPECT_EQ(origin(std::string(MOESAIC_FAKE_NVRTC) + "//../fake_nvrtc/./libnvrtc.so"), cached);
  fs::create_directory_symlink(MOESAIC_FAKE_NVRTC, folder / "link");
  EXPECT_EQ(origin(folder / "link"), cached);
  fs::create_directories(folder / "again");
  fs::copy(std::string(MOESAIC_FAKE_NVRTC) + "/libnvrtc.so", folder / "again/libnvrtc.so");
  EXPECT_EQ(origin(folder / "again"), cached);
  for (const char* path : {"/usr/bin:/bin", "/bin//:/usr/bin/", "/nowhere"}) {
    const ScopedEnv scoped("PATH", path);
    EXPECT_EQ(origin(MOESAIC_FAKE_NVRTC), cached);
  }
}

}  // namespace
}  // namespace moesaic::module
