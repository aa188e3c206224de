// SPDX-License-Identifier: Apache-2.0
// Byte scales between linear order and tiles of 128 x 4 or 8 x 4. A thread moves the four neighbouring columns that are
// neighbours in both; padding is written as 0. grid.x = total / threads, rounded up.
#pragma once

#include "kernels/common/scale_layout.cuh"

namespace moesaic::quant {

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void swizzle(const abi::SwizzleParams& p) {
  const long long number = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (number >= p.total) return;
  const int row = static_cast<int>(divide(static_cast<u32>(number), p.quads));
  const int col = 4 * static_cast<int>(static_cast<u32>(number) - static_cast<u32>(row) * p.quads.divisor);
  unsigned char* tile = p.tiles + scale_index(p.shape, row, col);
  unsigned char* linear = p.linear + static_cast<long long>(row) * p.shape.cols + col;
  const int count = row < p.shape.rows ? min(p.shape.cols - col, 4) : 0;  // below 1: padding
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (p.to_linear) {
      if (i < count) linear[i] = tile[i];
    } else if (col + i < p.shape.padded_cols) {
      tile[i] = i < count ? linear[i] : static_cast<unsigned char>(0);
    }
  }
}

}  // namespace moesaic::quant
