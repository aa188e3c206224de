// SPDX-License-Identifier: Apache-2.0
// Opens a hub folder: what its configs say, and where the tensors are.
#include "moesaic/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/fs.h"
#include "checkpoint/layer_loader.h"
#include "checkpoint/model_config.h"
#include "checkpoint/printable.h"
#include "checkpoint/tensor_source.h"

namespace moesaic {

using namespace checkpoint;  // NOLINT(google-build-using-namespace): this file is that folder's public face

struct Checkpoint::Impl {
  Impl(ModelConfig model_, const std::string& folder) : model(std::move(model_)), source(folder) {}

  ModelConfig model;
  TensorSource source;
};

namespace {

constexpr std::uint64_t kMaxConfigBytes = 4 << 20;

}  // namespace

Checkpoint Checkpoint::open(const std::string& folder) {
  ConfigFile config{folder + "/config.json", ""}, modelopt{folder + "/hf_quant_config.json", ""};
  config.text = base::read_file(config.path, kMaxConfigBytes);
  bool has_modelopt = path_exists(modelopt.path);
  if (has_modelopt) modelopt.text = base::read_file(modelopt.path, kMaxConfigBytes);
  Checkpoint checkpoint;
  checkpoint.impl_ = std::make_shared<Impl>(read_model_config(config, has_modelopt ? &modelopt : nullptr), folder);
  return checkpoint;
}

const std::string& Checkpoint::family() const noexcept { return impl_->model.model_type; }

const std::vector<int>& Checkpoint::moe_layers() const noexcept { return impl_->model.moe_layers; }

CheckpointLayer Checkpoint::load(int layer) const {
  const ModelConfig& model = impl_->model;
  if (layer == -1) layer = model.moe_layers.front();
  if (std::find(model.moe_layers.begin(), model.moe_layers.end(), layer) == model.moe_layers.end()) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("load: layer {} of {} is no MoE layer; its MoE layers are {}", layer,
                            in_quotes(impl_->source.listing()), fmt::join(model.moe_layers, ", ")));
  }
  CheckpointLayer loaded = load_layer(*model.family, model.text, model.quant, impl_->source, layer);
  loaded.family = model.model_type;
  return loaded;
}

}  // namespace moesaic
