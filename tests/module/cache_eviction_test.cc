// SPDX-License-Identifier: Apache-2.0
// What leaves the cache, and what stays because somebody uses it.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "base/fs.h"
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
using std::chrono::hours;
using testing::Child;
using testing::expect_error;
using testing::fake_cubin;
using testing::ScopedEnv;
using testing::small_instance;
using testing::small_instances;
using testing::StartingGate;
using testing::TemporaryFolder;

constexpr std::size_t kImageBytes = 100'000;
constexpr std::uint64_t kEntryBytes = kImageBytes + 2'000;  // meta.json is smaller than that

struct CacheEviction : ::testing::Test {
  TemporaryFolder folder;
  Cache cache{folder / "cache"};
  std::vector<KernelInstance> instances = small_instances();

  std::string key(int which) const {
    return cache_key(identity(instances[static_cast<std::size_t>(which)]), "build", {});
  }
  std::string entry(int which) const { return cache.folder() + "/" + key(which).substr(0, 2) + "/" + key(which); }
  // An entry that was last used so long ago.
  void store(int which, hours age) const {
    const KernelInstance& instance = instances[static_cast<std::size_t>(which)];
    const auto lock = cache.lock(key(which));
    ASSERT_TRUE(lock.has_value());
    ASSERT_EQ(cache.store(key(which), instance, fake_cubin(instance, std::string(kImageBytes, 'c')), *lock), "");
    fs::last_write_time(entry(which) + "/meta.json", fs::file_time_type::clock::now() - age);
  }
  bool use(int which) const {
    return cache.lookup(key(which), identity(instances[static_cast<std::size_t>(which)]), nullptr).has_value();
  }
  std::set<int> left() const {
    std::set<int> left;
    for (int i = 0; i < static_cast<int>(instances.size()); ++i) {
      if (fs::exists(entry(i))) left.insert(i);
    }
    return left;
  }
};

TEST_F(CacheEviction, LeastRecentlyUsedGoFirst) {
  store(0, hours(1));
  store(1, hours(4));
  store(2, hours(3));
  store(3, hours(2));
  EXPECT_EQ(cache.trim(4 * kEntryBytes, "").entries, 0);
  EXPECT_TRUE(use(1));  // no longer the oldest
  const Cache::Cleared cleared = cache.trim(2 * kEntryBytes, "");
  EXPECT_EQ(cleared.entries, 2);
  EXPECT_GT(cleared.bytes, static_cast<long long>(2 * kImageBytes));
  EXPECT_EQ(left(), (std::set<int>{0, 1}));
  EXPECT_TRUE(use(0) && use(1));
  EXPECT_FALSE(use(2));
  store(2, hours(0));  // what was removed can come back
  EXPECT_TRUE(use(2));
}

TEST_F(CacheEviction, TheEntryJustMadeStaysEvenIfItAloneIsTooLarge) {
  store(0, hours(2));
  store(1, hours(3));
  EXPECT_EQ(cache.trim(1, key(1)).entries, 1);
  EXPECT_EQ(left(), std::set<int>{1});
}

TEST_F(CacheEviction, WhatALivingProcessHoldsStaysUntilItIsGone) {
  for (int i = 0; i < 3; ++i) store(i, hours(100 + i));
  StartingGate held, done;
  const Child user([&] {
    cache.hold(key(2));
    held.open();
    done.wait();
    return 0;
  });
  // The child has the other end too: this returns when it has opened the gate.
  held.wait();
  EXPECT_EQ(cache.trim(1, "").entries, 2);
  EXPECT_EQ(left(), std::set<int>{2});
  EXPECT_EQ(cache.clear_older(hours(1)).entries, 0);
  EXPECT_TRUE(use(2));
  fs::last_write_time(entry(2) + "/meta.json", fs::file_time_type::clock::now() - hours(100));
  EXPECT_EQ(user.end_by_kill(), 128 + SIGKILL);
  EXPECT_EQ(cache.clear_older(hours(1)).entries, 1);
  EXPECT_TRUE(left().empty());
}

TEST_F(CacheEviction, OlderThanTakesWhatIsUnusedAndWhatTheKilledLeft) {
  store(0, hours(0));
  store(1, hours(23));
  store(2, hours(25));
  const std::string left_behind = entry(3) + ".tmp.1.0";
  fs::create_directories(left_behind);
  fs::last_write_time(left_behind, fs::file_time_type::clock::now() - hours(48));
  fs::create_directories(entry(4) + ".tmp.1.0");  // of a process that may be writing it
  std::ofstream(folder / "cache/mine") << "x";
  EXPECT_EQ(cache.clear_older(hours(24)).entries, 1);
  EXPECT_EQ(left(), (std::set<int>{0, 1}));
  EXPECT_FALSE(fs::exists(left_behind));
  EXPECT_TRUE(fs::exists(entry(4) + ".tmp.1.0"));
  EXPECT_TRUE(fs::exists(folder / "cache/mine"));
  EXPECT_EQ(cache.clear_older(hours(0)).entries, 2);
}

TEST_F(CacheEviction, NothingGoesWhereUseCannotBeKnown) {
  const Child child([&] {
    store(0, hours(100));
    base::fail_locks_for_test(ENOLCK);
    return cache.trim(1, "").entries + cache.clear_older(hours(1)).entries;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(use(0));
}

TEST_F(CacheEviction, DamagedEntriesGoAsWell) {
  store(0, hours(100));
  fs::remove(entry(0) + "/meta.json");
  fs::last_write_time(entry(0), fs::file_time_type::clock::now() - hours(100));
  EXPECT_EQ(cache.clear_older(hours(1)).entries, 1);
  EXPECT_TRUE(left().empty());
}

// ---- with the store -------------------------------------------------------------------------------------------------

TEST_F(CacheEviction, StoreKeepsToTheLimitButNeverEvictsItsOwn) {
  const ModuleOptions options = testing::compiling_options(folder / "cache", MOESAIC_FAKE_NVRTC);
  const auto get_all = [&](const std::vector<KernelInstance>& wanted) {
    return Child([&] {
             Store store(options);
             store.get_all(wanted, 1);
             return static_cast<int>(cache.list().size());
           })
        .wait();
  };
  const std::vector<KernelInstance> first(instances.begin(), instances.begin() + 4);
  const std::vector<KernelInstance> second(instances.begin() + 4, instances.end());
  EXPECT_EQ(get_all(first), 4);
  const ScopedEnv limit("MOESAIC_CACHE_LIMIT", "1");
  // All six are in use by the process that made them; the four of a process that has ended are not.
  EXPECT_EQ(get_all(second), 6);
  EXPECT_EQ(get_all({instances[0]}), 1);
}

TEST_F(CacheEviction, WhatAStoreFoundItHoldsUntilItsProcessIsGone) {
  if (testing::nvrtc_is_loaded()) {  // by another test
    EXPECT_EQ(testing::run_alone("CacheEviction.WhatAStoreFoundItHoldsUntilItsProcessIsGone"), 0);
    return;
  }
  const ModuleOptions options = testing::compiling_options(folder / "cache", MOESAIC_FAKE_NVRTC);
  ASSERT_EQ(Child([&] { return Store(options).get_all(instances, 1).empty() ? 1 : 0; }).wait(), 0);
  const std::size_t all = cache.list().size();
  ASSERT_GT(all, 1u);
  StartingGate held, done;
  const Child user([&] {
    Store store(options);
    store.get(instances[0]);
    held.open();
    done.wait();
    return testing::nvrtc_is_loaded() ? 1 : 0;  // else it was found, not compiled
  });
  held.wait();
  EXPECT_EQ(cache.clear_older(hours(0)).entries, static_cast<int>(all) - 1);
  EXPECT_EQ(cache.list().size(), 1u);
  done.open();
  EXPECT_EQ(user.wait(), 0);
  EXPECT_EQ(cache.clear_older(hours(0)).entries, 1);
}

TEST_F(CacheEviction, WhatGoesWhileItIsReadIsNotDamaged) {
  std::atomic<bool> done{false};
  std::thread other([&] {
    for (int turn = 0; turn < 150; ++turn) {
      store(0, hours(1));
      cache.clear_older(hours(0));
    }
    done = true;
  });
  int found = 0;
  std::string damage;
  while (!done && damage.empty()) found += cache.lookup(key(0), identity(instances[0]), &damage).has_value() ? 1 : 0;
  other.join();
  EXPECT_EQ(damage, "");
  EXPECT_GT(found, 0);
}

TEST_F(CacheEviction, ManyProcessesAtTheLimitAllSucceed) {
  const ScopedEnv limit("MOESAIC_CACHE_LIMIT", "40K"), slow("MOESAIC_FAKE_NVRTC", "slow");
  const ModuleOptions options = testing::compiling_options(folder / "cache", MOESAIC_FAKE_NVRTC);
  const StartingGate gate;
  std::vector<Child> children;
  for (std::size_t i = 0; i < 30; ++i) {
    children.emplace_back([&, i] {
      gate.wait();
      const testing::LogLines log;
      for (std::size_t turn = 0; turn < 10; ++turn) Store(options).get(instances[(i + turn) % instances.size()]);
      for (const std::string& line : log.lines) std::fprintf(stderr, "%s\n", line.c_str());
      return log.lines.empty() ? 0 : 1;
    });
  }
  gate.open();
  for (const Child& child : children) EXPECT_EQ(child.wait(), 0);
  for (const CacheEntry& entry : cache.list()) EXPECT_EQ(entry.damage, "");
}

TEST_F(CacheEviction, WrongLimitIsRefused) {
  const ScopedEnv limit("MOESAIC_CACHE_LIMIT", "much");
  expect_error(ErrorKind::kInvalidArgument, {"MOESAIC_CACHE_LIMIT", "much", "512M"}, [] { Store store; });
}

}  // namespace
}  // namespace moesaic::module
