// SPDX-License-Identifier: Apache-2.0
// Quantised folders that are damaged, contradict themselves, or are stored in ways that are not read.
#include <gtest/gtest.h>

#include "damage.h"

namespace moesaic::testing {
namespace {

constexpr const char* kDeepSeek = "deepseek_v3_fp8_block";
constexpr const char* kDeepSeekGate = "model.layers.1.mlp.experts.2.gate_proj.weight";
constexpr const char* kDeepSeekScale = "model.layers.1.mlp.experts.2.gate_proj.weight_scale_inv";
constexpr const char* kMixtralW1 = "model.layers.0.block_sparse_moe.experts.3.w1.weight";
constexpr const char* kMixtralScale = "model.layers.0.block_sparse_moe.experts.3.w1.weight_scale";
constexpr const char* kQwenUp = "model.layers.0.mlp.experts.1.up_proj.";

const std::string kNan32("\0\0\xC0\x7F", 4), kInf32("\0\0\x80\x7F", 4), kZero32(4, '\0'), kMinus32("\0\0\x80\xBF", 4);

// The object at quantization_config.
auto edit_quant(std::function<void(Json&)> change) {
  return edit_config([change](Json& root) { change(root["quantization_config"]); });
}

auto set_quant(const char* key, Json value) {
  return edit_quant([=](Json& quant) { quant[key] = value; });
}

// One field of the only group of compressed-tensors.
auto set_group(const char* object, const char* key, Json value) {
  return edit_quant([=](Json& quant) { quant["config_groups"]["group_0"][object][key] = value; });
}

auto poke(const std::string& tensor, std::size_t at, const std::string& bytes) {
  return edit_model([=](Parts& parts) { overwrite(parts, tensor, at, bytes); });
}

const Damage kConfigs[] = {
    {"no method", kDeepSeek, set_quant("quant_method", nullptr), kIo, "no quant_method"},
    {"method number", kDeepSeek, set_quant("quant_method", 8), kIo, "quant_method is 8"},
    {"bitsandbytes", kDeepSeek, set_quant("quant_method", "bitsandbytes"), kUnsupported,
     "'bitsandbytes' is not read; read are fp8, mxfp4, modelopt"},
    {"quantisation array", kDeepSeek, set_config("quantization_config", Json::array()), kIo, "wanted an object"},
    {"e5m2", kDeepSeek, set_quant("fmt", "e5m2"), kUnsupported, "'e5m2'"},
    {"static blocks", kDeepSeek, set_quant("activation_scheme", "static"), kUnsupported, "static"},
    {"one block size", kDeepSeek, set_quant("weight_block_size", {128}), kIo, "weight_block_size"},
    {"block of nothing", kDeepSeek, set_quant("weight_block_size", {128, 0}), kIo, "weight_block_size"},
    {"block number", kDeepSeek, set_quant("weight_block_size", 128), kIo, "weight_block_size"},
    {"list is text", kDeepSeek, set_quant("modules_to_not_convert", "mlp.gate"), kIo, "modules_to_not_convert"},
    {"list of numbers", kDeepSeek, set_quant("modules_to_not_convert", {1, 2}), kIo, "holds 1"},
    {"lookahead", kDeepSeek, set_quant("modules_to_not_convert", {"re:(?!.*mlp).*"}), kUnsupported, "(?:"},
    // ModelOpt
    {"algorithm", "qwen3_moe_modelopt_fp8", set_quant("quant_algo", "W4A8_AWQ"), kUnsupported,
     "'W4A8_AWQ' is not read; read are FP8"},
    {"mixed", "qwen3_moe_modelopt_fp8", set_quant("quant_algo", "MIXED_PRECISION"), kUnsupported, "MIXED_PRECISION"},
    {"the files differ", "qwen3_moe_modelopt_fp8", set_quant("quant_algo", "MXFP8"), kIo, "describes ModelOpt FP8"},
    {"group size", "mixtral_nvfp4",
     replace_file("hf_quant_config.json", R"({"quantization": {"quant_algo": "NVFP4", "group_size": 32}})"),
     kUnsupported, "group_size is 32"},
    {"no quantization object", "mixtral_nvfp4", replace_file("hf_quant_config.json", "{}"), kIo, "no such object"},
    {"not described", "mixtral_nvfp4", remove_file("hf_quant_config.json"), kUnsupported,
     "has dtype U8; wanted BF16 or F16 or F32, and config.json describes no quantisation"},
    // compressed-tensors
    {"no groups", "mixtral_ct_fp8", set_quant("config_groups", nullptr), kIo, "config_groups"},
    {"two groups", "mixtral_ct_fp8",
     edit_quant([](Json& q) { q["config_groups"]["group_1"] = q["config_groups"]["group_0"]; }), kUnsupported,
     "2 config_groups"},
    {"targets", "mixtral_ct_fp8", edit_quant([](Json& q) { q["config_groups"]["group_0"]["targets"] = {"re:.*w1"}; }),
     kUnsupported, "re:.*w1"},
    {"sparse", "mixtral_ct_fp8", set_quant("sparsity_config", {{"format", "sparse-24-bitmask"}}), kUnsupported,
     "sparse-24"},
    {"transforms", "mixtral_ct_fp8", set_quant("transform_config", {{"config_groups", {{"R1", 1}}}}), kUnsupported,
     "transform_config"},
    {"weights only", "mixtral_ct_fp8",
     edit_quant([](Json& q) { q["config_groups"]["group_0"]["input_activations"] = nullptr; }), kUnsupported,
     "input_activations none; supported is float 8"},
    {"static tokens", "mixtral_ct_fp8", set_group("input_activations", "dynamic", false), kUnsupported,
     "dynamic false"},
    {"int8", "mixtral_ct_fp8", edit_quant([](Json& q) {
       q["format"] = "int-quantized";
       q["config_groups"]["group_0"]["weights"]["type"] = "int";
     }),
     kUnsupported, "'int-quantized' with weights of type 'int' and 8 bits is not read"},
    {"outputs", "mixtral_ct_fp8", edit_quant([](Json& q) {
       q["config_groups"]["group_0"]["output_activations"] = q["config_groups"]["group_0"]["weights"];
     }),
     kUnsupported, "output_activations"},
    {"8 bits packed", "kimi_k2_ct_int4", set_group("weights", "num_bits", 8), kUnsupported, "8 bits is not read"},
    {"odd group", "kimi_k2_ct_int4", set_group("weights", "group_size", 16), kUnsupported, "group_size 16"},
    {"by channel", "kimi_k2_ct_int4", set_group("weights", "strategy", "channel"), kUnsupported, "'channel'"},
    {"nvfp4 group", "qwen3_moe_ct_nvfp4", set_group("weights", "group_size", 32), kUnsupported, "NVFP4 has 16"},
    // GPTQ and AWQ
    {"3 bits", "qwen2_moe_gptq", set_quant("bits", 3), kUnsupported, "bits is 3"},
    {"no bits", "qwen2_moe_gptq", set_quant("bits", nullptr), kIo, "no bits"},
    {"one group", "qwen2_moe_gptq", set_quant("group_size", -1), kUnsupported, "group_size is -1"},
    {"marlin", "qwen2_moe_gptq", set_quant("checkpoint_format", "marlin"), kUnsupported, "'marlin'"},
    {"rules", "qwen2_moe_gptq", set_quant("dynamic", {{"+:.*experts.*", {{"bits", 8}}}}), kUnsupported, "+:.*experts"},
    {"8 bits", "qwen3_moe_awq", set_quant("bits", 8), kUnsupported, "bits is 8"},
    {"gemv", "qwen3_moe_awq", set_quant("version", "gemv"), kUnsupported, "'gemv'"},
    {"awq group", "qwen3_moe_awq", set_quant("group_size", 256), kUnsupported, "group_size is 256"},
};

TEST(QuantConfig, WhatIsNotReadIsRefusedByName) {
  for (const Damage& damage : kConfigs) expect_refused(damage);
}

const Damage kLists[] = {
    {"listed but quantised", kDeepSeek, set_quant("modules_to_not_convert", {"model.layers.1.mlp.shared_experts"}), kIo,
     "has dtype F8_E4M3; wanted BF16 or F16 or F32; "},
    {"names module and entry", kDeepSeek, set_quant("modules_to_not_convert", {"re:.*shared_experts.*"}), kIo,
     "leaves module 'model.layers.1.mlp.shared_experts.gate_proj' unquantised by its entry 're:.*shared_experts.*'"},
    {"not listed but plain", "kimi_k2_ct_int4", set_quant("ignore", {"lm_head"}), kIo,
     "lists no tensor 'model.layers.1.mlp.shared_experts.gate_proj.weight_packed'; module "
     "'model.layers.1.mlp.shared_experts.gate_proj' is stored as compressed-tensors int4 by"},
    {"16 bits", kDeepSeek, reshape(kDeepSeekGate, {64, 80}), kIo, "has dtype BF16; wanted F8_E4M3"},
    {"experts of two formats", kDeepSeek, set_quant("modules_to_not_convert", {"mlp.experts.2.down_proj"}),
     kUnsupported, "stored as 16 or 32 bits, but 'model.layers.1.mlp.experts.0.gate_proj' as FP8 blocks"},
    {"fused but plain", "gpt_oss", set_config("quantization_config", {{"quant_method", "mxfp4"}}), kIo,
     "gate_up_proj_blocks'; module"},
    {"fused but listed", "gpt_oss_mxfp4", set_quant("modules_to_not_convert", {"model.layers.*.mlp.experts"}), kIo,
     "lists no tensor 'model.layers.0.mlp.experts.gate_up_proj'; "},
};

TEST(QuantConfig, ListsAndTensorsMustAgree) {
  for (const Damage& damage : kLists) expect_refused(damage);
}

const Damage kTensors[] = {
    {"no scale", kDeepSeek, drop_tensor(kDeepSeekScale), kIo, kDeepSeekScale},
    {"scale shape", kDeepSeek, reshape(kDeepSeekScale, {2, 1}, "F32"), kIo,
     "[2, 1]; by config.json it should be [1, 2]"},
    {"scale type", kDeepSeek, reshape(kDeepSeekScale, {1, 2}, "I32"), kIo, "has dtype I32; wanted F32 or BF16"},
    {"scale NaN", kDeepSeek, poke(kDeepSeekScale, 4, kNan32), kIo, "scale number 1 is NaN"},
    {"scale infinite", kDeepSeek, poke(kDeepSeekScale, 0, kInf32), kIo, "scale number 0 is NaN or infinite"},
    {"block size", kDeepSeek, set_quant("weight_block_size", {32, 32}), kIo, "it should be [2, 5]"},
    {"e5m2 codes", kDeepSeek, reshape(kDeepSeekGate, {64, 160}, "F8_E5M2"), kIo, "has dtype F8_E5M2"},
    {"channel NaN", "mixtral_ct_fp8", poke(kMixtralScale, 6, "\xC0\x7F"), kIo, "scale number 3"},
    {"e4m3 NaN", "mixtral_nvfp4", poke(kMixtralScale, 9, "\xFF"), kIo, "scale number 9 is NaN"},
    {"no global scale", "mixtral_nvfp4", drop_tensor(std::string(kMixtralW1) + "_scale_2"), kIo, "w1.weight_scale_2"},
    {"no input scale", "mixtral_nvfp4", drop_tensor("model.layers.0.block_sparse_moe.experts.3.w2.input_scale"), kIo,
     "w2.input_scale"},
    {"global 0", "mixtral_nvfp4", poke(std::string(kMixtralW1) + "_scale_2", 0, kZero32), kIo,
     "is 0; wanted a positive number"},
    {"global infinite", "mixtral_nvfp4", poke(std::string(kMixtralW1) + "_scale_2", 0, kInf32), kIo, "infinite"},
    {"global NaN", "mixtral_nvfp4", poke(std::string(kMixtralW1) + "_scale_2", 0, kNan32), kIo, "NaN"},
    {"global negative", "mixtral_nvfp4", poke(std::string(kMixtralW1) + "_scale_2", 0, kMinus32), kIo, "is -1"},
    {"divisor 0", "qwen3_moe_ct_nvfp4", poke(std::string(kQwenUp) + "weight_global_scale", 0, kZero32), kIo, "is 0"},
    {"input divisor", "qwen3_moe_ct_nvfp4",
     poke(std::string(kQwenUp) + "input_global_scale", 0, std::string("\x01\0\0\0", 4)), kIo, "reciprocal"},
    {"input NaN", "qwen3_moe_modelopt_fp8", poke(std::string(kQwenUp) + "input_scale", 0, kNan32), kIo, "NaN"},
    {"tensor scale 0", "qwen3_moe_modelopt_fp8", poke(std::string(kQwenUp) + "weight_scale", 0, kZero32), kIo, "is 0"},
    {"E8M0 NaN", "qwen3_moe_mxfp8", poke(std::string(kQwenUp) + "weight_scale", 17, "\xFF"), kIo, "scale number 17"},
    {"fused E8M0 NaN", "gpt_oss_mxfp4", poke("model.layers.0.mlp.experts.down_proj_scales", 1900, "\xFF"), kIo,
     "scale number 1900"},
    {"fused shape", "gpt_oss_mxfp4", reshape("model.layers.0.mlp.experts.down_proj_blocks", {6, 160, 32}, "U8"), kIo,
     "[6, 160, 2, 16]"},
    {"weight_shape", "kimi_k2_ct_int4",
     poke("model.layers.1.mlp.experts.4.up_proj.weight_shape", 0, std::string("\xA0\0\0\0", 4)), kIo,
     "holds [160, 160]; by config.json it should be [64, 160]"},
    {"no zero points", "kimi_k2_ct_int4", set_group("weights", "symmetric", false), kIo, "weight_zero_point"},
    {"act-order", "qwen2_moe_gptq", poke("model.layers.0.mlp.experts.4.up_proj.g_idx", 4 * 33, std::string(4, '\0')),
     kUnsupported, "element 33 is 0; wanted 1: rows quantised in another order (desc_act, act-order) are not served"},
    {"no order", "qwen2_moe_gptq",
     [](const TempFolder& folder) {
       set_quant("desc_act", true)(folder);
       drop_tensor("model.layers.0.mlp.experts.4.up_proj.g_idx")(folder);
     },
     kIo, "up_proj.g_idx"},
    {"no zeros", "qwen3_moe_awq", drop_tensor(std::string(kQwenUp) + "qzeros"), kIo, "qzeros"},
    {"larger groups", "qwen3_moe_awq", set_quant("group_size", 128), kUnsupported, "multiples of 8 and 128"},
    {"rows that fill no word", "qwen2_moe_gptq", set_config("moe_intermediate_size", 60), kUnsupported,
     "a matrix [60, 160] in GPTQ int4, which needs multiples of 8 and 32"},
    {"one tensor more", kDeepSeek, edit_model([](Parts& parts) {
       append_tensor(parts, "model.layers.1.mlp.experts.0.gate_proj.input_scale", "F32", {1}, "abcd");
     }),
     kUnsupported, "in FP8 blocks, has none of that name"},
    {"router", kDeepSeek, reshape("model.layers.1.mlp.gate.weight", {8, 320}, "F8_E4M3"), kUnsupported, "gate.weight"},
};

TEST(QuantFormats, DamagedTensorsAreErrorsThatNameTheCulprit) {
  for (const Damage& damage : kTensors) expect_refused(damage);
}

}  // namespace
}  // namespace moesaic::testing
