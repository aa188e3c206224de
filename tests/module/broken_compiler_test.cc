// SPDX-License-Identifier: Apache-2.0
// A compiler that fails, prints garbage, crashes, hangs or is not there.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "base/fs.h"
#include "module/cache.h"
#include "module/compile_limit.h"
#include "module/store.h"
#include "tests/module/child.h"
#include "tests/module/fake_cubin.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using testing::Child;
using testing::expect_error;
using testing::ScopedEnv;
using testing::small_instance;
using testing::TemporaryFolder;

struct BrokenCompiler : ::testing::Test {
  TemporaryFolder folder;
  KernelInstance instance = small_instance();

  ModuleOptions options(const std::string& nvrtc = MOESAIC_FAKE_NVRTC) const {
    return testing::compiling_options(folder / "cache", nvrtc);
  }
  // An error in a process of its own, after which nothing is cached and a sound compiler serves.
  void expect_error_then_recovery(const std::vector<std::string>& words, const KernelInstance& wanted) const {
    const Child child([&] {
      Store store(options());
      expect_error(ErrorKind::kCompile, words, [&] { store.get(wanted); });
      return ::testing::Test::HasFailure() ? 1 : 0;
    });
    EXPECT_EQ(child.wait(), 0);
    EXPECT_TRUE(Cache(folder / "cache").list().empty());
    expect_recovery(wanted);
  }
  void expect_recovery(const KernelInstance& wanted) const {
    const ScopedEnv sound("MOESAIC_FAKE_NVRTC", nullptr);
    const Child next([&] { return Store(options()).get(wanted)->origin == Origin::kCompiled ? 0 : 1; });
    EXPECT_EQ(next.wait(), 0);
    Cache(folder / "cache").clear();
  }
};

TEST_F(BrokenCompiler, FailureGivesItsLog) {
  const ScopedEnv mode("MOESAIC_FAKE_NVRTC", "fail");
  expect_error_then_recovery({entry_name(instance), "sm_80", "this compiler fails", MOESAIC_FAKE_NVRTC, "another NVRTC",
                              "MOESAIC_NVRTC", "moesaic compile --out", "moesaic package"},
                             instance);
}

TEST_F(BrokenCompiler, GarbageIsRefusedAndNotCached) {
  const ScopedEnv mode("MOESAIC_FAKE_NVRTC", "garbage");
  expect_error_then_recovery({entry_name(instance), "no cubin", MOESAIC_FAKE_NVRTC, "MOESAIC_NVRTC"}, instance);
  expect_error_then_recovery({"no PTX", MOESAIC_FAKE_NVRTC, "MOESAIC_NVRTC"}, small_instance("compute_80"));
}

TEST_F(BrokenCompiler, CrashEndsItsProcessAndBlocksNobody) {
  const ScopedEnv mode("MOESAIC_FAKE_NVRTC", "crash");
  const Child child([&] {
    signal(SIGSEGV, SIG_DFL);  // sanitizers handle it otherwise
    Store(options()).get(instance);
    return 0;
  });
  EXPECT_EQ(child.wait(), 128 + SIGSEGV);
  EXPECT_TRUE(Cache(folder / "cache").list().empty());
  expect_recovery(instance);
}

// ---- hanging --------------------------------------------------------------------------------------------------------

struct HangingCompiler : BrokenCompiler {
  // A process that hangs over the kernel for ever, once it holds the lock.
  Child begin_hanging() const {
    Child hanging([&] {
      setenv("MOESAIC_FAKE_NVRTC", "hang", 1);
      setenv("MOESAIC_COMPILE_TIMEOUT", "0", 1);
      Store(options()).get(instance);
      return 0;
    });
    for (int i = 0; i < 30'000 && !lock_is_held(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_TRUE(lock_is_held());
    return hanging;
  }
  bool lock_is_held() const {
    std::error_code error;
    for (fs::recursive_directory_iterator item(folder / "cache", error), end; !error && item != end;
         item.increment(error)) {
      if (item->path().extension() != ".lock") continue;
      return base::FileLock::holder(item->path().string()).rfind("process ", 0) == 0;
    }
    return false;
  }
  static void expect_all_in_child(const std::function<void()>& body) {
    const Child child([&] {
      body();
      return ::testing::Test::HasFailure() ? 1 : 0;
    });
    EXPECT_EQ(child.wait(), 0);
  }
};

TEST_F(HangingCompiler, IsGivenUpAndTheProcessCompilesNoMore) {
  const KernelInstance cached = small_instance("sm_86"), other = small_instance("sm_90");
  expect_recovery(instance);
  ASSERT_EQ(Child([&] { return Store(options()).get(cached)->image.empty() ? 1 : 0; }).wait(), 0);
  expect_all_in_child([&] {
    const ScopedEnv mode("MOESAIC_FAKE_NVRTC", "hang");
    const auto store_with_limit = [&](const char* seconds) {
      const ScopedEnv limit("MOESAIC_COMPILE_TIMEOUT", seconds);
      return std::make_unique<Store>(options());
    };
    expect_error(ErrorKind::kCompile,
                 {entry_name(instance), "sm_80", "hangs", "within 1 s", "MOESAIC_COMPILE_TIMEOUT", "MOESAIC_NVRTC"},
                 [&] { store_with_limit("1")->get(instance); });
    EXPECT_FALSE(lock_is_held());
    EXPECT_TRUE(compiler_hangs());
    const auto store = store_with_limit("0");  // without a limit: beginning to compile would hang for ever
    expect_error(ErrorKind::kCompile,
                 {"sm_90", "still hangs", entry_name(instance) + " for sm_80", "start the process"},
                 [&] { store->get(other); });
    EXPECT_EQ(store->get(cached)->origin, Origin::kCache);
  });
  EXPECT_EQ(Cache(folder / "cache").list().size(), 1u);
  expect_recovery(instance);
}

TEST_F(HangingCompiler, ThatWasOnlySlowServesAgain) {
  expect_all_in_child([&] {
    const std::string end = folder / "end";
    {
      const ScopedEnv mode("MOESAIC_FAKE_NVRTC", ("until " + end).c_str()), limit("MOESAIC_COMPILE_TIMEOUT", "1");
      expect_error(ErrorKind::kCompile, {"hangs"}, [&] { Store(options()).get(instance); });
    }
    EXPECT_TRUE(compiler_hangs());
    std::ofstream(end).put('\n');
    for (int i = 0; i < 30'000 && compiler_hangs(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(Store(options()).get(instance)->origin, Origin::kCompiled);
  });
}

TEST_F(HangingCompiler, OfAnotherProcessIsNotWaitedForForEver) {
  const Child hanging = begin_hanging();
  expect_all_in_child([&] {
    const ScopedEnv limit("MOESAIC_COMPILE_TIMEOUT", "1");
    expect_error(ErrorKind::kCompile,
                 {entry_name(instance), "sm_80", "another process", "1 s", "MOESAIC_COMPILE_TIMEOUT",
                  "process " + std::to_string(hanging.pid) + " on host", ".lock", "MOESAIC_CACHE_DIR"},
                 [&] { Store(options()).get(instance); });
    EXPECT_FALSE(compiler_hangs());
  });
  EXPECT_EQ(hanging.end_by_kill(), 128 + SIGKILL);
}

TEST_F(HangingCompiler, LimitIsANumberOfSeconds) {
  for (const char* wrong : {"-1", "1.5", "5m", "99999999999"}) {
    const ScopedEnv limit("MOESAIC_COMPILE_TIMEOUT", wrong);
    expect_error(ErrorKind::kInvalidArgument, {"MOESAIC_COMPILE_TIMEOUT", wrong}, [&] { Store store(options()); });
  }
}

// Another kernel does not wait, and ending the process frees those that do.
TEST_F(HangingCompiler, BlocksItsKernelAloneAndOnlyWhileItsProcessLives) {
  const Child hanging = begin_hanging();
  const Child other([&] { return Store(options()).get(small_instance("sm_90"))->image.empty() ? 1 : 0; });
  EXPECT_EQ(other.wait(), 0);
  const Child waiting([&] { return Store(options()).get(instance)->image.empty() ? 1 : 0; });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(hanging.end_by_kill(), 128 + SIGKILL);
  EXPECT_EQ(waiting.wait(), 0);
}

TEST_F(BrokenCompiler, FilesThatAreNoCompilerSayWhatToDo) {
  std::ofstream(folder / "libnvrtc.so") << "not a library\n";
  expect_error(ErrorKind::kUnsupported, {"no NVRTC", folder.path(), "moesaic compile", "pip install"},
               [&] { Store(options(folder.path())).get(instance); });
  fs::copy("/proc/self/exe", folder / "libnvrtc.so", fs::copy_options::overwrite_existing);
  const Child child([&] {
    expect_error(ErrorKind::kUnsupported, {"NVRTC", folder.path(), "another NVRTC", "moesaic package"},
                 [&] { Store(options(folder.path())).get(instance); });
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(Cache(folder / "cache").list().empty());
}

}  // namespace
}  // namespace moesaic::module
