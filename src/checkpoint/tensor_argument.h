// SPDX-License-Identifier: Apache-2.0
// "file" or "file:name" as users write it, and views of single tensors.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/safetensors.h"
#include "moesaic/checkpoint.h"

namespace moesaic::checkpoint {

struct TensorArgument {
  std::string file;
  std::string name;  // empty: not given
};

/// Splits at the last colon, unless a file of the whole name exists.
TensorArgument split_tensor_argument(const std::string& file_and_name);

/// A view of a tensor that keeps its file mapped. Throws Error(kUnsupported): dtype or rank that TensorView has not.
StoredTensor tensor_view(const std::shared_ptr<const SafetensorsFile>& file, const TensorEntry& entry);

}  // namespace moesaic::checkpoint
