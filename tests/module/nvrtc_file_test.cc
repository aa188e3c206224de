// SPDX-License-Identifier: Apache-2.0
// The search for NVRTC, with files that only look like it: nothing here is loaded.
#include "module/nvrtc_file.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "module/build_id.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using testing::ScopedEnv;
using testing::TemporaryFolder;

// This executable is an ELF file with a build-id, which is all that the search looks at.
void make_library(const std::string& folder, const std::string& name, const std::string& builtins) {
  fs::create_directories(folder);
  fs::copy_file("/proc/self/exe", folder + "/" + name);
  fs::copy_file("/proc/self/exe", folder + "/" + builtins);
}

TEST(NvrtcFile, GivenPlaceMayBeFileFolderToolkitOrSite) {
  const TemporaryFolder root;
  make_library(root / "site/nvidia/cu13/lib", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0");
  make_library(root / "old/nvidia/cuda_nvrtc/lib", "libnvrtc.so.12", "libnvrtc-builtins.so.12.9");
  make_library(root / "cuda/lib64", "libnvrtc.so.13.0.88", "libnvrtc-builtins.so.13.0.88");
  for (const std::string& place :
       {root / "site", root / "site/nvidia/cu13/lib", root / "site/nvidia/cu13/lib/libnvrtc.so.13", root / "cuda"}) {
    const NvrtcSearch search = find_nvrtc(place);
    ASSERT_TRUE(search.file.has_value()) << place << ": " << search.why_none();
    EXPECT_EQ(search.file->version, 13000) << place;
    EXPECT_EQ(search.file->build_id, elf_build_id("/proc/self/exe"));
  }
  EXPECT_EQ(find_nvrtc(root / "old").file->version, 12090);
  const ScopedEnv variable("MOESAIC_NVRTC", (root / "old").c_str());
  EXPECT_EQ(find_nvrtc({}).file->version, 12090);
  EXPECT_EQ(find_nvrtc(root / "site").file->version, 13000);
}

TEST(NvrtcFile, WhatIsGivenIsNotReplacedByAnother) {
  const TemporaryFolder root;
  make_library(root / "cuda/lib64", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0");
  const ScopedEnv home("CUDA_HOME", (root / "cuda").c_str());
  const NvrtcSearch search = find_nvrtc(root / "nowhere");
  EXPECT_FALSE(search.file.has_value());
  EXPECT_NE(search.why_none().find("nowhere"), std::string::npos);
}

TEST(NvrtcFile, OrderIsToolkitThenLoaderPathThenPython) {
  const TemporaryFolder root;
  make_library(root / "cuda/lib64", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0");
  make_library(root / "loader", "libnvrtc.so.12", "libnvrtc-builtins.so.12.9");
  const ScopedEnv none("MOESAIC_NVRTC", nullptr);
  const ScopedEnv path("LD_LIBRARY_PATH", (root / "loader").c_str());
  {
    const ScopedEnv home("CUDA_HOME", (root / "cuda").c_str());
    EXPECT_EQ(find_nvrtc({}).file->path, fs::canonical(root / "cuda/lib64/libnvrtc.so.13"));
  }
  const ScopedEnv home("CUDA_HOME", nullptr);
  const NvrtcSearch search = find_nvrtc({});
  EXPECT_EQ(search.file->path, fs::canonical(root / "loader/libnvrtc.so.12"));
  EXPECT_EQ(search.file->found_by, "loader path");
  EXPECT_EQ(search.passed_over, std::vector<std::string>{"CUDA_HOME: not set"});
}

TEST(NvrtcFile, TooOldIsPassedOver) {
  const TemporaryFolder root;
  make_library(root / "cuda/lib64", "libnvrtc.so.12", "libnvrtc-builtins.so.12.4");
  make_library(root / "loader", "libnvrtc.so.12", "libnvrtc-builtins.so.12.8");
  const ScopedEnv none("MOESAIC_NVRTC", nullptr);
  const ScopedEnv home("CUDA_HOME", (root / "cuda").c_str()), path("LD_LIBRARY_PATH", (root / "loader").c_str());
  const NvrtcSearch search = find_nvrtc({});
  EXPECT_EQ(search.file->version, 12080);
  EXPECT_NE(search.why_none().find("NVRTC 12.4"), std::string::npos);
}

TEST(NvrtcFile, SiteFolderOfTheActiveEnvironment) {
  const TemporaryFolder root;
  const std::string site = root / "venv/lib/python3.11/site-packages";
  make_library(site + "/nvidia/cuda_nvrtc/lib", "libnvrtc.so.12", "libnvrtc-builtins.so.12.9");
  const ScopedEnv none("MOESAIC_NVRTC", nullptr), home("CUDA_HOME", nullptr), path("LD_LIBRARY_PATH", nullptr);
  const ScopedEnv environment("VIRTUAL_ENV", (root / "venv").c_str());
  const NvrtcSearch search = find_nvrtc({});
  if (search.file && search.file->found_by.rfind("Python", 0) != 0) {
    GTEST_SKIP() << "this machine has NVRTC in a place that is searched before: " << search.file->found_by;
  }
  ASSERT_TRUE(search.file.has_value()) << search.why_none();
  EXPECT_EQ(search.file->path, fs::canonical(site + "/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
}

TEST(NvrtcFile, NewestOfAFolder) {
  const TemporaryFolder root;
  make_library(root / "lib", "libnvrtc.so.12.8.93", "libnvrtc-builtins.so.12.8.93");
  make_library(root / "lib", "libnvrtc.so.13.0.88", "libnvrtc-builtins.so.13.0.88");
  EXPECT_EQ(find_nvrtc(root / "lib").file->version, 13000);
}

}  // namespace
}  // namespace moesaic::module
