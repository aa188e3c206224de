// SPDX-License-Identifier: Apache-2.0
// compile, kernels --target, bundle and cache with NVRTC 13.0.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/fs.h"
#include "command.h"
#include "module/nvcc.h"
#include "tests/module/nvrtc_versions.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct CliBuild : ::testing::Test {
  TemporaryFolder folder;
  std::string out = folder / "kernels.zip";
  std::string environment = "MOESAIC_CACHE_DIR=" + (folder / "cache") + " MOESAIC_NVRTC=" + kNvrtc13;

  CommandResult run(const std::string& arguments) const { return run_cli(arguments, environment); }
  json facts(const std::string& arguments) const {
    const CommandResult result = run(arguments + " --json");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out, nullptr, false);
  }
};

TEST_F(CliBuild, CompileBundleAndCacheAgree) {
  MOESAIC_NEED_NVRTC();
  const std::string command = "compile --arch 90,100 --op prepare,weighted_sum --ptx --jobs 2 --out " + out;
  const json first = facts(command);
  EXPECT_EQ(first["compiled"], first["kernels"]);
  EXPECT_EQ(first["archs"].size(), 3u);  // 90, 100, PTX
  const json again = facts(command);
  EXPECT_EQ(again["compiled"], 0);

  EXPECT_EQ(facts("bundle list " + out)["entries"].size(), first["kernels"].get<std::size_t>());
  EXPECT_TRUE(facts("bundle verify " + out)["sound"].get<bool>());
  EXPECT_EQ(facts("cache list")["entries"].size(), first["kernels"].get<std::size_t>());
  EXPECT_EQ(run("cache verify").exit_code, 0);

  for (const auto& item : fs::recursive_directory_iterator(folder / "cache")) {
    if (item.path().filename() != "kernel.cubin") continue;
    fs::resize_file(item.path(), 10);
    break;
  }
  EXPECT_EQ(run("cache verify").exit_code, 1);
  EXPECT_EQ(facts("cache clear")["removed"], first["kernels"]);
  EXPECT_EQ(facts("cache list")["entries"].size(), 0u);
}

TEST_F(CliBuild, NvccCompilesABundle) {
  const auto nvcc = module::find_nvcc();
  if (!nvcc || nvcc->version < module::kMinNvrtcVersion) {
    GTEST_SKIP() << "no nvcc of 12.8 or later in CUDA_HOME, PATH or /usr/local/cuda";
  }
  const json made = facts("compile --arch 90 --op projection --compiler nvcc --out " + out);
  EXPECT_GT(made["kernels"], 0);
  EXPECT_EQ(made["compiled"], made["kernels"]);
  EXPECT_TRUE(facts("bundle verify " + out)["sound"].get<bool>());
  for (const json& entry : facts("bundle list " + out)["entries"]) {
    EXPECT_EQ(entry["compiler"].get<std::string>().rfind("nvcc ", 0), 0u) << entry;
  }
}

TEST_F(CliBuild, SkippedArchitectureFailsOnlyWhenNamed) {
  MOESAIC_NEED_NVRTC();
  const CommandResult all = run("compile --arch all --op weighted_sum --recipe bf16");
  EXPECT_EQ(all.exit_code, 0) << all.err;
  EXPECT_NE(all.out.find("skipped 107: needs CUDA 13.4"), std::string::npos) << all.out;
  EXPECT_EQ(std::count(all.err.begin(), all.err.end(), '\r'), 0) << "no bar without a terminal";
  EXPECT_NE(all.err.find("warp_sum_bf16"), std::string::npos) << all.err;
  const CommandResult named = run("compile --arch 107 --out " + out);
  EXPECT_EQ(named.exit_code, 1);
  EXPECT_NE(named.err.find("CUDA 13.4"), std::string::npos) << named.err;
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(CliBuild, KernelsReportsWhatTheCompilerMade) {
  MOESAIC_NEED_NVRTC();
  const json report = facts("kernels --target sm_90a --op weighted_sum");
  ASSERT_FALSE(report["kernels"].empty());
  for (const json& kernel : report["kernels"]) {
    EXPECT_GT(kernel["facts"]["registers"], 0);
    EXPECT_EQ(kernel["facts"]["spill_bytes"], 0);
    EXPECT_GT(kernel["facts"]["code_bytes"], 0);
  }
  EXPECT_EQ(facts("kernels --target compute_80 --op weighted_sum")["kernels"].size(), report["kernels"].size());
}

TEST_F(CliBuild, PackagesHoldTheKernelsOfOneArchitectureEach) {
  MOESAIC_NEED_NVRTC();
  const std::string command = "package --arch 90,120 --op weighted_sum --format zip --output " + folder.path();
  const json packages = facts(command)["packages"];
  ASSERT_EQ(packages.size(), 2u);
  std::vector<std::string> contents;
  for (const json& package : packages) {
    const std::string file = package["file"], target = "sm_" + package["package"].get<std::string>().substr(2);
    contents.push_back(base::read_file(file, 1 << 24));
    const json entries = facts("bundle list " + file)["entries"];
    EXPECT_EQ(entries.size(), package["kernels"].get<std::size_t>());
    for (const json& entry : entries) EXPECT_EQ(entry["target"], target);
    EXPECT_TRUE(facts("bundle verify " + file)["sound"].get<bool>());
  }
  // Compiled again: the same bytes.
  EXPECT_GT(facts("cache clear")["removed"], 0);
  EXPECT_EQ(facts(command)["packages"], packages);
  for (std::size_t i = 0; i < packages.size(); ++i) {
    EXPECT_EQ(base::read_file(packages[i]["file"], 1 << 24), contents[i]) << packages[i]["file"];
  }
}

TEST_F(CliBuild, InterruptLeavesNoBundleAndKeepsWhatWasDone) {
  MOESAIC_NEED_NVRTC();
  const pid_t child = fork();
  if (child == 0) {
    setenv("MOESAIC_CACHE_DIR", (folder / "cache").c_str(), 1);
    setenv("MOESAIC_NVRTC", kNvrtc13.c_str(), 1);
    execl(MOESAIC_CLI, "moesaic", "compile", "--arch", "all", "--jobs", "1", "--out", out.c_str(), nullptr);
    _exit(99);
  }
  const auto entries = [&] {
    std::error_code error;
    std::size_t count = 0;
    for (fs::recursive_directory_iterator item(folder / "cache", error), end; !error && item != end;
         item.increment(error)) {
      count += item->path().filename() == "meta.json" ? 1 : 0;
    }
    return count;
  };
  for (int i = 0; i < 3000 && entries() < 2; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  kill(child, SIGINT);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_GE(entries(), 2u);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1) << "only the cache";
}

}  // namespace
}  // namespace moesaic::testing
