// SPDX-License-Identifier: Apache-2.0
// nvcc as the compiler, a script in its place: found, asked, named, obeyed, ended when it hangs.
#include "module/nvcc.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/fs.h"
#include "module/aot.h"
#include "module/cache.h"
#include "module/maker.h"
#include "tests/module/fake_cubin.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::ScopedEnv;
using testing::small_instance;
using testing::TemporaryFolder;

// Compiles to the bytes of a library, a sound ELF file, once it has seen that the sources are there.
constexpr const char* kCompiles =
    "test -f kernels/abi/config.h && test -f moesaic_config.h || exit 3\n"
    "for a in \"$@\"; do test \"$last\" = -o && out=$a; last=$a; done\n"
    "grep -q __global__ \"$last\" || exit 4\n"
    "echo \"ptxas info : Used 24 registers\" >&2\n"
    "cp " MOESAIC_FAKE_NVRTC "/libnvrtc.so $out\n";

struct NvccTest : ::testing::Test {
  TemporaryFolder folder;
  ScopedEnv home{"CUDA_HOME", folder.path().c_str()};
  KernelInstance instance = small_instance();

  void install(const std::string& compiles, const std::string& release = "13.0") const {
    fs::create_directories(folder / "bin");
    const std::string file = folder / "bin/nvcc";
    std::ofstream(file) << "#!/bin/sh\ncase $1 in\n--version) echo 'Cuda compilation tools, release " << release
                        << ", V" << release << ".88'; echo 'Build cuda_13.0.r13.0/compiler.1_0';;\n"
                        << "--list-gpu-arch) echo compute_80; echo compute_90;;\n*)\n"
                        << compiles << ";;\nesac\n";
    fs::permissions(file, fs::perms(0755));
  }
  ModuleOptions options() const { return testing::compiling_options(folder / "cache", MOESAIC_FAKE_NVRTC); }
  Maker maker() const { return Maker(options(), find_nvcc().value()); }
};

TEST_F(NvccTest, IsFoundAndTellsWhoItIs) {
  install(kCompiles);
  const auto nvcc = find_nvcc();
  ASSERT_TRUE(nvcc.has_value());
  EXPECT_EQ(nvcc->path, folder / "bin/nvcc");
  EXPECT_EQ(nvcc->version, 13000);
  EXPECT_EQ(nvcc->build, "cuda_13.0.r13.0/compiler.1_0");
  EXPECT_EQ(nvcc->supported, (std::vector<int>{80, 90}));
}

TEST_F(NvccTest, WhatIsNoCompilerIsPassedOver) {
  fs::create_directories(folder / "bin");
  for (const char* text : {"#!/bin/sh\nexit 1\n", "#!/bin/sh\necho release x\n", "garbage"}) {
    std::ofstream(folder / "bin/nvcc") << text;
    fs::permissions(folder / "bin/nvcc", fs::perms(0755));
    const auto nvcc = find_nvcc();
    EXPECT_TRUE(!nvcc || nvcc->path != folder / "bin/nvcc") << text;
  }
}

TEST_F(NvccTest, CompilesNamesItselfAndHasKeysOfItsOwn) {
  install(kCompiles);
  const std::string id = identity(instance);
  const Cubin cubin = maker().make(instance, id);
  EXPECT_EQ(cubin.origin, Origin::kCompiled);
  EXPECT_EQ(cubin.compiler, "nvcc 13.0 build cuda_13.0.r13.0/compiler.1_0");
  EXPECT_EQ(cubin.flags.back(), "--cubin");
  EXPECT_EQ(cubin.facts.registers, 24);
  EXPECT_EQ(maker().make(instance, id).origin, Origin::kCache);
  EXPECT_FALSE(Maker(options()).find(instance, id).has_value()) << "NVRTC's is another kernel";
  EXPECT_EQ(Cache(folder / "cache").list().at(0).record.compiler, cubin.compiler);
}

TEST_F(NvccTest, BuildsASetForWhatItKnows) {
  install(kCompiles);
  BuildRequest request;
  request.archs = tables::parse_arch_list("90", {});
  request.ops = 1u << static_cast<unsigned>(instance.row->op);
  request.nvcc = true;
  const BuildResult result = build_set(request, options());
  EXPECT_EQ(result.compiler, "nvcc 13.0 build cuda_13.0.r13.0/compiler.1_0");
  ASSERT_FALSE(result.kernels.empty());
  for (const BuiltKernel& kernel : result.kernels) EXPECT_EQ(kernel.cubin->compiler, result.compiler);
  request.archs = tables::parse_arch_list("100", {});
  expect_error(ErrorKind::kUnsupported, {"100", "the nvcc here is 13.0"}, [&] { build_set(request, options()); });
  install(kCompiles, "12.4");
  expect_error(ErrorKind::kUnsupported, {folder / "bin/nvcc", "12.4", "12.8"}, [&] { build_set(request, options()); });
}

TEST_F(NvccTest, FailuresGiveItsLogAndNothingIsCached) {
  const std::string id = identity(instance);
  install("echo 'x.cu(1): error: no'; exit 2\n");
  expect_error(ErrorKind::kCompile, {entry_name(instance), "sm_80", "ended with 2", "x.cu(1): error: no"},
               [&] { maker().make(instance, id); });
  install("for a in \"$@\"; do test \"$last\" = -o && echo garbage > $a; last=$a; done\n");
  expect_error(ErrorKind::kCompile, {"nvcc", folder / "bin/nvcc", "no cubin"}, [&] { maker().make(instance, id); });
  install("exit 0\n");
  expect_error(ErrorKind::kIo, {"No such file"}, [&] { maker().make(instance, id); });
  EXPECT_TRUE(Cache(folder / "cache").list().empty());
}

TEST_F(NvccTest, HangingOneIsEndedWithAllThatItStarted) {
  install("sleep 600 & echo $! > " + (folder / "pid") + "; wait\n");
  const ScopedEnv limit("MOESAIC_COMPILE_TIMEOUT", "1");
  const std::string id = identity(instance);
  for (int i = 0; i < 2; ++i) {
    pid_t pid = 0;
    for (int attempt = 0; attempt < 30 && pid == 0; ++attempt) {  // on a busy machine it may end before it has begun
      expect_error(ErrorKind::kCompile, {"within 1 s", "ended", "MOESAIC_COMPILE_TIMEOUT"},
                   [&] { maker().make(instance, id); });
      std::ifstream(folder / "pid") >> pid;
    }
    fs::remove(folder / "pid");
    ASSERT_GT(pid, 0);
    const auto has_ended = [&] {  // a zombie at most, until init has looked
      std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
      std::string number, name, state;
      stat >> number >> name >> state;
      return state.empty() || state == "Z" || state == "X";
    };
    for (int wait = 0; wait < 30'000 && !has_ended(); ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_TRUE(has_ended());
  }
}

}  // namespace
}  // namespace moesaic::module
