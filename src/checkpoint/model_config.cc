// SPDX-License-Identifier: Apache-2.0
// config.json and hf_quant_config.json, before any tensor is looked at.
#include "checkpoint/model_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "checkpoint/json_strict.h"
#include "checkpoint/layer_loader.h"
#include "checkpoint/printable.h"
#include "checkpoint/quant_formats.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {
namespace {

constexpr int kMaxConfigDepth = 16;
constexpr int kMaxLayers = 10000;

std::string text_of(const nlohmann::json& object, const char* key) {
  auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

// The language model's object and the family of the model.
struct Description {
  std::string model_type;
  const FamilyRow* family = nullptr;
  nlohmann::json text;
};

Description describe(const nlohmann::json& root, const std::string& file) {
  Description model;
  auto nested = root.find("text_config");
  bool has_nested = nested != root.end() && nested->is_object();
  model.text = has_nested ? *nested : root;
  // A wrapper that the table does not know may hold a language model that it does know (Kimi-VL: deepseek_v3).
  model.model_type = text_of(root, "model_type");
  model.family = find_family(model.model_type);
  if (model.family == nullptr && has_nested) model.family = find_family(text_of(*nested, "model_type"));
  if (model.family != nullptr) return model;

  if (model.model_type.empty()) throw Error(ErrorKind::kIo, file + ": no model_type");
  std::vector<std::string> known;
  for (const FamilyRow& row : family_table()) known.insert(known.end(), row.model_types.begin(), row.model_types.end());
  throw Error(ErrorKind::kUnsupported, fmt::format("{}: unknown model family: model_type is {}; known: {}", file,
                                                   in_quotes(model.model_type), fmt::join(known, ", ")));
}

// compression_config is what early compressed-tensors called it; wrappers keep it beside or in text_config.
QuantConfig read_description(const nlohmann::json& root, const nlohmann::json& text, const std::string& file) {
  for (const nlohmann::json* object : {&root, &text}) {
    for (const char* key : {"quantization_config", "compression_config"}) {
      auto at = object->find(key);
      if (at != object->end() && !at->is_null()) return read_quant_config(*at, fmt::format("{}: {}", file, key));
    }
  }
  return {};
}

QuantConfig read_quantisation(const nlohmann::json& root, const nlohmann::json& text, const std::string& file,
                              const ConfigFile* modelopt) {
  QuantConfig quant = read_description(root, text, file);
  if (modelopt == nullptr) return quant;
  QuantConfig other = read_modelopt_file(parse_strict(modelopt->text, modelopt->path, kMaxConfigDepth), modelopt->path);
  if (!quant.quantized()) return other;
  if (other.quantized() && other.scheme().format != quant.scheme().format) {
    throw Error(ErrorKind::kIo, fmt::format("{} describes {}, but {} describes {}", quant.where(),
                                            format_row(quant.scheme().format).name, other.where(),
                                            format_row(other.scheme().format).name));
  }
  return quant;
}

}  // namespace

ModelConfig read_model_config(const ConfigFile& config, const ConfigFile* modelopt) {
  nlohmann::json root = parse_strict(config.text, config.path, kMaxConfigDepth);
  Description model = describe(root, config.path);
  QuantConfig quant = read_quantisation(root, model.text, config.path, modelopt);

  ConfigView text(std::move(model.text), config.path);
  int layers = text.integer("num_hidden_layers", 1, kMaxLayers);
  layer_config(*model.family, text);
  std::vector<int> moe_layers;
  for (int layer = 0; layer < layers; ++layer) {
    if (model.family->is_moe_layer(text, layer)) moe_layers.push_back(layer);
  }
  if (moe_layers.empty()) text.fail(fmt::format("none of the {} layers is an MoE layer", layers));
  return {model.model_type, model.family, std::move(text), std::move(quant), std::move(moe_layers)};
}

}  // namespace moesaic::checkpoint
