// SPDX-License-Identifier: Apache-2.0
// `moesaic quantize`: what it writes computes what `run --recipe` computes, everything else is copied, and a refusal
// leaves nothing behind.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "command.h"
#include "tests/support/safetensors_reader.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::testing {
namespace {

namespace fs = std::filesystem;

std::string data(const std::string& name) { return MOESAIC_TEST_DATA "/checkpoints/" + name; }

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class QuantizeTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_.path() + "/" + name; }

  CommandResult quantize(const std::string& model, const std::string& recipe, const std::string& out,
                         const std::string& more = "") const {
    return run_cli("quantize --model " + data(model) + " --recipe " + recipe + " --out " + path(out) + " " + more);
  }

  // The exact output of a layer, as bytes of a file.
  std::string output(const std::string& model, int layer, const std::string& io, const std::string& more) const {
    const std::string file = path("y.safetensors");
    const CommandResult run = run_cli("run --mode exact --model " + model + " --layer " + std::to_string(layer) +
                                      " --input " + io + " --out " + file + " " + more);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return bytes_of(file);
  }

  void expect_same_as_converting(const std::string& model, int layer, const std::string& recipe,
                                 const std::string& more = "") {
    SCOPED_TRACE(model + " " + recipe);
    const std::string io = data(model) + "/io.safetensors";
    EXPECT_EQ(output(path("out"), layer, io, ""), output(data(model), layer, io, "--recipe " + recipe + " " + more));
  }

  // Nothing but what the test itself made.
  std::vector<std::string> left() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path())) names.push_back(entry.path().filename());
    return names;
  }

  TemporaryFolder folder_;
};

struct Case {
  const char *model, *recipe;
  int layer;
  const char* more = "";
};

TEST_F(QuantizeTest, WritesWhatRunComputes) {
  const Case cases[] = {{"mixtral", "nvfp4", 0},         {"mixtral", "fp8_channel", 0},
                        {"qwen3_moe", "mxfp8", 1},       {"deepseek_v3", "fp8_block", 2},
                        {"gpt_oss", "bf16_mxfp4", 0},    {"olmoe", "fp8_tensor", 0},
                        {"qwen3_vl_moe", "nvfp4", 0},    {"llama4", "fp8_channel", 1},
                        {"qwen2_moe", "bf16_int4", 0},   {"glm4_moe", "bf16_int4", 1, "--int4-zero-points"},
                        {"gpt_oss_mxfp4", "bf16", 0},    {"deepseek_v3_fp8_block", "nvfp4", 1},
                        {"kimi_k2_ct_int4", "mxfp8", 1}, {"qwen3_moe_awq", "bf16", 0}};
  for (const Case& c : cases) {
    fs::remove_all(path("out"));
    const CommandResult made = quantize(c.model, c.recipe, "out", c.more);
    ASSERT_EQ(made.exit_code, 0) << c.model << " " << c.recipe << ": " << made.err;
    expect_same_as_converting(c.model, c.layer, c.recipe, c.more);
  }
}

TEST_F(QuantizeTest, CopiesEverythingElse) {
  fs::copy(data("qwen3_moe"), path("model"));
  std::ofstream(path("model/tokenizer.json")) << "{}";
  const CommandResult made =
      run_cli("quantize --model " + path("model") + " --recipe nvfp4 --out " + path("out") + " --json");
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_NE(made.out.find("\"format\": \"ModelOpt NVFP4\""), std::string::npos) << made.out;
  EXPECT_EQ(bytes_of(path("out/tokenizer.json")), "{}");
  const StoredFile before = read_safetensors(path("model/model.safetensors"));
  StoredFile after;
  for (const auto& entry : fs::directory_iterator(path("out"))) {
    if (entry.path().extension() != ".safetensors") continue;
    for (auto& [name, array] : read_safetensors(entry.path()).arrays) after.arrays[name] = array;
  }
  int copied = 0;
  for (const auto& [name, array] : before.arrays) {
    if (name.find(".experts.") != std::string::npos) {
      EXPECT_TRUE(after.arrays.contains(name.substr(0, name.rfind('.')) + ".weight_scale_2")) << name;
      continue;
    }
    ++copied;
    EXPECT_EQ(after.at(name).bytes, array.bytes) << name;
    EXPECT_EQ(after.at(name).dtype, array.dtype) << name;
  }
  EXPECT_GE(copied, 2);  // the routers
}

TEST_F(QuantizeTest, RefusesAndLeavesNothingBehind) {
  const auto refused = [&](const CommandResult& result, int code, const std::string& why) {
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_NE(result.err.find(why), std::string::npos) << result.err;
    EXPECT_TRUE(left().empty());
  };
  refused(quantize("mixtral", "fp9", "out"), 2, "fp9");
  refused(quantize("mixtral", "bf16_mxfp4", "out"), 1, "nvfp4");
  refused(quantize("gpt_oss", "nvfp4", "out"), 1, "bf16_mxfp4");
  refused(quantize("mixtral_nvfp4", "nvfp4", "out"), 1, "already");
  refused(quantize("mixtral", "bf16_int4", "out", "--int4-group 128"), 1, "128");
  refused(quantize("mixtral", "nvfp4", "missing/out"), 1, "missing");
  refused(quantize("no_such_model", "nvfp4", "out"), 1, "no_such_model");
}

TEST_F(QuantizeTest, DoesNotTouchAnExistingFolder) {
  fs::create_directory(path("out"));
  std::ofstream(path("out/mine")) << "mine";
  const CommandResult result = quantize("mixtral", "nvfp4", "out");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("exists"), std::string::npos) << result.err;
  EXPECT_EQ(bytes_of(path("out/mine")), "mine");
  EXPECT_EQ(left().size(), 1u);
}

}  // namespace
}  // namespace moesaic::testing
