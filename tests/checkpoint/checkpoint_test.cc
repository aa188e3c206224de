// SPDX-License-Identifier: Apache-2.0
// Checkpoint folders: what each family's configuration becomes, spellings, storage types, and every kind of damage.
#include "moesaic/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <random>

#include "damage.h"
#include "files.h"

namespace moesaic::testing {
namespace {

struct Expected {
  const char* folder;
  std::vector<int> moe_layers;
  int experts, top_k, hidden, intermediate;
  SharedExperts shared;
  Routing routing;
  ActivationKind activation;
  bool weights_on_input;
  const char* layout;
};

constexpr ActivationKind kSwiglu = ActivationKind::kSwiglu;
constexpr RoutingMethod kRenorm = RoutingMethod::kSoftmaxTopKRenorm, kPlain = RoutingMethod::kSoftmaxTopK;
const char* const kSplit = "one matrix per expert, [out, in]";
const char* const kFused = "fused [E, H, 2I], [E, I, H] gate then up";
const char* const kInterleaved = "fused [E, H, 2I], [E, I, H] gate and up interleaved";

// By the tables of tests/data: H = 160, I = 64, dense layers 96, qwen2's shared expert 128.
const Expected kExpected[] = {
    {"mixtral", {0}, 6, 2, 160, 64, {}, {kRenorm}, kSwiglu, false, kSplit},
    {"mixtral_tie", {0}, 8, 2, 64, 32, {}, {kRenorm}, kSwiglu, false, kSplit},
    {"qwen2_moe", {0}, 6, 2, 160, 64, {128, true}, {kPlain}, kSwiglu, false, kSplit},
    {"qwen3_moe", {0, 1}, 6, 2, 160, 64, {}, {kRenorm}, kSwiglu, false, kSplit},
    {"olmoe", {0}, 8, 3, 160, 64, {}, {kPlain}, kSwiglu, false, kSplit},
    {"deepseek_v2",
     {1},
     8,
     3,
     160,
     64,
     {128, false},
     {RoutingMethod::kDeepSeekV2, 4, 2, 16.0f, false},
     kSwiglu,
     false,
     kSplit},
    {"deepseek_v3",
     {1, 2},
     8,
     4,
     160,
     64,
     {64, false},
     {RoutingMethod::kDeepSeekV3, 4, 3, 2.5f, true},
     kSwiglu,
     false,
     kSplit},
    {"glm4_moe",
     {1},
     6,
     2,
     160,
     64,
     {64, false},
     {RoutingMethod::kDeepSeekV3, 1, 1, 1.5f, true},
     kSwiglu,
     false,
     kSplit},
    {"gpt_oss",
     {0},
     6,
     3,
     160,
     64,
     {},
     {RoutingMethod::kTopKSoftmax},
     ActivationKind::kSwigluBias,
     false,
     kInterleaved},
    {"llama4", {1}, 6, 1, 160, 64, {64, false}, {RoutingMethod::kLlama4}, kSwiglu, true, kFused},
    {"llama4_text", {0}, 6, 1, 160, 64, {64, false}, {RoutingMethod::kLlama4}, kSwiglu, true, kFused},
    {"qwen3_vl_moe", {0}, 6, 2, 160, 64, {}, {kRenorm}, kSwiglu, false, kFused},
};

TEST(Checkpoint, EveryFamilyGivesItsConfiguration) {
  for (const Expected& want : kExpected) {
    SCOPED_TRACE(want.folder);
    Checkpoint checkpoint = Checkpoint::open(checkpoint_folder(want.folder));
    EXPECT_EQ(checkpoint.moe_layers(), want.moe_layers);
    CheckpointLayer layer = checkpoint.load();
    const MoeConfig& c = layer.config;
    EXPECT_EQ(layer.layer, want.moe_layers.front());
    EXPECT_EQ(layer.stored, "bf16");
    EXPECT_EQ(layer.layout, want.layout);
    EXPECT_EQ(c.recipe, "bf16");
    EXPECT_EQ(std::vector<int>({c.num_experts, c.top_k, c.hidden, c.intermediate}),
              std::vector<int>({want.experts, want.top_k, want.hidden, want.intermediate}));
    EXPECT_EQ(c.shared.intermediate, want.shared.intermediate);
    EXPECT_EQ(c.shared.gated, want.shared.gated);
    EXPECT_EQ(c.routing.method, want.routing.method);
    EXPECT_EQ(c.routing.n_group, want.routing.n_group);
    EXPECT_EQ(c.routing.topk_group, want.routing.topk_group);
    EXPECT_EQ(c.routing.scaling, want.routing.scaling);
    EXPECT_EQ(c.routing.renormalize, want.routing.renormalize);
    EXPECT_EQ(c.activation.kind, want.activation);
    EXPECT_EQ(c.weights_on_input, want.weights_on_input);
    EXPECT_TRUE(c.router);
    EXPECT_EQ(layer.weights.experts.size(), static_cast<std::size_t>(want.experts));
  }
}

TEST(Checkpoint, GptOssHasItsActivationAndBiases) {
  CheckpointLayer layer = Checkpoint::open(checkpoint_folder("gpt_oss")).load();
  EXPECT_EQ(layer.config.activation.alpha, 1.702f);
  EXPECT_EQ(layer.config.activation.beta, 1.0f);
  EXPECT_EQ(layer.config.activation.limit, 7.0f);
  EXPECT_FALSE(layer.weights.router_bias.empty());
  EXPECT_FALSE(layer.weights.experts[5].down_bias.empty());
}

TEST(Checkpoint, OnlyMoeLayersLoad) {
  Checkpoint checkpoint = Checkpoint::open(checkpoint_folder("deepseek_v3"));
  EXPECT_EQ(checkpoint.load(2).layer, 2);
  for (int layer : {0, 3, -2, 1 << 30}) {
    try {
      checkpoint.load(layer);
      FAIL() << layer;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find("its MoE layers are 1, 2"), std::string::npos) << error.what();
    }
  }
}

// --- changed folders ------------------------------------------------------------------------------------------------

constexpr const char* kW1 = "model.layers.0.block_sparse_moe.experts.3.w1.weight";
constexpr const char* kGate = "model.layers.0.block_sparse_moe.gate.weight";
constexpr const char* kOlmoeTensor = "model.layers.0.mlp.experts.0.up_proj.weight";

const Damage kDamages[] = {
    // config.json
    {"no config", "mixtral", remove_file("config.json"), kIo, "config.json"},
    {"empty config", "mixtral", replace_file("config.json", ""), kIo, "config.json"},
    {"config not JSON", "mixtral", replace_file("config.json", "{"), kIo, "not valid JSON"},
    {"config array", "mixtral", replace_file("config.json", "[1]"), kIo, "'{'"},
    {"config nesting", "mixtral", replace_file("config.json", R"({"a":)" + std::string(100'000, '[')), kIo, "deeper"},
    {"config duplicate", "mixtral", replace_file("config.json", R"({"model_type":"mixtral","model_type":"olmoe"})"),
     kIo, "'model_type' stands twice"},
    {"config too large", "mixtral", replace_file("config.json", "{" + std::string(5 << 20, ' ') + "}"), kIo,
     "config.json"},
    {"no model type", "mixtral", edit_config([](Json& root) { root.erase("model_type"); }), kIo, "model_type"},
    {"unknown family", "mixtral", set_config("model_type", "bert"), kUnsupported, "'bert'; known: mixtral"},
    {"no experts", "mixtral", edit_config([](Json& root) { root.erase("num_local_experts"); }), kIo,
     "num_local_experts"},
    {"negative experts", "mixtral", set_config("num_local_experts", -1), kIo, "num_local_experts is -1"},
    {"fractional experts", "mixtral", set_config("num_local_experts", 6.0), kIo, "num_local_experts is 6.0"},
    {"huge experts", "mixtral", set_config("num_local_experts", 18446744073709551615ull), kIo, "18446744073709551615"},
    {"experts text", "mixtral", set_config("num_local_experts", "6"), kIo, "num_local_experts"},
    {"huge hidden", "mixtral", set_config("hidden_size", 1 << 30), kIo, "hidden_size"},
    {"huge layers", "mixtral", set_config("num_hidden_layers", 2000000000), kIo, "num_hidden_layers"},
    {"top_k above experts", "mixtral", set_config("num_experts_per_tok", 7), kIo, "num_experts_per_tok is 7"},
    {"activation", "mixtral", set_config("hidden_act", "gelu"), kUnsupported, "'gelu'"},
    {"sparse step", "qwen3_moe", set_config("decoder_sparse_step", 0), kIo, "decoder_sparse_step"},
    {"no MoE layer", "qwen3_moe", set_config("mlp_only_layers", {0, 1}), kIo, "none of the 2 layers"},
    {"mlp_only_layers", "qwen3_moe", set_config("mlp_only_layers", "none"), kIo, "mlp_only_layers"},
    {"norm_topk_prob", "qwen3_moe", set_config("norm_topk_prob", "yes"), kIo, "norm_topk_prob"},
    {"scoring", "deepseek_v3", set_config("scoring_func", "softmax"), kUnsupported, "'softmax'"},
    {"method", "deepseek_v2", set_config("topk_method", "noaux_tc"), kUnsupported, "'noaux_tc'"},
    {"groups", "deepseek_v3", set_config("n_group", 3), kIo, "n_group 3"},
    {"too few in groups", "deepseek_v3", set_config("topk_group", 1), kIo, "1 of 4 groups"},
    {"scaling", "deepseek_v3", set_config("routed_scaling_factor", "2.5"), kIo, "routed_scaling_factor"},
    // quantised
    {"unknown method", "mixtral", set_config("quantization_config", {{"quant_method", "hqq"}}), kUnsupported, "'hqq'"},
    {"nested quantisation", "qwen3_vl_moe", edit_config([](Json& root) {
       root["text_config"]["quantization_config"] = {{"quant_method", "aqlm"}};
     }),
     kUnsupported, "'aqlm'"},
    {"quantisation text", "mixtral", set_config("quantization_config", "gptq"), kIo, "quantization_config is"},
    {"damaged hf_quant_config", "mixtral", replace_file("hf_quant_config.json", "{\"quantization\":"), kIo,
     "hf_quant_config.json"},
    {"fp8 weights", "mixtral", reshape(kW1, {64, 320}, "F8_E4M3"), kUnsupported, "F8_E4M3"},
    {"int weights", "mixtral", reshape(kW1, {64, 80}, "I32"), kUnsupported, "I32"},
    {"double weights", "mixtral", reshape(kW1, {64, 40}, "F64"), kUnsupported, "F64"},
    {"unknown tensor", "mixtral", edit_model([](Parts& parts) {
       append_tensor(parts, "model.layers.0.block_sparse_moe.experts.3.w1.weight_scale", "F32", {1}, "abcd");
     }),
     kUnsupported, "w1.weight_scale"},
    {"seventh expert", "mixtral", set_config("num_local_experts", 5), kIo, kGate},
    // tensors
    {"no router", "mixtral", drop_tensor(kGate), kIo, kGate},
    {"no expert", "mixtral", drop_tensor(kW1), kIo, kW1},
    {"no correction bias", "deepseek_v3", drop_tensor("model.layers.1.mlp.gate.e_score_correction_bias"), kIo,
     "e_score_correction_bias"},
    {"no shared expert", "qwen2_moe", drop_tensor("model.layers.0.mlp.shared_expert.up_proj.weight"), kIo,
     "shared_expert.up_proj"},
    {"no shared gate", "qwen2_moe", drop_tensor("model.layers.0.mlp.shared_expert_gate.weight"), kIo,
     "shared_expert_gate"},
    {"no expert bias", "gpt_oss", drop_tensor("model.layers.0.mlp.experts.down_proj_bias"), kIo, "down_proj_bias"},
    {"transposed", "mixtral", reshape(kW1, {160, 64}), kIo, "[160, 64]; by config.json it should be [64, 160]"},
    {"flat", "mixtral", reshape(kW1, {10240}), kIo, kW1},
    {"one fused transposed", "qwen3_vl_moe",
     reshape("model.language_model.layers.0.mlp.experts.down_proj", {6, 160, 64}), kIo, "one is transposed"},
    {"fused rank", "qwen3_vl_moe", reshape("model.language_model.layers.0.mlp.experts.down_proj", {6, 1, 64, 160}), kIo,
     "down_proj"},
    {"config differs", "mixtral", set_config("intermediate_size", 128), kIo, "should be [128, 160]"},
    // files
    {"no model", "mixtral", remove_file("model.safetensors"), kIo, "model.safetensors.index.json"},
    {"empty model", "mixtral", replace_file("model.safetensors", ""), kIo, "model.safetensors"},
    {"half a model", "mixtral",
     [](const TempFolder& f) {
       write_bytes(f.path("model.safetensors"), read_bytes(f.path("model.safetensors")).substr(0, 200'000));
     },
     kIo, "outside the file"},
    {"pointer file", "mixtral", replace_file("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), kIo,
     "header length"},
    {"missing shard", "olmoe", remove_file("model-00002-of-00003.safetensors"), kIo, "model-00002-of-00003"},
    {"index up", "olmoe", edit_index([](Json& i) { i["weight_map"][kOlmoeTensor] = "../olmoe.safetensors"; }), kIo,
     kOlmoeTensor},
    {"index absolute", "olmoe", edit_index([](Json& i) { i["weight_map"][kOlmoeTensor] = "/etc/passwd"; }), kIo,
     "'/etc/passwd'"},
    {"index parent", "olmoe", edit_index([](Json& i) { i["weight_map"][kOlmoeTensor] = ".."; }), kIo, "'..'"},
    {"index empty name", "olmoe", edit_index([](Json& i) { i["weight_map"][kOlmoeTensor] = ""; }), kIo, kOlmoeTensor},
    {"index number", "olmoe", edit_index([](Json& i) { i["weight_map"][kOlmoeTensor] = 1; }), kIo, kOlmoeTensor},
    {"index object", "olmoe", edit_index([](Json& i) { i["weight_map"][kOlmoeTensor] = Json::object(); }), kIo,
     kOlmoeTensor},
    {"index without map", "olmoe", edit_index([](Json& i) { i.erase("weight_map"); }), kIo, "weight_map"},
    {"index map text", "olmoe", edit_index([](Json& i) { i["weight_map"] = "model.safetensors"; }), kIo, "weight_map"},
    {"index without tensor", "olmoe", edit_index([](Json& i) { i["weight_map"].erase(kOlmoeTensor); }), kIo,
     kOlmoeTensor},
    {"index wrong shard", "olmoe",
     edit_index([](Json& i) { i["weight_map"][kOlmoeTensor] = "model-00003-of-00003.safetensors"; }), kIo,
     "that the index promises there"},
    {"index duplicate", "olmoe", replace_file("model.safetensors.index.json", R"({"weight_map":{"a":"b","a":"c"}})"),
     kIo, "'a' stands twice"},
    {"index nesting", "olmoe",
     replace_file("model.safetensors.index.json", R"({"metadata":)" + std::string(100'000, '[')), kIo, "deeper"},
};

TEST(Checkpoint, DamageIsAnErrorOfTheRightKindThatNamesTheCulprit) {
  for (const Damage& damage : kDamages) expect_refused(damage);
}

TEST(Checkpoint, OpensOnlyTheShardsOfItsLayer) {
  TempFolder folder;
  copy_checkpoint("qwen3_moe", folder);
  std::filesystem::rename(folder.path("model.safetensors"), folder.path("first.safetensors"));
  const Json header = read_parts(folder.path("first.safetensors")).header;
  Json index;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    bool second = name.find("layers.1.") != std::string::npos;
    index["weight_map"][name] = second ? "second.safetensors" : "first.safetensors";
  }
  write_bytes(folder.path("model.safetensors.index.json"), index.dump());
  Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.load(0).layer, 0);
  EXPECT_THROW(checkpoint.load(1), Error);
}

TEST(Checkpoint, WeightsOutliveTheCheckpointAndItsFiles) {
  CheckpointLayer layer;
  {
    TempFolder folder;
    copy_checkpoint("olmoe", folder);
    layer = Checkpoint::open(folder.path()).load();
  }
  const MatrixView& down = layer.weights.experts.back().down;
  Parts parts = read_parts(checkpoint_folder("olmoe") + "/model-00003-of-00003.safetensors");
  EXPECT_EQ(std::memcmp(down.data, tensor_bytes(parts, "model.layers.0.mlp.experts.7.down_proj.weight").data(),
                        static_cast<std::size_t>(down.rows * down.cols * 2)),
            0);
}

TEST(Checkpoint, WrapperOfAKnownLanguageModelLoads) {
  TempFolder folder;
  copy_checkpoint("qwen3_moe", folder);
  edit_json(folder.path("config.json"), [](Json& root) {
    Json text = root;
    root = {{"model_type", "some_vision_wrapper"}, {"text_config", text}};
  });
  EXPECT_EQ(Checkpoint::open(folder.path()).load().config.num_experts, 6);
}

TEST(Checkpoint, AbsentAndNullKeysTakeTheFamilysDefaults) {
  TempFolder folder;
  copy_checkpoint("deepseek_v3", folder);
  edit_json(folder.path("config.json"), [](Json& root) {
    for (const char* key : {"scoring_func", "topk_method", "norm_topk_prob"}) root.erase(key);
    root["quantization_config"] = nullptr;
    root["mlp_only_layers"] = nullptr;
  });
  edit_json(folder.path("config.json"), [](Json& root) { root["model_type"] = "kimi_k2"; });
  CheckpointLayer layer = Checkpoint::open(folder.path()).load();
  const MoeConfig& config = layer.config;
  EXPECT_EQ(layer.family, "kimi_k2");
  EXPECT_EQ(config.routing.method, RoutingMethod::kDeepSeekV3);
  EXPECT_TRUE(config.routing.renormalize);
}

TEST(Checkpoint, LayerListsOfLlama4AndQwen) {
  TempFolder llama, qwen;
  copy_checkpoint("llama4", llama);
  edit_json(llama.path("config.json"), [](Json& root) {
    root["text_config"]["num_hidden_layers"] = 8;
    root["text_config"]["moe_layers"] = {1, 2, 5};
  });
  EXPECT_EQ(Checkpoint::open(llama.path()).moe_layers(), (std::vector<int>{1, 2, 5}));
  copy_checkpoint("qwen3_moe", qwen);
  edit_json(qwen.path("config.json"), [](Json& root) {
    root["num_hidden_layers"] = 8;
    root["decoder_sparse_step"] = 2;
    root["mlp_only_layers"] = {3};
  });
  EXPECT_EQ(Checkpoint::open(qwen.path()).moe_layers(), (std::vector<int>{1, 5, 7}));
}

TEST(Checkpoint, RandomFlipsOfConfigIndexAndHeaderNeverCrash) {
  struct Target {
    const char *folder, *file;
    std::size_t bytes;  // flips stay within the first so many
  };
  const Target targets[] = {{"deepseek_v3", "config.json", 1113},
                            {"llama4", "config.json", 1509},
                            {"olmoe", "model.safetensors.index.json", 2284},
                            {"mixtral_tie", "model.safetensors", 2928},
                            {"gpt_oss", "model.safetensors", 664}};
  std::mt19937 random(5);
  for (const Target& target : targets) {
    TempFolder folder;
    copy_checkpoint(target.folder, folder);
    std::string path = folder.path(target.file), good = read_bytes(path);
    ASSERT_GE(good.size(), target.bytes);
    int loaded = 0;
    for (int round = 0; round < 600; ++round) {
      std::string bytes = good;
      for (unsigned flips = 1 + random() % 2; flips > 0; --flips) {
        char& byte = bytes[random() % target.bytes];
        byte =
            round % 2 == 0 ? static_cast<char>(byte ^ (1 << random() % 8)) : "{}[]\",:0123456789-eE./\\"[random() % 23];
      }
      write_bytes(path, bytes);
      try {
        Checkpoint::open(folder.path()).load();
        ++loaded;
      } catch (const Error&) {
      }
    }
    EXPECT_LT(loaded, 500) << target.folder << "/" << target.file;
  }
}

}  // namespace
}  // namespace moesaic::testing
