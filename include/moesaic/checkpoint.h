// SPDX-License-Identifier: Apache-2.0
// MoE layers of hub checkpoints: a folder with config.json and one or many safetensors files, memory-mapped.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "moesaic/moe.h"

namespace moesaic {

/// A layer of a checkpoint: configuration and weight views into the mapped files, which the object keeps alive.
/// config.device and max_tokens stay at their defaults; config.recipe follows the stored format: "bf16" for bf16 and
/// f32, "fp16" for f16, else the recipe whose weights the routed experts are (and whose activations the checkpoint
/// names); shared.recipe likewise by the shared experts' own ("bf16" for 16-bit ones beside quantised experts). Quantised
/// weights are views into the files, too: only tensors that lie off their natural alignment are copied.
struct CheckpointLayer {
  MoeConfig config;
  MoeWeights weights;
  int layer = 0;
  std::string family;  // config.json's model type
  std::string stored;  // format of the experts' weights in the files: "bf16", "ModelOpt NVFP4", ...
  std::string layout;  // how the experts' weights lie in the files, for people
  std::shared_ptr<const void> storage;
};

/// A checkpoint folder. Opening reads config.json and the index (or the header of the only file); `load` maps the
/// shards that its layer needs. Copies share what is open; thread-safe.
class Checkpoint {
 public:
  /// Throws Error: kIo (missing or damaged files), kUnsupported (unknown family or quantisation, naming what is read).
  static Checkpoint open(const std::string& folder);

  /// config.json's model type, for example "qwen3_moe".
  const std::string& family() const noexcept;
  /// Layers of the model that are MoE layers by its config, ascending.
  const std::vector<int>& moe_layers() const noexcept;
  /// Layer -1: the first MoE layer. Throws Error naming the tensor, file, shape or dtype that is wrong.
  CheckpointLayer load(int layer = -1) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// A tensor of a safetensors file with its mapping.
struct StoredTensor {
  std::string name;
  TensorView view;  // read-only memory
  std::shared_ptr<const void> storage;
};

/// Reads "file" or "file:name"; without a name the file's only tensor, else the one called `default_name`.
StoredTensor read_tensor(const std::string& file_and_name, const std::string& default_name);

/// Writes tensors to a safetensors file (whole or not at all).
void write_tensors(const std::string& path, const std::vector<std::pair<std::string, TensorView>>& tensors);

}  // namespace moesaic
