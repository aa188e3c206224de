// SPDX-License-Identifier: Apache-2.0
// Formats that `quantize` writes.
#include "checkpoint/target_formats.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>

#include "moesaic/error.h"

namespace moesaic::checkpoint {
namespace {

const TargetRow kTargets[] = {
    {Target::kPlain, "16-bit weights", {"bf16", "fp16"}},
    {Target::kFp8Blocks, "fp8 blocks (weight_scale_inv)", {"fp8_block"}},
    {Target::kModelOptFp8, "ModelOpt FP8", {"fp8_tensor"}},
    {Target::kModelOptMxfp8, "ModelOpt MXFP8", {"mxfp8"}},
    {Target::kModelOptNvfp4, "ModelOpt NVFP4", {"nvfp4"}},
    {Target::kCompressedFp8, "compressed-tensors FP8", {"fp8_channel"}},
    {Target::kCompressedInt4, "compressed-tensors int4", {"bf16_int4"}},
    {Target::kGptOssMxfp4, "MXFP4 (_blocks, _scales)", {"bf16_mxfp4"}},
};

constexpr std::int64_t kPackedCodes = 8;  // 4-bit codes in an int32

// int4 zero points -> int32 words along rows, 8 rows a word, holding z (compressed-tensors stores z - 8, plus 8).
std::vector<std::uint32_t> pack_zeros(const ops::ConvertedMatrix& matrix, std::int64_t groups) {
  std::vector<std::uint32_t> words(static_cast<std::size_t>((matrix.rows + 7) / 8 * groups));
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t g = 0; g < groups; ++g) {
      words[r / 8 * groups + g] |= static_cast<std::uint32_t>(matrix.zeros[r * groups + g]) << (r % 8 * 4);
    }
  }
  return words;
}

nlohmann::ordered_json compressed_weights(int bits, const char* type, const char* strategy, int group, bool symmetric) {
  nlohmann::ordered_json json = {{"num_bits", bits},       {"type", type},     {"strategy", strategy},
                                 {"symmetric", symmetric}, {"dynamic", false}, {"observer", "minmax"}};
  json["group_size"] = group > 0 ? nlohmann::ordered_json(group) : nlohmann::ordered_json(nullptr);
  return json;
}

nlohmann::ordered_json compressed_config(const char* format, nlohmann::ordered_json weights,
                                         nlohmann::ordered_json activations, const std::vector<std::string>& plain) {
  return {{"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"weights", std::move(weights)},
              {"input_activations", std::move(activations)},
              {"output_activations", nullptr}}}}},
          {"format", format},
          {"ignore", plain},
          {"kv_cache_scheme", nullptr},
          {"quant_method", "compressed-tensors"},
          {"quantization_status", "compressed"}};
}

const char* model_opt_algorithm(Target target) {
  switch (target) {
    case Target::kModelOptFp8:
      return "FP8";
    case Target::kModelOptMxfp8:
      return "MXFP8";
    case Target::kModelOptNvfp4:
      return "NVFP4";
    default:
      return nullptr;
  }
}

nlohmann::ordered_json model_opt_config(Target target, const std::vector<std::string>& plain) {
  const bool fp8 = target == Target::kModelOptFp8;
  const int bits = target == Target::kModelOptNvfp4 ? 4 : 8;
  nlohmann::ordered_json operand = {{"dynamic", !fp8}, {"num_bits", bits}, {"type", "float"}};
  if (!fp8) operand["group_size"] = bits == 4 ? 16 : 32;
  nlohmann::ordered_json weights = operand;
  weights["dynamic"] = false;
  // No activation was seen here, so none has a static scale.
  operand["dynamic"] = true;
  return {
      {"config_groups", {{"group_0", {{"input_activations", operand}, {"weights", weights}, {"targets", {"Linear"}}}}}},
      {"ignore", plain},
      {"quant_algo", model_opt_algorithm(target)},
      {"producer", {{"name", "moesaic"}}},
      {"quant_method", "modelopt"}};
}

}  // namespace

std::span<const TargetRow> target_table() { return kTargets; }

const TargetRow& target_for(const std::string& recipe, bool mxfp4_family) {
  std::vector<std::string> writable;
  for (const TargetRow& row : kTargets) {
    if ((row.target == Target::kGptOssMxfp4 && !mxfp4_family) ||
        (row.target != Target::kGptOssMxfp4 && row.target != Target::kPlain && mxfp4_family)) {
      continue;
    }
    for (const std::string& name : row.recipes) {
      if (name == recipe) return row;
      writable.push_back(name);
    }
  }
  throw Error(ErrorKind::kUnsupported,
              fmt::format("quantize: no published checkpoint format for recipe {} in this family; recipes that can be "
                          "written: {}",
                          recipe, fmt::join(writable, ", ")));
}

std::vector<PlannedTensor> module_tensors(Target target, const QuantSpec& spec, const std::string& module,
                                          std::int64_t rows, std::int64_t cols) {
  const QuantSizes sizes = quant_sizes(spec, rows, cols);
  const auto named = [&](const char* suffix) { return module + suffix; };
  const std::vector<std::int64_t> codes = {rows, cols}, scales = {sizes.scale_rows, sizes.scale_cols};
  switch (target) {
    case Target::kFp8Blocks:
      return {{named(".weight"), "F8_E4M3", codes}, {named(".weight_scale_inv"), "F32", scales}};
    case Target::kModelOptFp8:
      return {{named(".weight"), "F8_E4M3", codes}, {named(".weight_scale"), "F32", {}}};
    case Target::kModelOptMxfp8:
      return {{named(".weight"), "F8_E4M3", codes}, {named(".weight_scale"), "U8", scales}};
    case Target::kModelOptNvfp4:
      return {{named(".weight"), "U8", {rows, cols / 2}},
              {named(".weight_scale"), "F8_E4M3", scales},
              {named(".weight_scale_2"), "F32", {}}};
    case Target::kCompressedFp8:
      return {{named(".weight"), "F8_E4M3", codes}, {named(".weight_scale"), "F32", {rows, 1}}};
    case Target::kCompressedInt4: {
      std::vector<PlannedTensor> tensors = {{named(".weight_packed"), "I32", {rows, cols / kPackedCodes}},
                                            {named(".weight_scale"), "BF16", scales},
                                            {named(".weight_shape"), "I32", {2}}};
      if (spec.int4.zero_points) {
        tensors.push_back({named(".weight_zero_point"), "I32", {(rows + 7) / kPackedCodes, sizes.scale_cols}});
      }
      return tensors;
    }
    case Target::kPlain:
    case Target::kGptOssMxfp4:
      break;
  }
  throw Error(ErrorKind::kInternal, "module_tensors: this format is not written module by module");
}

void write_module(Target target, const QuantSpec& spec, const std::string& module, const ops::ConvertedMatrix& matrix,
                  SafetensorsWriter* writer) {
  const auto write = [&](const char* suffix, const void* data, std::size_t size) {
    writer->write(module + suffix, 0, data, size);
  };
  const bool packed = target == Target::kCompressedInt4;
  write(packed ? ".weight_packed" : ".weight", matrix.codes.data(), matrix.codes.size());
  write(target == Target::kFp8Blocks ? ".weight_scale_inv" : ".weight_scale", matrix.scales.data(),
        matrix.scales.size());
  if (target == Target::kModelOptNvfp4) write(".weight_scale_2", &matrix.multiplier, sizeof(float));
  if (!packed) return;
  const std::int32_t shape[2] = {static_cast<std::int32_t>(matrix.rows), static_cast<std::int32_t>(matrix.cols)};
  write(".weight_shape", shape, sizeof(shape));
  if (spec.int4.zero_points) {
    const std::vector<std::uint32_t> zeros = pack_zeros(matrix, matrix.cols / spec.int4.size);
    write(".weight_zero_point", zeros.data(), zeros.size() * sizeof(zeros[0]));
  }
}

nlohmann::ordered_json quantization_config(Target target, const QuantSpec& spec,
                                           const std::vector<std::string>& plain) {
  switch (target) {
    case Target::kPlain:
      return nullptr;
    case Target::kFp8Blocks:
      return {{"activation_scheme", "dynamic"},
              {"fmt", "e4m3"},
              {"quant_method", "fp8"},
              {"weight_block_size", {128, 128}},
              {"modules_to_not_convert", plain}};
    case Target::kCompressedFp8: {
      nlohmann::ordered_json activations = {{"num_bits", 8},      {"type", "float"}, {"strategy", "token"},
                                            {"symmetric", true},  {"dynamic", true}, {"group_size", nullptr},
                                            {"observer", nullptr}};
      return compressed_config("float-quantized", compressed_weights(8, "float", "channel", 0, true),
                               std::move(activations), plain);
    }
    case Target::kCompressedInt4:
      return compressed_config("pack-quantized",
                               compressed_weights(4, "int", "group", spec.int4.size, !spec.int4.zero_points), nullptr,
                               plain);
    case Target::kGptOssMxfp4:
      return {{"quant_method", "mxfp4"}, {"modules_to_not_convert", plain}};
    default:
      return model_opt_config(target, plain);
  }
}

nlohmann::ordered_json hf_quant_config(Target target, const std::vector<std::string>& plain) {
  const char* algorithm = model_opt_algorithm(target);
  if (algorithm == nullptr) return nullptr;
  nlohmann::ordered_json quantization = {
      {"quant_algo", algorithm}, {"kv_cache_quant_algo", nullptr}, {"exclude_modules", plain}};
  if (target == Target::kModelOptNvfp4) quantization["group_size"] = 16;
  if (target == Target::kModelOptMxfp8) quantization["group_size"] = 32;
  return {{"producer", {{"name", "moesaic"}}}, {"quantization", std::move(quantization)}};
}

}  // namespace moesaic::checkpoint
