// SPDX-License-Identifier: Apache-2.0
// A driver that is older than what a kernel was made with, simulated: every refusal says both versions and what to do.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "backend_cuda/kernel.h"
#include "tests/module/child.h"
#include "tests/module/fake_cubin.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::cuda {
namespace {

using testing::Child;
using testing::expect_error;
using testing::ScopedEnv;

struct OldDriver : ::testing::Test {
  module::Cubin made_with(int cuda_version, const char* target = "sm_90") const {
    module::Cubin cubin = testing::fake_cubin(testing::small_instance(target), "image");
    cubin.cuda_version = cuda_version;
    cubin.compiler = "nvrtc of the test";
    return cubin;
  }
  // In a process of its own, which loads the fake driver: a library of that name that is loaded already is found.
  static void with_driver(int version, int load_result, const std::function<void()>& body) {
    const ScopedEnv driver("MOESAIC_FAKE_DRIVER", std::to_string(version).c_str());
    const ScopedEnv load("MOESAIC_FAKE_LOAD", std::to_string(load_result).c_str());
    const Child child([&] {
      if (dlopen(MOESAIC_FAKE_CUDA, RTLD_NOW | RTLD_LOCAL) == nullptr) return 98;
      body();
      return ::testing::Test::HasFailure() ? 1 : 0;
    });
    EXPECT_EQ(child.wait(), 0) << "98: the fake driver cannot be loaded";
  }
};

TEST_F(OldDriver, LoadsWhatItUnderstands) {
  with_driver(13000, 0, [&] { Kernel::load(made_with(13000), 0, 0); });
  with_driver(13000, 0, [&] { Kernel::load(made_with(13020), 0, 0); });  // cubins: the same major version is enough
  with_driver(13000, 0, [&] { Kernel::load(made_with(12080), 0, 0); });
  with_driver(13000, 0, [&] { Kernel::load(made_with(13000, "compute_80"), 0, 0); });
}

TEST_F(OldDriver, IsNamedBeforeAnythingIsLoaded) {
  const std::vector<std::string> words = {"nvrtc of the test", "update the driver", "MOESAIC_NVRTC", "MOESAIC_BUNDLE"};
  const auto expect_refusal = [&](int driver, const module::Cubin& cubin, std::vector<std::string> versions) {
    versions.insert(versions.end(), words.begin(), words.end());
    versions.push_back(cubin.entry);
    with_driver(driver, 999,
                [&] { expect_error(ErrorKind::kUnsupported, versions, [&] { Kernel::load(cubin, 0, 0); }); });
  };
  expect_refusal(12080, made_with(13000),
                 {"(CUDA 13.0)", "the driver supports CUDA 12.8", "NVRTC of CUDA 12.8 or earlier"});
  expect_refusal(13000, made_with(13020, "compute_80"), {"(CUDA 13.2)", "the driver supports CUDA 13.0"});
}

TEST_F(OldDriver, WhatTheDriverRefusesIsExplained) {
  struct Answer {
    int result;
    const char* name;
  };
  for (const auto& [result, name] :
       {Answer{200, "CUDA_ERROR_INVALID_IMAGE"}, Answer{209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
        Answer{218, "CUDA_ERROR_INVALID_PTX"}, Answer{222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"}}) {
    with_driver(13000, result, [&, code = name] {
      expect_error(ErrorKind::kUnsupported,
                   {code, "ptxas says why", "nvrtc of the test", "made with CUDA 13.1", "the driver supports CUDA 13.0",
                    "the GPU is SM 90", "update the driver", "NVRTC of CUDA 13.0 or earlier", "MOESAIC_BUNDLE"},
                   [&] { Kernel::load(made_with(13010), 0, 0); });
    });
  }
  with_driver(13000, 999, [&] {
    expect_error(ErrorKind::kCuda, {"CUDA_ERROR_UNKNOWN"}, [&] { Kernel::load(made_with(13010), 0, 0); });
  });
}

}  // namespace
}  // namespace moesaic::cuda
