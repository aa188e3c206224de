// SPDX-License-Identifier: Apache-2.0
// A regular file mapped read-only.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace moesaic::checkpoint {

/// Owns the mapping.
class MappedFile {
 public:
  /// Throws Error(kIo) when the path is no readable regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  std::string_view text() const noexcept { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Gives back the memory of mapped pages that lie wholly inside [data, data + size); they are read again when needed.
/// Only for memory of a MappedFile.
void release_pages(const void* data, std::size_t size) noexcept;

/// True for an existing file of any kind.
bool path_exists(const std::string& path);

}  // namespace moesaic::checkpoint
