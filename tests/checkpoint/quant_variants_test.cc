// SPDX-License-Identifier: Apache-2.0
// Other spellings and schemes of the published formats, made of the recorded folders.
#include <gtest/gtest.h>

#include <cmath>

#include "damage.h"
#include "stored_numbers.h"

namespace moesaic::testing {
namespace {

constexpr const char* kMlp = "model.layers.0.mlp.";

class QuantVariantTest : public ::testing::Test {
 protected:
  void copy(const char* name) { copy_checkpoint(name, folder_); }

  template <class Change>
  void edit_quant(Change change) {
    edit_json(folder_.path("config.json"), [&](Json& root) { change(root["quantization_config"]); });
  }

  template <class Change>
  void edit_tensors(Change change) {
    edit_model(change)(folder_);
  }

  CheckpointLayer load() const { return Checkpoint::open(folder_.path()).load(); }
  StoredFile file() const { return read_safetensors(folder_.path("model.safetensors")); }

  // Names of tensors that end so.
  static std::vector<std::string> ending(const Parts& parts, const std::string& suffix) {
    std::vector<std::string> names;
    for (const auto& [name, entry] : parts.header.items()) {
      if (name.ends_with(suffix)) names.push_back(name);
    }
    EXPECT_FALSE(names.empty()) << suffix;
    return names;
  }

  // Gate and down of every expert.
  void expect_formula(const CheckpointLayer& layer, Formula formula, const std::string& experts, const char* gate_name,
                      const char* down_name) const {
    const StoredFile stored = file();
    for (std::size_t e = 0; e < layer.weights.experts.size(); ++e) {
      const std::string expert = experts + std::to_string(e) + ".";
      expect_elements(layer.weights.experts[e].gate, 1e-15,
                      [&](std::int64_t n, std::int64_t k) { return formula(stored, expert + gate_name, n, k); });
      expect_elements(layer.weights.experts[e].down, 1e-15,
                      [&](std::int64_t n, std::int64_t k) { return formula(stored, expert + down_name, n, k); });
    }
  }
  void expect_qwen(const CheckpointLayer& layer, Formula formula) const {
    expect_formula(layer, formula, std::string(kMlp) + "experts.", "gate_proj", "down_proj");
  }

  TempFolder folder_;
};

TEST_F(QuantVariantTest, Fp8PerTensorWithoutModelOpt) {
  copy("qwen3_moe_modelopt_fp8");
  std::filesystem::remove(folder_.path("hf_quant_config.json"));
  edit_quant([](Json& q) { q = {{"quant_method", "fp8"}, {"activation_scheme", "static"}}; });
  CheckpointLayer layer = load();
  EXPECT_EQ(layer.stored, "FP8 per tensor");
  EXPECT_EQ(layer.config.recipe, "fp8_tensor");
  EXPECT_GT(layer.weights.experts[0].input_scale, 0.0f);
  // By the config activations are scaled per token: then stored scales contradict it.
  edit_quant([](Json& q) { q["activation_scheme"] = "dynamic"; });
  EXPECT_THROW(load(), Error);
  edit_tensors([](Parts& parts) {
    for (const std::string& name : ending(parts, ".input_scale")) remove_tensor(parts, name);
  });
  layer = load();
  EXPECT_EQ(layer.config.recipe, "fp8_tensor");
  EXPECT_EQ(layer.weights.experts[0].input_scale, 0.0f);
  expect_qwen(layer, fp8_scaled_formula);
}

TEST_F(QuantVariantTest, BlocksOfOtherSizes) {
  copy("deepseek_v3_fp8_block");
  edit_quant([](Json& q) { q["weight_block_size"] = {80, 80}; });  // as many blocks in these shapes
  const Quantization q = load().weights.experts[0].down.quantization;
  EXPECT_EQ(q.block_rows, 80);
  EXPECT_EQ(q.block_cols, 80);
}

TEST_F(QuantVariantTest, CompressedTensorsBlocksAndTensors) {
  copy("deepseek_v3_fp8_block");
  Json weights = {{"num_bits", 8}, {"type", "float"}, {"strategy", "block"}, {"block_structure", {128, 128}}};
  Json inputs = {{"num_bits", 8}, {"type", "float"}, {"strategy", "group"}, {"group_size", 128}, {"dynamic", true}};
  Json group = {{"targets", {"Linear"}}, {"weights", weights}, {"input_activations", inputs}};
  edit_quant([&](Json& q) {
    q = {{"quant_method", "compressed-tensors"}, {"format", "float-quantized"}, {"config_groups", {{"g", group}}}};
  });
  edit_tensors([](Parts& parts) {
    for (const std::string& name : ending(parts, "_inv")) {
      parts.header[name.substr(0, name.size() - 4)] = parts.header[name];
      parts.header.erase(name);
    }
  });
  CheckpointLayer layer = load();
  EXPECT_EQ(layer.stored, "compressed-tensors FP8 blocks");
  EXPECT_EQ(layer.config.recipe, "fp8_block");
  const StoredFile original = read_safetensors(checkpoint_folder("deepseek_v3_fp8_block") + "/model.safetensors");
  expect_elements(layer.weights.experts[3].down, 0.0, [&](std::int64_t n, std::int64_t k) {
    return fp8_block_formula(original, "model.layers.1.mlp.experts.3.down_proj", n, k);
  });
}

TEST_F(QuantVariantTest, CompressedTensorsFp8PerTensor) {
  copy("qwen3_moe_modelopt_fp8");
  std::filesystem::remove(folder_.path("hf_quant_config.json"));
  Json args = {{"num_bits", 8}, {"type", "float"}, {"strategy", "tensor"}, {"dynamic", false}};
  Json group = {{"targets", {"Linear"}}, {"weights", args}, {"input_activations", args}};
  edit_quant([&](Json& q) {
    q = {{"quant_method", "compressed-tensors"}, {"format", "float-quantized"}, {"config_groups", {{"g", group}}}};
  });
  CheckpointLayer layer = load();
  EXPECT_EQ(layer.config.recipe, "fp8_tensor");
  EXPECT_GT(layer.weights.experts[0].down_input_scale, 0.0f);
  expect_qwen(layer, fp8_scaled_formula);
}

TEST_F(QuantVariantTest, Nvfp4OfWeightsAlone) {
  copy("qwen3_moe_ct_nvfp4");
  edit_quant([](Json& q) { q["config_groups"]["group_0"]["input_activations"] = nullptr; });
  edit_tensors([](Parts& parts) {
    for (const std::string& name : ending(parts, ".input_global_scale")) remove_tensor(parts, name);
  });
  CheckpointLayer layer = load();
  EXPECT_EQ(layer.config.recipe, "bf16_nvfp4");
  EXPECT_EQ(layer.weights.experts[0].input_scale, 0.0f);
  expect_qwen(layer, ct_nvfp4_formula);
}

TEST_F(QuantVariantTest, ModelOptNvfp4OfWeightsAlone) {
  copy("mixtral_nvfp4");
  edit_json(folder_.path("hf_quant_config.json"),
            [](Json& root) { root["quantization"]["quant_algo"] = "W4A16_NVFP4"; });
  edit_tensors([](Parts& parts) {
    for (const std::string& name : ending(parts, ".input_scale")) remove_tensor(parts, name);
  });
  EXPECT_EQ(load().config.recipe, "bf16_nvfp4");
}

TEST_F(QuantVariantTest, Mxfp8ScalesOfTheirOwnType) {
  copy("qwen3_moe_mxfp8");
  edit_tensors([](Parts& parts) {
    for (const std::string& name : ending(parts, ".weight_scale")) parts.header[name]["dtype"] = "F8_E8M0";
  });
  expect_qwen(load(), mxfp8_formula);
}

TEST_F(QuantVariantTest, Int4WithTokensInFp8) {
  copy("kimi_k2_ct_int4");
  edit_quant([](Json& q) {
    q["config_groups"]["group_0"]["input_activations"] = {
        {"num_bits", 8}, {"type", "float"}, {"strategy", "token"}, {"dynamic", true}};
  });
  const MoeConfig config = load().config;
  EXPECT_EQ(config.recipe, "fp8_int4");
  EXPECT_EQ(config.shared.recipe, "bf16");
}

TEST_F(QuantVariantTest, CompressedTensorsZeroPoints) {
  copy("kimi_k2_ct_int4");
  edit_quant([](Json& q) { q["config_groups"]["group_0"]["weights"]["symmetric"] = false; });
  edit_tensors([](Parts& parts) {
    unsigned next = 1;
    for (const std::string& name : ending(parts, ".weight_packed")) {
      const std::vector<std::int64_t> packed = parts.header[name]["shape"];
      const std::vector<std::int64_t> shape = {packed[0] / 8, packed[1] * 8 / 32};
      std::string bytes;
      for (std::int64_t i = 0; i < shape[0] * shape[1] * 4; ++i) {
        next = next * 1103515245u + 12345u;
        bytes += static_cast<char>(next >> 16);
      }
      append_tensor(parts, name.substr(0, name.size() - 6) + "zero_point", "I32", shape, bytes);
    }
  });
  CheckpointLayer layer = load();
  EXPECT_TRUE(layer.config.int4.zero_points);
  EXPECT_EQ(layer.config.int4.size, 32);
  expect_formula(layer, ct_int4_formula, "model.layers.1.mlp.experts.", "gate_proj", "down_proj");
}

TEST_F(QuantVariantTest, Int4ScalesInFp32AreKept) {
  copy("kimi_k2_ct_int4");
  EXPECT_FALSE(load().config.int4.f32_scales);
  edit_tensors([](Parts& parts) {
    float scale = 0.001f;
    for (const std::string& name : ending(parts, ".weight_scale")) {
      const std::vector<std::int64_t> shape = parts.header[name]["shape"];
      std::string bytes;
      for (std::int64_t i = 0; i < shape[0] * shape[1]; ++i) {
        scale = scale < 0.002f ? scale * 1.0001f : 0.001f;
        bytes.append(reinterpret_cast<const char*>(&scale), sizeof(scale));
      }
      remove_tensor(parts, name);
      append_tensor(parts, name, "F32", shape, bytes);
    }
  });
  const CheckpointLayer layer = load();
  EXPECT_TRUE(layer.config.int4.f32_scales);
  expect_formula(layer, ct_int4_formula, "model.layers.1.mlp.experts.", "gate_proj", "down_proj");
}

TEST_F(QuantVariantTest, GptqZeroPoints) {
  copy("qwen2_moe_gptq");
  const std::string gate = std::string(kMlp) + "experts.3.gate_proj";
  // "Symmetric", but one zero point is another: it counts.
  edit_tensors([&](Parts& parts) { overwrite(parts, gate + ".qzeros", 5, "\x37"); });
  CheckpointLayer layer = load();
  EXPECT_TRUE(layer.config.int4.zero_points);
  EXPECT_EQ(layer.weights.experts[0].gate.quantization.zeros, nullptr);
  EXPECT_NE(layer.weights.experts[3].gate.quantization.zeros, nullptr);
  expect_qwen(layer, gptq_formula);
  // An asymmetric config keeps all zero points.
  edit_quant([](Json& q) { q["sym"] = false; });
  layer = load();
  EXPECT_NE(layer.weights.experts[0].gate.quantization.zeros, nullptr);
  expect_qwen(layer, gptq_formula);
}

TEST_F(QuantVariantTest, GptqOfTheSecondFormatStoresZeroPointsThemselves) {
  copy("qwen2_moe_gptq");
  edit_quant([](Json& q) { q["checkpoint_format"] = "gptq_v2"; });
  CheckpointLayer layer = load();  // 7 is now 7
  EXPECT_TRUE(layer.config.int4.zero_points);
  const StoredFile stored = file();
  const std::string down = std::string(kMlp) + "experts.0.down_proj";
  const StoredArray first_scale{"F16", {1}, stored.at(down + ".scales").bytes.substr(0, 2)};
  EXPECT_EQ(view_element(layer.weights.experts[0].down, 0, 0),
            gptq_formula(stored, down, 0, 0) + only_number(first_scale));
  edit_tensors([](Parts& parts) {
    for (const std::string& name : ending(parts, ".qzeros")) {
      overwrite(parts, name, 0, std::string(tensor_bytes(parts, name).size(), '\x88'));
    }
  });
  layer = load();
  EXPECT_FALSE(layer.config.int4.zero_points);
  EXPECT_EQ(layer.weights.experts[0].gate.quantization.zeros, nullptr);
}

TEST_F(QuantVariantTest, GptqWithoutIndexOrZeroPoints) {
  copy("qwen2_moe_gptq");
  edit_tensors([](Parts& parts) {
    for (const char* suffix : {".g_idx", ".qzeros"}) {
      for (const std::string& name : ending(parts, suffix)) remove_tensor(parts, name);
    }
  });
  EXPECT_FALSE(load().config.int4.zero_points);
}

TEST_F(QuantVariantTest, GptqLeavesModulesOutByRuleOrByList) {
  for (bool by_rule : {true, false}) {
    SCOPED_TRACE(by_rule);
    copy("qwen2_moe_gptq");
    edit_quant([&](Json& q) {
      if (by_rule) {
        q["dynamic"] = {{"-:.*\\.shared_expert\\..*", Json::object()}};
      } else {
        q["modules_in_block_to_quantize"] = {{"mlp.experts"}, {"self_attn.q_proj"}};
      }
    });
    EXPECT_THROW(load(), Error);  // the shared expert is still quantised
    const Parts plain = read_parts(checkpoint_folder("qwen2_moe") + "/model.safetensors");
    edit_tensors([&](Parts& parts) {
      for (const char* suffix : {".qweight", ".qzeros", ".scales", ".g_idx"}) {
        for (const std::string& name : ending(parts, suffix)) {
          if (name.find("shared_expert.") != std::string::npos) remove_tensor(parts, name);
        }
      }
      for (const char* matrix : {"gate_proj", "up_proj", "down_proj"}) {
        const std::string name = std::string(kMlp) + "shared_expert." + matrix + ".weight";
        append_tensor(parts, name, "BF16", plain.header.at(name)["shape"], tensor_bytes(plain, name));
      }
    });
    const MoeConfig config = load().config;
    EXPECT_EQ(config.recipe, "bf16_int4");
    EXPECT_EQ(config.shared.recipe, "bf16");
  }
}

TEST_F(QuantVariantTest, LayersLeftUnquantised) {
  copy("deepseek_v3");
  edit_quant([](Json& q) {
    q = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}, {"modules_to_not_convert", {"model.layers.1"}}};
  });
  Checkpoint checkpoint = Checkpoint::open(folder_.path());
  CheckpointLayer layer = checkpoint.load(1);
  EXPECT_EQ(layer.config.recipe, "bf16");
  EXPECT_EQ(layer.config.shared.recipe, "");
  EXPECT_EQ(layer.stored, "bf16");
  EXPECT_THROW(checkpoint.load(2), Error);
}

TEST_F(QuantVariantTest, OnlyTheKvCacheIsQuantised) {
  copy("mixtral");
  write_bytes(folder_.path("hf_quant_config.json"),
              R"({"quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}})");
  EXPECT_EQ(load().config.recipe, "bf16");
}

// Families whose experts are published fused split them when Linear layers are quantised.
TEST_F(QuantVariantTest, FusedFamiliesAreSplitWhenQuantised) {
  copy("llama4_text");
  const Parts mixtral = read_parts(checkpoint_folder("mixtral_ct_fp8") + "/model.safetensors");
  const Json quant = Json::parse(read_bytes(checkpoint_folder("mixtral_ct_fp8") + "/config.json"));
  edit_quant([&](Json& q) {
    q = quant.at("quantization_config");
    q["ignore"] = {"re:.*shared_expert.*", "re:.*router"};
  });
  const std::string block = "model.layers.0.feed_forward.";
  edit_tensors([&](Parts& parts) {
    for (const char* name : {"gate_up_proj", "down_proj"}) remove_tensor(parts, block + "experts." + name);
    for (const auto& [name, entry] : mixtral.header.items()) {
      const std::size_t at = name.find("experts.");
      if (at == std::string::npos) continue;
      std::string renamed = block + name.substr(at);
      for (const auto& [from, to] :
           {std::pair{".w1.", ".gate_proj."}, {".w2.", ".down_proj."}, {".w3.", ".up_proj."}}) {
        const std::size_t where = renamed.find(from);
        if (where != std::string::npos) renamed.replace(where, 4, to);
      }
      append_tensor(parts, renamed, entry["dtype"], entry["shape"], tensor_bytes(mixtral, name));
    }
  });
  CheckpointLayer layer = load();
  EXPECT_EQ(layer.config.recipe, "fp8_channel");
  EXPECT_EQ(layer.config.shared.recipe, "bf16");
  expect_formula(layer, fp8_scaled_formula, block + "experts.", "gate_proj", "down_proj");
}

}  // namespace
}  // namespace moesaic::testing
