// SPDX-License-Identifier: Apache-2.0
// Where the scale of (row, column) lies: linear, tiles of 128 x 4 or 8 x 4, and groups that begin on 128-row
// boundaries. moesaic/quantize.h has the formulas.
#pragma once

#include "kernels/abi/quant_params.h"
#include "kernels/common/number.cuh"

namespace moesaic {

__device__ __forceinline__ u32 divide(u32 number, const abi::Divider& by) {
  return (__umulhi(number, by.multiplier) + number) >> by.shift;
}

/// Index in scales. Requires: 0 <= row, 0 <= col < padded columns.
__device__ __forceinline__ long long scale_index(const abi::ScaleShape& s, int row, int col) {
  if (s.layout == abi::kLayoutLinear) return static_cast<long long>(row) * s.cols + col;
  const int tiles = s.padded_cols / 4;
  if (s.layout == abi::kLayout8x4) {
    return (static_cast<long long>(row / 8) * tiles + col / 4) * 32 + row % 8 * 4 + col % 4;
  }
  return (static_cast<long long>(row / 128) * tiles + col / 4) * 512 + row % 32 * 16 + row % 128 / 32 * 4 + col % 4;
}

/// Scale row of a matrix row, -1 when it belongs to no group: the group is the first one that ends behind the row.
__device__ __forceinline__ int scale_row(const abi::ScaleShape& s, int row) {
  if (s.group_offsets == nullptr) return row;
  int low = 0, high = s.groups;  // the group lies in [low, high]; high = groups: none
  while (low < high) {
    const int middle = (low + high) / 2;
    if (s.group_offsets[middle + 1] <= row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == s.groups || row < s.group_offsets[0]) return -1;
  const int first = s.group_offsets[low];
  return static_cast<int>((first + 127ll * low) / 128 * 128) + row - first;
}

}  // namespace moesaic
