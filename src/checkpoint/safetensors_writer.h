// SPDX-License-Identifier: Apache-2.0
// Writes a safetensors file piece by piece: sizes are known first, data come in any order and never lie in memory
// whole.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::checkpoint {

/// A tensor to be written. `dtype` is the format's own name ("F8_E4M3").
struct PlannedTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
};

/// Bytes of a planned tensor.
std::uint64_t planned_bytes(const PlannedTensor& tensor);

/// Owns the open file; what is not finished is removed.
class SafetensorsWriter {
 public:
  /// Creates `path` with a header for all tensors; widest types first, so that each lies on its natural alignment.
  /// Throws Error(kIo), Error(kInvalidArgument) on a name that stands twice.
  SafetensorsWriter(std::string path, const std::vector<PlannedTensor>& tensors);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Bytes [offset, offset + size) of a tensor. Throws Error(kIo), also when they lie outside of it.
  void write(const std::string& name, std::uint64_t offset, const void* data, std::uint64_t size);
  /// Checks that every byte was written, syncs, closes. The file stays.
  void finish();

 private:
  struct Place {
    std::uint64_t begin = 0, size = 0, written = 0;
  };

  void write_at(std::uint64_t position, const void* data, std::uint64_t size);

  std::string path_;
  int file_ = -1;
  std::uint64_t data_begin_ = 0;
  std::map<std::string, Place> places_;
};

}  // namespace moesaic::checkpoint
