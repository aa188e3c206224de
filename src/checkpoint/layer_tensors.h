// SPDX-License-Identifier: Apache-2.0
// The tensors of one layer: each is checked for type and shape when it is asked for, kept in memory, and remembered, so
// that what nobody asked for can be refused.
#pragma once

#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/stored_part.h"
#include "checkpoint/tensor_source.h"
#include "moesaic/error.h"
#include "moesaic/tensor.h"

namespace moesaic::checkpoint {

/// What a tensor must be. `reason` ends the message of a mismatch.
struct Wanted {
  std::span<const char* const> dtypes;  // the file format's names, up to a nullptr
  const std::vector<Shape>& shapes;     // any of them
  const std::string& reason;
  ErrorKind dtype_error = ErrorKind::kIo;
};

class LayerTensors {
 public:
  /// `block`: what the layer's tensor names begin with, "model.layers.3.mlp.".
  LayerTensors(const TensorSource& source, std::string block);

  const std::string& block() const noexcept { return block_; }
  bool has(const std::string& name) const { return source_.has(block_ + name); }
  /// Full names of the tensors that were asked for.
  const std::set<std::string>& seen() const noexcept { return seen_; }
  /// Throws Error when there is none, or another than wanted.
  StoredPart get(const std::string& name, const Wanted& wanted);
  /// 16- or 32-bit numbers.
  TensorView get_plain(const std::string& name, const std::vector<Shape>& shapes, const std::string& reason);
  /// Throws Error(kUnsupported) when the layer has tensors that were not asked for; `owner` ends "..., but".
  void refuse_others(const std::string& owner) const;
  /// Keeps alive what was returned.
  std::shared_ptr<const void> storage() const { return storage_; }

 private:
  // Mapped files, and copies of tensors that a file stores off their natural alignment.
  struct Storage {
    std::set<std::shared_ptr<const SafetensorsFile>> files;
    std::vector<std::vector<std::byte>> copies;
  };

  const std::byte* keep(const FoundTensor& found);

  const TensorSource& source_;
  std::string block_;
  std::shared_ptr<Storage> storage_;
  std::set<std::string> seen_;
};

}  // namespace moesaic::checkpoint
