// SPDX-License-Identifier: Apache-2.0
// Reads quantization_config: one function per quant_method, and ModelOpt's file of its own.
#include "checkpoint/quant_config.h"

#include <fmt/format.h>

#include <array>

#include "checkpoint/printable.h"
#include "checkpoint/quant_formats.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {

void QuantConfig::exclude(const ConfigView& description, const char* key) {
  const nlohmann::json* list = description.find(key);
  if (list != nullptr) plain_.add_all(*list, fmt::format("{}: {}", description.name(), key));
}

void QuantConfig::exclude_pattern(const std::string& entry) { plain_.add(entry, where_); }

void QuantConfig::restrict_to(const nlohmann::json& list, const std::string& where) {
  if (!only_) only_.emplace();
  only_->add_all(list, where);
}

Expected QuantConfig::expected(const std::string& module) const {
  if (!quantized()) return {&plain_scheme_, ", and config.json describes no quantisation"};
  const std::string* entry = plain_.find(module);
  if (entry != nullptr) {
    return {&plain_scheme_, fmt::format("; {} leaves module {} unquantised by its entry {}", where_, in_quotes(module),
                                        in_quotes(*entry))};
  }
  if (only_ && only_->find(module) == nullptr) {
    return {&plain_scheme_,
            fmt::format("; {} does not list module {} among those to quantise", where_, in_quotes(module))};
  }
  return {&scheme_, fmt::format("; module {} is stored as {} by {}, which does not name it as left unquantised",
                                in_quotes(module), format_row(scheme_.format).name, where_)};
}

namespace {

int int4_group(const ConfigView& config, const char* key) {
  int group = config.integer(std::span(&key, 1), -1, INT32_MAX);
  if (group != 32 && group != 64 && group != 128) {
    config.refuse(fmt::format("{} is {}; int4 is read in groups of 32, 64 or 128", key, group));
  }
  return group;
}

void demand_4_bits(const ConfigView& config) {
  int bits = config.integer("bits", 1, 64);
  if (bits != 4) config.refuse(fmt::format("bits is {}; this version reads 4", bits));
}

// DeepSeek's blocks (transformers' FineGrainedFP8Config); without blocks one scale a tensor, as vLLM's Fp8Config.
QuantConfig read_fp8(const ConfigView& config) {
  config.demand("fmt", {"e4m3"});
  config.demand("activation_scheme", {"dynamic", "static"});
  bool is_static = config.text_or("activation_scheme", "dynamic") == "static";
  Scheme scheme{.format = StoredFormat::kFp8Tensor, .quantized_inputs = true, .static_inputs = is_static};
  if (config.has("weight_block_size")) {
    if (is_static) config.refuse("activation_scheme is static with blocks; supported is dynamic");
    scheme.format = StoredFormat::kFp8Blocks;
    read_block_shape(config, "weight_block_size", &scheme);
  }
  QuantConfig quant(scheme, config.name());
  quant.exclude(config, "modules_to_not_convert");
  quant.exclude(config, "ignored_layers");
  return quant;
}

QuantConfig read_mxfp4(const ConfigView& config) {
  QuantConfig quant({.format = StoredFormat::kMxfp4}, config.name());
  quant.exclude(config, "modules_to_not_convert");
  return quant;
}

// GPTQModel: {"-:<regular expression>": {}} leaves modules out; other keys change bits or groups of some.
void read_dynamic(const ConfigView& config, QuantConfig* quant) {
  const nlohmann::json* dynamic = config.find("dynamic");
  if (dynamic == nullptr) return;
  if (!dynamic->is_object()) config.fail("dynamic is no object");
  for (const auto& [rule, settings] : dynamic->items()) {
    if (!rule.starts_with("-:")) {
      config.refuse(
          fmt::format("dynamic has the rule {}; rules that leave modules out ('-:...') are read", in_quotes(rule)));
    }
    quant->exclude_pattern("re:" + rule.substr(2));
  }
}

QuantConfig read_gptq(const ConfigView& config) {
  demand_4_bits(config);
  config.demand("checkpoint_format", {"gptq", "gptq_v2"});
  if (config.flag_or("is_marlin_format", false)) config.refuse("is_marlin_format is true; GPTQ's own is read");
  Scheme scheme{.format = StoredFormat::kGptq};
  scheme.group = int4_group(config, "group_size");
  scheme.zero_points = !config.flag_or("sym", true);
  scheme.zero_offset = config.text_or("checkpoint_format", "gptq") == "gptq" ? 1 : 0;
  scheme.group_index = config.flag_or("desc_act", false);
  QuantConfig quant(scheme, config.name());
  quant.exclude(config, "modules_to_not_convert");
  read_dynamic(config, &quant);
  // A list of names, or of lists of names that are quantised together.
  if (const nlohmann::json* blocks = config.find("modules_in_block_to_quantize")) {
    std::string where = config.name() + ": modules_in_block_to_quantize";
    bool nested = blocks->is_array() && !blocks->empty() && blocks->front().is_array();
    if (!nested) quant.restrict_to(*blocks, where);
    for (std::size_t i = 0; nested && i < blocks->size(); ++i) quant.restrict_to((*blocks)[i], where);
  }
  return quant;
}

QuantConfig read_awq(const ConfigView& config) {
  demand_4_bits(config);
  config.demand("version", {"gemm", "GEMM"});
  Scheme scheme{.format = StoredFormat::kAwq};
  scheme.group = int4_group(config, "group_size");
  scheme.zero_points = config.flag_or("zero_point", true);
  QuantConfig quant(scheme, config.name());
  quant.exclude(config, "modules_to_not_convert");
  return quant;
}

// --- ModelOpt
// ---------------------------------------------------------------------------------------------------------

struct AlgorithmRow {
  const char* name;
  StoredFormat format;
  bool quantized_inputs, static_inputs;
  int group;  // that group_size must have where it is given; 0: any
};
constexpr std::array kAlgorithms = {
    AlgorithmRow{"FP8", StoredFormat::kModelOptFp8, true, true, 0},
    AlgorithmRow{"NVFP4", StoredFormat::kModelOptNvfp4, true, true, 16},
    AlgorithmRow{"W4A16_NVFP4", StoredFormat::kModelOptNvfp4, false, false, 16},
    AlgorithmRow{"MXFP8", StoredFormat::kModelOptMxfp8, true, false, 32},
};

const AlgorithmRow& find_algorithm(const ConfigView& config) {
  std::string wanted = config.text_or("quant_algo", ""), known;
  for (const AlgorithmRow& row : kAlgorithms) {
    if (wanted == row.name) return row;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  if (wanted.empty()) config.fail("no quant_algo; wanted one of " + known);
  config.refuse(fmt::format("quant_algo {} is not read; read are {}", in_quotes(wanted), known));
}

QuantConfig read_modelopt(const ConfigView& config) {
  const AlgorithmRow& algorithm = find_algorithm(config);
  Scheme scheme{.format = algorithm.format,
                .quantized_inputs = algorithm.quantized_inputs,
                .static_inputs = algorithm.static_inputs};
  int group = config.integer_or("group_size", algorithm.group, 0, INT32_MAX);
  if (algorithm.group != 0 && group != algorithm.group) {
    config.refuse(fmt::format("group_size is {}; {} has {}", group, algorithm.name, algorithm.group));
  }
  // Newer files also spell the scheme out.
  ConfigView first = config.object_or_empty("config_groups").object_or_empty("group_0");
  if (first.has("input_activations") && first.object_or_empty("input_activations").flag_or("dynamic", false)) {
    scheme.static_inputs = false;
  }
  QuantConfig quant(scheme, config.name());
  quant.exclude(config, "ignore");
  quant.exclude(config, "exclude_modules");
  return quant;
}

// --- which method
// -----------------------------------------------------------------------------------------------------

struct MethodRow {
  const char* name;
  QuantConfig (*read)(const ConfigView&);
};
constexpr std::array kMethods = {
    MethodRow{"fp8", read_fp8},
    MethodRow{"mxfp4", read_mxfp4},
    MethodRow{"modelopt", read_modelopt},
    MethodRow{"modelopt_fp4", read_modelopt},
    MethodRow{"compressed-tensors", read_compressed_tensors},
    MethodRow{"gptq", read_gptq},
    MethodRow{"awq", read_awq},
};

}  // namespace

QuantConfig read_quant_config(const nlohmann::json& description, const std::string& where) {
  if (!description.is_object()) {
    throw Error(ErrorKind::kIo, fmt::format("{} is {}; wanted an object", where, one_line(description.dump(), 60)));
  }
  ConfigView config(description, where);
  // ModelOpt's early files name no method, only the algorithm.
  std::string method = config.text_or("quant_method", config.has("quant_algo") ? "modelopt" : ""), known;
  for (const MethodRow& row : kMethods) {
    if (method == row.name) return row.read(config);
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  if (method.empty()) config.fail("no quant_method; wanted one of " + known);
  config.refuse(fmt::format("quantisation method {} is not read; read are {}", in_quotes(method), known));
}

void read_block_shape(const ConfigView& config, const char* key, Scheme* scheme) {
  auto is_size = [](const nlohmann::json& n) {
    return n.is_number_unsigned() && n.get<std::uint64_t>() >= 1 && n.get<std::uint64_t>() <= 1 << 16;
  };
  const nlohmann::json* block = config.find(key);
  if (block == nullptr || !block->is_array() || block->size() != 2 || !is_size((*block)[0]) || !is_size((*block)[1])) {
    config.fail(fmt::format("{} must be an array of two integers from 1 to 65536", key));
  }
  scheme->block_rows = (*block)[0].get<std::int64_t>();
  scheme->block_cols = (*block)[1].get<std::int64_t>();
}

QuantConfig read_modelopt_file(const nlohmann::json& root, const std::string& file) {
  ConfigView config = ConfigView(root, file).object_or_empty("quantization");
  if (!ConfigView(root, file).has("quantization")) config.fail("there is no such object");
  const nlohmann::json& object = root.at("quantization");
  // quant_algo null: only the KV cache is quantised.
  auto algorithm = object.find("quant_algo");
  if (algorithm != object.end() && algorithm->is_null()) return {};
  return read_modelopt(config);
}

}  // namespace moesaic::checkpoint
