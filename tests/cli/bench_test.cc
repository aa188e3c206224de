// SPDX-License-Identifier: Apache-2.0
// `moesaic bench`: what it counts; times are only there.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "command.h"

namespace moesaic::testing {
namespace {

nlohmann::json bench(const std::string& arguments) {
  const CommandResult result = run_cli("bench " + arguments + " --json");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return nlohmann::json::parse(result.out, nullptr, false);
}

void expect_measured(const nlohmann::json& point) {
  EXPECT_GT(point["time_us"], 0);
  EXPECT_GE(point["spread"], 0);
  EXPECT_GT(point["floor_us"], 0);
  EXPECT_GT(point["fraction_of_floor"], 0);
}

TEST(Bench, QuantizersAreMeasuredAgainstACopy) {
  const CommandResult result =
      run_cli("bench quantize --format nvfp4,int4,fp8_1x128 --rows 64 --cols 256 --layout linear --json");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json report = nlohmann::json::parse(result.out);
  ASSERT_EQ(report["points"].size(), 3u);
  const nlohmann::json& nvfp4 = report["points"][0];
  EXPECT_EQ(nvfp4["format"], "nvfp4");
  EXPECT_EQ(nvfp4["bytes_read"], 64 * 256 * 2);
  EXPECT_EQ(nvfp4["bytes_written"], 64 * 256 / 2 + 64 * 16);
  EXPECT_GT(nvfp4["copy_gb_per_s"], 0);
  EXPECT_GT(nvfp4["fraction_of_copy"], 0);
  const CommandResult gated = run_cli("bench quantize --format mxfp8 --rows 8 --cols 64 --activation swiglu --json");
  ASSERT_EQ(gated.exit_code, 0) << gated.err;
  EXPECT_EQ(nlohmann::json::parse(gated.out)["points"][0]["bytes_read"], 8 * 128 * 2);
}

TEST(Bench, LayersOfSkewedRoutingsAreComparedWithUniformOnes) {
  const nlohmann::json report = bench("moe --model qwen3-30b-a3b --experts 16 --tokens 2 --routing uniform,zipf:1.5");
  EXPECT_GE(report["routings"], 16);
  ASSERT_EQ(report["points"].size(), 2u);
  const nlohmann::json &uniform = report["points"][0], &zipf = report["points"][1];
  for (const nlohmann::json* point : {&uniform, &zipf}) {
    expect_measured(*point);
    EXPECT_TRUE((*point)["power_w"].is_null());  // no GPU
    EXPECT_NEAR((*point)["time_over_floor"], 1 / (*point)["fraction_of_floor"].get<double>(), 1e-6);
  }
  EXPECT_EQ(uniform["routing"], "uniform");
  EXPECT_TRUE(uniform["time_over_prediction"].is_null());
  EXPECT_EQ(zipf["routing"], "zipf:1.5");
  EXPECT_LT(zipf["touched_experts"], uniform["touched_experts"]);
  EXPECT_GE(zipf["largest_load"], uniform["largest_load"]);
  EXPECT_NEAR(zipf["time_over_prediction"],
              zipf["time_over_floor"].get<double>() / uniform["time_over_floor"].get<double>(), 1e-6);
}

TEST(Bench, RoutingsThatAreNotKnownAreWrongUse) {
  for (const char* verb : {"moe --model qwen3-30b-a3b", "route"}) {
    const CommandResult result = run_cli(std::string("bench ") + verb + " --routing skewed --tokens 1");
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_NE(result.err.find("known: uniform, zipf"), std::string::npos) << result.err;
  }
}

TEST(Bench, RouterIsMeasuredAgainstACopyOfWhatItReadsAndWrites) {
  const nlohmann::json report =
      bench("route --experts 32 --top-k 4 --method deepseek_v3 --groups 4 --topk-group 2 --tokens 3,64 --routing zipf");
  EXPECT_EQ(report["routing"], "zipf:1");
  EXPECT_EQ(report["method"], "deepseek_v3");
  EXPECT_EQ(report["experts"], 32);
  EXPECT_EQ(report["top_k"], 4);
  EXPECT_EQ(report["groups"], 4);
  EXPECT_EQ(report["topk_group"], 2);
  EXPECT_GE(report["routings"], 16);
  EXPECT_GT(report["copy_tb_per_s"], 0);
  ASSERT_EQ(report["points"].size(), 2u);
  const int tokens[] = {3, 64};
  for (int i = 0; i < 2; ++i) {
    const nlohmann::json& point = report["points"][static_cast<std::size_t>(i)];
    EXPECT_EQ(point["tokens"], tokens[i]);
    EXPECT_EQ(point["bytes_read"], 4 * (tokens[i] * 32 + 32));            // logits, selection bias
    EXPECT_EQ(point["bytes_written"], 4 * (5 * tokens[i] * 4 + 32 + 1));  // five numbers a slot, offsets
    EXPECT_EQ(point["kernels"], nlohmann::json({"cpu_route"}));
    expect_measured(point);
  }
}

TEST(Bench, MethodsWithoutSelectionBiasReadLogitsAlone) {
  const nlohmann::json report = bench("route --experts 8 --top-k 2 --tokens 5");
  EXPECT_EQ(report["method"], "softmax_topk_renorm");
  EXPECT_EQ(report["points"][0]["bytes_read"], 4 * 5 * 8);
}

TEST(Bench, ProductsOfQuantisedWeightsAreMeasured) {
  const std::pair<const char*, int> weight_bytes[] = {{"fp16", 128 * 256 * 2},
                                                      {"fp8_block", 128 * 256 + 1 * 2 * 4},
                                                      {"nvfp4", 128 * 256 / 2 + 128 * 256 / 16},
                                                      {"bf16_int4", 128 * 256 / 2 + 128 * 256 / 64 * 2}};
  for (const auto& [recipe, bytes] : weight_bytes) {
    SCOPED_TRACE(recipe);
    const nlohmann::json report =
        bench(std::string("gemm --recipe ") + recipe + " --n 128 --k 256 --rows 2 --int4-group 64");
    EXPECT_EQ(report["recipe"], recipe);
    ASSERT_EQ(report["points"].size(), 1u);
    EXPECT_EQ(report["points"][0]["weight_bytes"], bytes);
    expect_measured(report["points"][0]);
  }
}

TEST(Bench, ProductsOfGroupsCountTheWeightsOfGroupsWithRows) {
  const nlohmann::json report = bench("gemm --recipe mxfp8 --n 64 --k 96 --groups 3 --rows 2,7");
  EXPECT_EQ(report["groups"], 3);
  ASSERT_EQ(report["points"].size(), 2u);
  const int rows[] = {2, 7}, touched[] = {2, 3};
  for (int i = 0; i < 2; ++i) {
    const nlohmann::json& point = report["points"][static_cast<std::size_t>(i)];
    EXPECT_EQ(point["rows"], rows[i]);
    EXPECT_EQ(point["touched_groups"], touched[i]);
    EXPECT_EQ(point["weight_bytes"], touched[i] * 64 * (96 + 96 / 32));
    EXPECT_EQ(point["activation_bytes"], rows[i] * (96 + 64) * 2);
    EXPECT_EQ(point["kernels"], nlohmann::json({"cpu_oracle"}));
    expect_measured(point);
  }
}

TEST(Bench, TextSaysThatProductsOnTheCpuAreSlowOnPurpose) {
  const CommandResult result = run_cli("bench gemm --n 16 --k 16 --rows 1");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("oracle"), std::string::npos) << result.out;
}

}  // namespace
}  // namespace moesaic::testing
