// SPDX-License-Identifier: Apache-2.0
// Opens a hub folder: model type, quantisation, which layers are MoE layers, where the tensors are.
#include "moesaic/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/fs.h"
#include "checkpoint/families.h"
#include "checkpoint/json_strict.h"
#include "checkpoint/layer_loader.h"
#include "checkpoint/printable.h"
#include "checkpoint/tensor_source.h"

namespace moesaic {

using namespace checkpoint;  // NOLINT(google-build-using-namespace): this file is that folder's public face

struct Checkpoint::Impl {
  Impl(std::string name, const FamilyRow* row, ConfigView view, const std::string& folder)
      : model_type(std::move(name)), family(row), config(std::move(view)), source(folder) {}

  std::string model_type;
  const FamilyRow* family;
  ConfigView config;
  TensorSource source;
  std::vector<int> moe_layers;
};

namespace {

constexpr std::uint64_t kMaxConfigBytes = 4 << 20;
constexpr int kMaxConfigDepth = 16;
constexpr int kMaxLayers = 10000;

std::string text_of(const nlohmann::json& object, const char* key) {
  auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

[[noreturn]] void refuse_quantised(const std::string& file, const std::string& method) {
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{}: a quantised checkpoint (method {}); this version reads bf16, fp16 and fp32 weights",
                          file, in_quotes(method.empty() ? "unknown" : method)));
}

void check_not_quantised(const nlohmann::json& object, const std::string& file) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    auto at = object.find(key);
    if (at == object.end() || at->is_null()) continue;
    std::string method = at->is_object() ? text_of(*at, "quant_method") : "";
    std::string algorithm = at->is_object() ? text_of(*at, "quant_algo") : "";
    refuse_quantised(file, !method.empty() && !algorithm.empty() ? method + " " + algorithm : method + algorithm);
  }
}

// ModelOpt describes its checkpoints in a file of its own; quant_algo null means that only the KV cache is quantised.
void check_no_quantisation_file(const std::string& folder) {
  std::string file = folder + "/hf_quant_config.json";
  if (!path_exists(file)) return;
  nlohmann::json root = parse_strict(base::read_file(file, kMaxConfigBytes), file, kMaxConfigDepth);
  auto at = root.find("quantization");
  if (at == root.end() || !at->is_object()) refuse_quantised(file, "");
  auto algorithm = at->find("quant_algo");
  if (algorithm != at->end() && algorithm->is_null()) return;
  refuse_quantised(file, text_of(*at, "quant_algo"));
}

struct ModelDescription {
  std::string model_type;
  const FamilyRow* family = nullptr;
  nlohmann::json text;  // the object that describes the language model
};

ModelDescription describe(const nlohmann::json& root, const std::string& file) {
  ModelDescription model;
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

}  // namespace

Checkpoint Checkpoint::open(const std::string& folder) {
  std::string file = folder + "/config.json";
  nlohmann::json root = parse_strict(base::read_file(file, kMaxConfigBytes), file, kMaxConfigDepth);
  ModelDescription model = describe(root, file);
  check_not_quantised(root, file);
  check_not_quantised(model.text, file);
  check_no_quantisation_file(folder);

  ConfigView config(std::move(model.text), file);
  int layers = config.integer("num_hidden_layers", 1, kMaxLayers);
  layer_config(*model.family, config);
  std::vector<int> moe_layers;
  for (int layer = 0; layer < layers; ++layer) {
    if (model.family->is_moe_layer(config, layer)) moe_layers.push_back(layer);
  }
  if (moe_layers.empty()) config.fail(fmt::format("none of the {} layers is an MoE layer", layers));

  auto impl = std::make_shared<Impl>(model.model_type, model.family, std::move(config), folder);
  impl->moe_layers = std::move(moe_layers);
  Checkpoint checkpoint;
  checkpoint.impl_ = std::move(impl);
  return checkpoint;
}

const std::string& Checkpoint::family() const noexcept { return impl_->model_type; }

const std::vector<int>& Checkpoint::moe_layers() const noexcept { return impl_->moe_layers; }

CheckpointLayer Checkpoint::load(int layer) const {
  if (layer == -1) layer = impl_->moe_layers.front();
  if (std::find(impl_->moe_layers.begin(), impl_->moe_layers.end(), layer) == impl_->moe_layers.end()) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("load: layer {} of {} is no MoE layer; its MoE layers are {}", layer,
                            in_quotes(impl_->source.listing()), fmt::join(impl_->moe_layers, ", ")));
  }
  CheckpointLayer loaded = load_layer(*impl_->family, impl_->config, impl_->source, layer);
  loaded.family = impl_->model_type;
  return loaded;
}

}  // namespace moesaic
