// SPDX-License-Identifier: Apache-2.0
// Every recorded layer of tests/data through `moesaic run` on a GPU: in its checkpoint's own recipe, and converted.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "backend_cuda/device.h"
#include "command.h"
#include "tables/recipe_table.h"

namespace moesaic::testing {
namespace {

namespace fs = std::filesystem;

/// One recorded layer: io.safetensors of the first MoE layer, io_layerN.safetensors of layer N.
struct Recorded {
  std::string folder, io;

  std::string name() const { return folder + (io == "io" ? "" : io.substr(io.find('_'))); }
  std::string command() const {
    const std::string model = MOESAIC_TEST_DATA "/checkpoints/" + folder, file = model + "/" + io + ".safetensors";
    const std::string layer = io == "io" ? "" : " --layer " + io.substr(std::string("io_layer").size());
    return "run --model " + model + layer + " --input " + file + " --expect " + file + " --json";
  }
};
void PrintTo(const Recorded& r, std::ostream* out) { *out << r.name(); }

std::vector<Recorded> recorded_layers() {
  std::vector<Recorded> layers;
  for (const auto& folder : fs::directory_iterator(MOESAIC_TEST_DATA "/checkpoints")) {
    for (const auto& file : fs::directory_iterator(folder)) {
      const std::string stem = file.path().stem().string();
      if (stem.rfind("io", 0) == 0) layers.push_back({folder.path().filename().string(), stem});
    }
  }
  std::sort(layers.begin(), layers.end(), [](const Recorded& a, const Recorded& b) { return a.name() < b.name(); });
  return layers;
}

/// Folders whose weights are 16-bit numbers: what tolerances of conversions are about.
std::vector<Recorded> plain_layers() {
  std::vector<Recorded> plain;
  for (const Recorded& recorded : recorded_layers()) {
    const std::string folder = MOESAIC_TEST_DATA "/checkpoints/" + recorded.folder;
    std::stringstream config;
    config << std::ifstream(folder + "/config.json").rdbuf();
    const bool quantised = config.str().find("\"quantization_config\"") != std::string::npos ||
                           fs::exists(folder + "/hf_quant_config.json");
    if (!quantised && recorded.io == "io") plain.push_back(recorded);
  }
  return plain;
}

/// Expects a run that passed: within the tolerance of its recipe, on the GPU, tokens routed as recorded. Gives its
/// report.
nlohmann::json expect_pass(const std::string& arguments) {
  SCOPED_TRACE(arguments);
  const CommandResult result = run_cli(arguments + " --device cuda:0");
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
  if (result.exit_code != 0) return {};
  nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json["verdict"], "pass");
  EXPECT_LE(json["worst_row_l2"].get<double>(), json["tolerance"].get<double>());
  EXPECT_EQ(json["tokens_routed_otherwise"], 0);
  EXPECT_EQ(json["device"], "cuda:0");
  for (const auto& kernel : json["kernels"]) EXPECT_EQ(kernel.get<std::string>().find("cpu"), std::string::npos);
  return json;
}

class DeviceRun : public ::testing::TestWithParam<Recorded> {
 protected:
  void SetUp() override {
    if (const std::string why = cuda::why_no_cuda(); !why.empty()) GTEST_SKIP() << "no GPU: " << why;
  }
};

TEST_P(DeviceRun, PassesInItsOwnRecipe) { expect_pass(GetParam().command()); }

TEST(DeviceRunConverted, EveryRecipePassesOnSomeCheckpoint) {
  if (const std::string why = cuda::why_no_cuda(); !why.empty()) GTEST_SKIP() << "no GPU: " << why;
  const std::vector<Recorded> layers = plain_layers();
  for (std::size_t i = 0; i < std::max(layers.size(), tables::kRecipeTable.size()); ++i) {
    const std::string recipe = tables::kRecipeTable[i % tables::kRecipeTable.size()].name;
    const nlohmann::json json = expect_pass(layers[i % layers.size()].command() + " --recipe " + recipe);
    EXPECT_TRUE(json.is_null() || json["recipe"] == recipe) << json;
  }
}

INSTANTIATE_TEST_SUITE_P(Recorded, DeviceRun, ::testing::ValuesIn(recorded_layers()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace moesaic::testing
