// SPDX-License-Identifier: Apache-2.0
// The store with real compilers and real processes: once per kernel, whatever is killed, damaged, full or moved.
#include "module/store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "module/aot.h"
#include "module/bundle.h"
#include "module/cache.h"
#include "tests/module/child.h"
#include "tests/module/fake_cubin.h"
#include "tests/module/log_lines.h"
#include "tests/module/nvrtc_versions.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using testing::Child;
using testing::expect_error;
using testing::image_of;
using testing::kNvrtc12;
using testing::kNvrtc13;
using testing::LogLines;
using testing::nvrtc_is_loaded;
using testing::ScopedEnv;
using testing::small_instance;
using testing::TemporaryFolder;

struct StoreCompile : ::testing::Test {
  TemporaryFolder folder;
  KernelInstance instance = small_instance();

  ModuleOptions options(const std::string& nvrtc = kNvrtc13) const {
    return testing::compiling_options(folder / "cache", nvrtc);
  }
  Origin origin_of_get(const ModuleOptions& options) const { return Store(options).get(instance)->origin; }
};

constexpr int kNvrtcLoaded = 8;

TEST_F(StoreCompile, TwoProcessesCompileOnceAndTheOtherLoadsNoCompiler) {
  MOESAIC_NEED_NVRTC();
  if (nvrtc_is_loaded()) {  // by another test: again in a process that starts without it
    EXPECT_EQ(testing::run_alone("StoreCompile.TwoProcessesCompileOnceAndTheOtherLoadsNoCompiler"), 0);
    return;
  }
  const auto get = [this] {
    const int origin = static_cast<int>(origin_of_get(options()));
    return origin + (nvrtc_is_loaded() ? kNvrtcLoaded : 0);
  };
  const Child first(get), second(get), third(get);
  std::vector<int> codes = {first.wait(), second.wait(), third.wait()};
  std::sort(codes.begin(), codes.end());
  EXPECT_EQ(codes, (std::vector<int>{static_cast<int>(Origin::kCache), static_cast<int>(Origin::kCache),
                                     static_cast<int>(Origin::kCompiled) + kNvrtcLoaded}));
}

TEST_F(StoreCompile, ThreadsOfOneStoreCompileOnce) {
  MOESAIC_NEED_NVRTC();
  Store store(options());
  std::vector<std::shared_ptr<const Cubin>> cubins(4);
  std::vector<std::thread> threads;
  for (auto& cubin : cubins) threads.emplace_back([&] { cubin = store.get(instance); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& cubin : cubins) EXPECT_EQ(cubin, cubins[0]);
}

TEST_F(StoreCompile, KilledCompilingProcessBlocksNobody) {
  MOESAIC_NEED_NVRTC();
  const Child child([this] {
    Store store(options());
    for (const KernelInstance& other : instances_for(*tables::find_arch(90), ~0u, ~0u)) store.get(other);
    return 0;
  });
  // Killed while it holds the lock of some kernel.
  std::string held;
  for (int i = 0; i < 30'000 && held.empty(); ++i) {
    std::error_code error;
    for (fs::recursive_directory_iterator item(folder.path(), error), end; !error && item != end;
         item.increment(error)) {
      if (item->path().extension() == ".lock") held = item->path().string();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  ASSERT_FALSE(held.empty());
  EXPECT_EQ(child.end_by_kill(), 128 + SIGKILL);

  // One that waits for ever ends with an error by MOESAIC_COMPILE_TIMEOUT.
  const Child next([this] {
    Store store(options());
    for (const KernelInstance& other : instances_for(*tables::find_arch(90), ~0u, 1u)) store.get(other);
    return 0;
  });
  EXPECT_EQ(next.wait(), 0);
  for (const CacheEntry& entry : Cache(folder / "cache").list()) EXPECT_EQ(entry.damage, "");
}

TEST_F(StoreCompile, DamagedEntryIsReplacedWithOneLine) {
  MOESAIC_NEED_NVRTC();
  EXPECT_EQ(origin_of_get(options()), Origin::kCompiled);
  EXPECT_EQ(origin_of_get(options()), Origin::kCache);
  const std::string key = Cache(folder / "cache").list().at(0).key;
  const std::string file = folder / ("cache/" + key.substr(0, 2) + "/" + key + "/kernel.cubin");
  fs::resize_file(file, 100);
  const LogLines log;
  EXPECT_EQ(origin_of_get(options()), Origin::kCompiled);
  ASSERT_EQ(log.lines.size(), 1u);
  EXPECT_NE(log.lines[0].find("damaged"), std::string::npos);
  EXPECT_NE(log.lines[0].find(key), std::string::npos);
  EXPECT_EQ(origin_of_get(options()), Origin::kCache);
  EXPECT_GT(fs::file_size(file), 100u);
}

TEST_F(StoreCompile, UnwritableCacheStillGivesTheKernel) {
  MOESAIC_NEED_NVRTC();
  ModuleOptions unwritable = options();
  unwritable.cache_dir = "/dev/null/cache";
  const LogLines log;
  Store store(unwritable);
  EXPECT_EQ(store.get(instance)->origin, Origin::kCompiled);
  EXPECT_FALSE(store.get(instance)->image.empty());
  store.get(small_instance("sm_86"));
  ASSERT_EQ(log.lines.size(), 1u);
  EXPECT_NE(log.lines[0].find("memory only"), std::string::npos);
}

TEST_F(StoreCompile, FullDiskStillGivesTheKernel) {
  MOESAIC_NEED_NVRTC();
  const Child child([this] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{512, 512};  // no file can grow beyond: writes fail as on a full disk
    setrlimit(RLIMIT_FSIZE, &limit);
    const LogLines log;
    const auto cubin = Store(options()).get(instance);
    return cubin->image.size() > 512 && log.lines.size() == 1 ? 0 : 1;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(Cache(folder / "cache").list().empty());
  EXPECT_EQ(origin_of_get(options()), Origin::kCompiled);
}

TEST_F(StoreCompile, BundleOfOneVersionServesAnotherOrNone) {
  MOESAIC_NEED_NVRTC();
  const auto made = Store(options(kNvrtc13)).get(instance);
  EXPECT_EQ(made->cuda_version, 13000);
  ASSERT_TRUE(write_bundle(folder / "k.zip", {{instance, made}}));
  for (const std::string& nvrtc : {kNvrtc12, std::string("/nowhere")}) {
    for (const bool jit : {true, false}) {
      ModuleOptions other = options(nvrtc);
      other.bundles = {folder / "k.zip"};
      other.cache_dir = folder / "empty";
      other.jit = jit;
      const auto cubin = Store(other).get(instance);
      EXPECT_EQ(cubin->origin, Origin::kBundle);
      EXPECT_EQ(image_of(*cubin), image_of(*made));
      EXPECT_EQ(cubin->cuda_version, 13000);
    }
  }
}

TEST_F(StoreCompile, AnotherCompilerIsAnotherCacheEntryOfTheSameIdentity) {
  MOESAIC_NEED_NVRTC();
  const auto with13 = Store(options(kNvrtc13)).get(instance), with12 = Store(options(kNvrtc12)).get(instance);
  EXPECT_EQ(with12->origin, Origin::kCompiled);
  EXPECT_EQ(with12->cuda_version, 12090);
  EXPECT_EQ(with12->identity, with13->identity);
  EXPECT_EQ(Cache(folder / "cache").list().size(), 2u);
  EXPECT_EQ(Store(options(kNvrtc13)).get(instance)->compiler, with13->compiler);
}

TEST_F(StoreCompile, TimesAndSpellingsOfPathsChangeNothing) {
  MOESAIC_NEED_NVRTC();
  EXPECT_EQ(origin_of_get(options()), Origin::kCompiled);
  fs::create_directory_symlink(kNvrtc13, folder / "other-name");
  for (auto& item : fs::recursive_directory_iterator(folder / "cache")) {
    fs::last_write_time(item.path(), fs::file_time_type::clock::now() + std::chrono::hours(1000));
  }
  EXPECT_EQ(origin_of_get(options(folder / "other-name")), Origin::kCache);
  const ScopedEnv path("PATH", "/usr/bin:/usr/bin/:/nowhere");
  EXPECT_EQ(origin_of_get(options(kNvrtc13 + "/nvidia//cu13/../cu13/lib")), Origin::kCache);
  fs::copy(kNvrtc13, folder / "moved", fs::copy_options::recursive);
  EXPECT_EQ(origin_of_get(options(folder / "moved")), Origin::kCache);
}

TEST_F(StoreCompile, JitOffStillReadsTheCache) {
  MOESAIC_NEED_NVRTC();
  ModuleOptions off = options();
  off.jit = false;
  expect_error(ErrorKind::kUnsupported, {"compiling is off"}, [&] { origin_of_get(off); });
  origin_of_get(options());
  EXPECT_EQ(origin_of_get(off), Origin::kCache);
}

TEST_F(StoreCompile, FailureIsNotRemembered) {
  MOESAIC_NEED_NVRTC();
  std::string text;
  for (const SourceText& part : source_closure(instance.row->source)) {
    if (part.path == instance.row->source) text = part.text;
  }
  Store store(options());
  override_source_for_test(instance.row->source, text + "this is no C++\n");
  expect_error(ErrorKind::kCompile, {entry_name(instance), "sm_80", "NVRTC 13.0", "this is no C++"},
               [&] { store.get(instance); });
  override_source_for_test(instance.row->source, "");
  EXPECT_EQ(store.get(instance)->origin, Origin::kCompiled);
}

TEST_F(StoreCompile, PtxIsTextThatNamesTheEntry) {
  MOESAIC_NEED_NVRTC();
  const auto ptx = Store(options()).get(small_instance("compute_80"));
  EXPECT_EQ(ptx->image.back(), '\0');
  EXPECT_NE(image_of(*ptx).find(".target sm_80"), std::string::npos);
  EXPECT_NE(image_of(*ptx).find(".visible .entry " + ptx->entry), std::string::npos);
  EXPECT_EQ(ptx->facts.registers, -1);
}

}  // namespace
}  // namespace moesaic::module
