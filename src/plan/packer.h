// SPDX-License-Identifier: Apache-2.0
// Hands out parts of one buffer, each on a 256-byte boundary.
#pragma once

#include <cstddef>

namespace moesaic::plan {

class Packer {
 public:
  std::size_t take(std::size_t bytes) {
    const std::size_t at = size_;
    size_ = (size_ + bytes + 255) / 256 * 256;
    return at;
  }
  std::size_t size() const { return size_; }

 private:
  std::size_t size_ = 0;
};

}  // namespace moesaic::plan
