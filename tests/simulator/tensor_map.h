// SPDX-License-Identifier: Apache-2.0
// What the simulator writes into a CUtensorMap: the tensor in global memory and the box of it that is copied.
#pragma once

#include <array>

#include "simulator/program.h"

namespace moesaic::sim {

inline constexpr u32 kTensorRanks = 5;

/// Dimension 0 is the innermost.
struct alignas(64) TensorMap {
  static constexpr u64 kMark = 0x70616d20726f736eull;  // no other memory begins like this by chance
  u64 mark = kMark;
  u64 address = 0;
  std::array<u64, kTensorRanks> sizes{};    // of the tensor, in elements
  std::array<u64, kTensorRanks> strides{};  // in bytes
  std::array<u16, kTensorRanks> box{};      // in elements
  u16 element_bytes = 0;
  u16 rank = 0;
  u16 swizzle_bytes = 0;  // 0: rows lie as they come

  u32 row_bytes() const { return u32{box[0]} * element_bytes; }
  u32 rows() const { return u32{box[1]} * box[2] * box[3] * box[4]; }  // those behind the rank are 1
};
static_assert(sizeof(TensorMap) == 128);

/// PTX ISA, "Swizzling Modes": of every 8 (4, 2) times 128 bytes of shared memory, pieces of 16 bytes change places
/// within 128 (64, 32) bytes. It is the address that counts, not the place in the box.
inline u64 swizzled(u64 address, u32 swizzle_bytes) {
  return swizzle_bytes == 0 ? address : address ^ (address >> 7 & (swizzle_bytes / 16 - 1)) << 4;
}

}  // namespace moesaic::sim
