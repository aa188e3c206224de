// SPDX-License-Identifier: Apache-2.0
// THE list of formats that `quantize` writes: which tensors a quantised module becomes, and what config.json says.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "ops/convert_weights.h"

namespace moesaic::checkpoint {

/// How a module "...experts.0.gate_proj" is stored.
enum class Target {
  kPlain,           // .weight in 16 bits
  kFp8Blocks,       // quant_method fp8: .weight e4m3, .weight_scale_inv fp32 per 128x128   (DeepSeek, Qwen3)
  kModelOptFp8,     // .weight e4m3, .weight_scale fp32 scalar
  kModelOptMxfp8,   // .weight e4m3, .weight_scale E8M0 bytes
  kModelOptNvfp4,   // .weight u8, .weight_scale e4m3, .weight_scale_2 fp32 scalar
  kCompressedFp8,   // compressed-tensors float-quantized, per channel, dynamic per token
  kCompressedInt4,  // compressed-tensors pack-quantized
  kGptOssMxfp4,     // fused: experts.gate_up_proj_blocks, _scales; written by the caller, expert after expert
};

struct TargetRow {
  Target target;
  const char* name;                  // for people
  std::vector<std::string> recipes;  // recipes that are written so
};
std::span<const TargetRow> target_table();

/// The format for a recipe, in a family that stores experts fused or not. Throws Error(kUnsupported) that names the
/// recipes that can be written.
const TargetRow& target_for(const std::string& recipe, bool mxfp4_family);

/// Tensors of a quantised module [rows, cols].
std::vector<PlannedTensor> module_tensors(Target target, const QuantSpec& spec, const std::string& module,
                                          std::int64_t rows, std::int64_t cols);
/// Writes them.
void write_module(Target target, const QuantSpec& spec, const std::string& module, const ops::ConvertedMatrix& matrix,
                  SafetensorsWriter* writer);

/// `quantization_config` for config.json; `plain`: modules left in 16 bits. Null for kPlain.
nlohmann::ordered_json quantization_config(Target target, const QuantSpec& spec, const std::vector<std::string>& plain);
/// Content of hf_quant_config.json; null for formats without that file.
nlohmann::ordered_json hf_quant_config(Target target, const std::vector<std::string>& plain);

}  // namespace moesaic::checkpoint
