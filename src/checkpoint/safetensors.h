// SPDX-License-Identifier: Apache-2.0
// One safetensors file: u64 LE header length n, n bytes of JSON {name: {dtype, shape, data_offsets}}, then the data.
// As the format demands, the tensors cover the data without holes or overlaps; anything else is damage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/mapped_file.h"
#include "moesaic/tensor.h"

namespace moesaic::checkpoint {

/// A header entry. `begin` and `end` are bytes from the start of the data and lie within the file.
struct TensorEntry {
  std::string name;
  const char* dtype = nullptr;  // the format's own name, "BF16"
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;
};

/// "[6, 160, 128]".
std::string shape_text(const std::vector<std::int64_t>& shape);

/// The library's type for a safetensors dtype name; false when it has none ("F8_E4M3").
bool find_dtype(std::string_view safetensors_name, DType* dtype);

/// Bytes of one element of a safetensors dtype, 1 for those of fewer than eight bits.
std::size_t dtype_bytes(std::string_view safetensors_name);
/// Bits of an element; 0 for an unknown name.
int dtype_bits(std::string_view safetensors_name);

/// A mapped file with a checked header. Immutable; shared by everything that points into it.
class SafetensorsFile {
 public:
  /// Throws Error(kIo) that says what is wrong with which tensor.
  static std::shared_ptr<const SafetensorsFile> open(const std::string& path);
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const noexcept { return path_; }
  const std::vector<TensorEntry>& tensors() const noexcept { return tensors_; }  // in data order
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  /// nullptr when the file has no such tensor.
  const TensorEntry* find(std::string_view name) const noexcept;
  /// Tensors whose names begin with `prefix`, by name.
  std::vector<const TensorEntry*> below(std::string_view prefix) const;
  const std::byte* data(const TensorEntry& entry) const noexcept;

 private:
  std::vector<std::uint32_t>::const_iterator first_not_below(std::string_view name) const noexcept;

  std::string path_;
  MappedFile file_;
  std::size_t data_start_ = 0;
  std::vector<TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::uint32_t> by_name_;  // indices into tensors_
};

}  // namespace moesaic::checkpoint
