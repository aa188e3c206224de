// SPDX-License-Identifier: Apache-2.0
// Quantised folders of every published format: recipe, names, scales, and each element of each matrix against the
// format's published formula.
#include "checkpoint/quant_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "files.h"
#include "moesaic/checkpoint.h"
#include "stored_numbers.h"
#include "tables/kernel_table.h"

namespace moesaic::testing {
namespace {

struct QuantisedFolder {
  const char* folder;
  const char* recipe;
  const char* shared_recipe;
  const char* stored;
  const char* layout;
  int group;  // int4: of config.int4; 0: the default
  bool zero_points;
  Formula formula;  // of routed experts; nullptr: fused
  Formula shared_formula;
  const char* input_scale;  // suffix of a static scale, or nullptr
  bool reciprocal;
};

const char* const kRows = "one matrix per expert, [out, in]";

// By golden/README's table of quantised twins.
const QuantisedFolder kFolders[] = {
    {"deepseek_v3_fp8_block", "fp8_block", "", "FP8 blocks", kRows, 0, false, fp8_block_formula, fp8_block_formula,
     nullptr, false},
    {"qwen3_moe_fp8_block", "fp8_block", "", "FP8 blocks", kRows, 0, false, fp8_block_formula, nullptr, nullptr, false},
    {"qwen3_moe_modelopt_fp8", "fp8_tensor", "", "ModelOpt FP8", kRows, 0, false, fp8_scaled_formula, nullptr,
     ".input_scale", false},
    {"qwen3_moe_mxfp8", "mxfp8", "", "ModelOpt MXFP8", kRows, 0, false, mxfp8_formula, nullptr, nullptr, false},
    {"mixtral_nvfp4", "nvfp4", "", "ModelOpt NVFP4", "one matrix per expert, [out, in/2]", 0, false, nvfp4_formula,
     nullptr, ".input_scale", false},
    {"qwen3_moe_nvfp4", "nvfp4", "", "ModelOpt NVFP4", "one matrix per expert, [out, in/2]", 0, false, nvfp4_formula,
     nullptr, ".input_scale", false},
    {"qwen3_moe_ct_nvfp4", "nvfp4", "", "compressed-tensors NVFP4", "one matrix per expert, [out, in/2]", 0, false,
     ct_nvfp4_formula, nullptr, ".input_global_scale", true},
    {"mixtral_ct_fp8", "fp8_channel", "", "compressed-tensors FP8 per channel", kRows, 0, false, fp8_scaled_formula,
     nullptr, nullptr, false},
    {"kimi_k2_ct_int4", "bf16_int4", "bf16", "compressed-tensors int4", "one matrix per expert, [out, in/8] words", 32,
     false, ct_int4_formula, plain_formula, nullptr, false},
    {"qwen2_moe_gptq", "bf16_int4", "", "GPTQ int4", "one matrix per expert, [in/8, out] words", 32, false,
     gptq_formula, gptq_formula, nullptr, false},
    {"qwen3_moe_awq", "bf16_int4", "", "AWQ int4", "one matrix per expert, [in, out/8] words", 32, true, awq_formula,
     nullptr, nullptr, false},
    {"gpt_oss_mxfp4", "bf16_mxfp4", "", "MXFP4 blocks",
     "fused [E, 2I, H/32, 16], [E, H, I/32, 16] gate and up interleaved", 0, false, nullptr, nullptr, nullptr, false},
};

void PrintTo(const QuantisedFolder& folder, std::ostream* out) { *out << folder.folder; }

// Where a family keeps its experts in these folders.
struct Names {
  std::string block;
  const char *gate, *up, *down;
  std::string shared;
};

Names names_of(const CheckpointLayer& layer) {
  std::string base = "model.layers." + std::to_string(layer.layer) + ".";
  if (layer.family == "mixtral") return {base + "block_sparse_moe.experts.", "w1", "w3", "w2", ""};
  std::string shared = base + (layer.family == "qwen2_moe" ? "mlp.shared_expert." : "mlp.shared_experts.");
  return {base + "mlp.experts.", "gate_proj", "up_proj", "down_proj", shared};
}

void expect_expert(const ExpertWeights& expert, const StoredFile& file, const std::string& prefix, const Names& names,
                   Formula formula) {
  const std::pair<const MatrixView*, const char*> matrices[] = {
      {&expert.gate, names.gate}, {&expert.up, names.up}, {&expert.down, names.down}};
  for (const auto& [view, name] : matrices) {
    SCOPED_TRACE(prefix + name);
    const std::string module = prefix + name;
    expect_elements(*view, formula == ct_nvfp4_formula ? 1e-15 : 0.0,
                    [&](std::int64_t n, std::int64_t k) { return formula(file, module, n, k); });
  }
}

class QuantisedFolderTest : public ::testing::TestWithParam<QuantisedFolder> {
 protected:
  void SetUp() override {
    layer_ = Checkpoint::open(checkpoint_folder(GetParam().folder)).load();
    file_ = read_safetensors(checkpoint_folder(GetParam().folder) + "/model.safetensors");
  }

  CheckpointLayer layer_;
  StoredFile file_;
};

TEST_P(QuantisedFolderTest, HasItsRecipeAndNames) {
  const QuantisedFolder& want = GetParam();
  const MoeConfig& config = layer_.config;
  EXPECT_EQ(config.recipe, want.recipe);
  EXPECT_EQ(config.shared.recipe, want.shared_recipe);
  EXPECT_EQ(layer_.stored, want.stored);
  EXPECT_EQ(layer_.layout, want.layout);
  EXPECT_EQ(config.int4.size, want.group == 0 ? Int4Groups().size : want.group);
  EXPECT_EQ(config.int4.zero_points, want.zero_points);
  EXPECT_FALSE(layer_.weights.router.quantized());
  for (const ExpertWeights& expert : layer_.weights.experts) {
    EXPECT_EQ(expert.gate.quantization.zeros != nullptr, want.zero_points);
  }
}

TEST_P(QuantisedFolderTest, EveryElementIsWhatTheFormatSays) {
  const Names names = names_of(layer_);
  for (std::size_t e = 0; e < layer_.weights.experts.size(); ++e) {
    const ExpertWeights& expert = layer_.weights.experts[e];
    if (GetParam().formula != nullptr) {
      expect_expert(expert, file_, names.block + std::to_string(e) + ".", names, GetParam().formula);
      continue;
    }
    const auto id = static_cast<std::int64_t>(e);
    auto fused = [&](const char* module, std::int64_t step, std::int64_t first) {
      return [this, &names, module, id, step, first](std::int64_t n, std::int64_t k) {
        return mxfp4_formula(file_, names.block + module, id, step * n + first, k);
      };
    };
    expect_elements(expert.gate, 0.0, fused("gate_up_proj", 2, 0));
    expect_elements(expert.up, 0.0, fused("gate_up_proj", 2, 1));
    expect_elements(expert.down, 0.0, fused("down_proj", 1, 0));
  }
  if (GetParam().shared_formula != nullptr) {
    expect_expert(layer_.weights.shared, file_, names.shared, names, GetParam().shared_formula);
  }
}

TEST_P(QuantisedFolderTest, StaticScalesAreTheLargerOfGateAndUp) {
  const Names names = names_of(layer_);
  for (std::size_t e = 0; e < layer_.weights.experts.size(); ++e) {
    const ExpertWeights& expert = layer_.weights.experts[e];
    if (GetParam().input_scale == nullptr) {
      EXPECT_EQ(expert.input_scale, 0.0f);
      EXPECT_EQ(expert.down_input_scale, 0.0f);
      continue;
    }
    auto scale = [&](const char* name) {
      const auto stored = static_cast<float>(
          only_number(file_.at(names.block + std::to_string(e) + "." + name + GetParam().input_scale)));
      return GetParam().reciprocal ? 1.0f / stored : stored;
    };
    EXPECT_EQ(expert.input_scale, std::max(scale(names.gate), scale(names.up)));
    EXPECT_EQ(expert.down_input_scale, scale(names.down));
    EXPECT_GT(expert.input_scale, 0.0f);
  }
}

// What a recipe does not take is not promised.
TEST_P(QuantisedFolderTest, StaticScalesOfAllExpertsArePromised) {
  const MoeConfig& c = layer_.config;
  EXPECT_EQ(c.static_scales,
            GetParam().input_scale != nullptr && tables::takes_static_scales(tables::get_recipe(c.recipe)));
}

TEST_P(QuantisedFolderTest, MisalignedTensorsAreCopied) {
  TempFolder folder;
  copy_checkpoint(GetParam().folder, folder);
  write_bytes(folder.path("model.safetensors"), pack(read_parts(folder.path("model.safetensors")), /*padding=*/1));
  CheckpointLayer moved = Checkpoint::open(folder.path()).load();
  for (std::size_t e = 0; e < moved.weights.experts.size(); ++e) {
    const MatrixView &want = layer_.weights.experts[e].down, &got = moved.weights.experts[e].down;
    expect_elements(got, 0.0, [&](std::int64_t n, std::int64_t k) { return view_element(want, n, k); });
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, QuantisedFolderTest, ::testing::ValuesIn(kFolders),
                         [](const auto& info) { return std::string(info.param.folder); });

TEST(QuantFormats, FusedBiasesAreInterleavedAsTheRows) {
  CheckpointLayer layer = Checkpoint::open(checkpoint_folder("gpt_oss_mxfp4")).load();
  const StoredFile file = read_safetensors(checkpoint_folder("gpt_oss_mxfp4") + "/model.safetensors");
  const auto b13 = file.at("model.layers.0.mlp.experts.gate_up_proj_bias").values<std::uint16_t>();
  const auto b2 = file.at("model.layers.0.mlp.experts.down_proj_bias").values<std::uint16_t>();
  auto element = [](const VectorView& v, std::int64_t i) {
    EXPECT_EQ(v.dtype, DType::kBF16);
    return static_cast<const std::uint16_t*>(v.data)[i * v.stride];
  };
  for (std::size_t e = 0; e < 6; ++e) {
    const ExpertWeights& expert = layer.weights.experts[e];
    for (std::size_t i = 0; i < 64; ++i) {
      ASSERT_EQ(element(expert.gate_bias, static_cast<std::int64_t>(i)), b13[e * 128 + 2 * i]);
      ASSERT_EQ(element(expert.up_bias, static_cast<std::int64_t>(i)), b13[e * 128 + 2 * i + 1]);
    }
    for (std::size_t i = 0; i < 160; ++i) {
      ASSERT_EQ(element(expert.down_bias, static_cast<std::int64_t>(i)), b2[e * 160 + i]);
    }
  }
}

TEST(QuantFormats, ViewsPointIntoTheFile) {
  TempFolder folder;
  copy_checkpoint("qwen3_moe_awq", folder);
  CheckpointLayer layer = Checkpoint::open(folder.path()).load();
  const std::string module = "model.layers.0.mlp.experts.0.gate_proj.";
  Parts parts = read_parts(folder.path("model.safetensors"));
  auto offset = [&](const char* suffix) {
    return parts.header.at(module + suffix).at("data_offsets").at(0).get<std::int64_t>();
  };
  const MatrixView& gate = layer.weights.experts[0].gate;
  auto distance = [&](const void* part) {
    return static_cast<const char*>(part) - static_cast<const char*>(gate.data);
  };
  EXPECT_EQ(distance(gate.quantization.scales), offset("scales") - offset("qweight"));
  EXPECT_EQ(distance(gate.quantization.zeros), offset("qzeros") - offset("qweight"));
}

}  // namespace
}  // namespace moesaic::testing
