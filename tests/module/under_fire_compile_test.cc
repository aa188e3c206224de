// SPDX-License-Identifier: Apache-2.0
// Cache and real compiler with many processes at once, and with processes killed while they compile.
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>

#include "module/cache.h"
#include "tests/module/child.h"
#include "tests/module/fire_cases.h"
#include "tests/module/nvrtc_versions.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

using testing::Child;
using testing::kNvrtc13;
using testing::small_instances;
using testing::TemporaryFolder;

struct UnderFireCompile : ::testing::Test {
  TemporaryFolder folder;

  ModuleOptions options() const { return testing::compiling_options(folder / "cache", kNvrtc13); }
};

TEST_F(UnderFireCompile, TwoHundredProcessesCompileEachKernelOnce) {
  MOESAIC_NEED_NVRTC();
  if (testing::nvrtc_is_loaded()) {  // by another test
    EXPECT_EQ(testing::run_alone("UnderFireCompile.TwoHundredProcessesCompileEachKernelOnce"), 0);
    return;
  }
  testing::expect_each_compiled_once(options(), 200);
  EXPECT_EQ(Cache(folder / "cache").list().size(), small_instances().size());
}

TEST_F(UnderFireCompile, ProcessesKilledWhileCompilingBlockAndBreakNothing) {
  MOESAIC_NEED_NVRTC();
  std::mt19937 engine(1);
  std::uniform_int_distribution<int> milliseconds(50, 500);
  for (int i = 0; i < 8; ++i) {
    Cache(folder / "cache").clear();
    const auto get_all = [&] { return Store(options()).get_all(small_instances(), 1).size() == 10 ? 0 : 1; };
    const Child victim(get_all);
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds(engine)));
    victim.end_by_kill();
    EXPECT_EQ(Child(get_all).wait(), 0);
    for (const CacheEntry& entry : Cache(folder / "cache").list()) EXPECT_EQ(entry.damage, "");
  }
}

}  // namespace
}  // namespace moesaic::module
