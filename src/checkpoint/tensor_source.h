// SPDX-License-Identifier: Apache-2.0
// Tensors of a checkpoint folder by name: model.safetensors, or shards by model.safetensors.index.json. A shard is
// mapped when one of its tensors is first asked for, and unmapped with the last layer that points into it.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace moesaic::checkpoint {

/// A tensor with the file that it lies in.
struct FoundTensor {
  std::shared_ptr<const SafetensorsFile> file;
  const TensorEntry* entry = nullptr;
};

/// Thread-safe.
class TensorSource {
 public:
  /// Throws Error(kIo): neither file is there, or what is there is damaged.
  explicit TensorSource(const std::string& folder);

  bool has(const std::string& name) const;
  /// Throws Error(kIo) naming the tensor and the file that should have it.
  FoundTensor get(const std::string& name) const;
  /// Names that begin with `prefix`, sorted.
  std::vector<std::string> names_below(const std::string& prefix) const;
  /// The file that lists the tensors, for messages.
  const std::string& listing() const noexcept { return listing_; }

 private:
  void read_index(const std::string& path);
  std::shared_ptr<const SafetensorsFile> open_shard(const std::string& path) const;

  std::string listing_;
  std::shared_ptr<const SafetensorsFile> single_;                       // model.safetensors, when there is one
  std::map<std::string, std::shared_ptr<const std::string>> shard_of_;  // tensor -> path, otherwise
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::weak_ptr<const SafetensorsFile>> open_shards_;
};

}  // namespace moesaic::checkpoint
