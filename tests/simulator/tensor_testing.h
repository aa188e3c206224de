// SPDX-License-Identifier: Apache-2.0
// What tests of the simulator make tensor maps with.
#pragma once

#include <cuda.h>
#include <gtest/gtest.h>

#include "simulator/testing.h"

namespace moesaic::sim {

inline constexpr u32 kColumns = 40, kRows = 12, kPitch = 48;  // of a tensor of 16 bits, in elements

/// Arguments of cuTensorMapEncodeTiled, those of that tensor unless changed.
struct Encode {
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  u32 rank = 2;
  std::vector<cuuint64_t> sizes{kColumns, kRows, 1, 1, 1}, strides{2 * kPitch, 2 * kPitch*kRows, 0, 0};
  std::vector<cuuint32_t> box{64, 8, 1, 1, 1}, element_strides{1, 1, 1, 1, 1};
  CUtensorMapInterleave interleave = CU_TENSOR_MAP_INTERLEAVE_NONE;
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
  CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
  CUtensorMapFloatOOBfill fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;

  CUresult result(CUtensorMap* to, u64 address) const {
    return cuTensorMapEncodeTiled(to, type, rank, reinterpret_cast<void*>(address), sizes.data(), strides.data(),
                                  box.data(), element_strides.data(), interleave, swizzle, promotion, fill);
  }
  CUtensorMap map(u64 address) const {
    CUtensorMap map{};
    EXPECT_EQ(result(&map, address), CUDA_SUCCESS);
    return map;
  }
  u32 bytes() const {  // of a box
    return box[0] * (type == CU_TENSOR_MAP_DATA_TYPE_UINT8 ? 1 : 2) * box[1] * box[2];
  }
};

/// Rows of `pitch` bytes, `columns` elements of them, and a slice of them that may begin and end at any:
/// corner_of_slice is such that its last row is dimension 1's, and dimensions 2 and 3 take back, modulo 2^64, what that
/// adds.
inline Encode encode_of_slices(u64 pitch, u32 columns, u32 box_rows) {
  return {.type = CU_TENSOR_MAP_DATA_TYPE_UINT16,
          .rank = 4,
          .sizes = {columns, u64{1} << 30, u64{1} << 31, u64{1} << 31},
          .strides = {pitch, pitch, (u64{1} << 34) - pitch},
          .box = {64, box_rows, 1, 1}};
}

/// Of a box that begins at that column and row of a slice, as it is written in PTX.
inline std::string corner_of_slice(s32 column, u32 row, u32 slice_begin, u32 slice_rows) {
  const u32 end = 1u << 30;
  return "{" + std::to_string(column) + ", " + std::to_string(end - slice_rows + row) + ", " +
         std::to_string(slice_begin + slice_rows) + ", " + std::to_string(end) + "}";
}

}  // namespace moesaic::sim
