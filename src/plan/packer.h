// SPDX-License-Identifier: Apache-2.0
// Hands out parts of one buffer, each on a 256-byte boundary.
#pragma once

#include <cstddef>
#include <vector>

namespace moesaic::plan {

/// Bytes of a buffer. 0 bytes: there is no such part.
struct Part {
  std::size_t at = 0, bytes = 0;

  /// What belongs to one of `count` equal shares.
  Part share(std::size_t index, std::size_t count) const { return {at + bytes / count * index, bytes / count}; }
};

class Packer {
 public:
  /// `gaps` gets what lies between a part and the boundary behind it; nullptr: nothing is kept, nothing is allocated.
  explicit Packer(std::vector<Part>* gaps = nullptr) : gaps_(gaps) {}

  std::size_t take(std::size_t bytes) {
    const std::size_t at = size_, end = at + bytes;
    size_ = (end + 255) / 256 * 256;
    if (gaps_ != nullptr && size_ > end) gaps_->push_back({end, size_ - end});
    return at;
  }
  std::size_t size() const { return size_; }

 private:
  std::vector<Part>* gaps_;
  std::size_t size_ = 0;
};

}  // namespace moesaic::plan
