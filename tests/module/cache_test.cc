// SPDX-License-Identifier: Apache-2.0
// The cache on disk: entries whole or replaced, clearing, folders that cannot be written.
#include "module/cache.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/module/fake_cubin.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using testing::fake_cubin;
using testing::image_of;
using testing::ScopedEnv;
using testing::small_instance;
using testing::TemporaryFolder;

struct CacheTest : ::testing::Test {
  TemporaryFolder folder;
  Cache cache{folder / "cache"};
  KernelInstance instance = small_instance();
  std::string id = identity(instance);
  std::string key = cache_key(id, "build", {"--flag"});
  std::string entry = folder / ("cache/" + key.substr(0, 2) + "/" + key);

  void store(const std::string& bytes = "image") {
    const auto lock = cache.lock(key);
    ASSERT_TRUE(lock.has_value());
    ASSERT_EQ(cache.store(key, instance, fake_cubin(instance, bytes), *lock), "");
  }
};

TEST_F(CacheTest, GivesBackWhatWasStored) {
  EXPECT_FALSE(cache.lookup(key, id, nullptr).has_value());
  store();
  const auto found = cache.lookup(key, id, nullptr);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(image_of(*found), "image");
  EXPECT_EQ(found->entry, entry_name(instance));
  EXPECT_EQ(found->origin, Origin::kCache);
  EXPECT_EQ(found->facts.registers, 17);
  EXPECT_EQ(found->facts.complaints, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(found->flags, std::vector<std::string>{"--flag"});
  EXPECT_TRUE(fs::exists(entry + "/kernel.cubin"));
  EXPECT_TRUE(fs::exists(entry + "/meta.json"));
}

TEST_F(CacheTest, KeyDependsOnIdentityCompilerAndFlags) {
  EXPECT_NE(key, cache_key(id + "x", "build", {"--flag"}));
  EXPECT_NE(key, cache_key(id, "other", {"--flag"}));
  EXPECT_NE(key, cache_key(id, "build", {"--flag", "-g"}));
  EXPECT_EQ(key, cache_key(id, "build", {"--flag"}));
}

TEST_F(CacheTest, DamageIsAMissWithAReason) {
  const auto damage_of = [&](const std::string& file, const std::string& bytes) {
    store();
    if (bytes == "(removed)") {
      fs::remove(entry + file);
    } else {
      std::ofstream(entry + file, std::ios::binary) << bytes;
    }
    std::string damage;
    EXPECT_FALSE(cache.lookup(key, id, &damage).has_value()) << file << " " << bytes;
    return damage;
  };
  EXPECT_NE(damage_of("/kernel.cubin", "imag").find("bytes"), std::string::npos);
  EXPECT_NE(damage_of("/kernel.cubin", "imagE").find("SHA-256"), std::string::npos);
  EXPECT_NE(damage_of("/kernel.cubin", "").find("0 bytes"), std::string::npos);
  EXPECT_NE(damage_of("/kernel.cubin", "(removed)"), "");
  EXPECT_NE(damage_of("/meta.json", "{\"format\": 1"), "");
  EXPECT_NE(damage_of("/meta.json", "{\"format\": 1, \"identity\": 5}"), "");
  EXPECT_NE(damage_of("/meta.json", "{\"format\": 2, \"record\": {\"identity\": 5}, \"sha256\": \"\"}"), "");
  EXPECT_NE(damage_of("/meta.json", "[]"), "");
  EXPECT_NE(damage_of("/meta.json", "(removed)"), "");
  store();
  EXPECT_TRUE(cache.lookup(key, id, nullptr).has_value());
}

TEST_F(CacheTest, AnotherKernelUnderTheKeyIsDamage) {
  store();
  std::string damage;
  EXPECT_FALSE(cache.lookup(key, std::string(64, 'a'), &damage).has_value());
  EXPECT_NE(damage, "");
}

TEST_F(CacheTest, WhatAKilledProcessLeftIsSweptOnStore) {
  store();
  fs::create_directories(entry + ".tmp.1.0");
  store("again");
  EXPECT_FALSE(fs::exists(entry + ".tmp.1.0"));
  EXPECT_EQ(image_of(*cache.lookup(key, id, nullptr)), "again");
}

TEST_F(CacheTest, ListsAndClearsOnlyItsOwn) {
  store();
  fs::create_directories(entry + ".tmp.1.0");
  fs::create_directories(folder / "cache/notes");
  std::ofstream(folder / "cache/notes/mine") << "x";
  std::ofstream(fs::path(entry).parent_path() / "mine") << "x";
  ASSERT_EQ(cache.list().size(), 1u);
  EXPECT_EQ(cache.list()[0].damage, "");
  EXPECT_EQ(cache.list()[0].record.identity, id);
  std::ofstream(entry + "/kernel.cubin") << "broken";
  EXPECT_NE(cache.list()[0].damage, "");
  EXPECT_EQ(cache.clear().entries, 1);
  EXPECT_TRUE(cache.list().empty());
  EXPECT_FALSE(fs::exists(entry + ".tmp.1.0"));
  EXPECT_TRUE(fs::exists(folder / "cache/notes/mine"));
  EXPECT_TRUE(fs::exists(fs::path(entry).parent_path() / "mine"));
}

TEST_F(CacheTest, UnwritableCacheSaysSoInsteadOfThrowing) {
  const Cache broken("/dev/null/cache");
  EXPECT_FALSE(broken.lock(key).has_value());
  const auto lock = base::FileLock::acquire(folder / "lock");
  EXPECT_NE(broken.store(key, instance, fake_cubin(instance, "image"), *lock), "");
  EXPECT_FALSE(broken.lookup(key, id, nullptr).has_value());
  EXPECT_TRUE(broken.list().empty());
  EXPECT_EQ(broken.clear().entries, 0);
}

TEST(CacheFolder, OrderOfSources) {
  const ScopedEnv own("MOESAIC_CACHE_DIR", "/own"), xdg("XDG_CACHE_HOME", "/xdg"), home("HOME", "/home/me");
  EXPECT_EQ(cache_folder("/given"), "/given");
  EXPECT_EQ(cache_folder({}), "/own");
  const ScopedEnv no_own("MOESAIC_CACHE_DIR", nullptr);
  EXPECT_EQ(cache_folder({}), "/xdg/moesaic");
  const ScopedEnv no_xdg("XDG_CACHE_HOME", nullptr);
  EXPECT_EQ(cache_folder({}), "/home/me/.cache/moesaic");
}

}  // namespace
}  // namespace moesaic::module
