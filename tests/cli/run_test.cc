// SPDX-License-Identifier: Apache-2.0
// `moesaic run` as users call it: recorded layers pass in every mode, wrong ones do not, and refusals say why.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command.h"
#include "moesaic/checkpoint.h"

namespace moesaic::testing {
namespace {

namespace fs = std::filesystem;

class RunTest : public ::testing::Test {
 protected:
  RunTest() {
    std::string pattern = (fs::temp_directory_path() / "moesaic_run_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    folder_ = pattern;
  }
  ~RunTest() override { fs::remove_all(folder_); }

  static std::string data(const std::string& name) { return MOESAIC_TEST_DATA "/checkpoints/" + name; }
  std::string temporary(const std::string& name) const { return folder_ + "/" + name; }

  // "--model <folder> --input <io> --expect <io>"
  static std::string recorded(const std::string& model, const std::string& io = "io") {
    std::string file = data(model) + "/" + io + ".safetensors";
    return "run --model " + data(model) + " --input " + file + " --expect " + file;
  }

  // The recorded tensor of a folder, writable.
  static std::vector<float> floats(const std::string& model, const std::string& name) {
    StoredTensor stored = read_tensor(data(model) + "/io.safetensors:" + name, "");
    const auto* values = static_cast<const float*>(stored.view.data);
    return {values, values + stored.view.num_elements()};
  }

  // A file with one tensor [rows, cols].
  std::string write(const std::string& name, std::vector<float> values, std::int64_t cols) const {
    std::string path = temporary(name + ".safetensors");
    write_tensors(
        path,
        {{name, TensorView(values.data(), DType::kF32, {static_cast<std::int64_t>(values.size()) / cols, cols})}});
    return path;
  }

  // Runs mixtral with a changed expectation.
  CommandResult run_against(const std::vector<float>& y, const std::string& mode) const {
    std::string io = data("mixtral") + "/io.safetensors";
    return run_cli("run --model " + data("mixtral") + " --input " + io + " --expect " + write("y", y, 160) +
                   " --mode " + mode);
  }

  std::string folder_;
};

void expect_says(const CommandResult& result, int exit_code, const std::string& words) {
  EXPECT_EQ(result.exit_code, exit_code) << result.out << result.err;
  EXPECT_NE((result.out + result.err).find(words), std::string::npos) << result.out << result.err;
}

TEST_F(RunTest, RecordedLayersPassInEveryMode) {
  const std::pair<const char*, const char*> layers[] = {{"mixtral", "io"},
                                                        {"mixtral_tie", "io"},
                                                        {"qwen2_moe", "io"},
                                                        {"qwen3_moe", "io"},
                                                        {"olmoe", "io"},
                                                        {"deepseek_v2", "io"},
                                                        {"deepseek_v3", "io"},
                                                        {"glm4_moe", "io"},
                                                        {"gpt_oss", "io"},
                                                        {"llama4", "io"},
                                                        {"llama4_text", "io"},
                                                        {"qwen3_vl_moe", "io"},
                                                        {"qwen3_moe", "io_layer1"},
                                                        {"deepseek_v3", "io_layer2"}};
  for (const auto& [model, io] : layers) {
    for (const char* mode : {"exact", "oracle", "fast"}) {
      SCOPED_TRACE(std::string(model) + " " + io + " " + mode);
      std::string layer = std::string(io) == "io" ? "" : std::string(" --layer ") + io[8];
      CommandResult result = run_cli(recorded(model, io) + layer + " --json --mode " + mode);
      ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
      EXPECT_EQ(result.err, "");
      auto json = nlohmann::json::parse(result.out);
      EXPECT_EQ(json["verdict"], "pass");
      EXPECT_EQ(json["mode"], mode);
      EXPECT_LE(json["worst_row_l2"].get<double>(), json["tolerance"].get<double>());
      EXPECT_EQ(json["tolerance"].get<double>(), std::string(mode) == "exact" ? 1e-5 : 6e-3);
      EXPECT_EQ(json["tokens_routed_otherwise"], 0);
    }
  }
}

TEST_F(RunTest, PrintsShapesKernelsTimeAndVerdict) {
  CommandResult result = run_cli(recorded("qwen2_moe"));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* words : {"tokens 18, hidden 160, intermediate 64, experts 6, top-k 2, shared 128 gated",
                            "recipe     bf16, mode fast, device cpu", "kernels    cpu_fast", "time       ", "worst row",
                            "0 of 18 tokens", "verdict    pass"}) {
    EXPECT_NE(result.out.find(words), std::string::npos) << words << "\n" << result.out;
  }
}

TEST_F(RunTest, AnotherLayerFailsAndIsWarnedOf) {
  CommandResult result = run_cli(recorded("qwen3_moe") + " --layer 1 --mode exact");
  expect_says(result, 1, "verdict    FAIL");
  EXPECT_NE(result.err.find("belongs to layer 0, but layer 1 runs"), std::string::npos) << result.err;
}

// The comparison itself under mutation: each change of the expectation alone must turn the verdict.
TEST_F(RunTest, ChangedExpectationsFail) {
  const std::vector<float> y = floats("mixtral", "y");
  EXPECT_EQ(run_against(y, "exact").exit_code, 0);
  auto changed = [&](auto change) {
    std::vector<float> copy = y;
    change(copy);
    return copy;
  };
  expect_says(run_against(changed([](auto& v) { v[161] += 0.05f * std::abs(v[161]) + 0.01f; }), "exact"), 1, "(row 1)");
  expect_says(run_against(changed([](auto& v) { v[7] = std::numeric_limits<float>::quiet_NaN(); }), "fast"), 1, "inf");
  expect_says(run_against(changed([](auto& v) { std::rotate(v.begin(), v.begin() + 160, v.end()); }), "fast"), 1,
              "FAIL");
  expect_says(run_against(changed([](auto& v) { std::fill(v.begin(), v.end(), 0.0f); }), "fast"), 1, "FAIL");
  std::vector<float> slightly = changed([](auto& v) {
    for (float& value : v) value *= 1.0005f;
  });
  expect_says(run_against(slightly, "exact"), 1, "FAIL");
  expect_says(run_against(slightly, "fast"), 0, "pass");
}

TEST_F(RunTest, ExpectationsOfAnotherShapeAreErrors) {
  std::vector<float> y = floats("mixtral", "y");
  y.resize(y.size() - 160);
  expect_says(run_against(y, "fast"), 1, "is f32 [15, 160]; wanted");
  std::string io = data("mixtral") + "/io.safetensors";
  expect_says(run_cli("run --model " + data("mixtral") + " --input " + io + " --expect " + io + ":router_logits"), 1,
              "'router_logits'");
  expect_says(run_cli("run --model " + data("mixtral") + " --input " + io + ":topk_weights"), 1, "wanted");
}

TEST_F(RunTest, OutHoldsWhatWasComputed) {
  std::string out = temporary("out.safetensors");
  ASSERT_EQ(run_cli(recorded("deepseek_v3") + " --mode oracle --out " + out).exit_code, 0);
  EXPECT_EQ(read_tensor(out, "y").view.dtype, DType::kBF16);
  EXPECT_EQ(read_tensor(out + ":topk_ids", "").view.shape[1], 4);
  EXPECT_EQ(read_tensor(out + ":router_logits", "").view.shape[1], 8);
  std::string again = "run --model " + data("deepseek_v3") + " --input " + data("deepseek_v3") +
                      "/io.safetensors --mode oracle --json --expect " + out;
  CommandResult result = run_cli(again);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out)["max_abs"], 0.0);
}

TEST_F(RunTest, GivenRoutingReplacesTheRouter) {
  std::string io = data("olmoe") + "/io.safetensors";
  std::string given = " --top-k-ids " + io + ":topk_ids --top-k-weights " + io + ":topk_weights";
  for (const char* mode : {"exact", "oracle", "fast"}) {
    expect_says(run_cli(recorded("olmoe") + given + " --mode " + mode), 0, "verdict    pass");
  }
  std::vector<float> halved = floats("olmoe", "topk_weights");
  for (float& weight : halved) weight *= 0.5f;
  expect_says(run_cli(recorded("olmoe") + " --top-k-ids " + io + " --top-k-weights " + write("w", halved, 3)), 1,
              "FAIL");
  expect_says(run_cli(recorded("olmoe") + " --top-k-ids " + io), 2, "go together");
  expect_says(run_cli(recorded("olmoe") + " --top-k-ids " + io + ":x --top-k-weights " + io), 1, "wanted i32 or i64");
}

// qwen2_moe has a gated shared expert, deepseek_v3 groups and a shared expert.
TEST_F(RunTest, PartsOfTheExpertsAddUp) {
  const std::pair<std::string, const char*> models[] = {
      {"qwen2_moe", "3-5"}, {"deepseek_v3", "3-7"}, {"gpt_oss", "3-5"}};
  for (const auto& [model, rest] : models) {
    SCOPED_TRACE(model);
    const std::vector<float> wanted = floats(model, "y");
    std::vector<float> sum(wanted.size(), 0.0f);
    for (const char* range : {"0-1", "2-2", rest}) {
      const std::string out = temporary("part.safetensors");
      const CommandResult part = run_cli("run --model " + data(model) + " --input " + data(model) +
                                         "/io.safetensors --mode exact --json --experts " + range + " --out " + out);
      ASSERT_EQ(part.exit_code, 0) << part.err;
      EXPECT_EQ(nlohmann::json::parse(part.out)["first_expert"], range[0] - '0');
      const StoredTensor y = read_tensor(out, "y");
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<const float*>(y.view.data)[i];
    }
    double distance = 0, size = 0;
    for (std::size_t i = 0; i < sum.size(); ++i) {
      distance += std::pow(sum[i] - wanted[i], 2);
      size += std::pow(wanted[i], 2);
    }
    EXPECT_LE(std::sqrt(distance / size), 1e-5);
  }
  expect_says(run_cli(recorded("mixtral") + " --experts 0-1"), 2, "leave one out");
  for (const char* range : {"3", "0-8", "-1-2", "2-1", "a-b", "1-2x"}) {
    expect_says(run_cli("run --model " + data("mixtral") + " --input " + data("mixtral") +
                        "/io.safetensors --experts=" + range),
                2, "wanted FIRST-LAST within 0-5");
  }
}

TEST_F(RunTest, Recipes) {
  CommandResult fp16 = run_cli(recorded("qwen3_moe") + " --recipe fp16 --json");
  ASSERT_EQ(fp16.exit_code, 0) << fp16.err << fp16.out;
  EXPECT_EQ(nlohmann::json::parse(fp16.out)["tolerance"], 1e-3);
  for (const char* recipe : {"fp8_block", "nvfp4"}) {
    CommandResult converted = run_cli(recorded("qwen3_moe") + " --recipe " + recipe + " --json");
    ASSERT_EQ(converted.exit_code, 0) << converted.err << converted.out;  // within the recipe's tolerance
    EXPECT_GT(nlohmann::json::parse(converted.out)["relative_l2"], 1e-2) << recipe << " did not round";
  }
  expect_says(run_cli(recorded("qwen3_moe") + " --recipe bf17"), 2, "bf17");
}

TEST_F(RunTest, WrongUse) {
  std::string io = data("mixtral") + "/io.safetensors";
  expect_says(run_cli("run --input " + io), 2, "--model");
  expect_says(run_cli("run --model " + data("mixtral")), 2, "--input");
  expect_says(run_cli(recorded("mixtral") + " --mode quick"), 2, "quick");
  expect_says(run_cli(recorded("mixtral") + " --device gpu"), 2, "gpu");
  expect_says(run_cli(recorded("mixtral") + " --device cuda:0 --mode exact"), 2, "on the CPU only");
  expect_says(run_cli(recorded("mixtral") + " --layer -1"), 2, "--layer");
}

TEST_F(RunTest, Refusals) {
  std::string io = data("mixtral") + "/io.safetensors";
  expect_says(run_cli(recorded("mixtral") + " --layer 1"), 1, "its MoE layers are 0");
  expect_says(run_cli("run --model " + temporary("nowhere") + " --input " + io), 1, "nowhere/config.json");
  expect_says(run_cli("run --model " + data("mixtral") + " --input " + temporary("none.safetensors")), 1,
              "none.safetensors");
  expect_says(run_cli("run --model " + data("mixtral") + " --input " + io + ":z"), 1, "'z'");
  std::ofstream(temporary("config.json")) << R"({"model_type": "mixtral", "quantization_config":)"
                                          << R"({"quant_method": "bitsandbytes"}})";
  expect_says(run_cli("run --model " + folder_ + " --input " + io), 1, "'bitsandbytes' is not read; read are fp8");
  expect_says(run_cli("run --model " + data("mixtral") + " --input " + data("mixtral_tie") + "/io.safetensors"), 1,
              "is f32 [23, 64]; wanted");
  expect_says(run_cli(recorded("mixtral") + " --out " + temporary("no/such/folder/out.safetensors")), 1, "no/such");
}

TEST_F(RunTest, NoTokensIsLegal) {
  for (const char* mode : {"exact", "oracle", "fast"}) {
    std::string x = write("x", {}, 160);
    std::string out = temporary("out.safetensors");
    CommandResult result =
        run_cli("run --model " + data("mixtral") + " --input " + x + " --out " + out + " --mode " + mode);
    expect_says(result, 0, "tokens 0");
    EXPECT_EQ(read_tensor(out + ":y", "").view.shape[0], 0);
  }
}

TEST_F(RunTest, SaysWhenTheInputHadToBeRounded) {
  std::vector<float> x = floats("mixtral", "x");
  x[3] = 1.001f;
  CommandResult result = run_cli("run --model " + data("mixtral") + " --input " + write("x", x, 160));
  expect_says(result, 0, "1 values are not exact in bf16");
}

}  // namespace
}  // namespace moesaic::testing
