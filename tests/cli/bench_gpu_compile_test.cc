// SPDX-License-Identifier: Apache-2.0
// `moesaic bench` on a GPU that is none: the driver, cuBLASLt and NVML of the tests. What it captures, cuts and reports
// is seen, in times that are known.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::testing {
namespace {

constexpr double kGraphUs = 5, kLaunchUs = 7;  // of fake_cuda.cc

nlohmann::json bench(const std::string& arguments) {
  const TemporaryFolder folder;
  for (const auto& [file, name] : {std::pair{MOESAIC_FAKE_CUDA_FILE, "libcuda.so.1"},
                                   {MOESAIC_FAKE_CUBLAS_FILE, "libcublasLt.so.13"},
                                   {MOESAIC_FAKE_NVML_FILE, "libnvidia-ml.so.1"}}) {
    std::filesystem::create_symlink(file, folder / name);
  }
  const CommandResult result =
      run_cli("bench " + arguments + " --device cuda:0 --json", "LD_LIBRARY_PATH='" + folder.path() + "'");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return nlohmann::json::parse(result.out, nullptr, false);
}

TEST(BenchOnGpu, LaunchesOfALayerAddUpToIt) {
  const nlohmann::json report =
      bench("moe --model qwen3-30b-a3b --experts 16 --recipe fp8_block --tokens 2 --routing uniform,zipf --shares");
  EXPECT_EQ(report["nvml"], "");
  EXPECT_EQ(report["matrix_measured"], true);
  EXPECT_NE(report["matrix_source"].get<std::string>().find("cuBLASLt 12.8.4 at "), std::string::npos);
  ASSERT_EQ(report["points"].size(), 2u);
  for (const nlohmann::json& point : report["points"]) {
    const std::vector<std::string> steps = {"routing", "quantise x", "GEMM 1", "quantise h", "GEMM 2", "weighted sum"};
    ASSERT_EQ(point["launches"].size(), steps.size());
    EXPECT_NEAR(point["time_us"], kGraphUs + kLaunchUs * static_cast<double>(steps.size()), 0.01);
    double share = 0;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const nlohmann::json& launch = point["launches"][i];
      EXPECT_EQ(launch["step"], steps[i]);
      EXPECT_NEAR(launch["us"], kLaunchUs + (i == 0 ? kGraphUs : 0), 0.01);
      share += launch["share"].get<double>();
    }
    EXPECT_NEAR(share, 1, 1e-9);
    EXPECT_GT(point["power_w"], 0);
    EXPECT_EQ(point["least_sm_mhz"], 1500);
  }
  EXPECT_GT(report["points"][1]["time_over_prediction"], 0);
}

/// Names of a layer's launches.
std::vector<std::string> steps_of(const std::string& arguments) {
  const nlohmann::json report =
      bench("moe --model qwen3-30b-a3b --experts 16 --tokens 2 --shares --static-scales " + arguments);
  std::vector<std::string> steps;
  for (const nlohmann::json& launch : report["points"][0]["launches"]) steps.push_back(launch["step"]);
  return steps;
}

TEST(BenchOnGpu, Gemm1ThatQuantisesItsResultSavesALaunch) {
  const std::vector<std::string> saved = {"routing", "quantise x", "GEMM 1", "GEMM 2", "weighted sum"};
  EXPECT_EQ(steps_of("--recipe fp8_tensor"), saved);
  EXPECT_EQ(steps_of("--recipe nvfp4"), saved);
  EXPECT_EQ(steps_of("--recipe mxfp8").size(), saved.size() + 1);
  ::setenv("MOESAIC_QUANTISE_HIDDEN", "off", 1);
  EXPECT_EQ(steps_of("--recipe nvfp4").size(), saved.size() + 1);
  ::unsetenv("MOESAIC_QUANTISE_HIDDEN");
}

TEST(BenchOnGpu, ProductsOfSixteenBitsHaveAPeer) {
  const nlohmann::json report = bench("gemm --rows 128,4096");
  EXPECT_EQ(report["cublas"], "cuBLASLt 12.8.4");
  for (const nlohmann::json& point : report["points"]) {
    EXPECT_GT(point["cublas_us"], 0);
    EXPECT_NEAR(point["fraction_of_cublas"], point["cublas_us"].get<double>() / point["time_us"].get<double>(), 1e-9);
  }
  const nlohmann::json codes = bench("gemm --rows 16 --recipe mxfp8 --n 128 --k 128");
  EXPECT_EQ(codes["cublas"].get<std::string>().rfind("not compared with cuBLASLt: ", 0), 0u);
  EXPECT_TRUE(codes["points"][0]["cublas_us"].is_null());
}

}  // namespace
}  // namespace moesaic::testing
