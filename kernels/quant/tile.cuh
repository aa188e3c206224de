// SPDX-License-Identifier: Apache-2.0
// fp8 in blocks of 128 rows x 128 columns: one block of threads a scale block, its values in registers.
// grid.x = scale rows * scale columns.
#pragma once

#include "kernels/common/code_scale.cuh"
#include "kernels/quant/write.cuh"

namespace moesaic::quant {

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void quantize_tile(const abi::QuantizeParams& p) {
  constexpr int kThreads = abi::threads(kConfig), kAcross = abi::kTile / kUnit;
  constexpr int kUnits = abi::kTile * kAcross / kThreads;
  static_assert(kUnits * kThreads == abi::kTile * kAcross, "units of a tile divide among the threads");
  __shared__ float warp_max[kThreads / 32];
  const int tile_row = static_cast<int>(blockIdx.x) / p.shape.cols;
  const int tile_col = static_cast<int>(blockIdx.x) - tile_row * p.shape.cols;
  Unit unit[kUnits];
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    const int index = static_cast<int>(threadIdx.x) + i * kThreads;
    unit[i] = unit_at(p, tile_row * abi::kTile + index / kAcross, tile_col * kAcross + index % kAcross);
  }
  float v[kUnits][kUnit];
  read_units<kConfig.role, kUnits>(p, unit, v);
  float amax = 0.0f;
#pragma unroll
  for (int i = 0; i < kUnits; ++i) amax = max_nan(amax, amax_of(v[i]));
  amax = block_max(amax, 5);
  if (threadIdx.x % 32 == 0) warp_max[threadIdx.x / 32] = amax;
  __syncthreads();  // all threads; protects warp_max until everybody has read it
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) amax = max_nan(amax, warp_max[i]);
  const FloatScale scale = fp8_scale(amax);
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    write_e4m3<(kConfig.features & abi::kConvertFp8) != 0>(p, unit[i], v[i], scale.multiplier, scale.zero);
  }
  if (threadIdx.x == 0) static_cast<float*>(p.scales)[blockIdx.x] = scale.stored;
}

}  // namespace moesaic::quant
