// SPDX-License-Identifier: Apache-2.0
// MoE layers of hub checkpoints: a folder with config.json and one or many safetensors files, memory-mapped.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moesaic/moe.h"

#pragma GCC visibility push(default)
namespace moesaic {

/// Names of a layer's modules in the files, for tools that write checkpoints. Split experts are modules
/// "<experts><e>.<gate>"; fused ones are "<block>experts.gate_up_proj" and "<block>experts.down_proj".
struct LayerModules {
  std::string block;           // "model.layers.3.mlp."
  std::string gate, up, down;  // "gate_proj", ...
  bool fused = false;          // the family publishes fused tensors
  GateUpOrder order = GateUpOrder::kGateFirst;
  std::string shared;                                       // "shared_experts.", empty without
  std::vector<std::string> expert_tensors, shared_tensors;  // full names of the tensors that hold their matrices
};

/// A layer of a checkpoint: configuration and weight views into the mapped files, which the object keeps alive.
/// config.device and max_tokens stay at their defaults; config.recipe follows the stored format: "bf16" for bf16 and
/// f32, "fp16" for f16, else the recipe whose weights the routed experts are (and whose activations the checkpoint
/// names); shared.recipe likewise by the shared experts' own ("bf16" for 16-bit ones beside quantised experts).
/// Quantised weights are views into the files, too: only tensors that lie off their natural alignment are copied.
struct CheckpointLayer {
  MoeConfig config;
  MoeWeights weights;
  int layer = 0;
  std::string family;  // config.json's model type
  std::string stored;  // format of the experts' weights in the files: "bf16", "ModelOpt NVFP4", ...
  LayerModules modules;
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

/// What `quantize_checkpoint` is asked for.
struct QuantizeCheckpointOptions {
  std::string recipe;  // whose weights are written; "bf16" and "fp16" dequantise
  Int4Groups int4;
  /// Called after every expert with how much of the work is done and what it was. May throw to stop.
  std::function<void(std::int64_t done, std::int64_t total, const std::string& what)> progress;
};

/// What `quantize_checkpoint` wrote.
struct QuantizedCheckpoint {
  std::string format;  // "ModelOpt NVFP4", ...
  std::int64_t layers = 0, matrices = 0;
  std::uint64_t bytes_written = 0;  // of quantised matrices
};

/// Writes `folder` again to `out` (which must not exist), the experts of every MoE layer in the format that the model's
/// family uses for the recipe, everything else as it is (fp8 blocks elsewhere become bf16). One expert at a time is in
/// memory; `out` appears whole or not at all. Throws Error: kUnsupported (no published format), kIo, kInvalidArgument.
QuantizedCheckpoint quantize_checkpoint(const std::string& folder, const std::string& out,
                                        const QuantizeCheckpointOptions& options);

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
#pragma GCC visibility pop
