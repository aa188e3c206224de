// SPDX-License-Identifier: Apache-2.0
// Cache and real compiler with many processes at once, and with processes killed while they compile.
#include <gtest/gtest.h>

#include <chrono>

#include "module/cache.h"
#include "tests/module/child.h"
#include "tests/module/fire_cases.h"
#include "tests/module/nvrtc_versions.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

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
  testing::RandomDelays delays;
  for (int i = 0; i < 8; ++i) {
    SCOPED_TRACE(i);
    testing::expect_next_gets_all_after_kill(options(), delays, std::chrono::milliseconds(500));
  }
}

}  // namespace
}  // namespace moesaic::module
