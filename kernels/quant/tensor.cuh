// SPDX-License-Identifier: Apache-2.0
// fp8 with one scale: the tensor's maximum, and what becomes of it. Three launches: this kernel leaves the maximum's
// bits in scales[0], which the host has set to 0; kernels/quant/block.cuh makes the codes from it; this kernel with
// `finish` (one block) replaces it by the stored scale. Bits of magnitudes order like the numbers, NaN above all, so an
// integer maximum does, in any order.
#pragma once

#include "kernels/quant/block.cuh"

namespace moesaic::quant {

/// grid-stride over groups of tile_k / 16 units a thread; any grid.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void tensor_amax(const abi::QuantizeParams& p) {
  constexpr int kUnits = kConfig.tile_k / kUnit;
  if (p.finish) {
    if (threadIdx.x == 0) {
      float* scale = static_cast<float*>(p.scales);
      *scale = fp8_scale(*scale).stored;
    }
    return;
  }
  __shared__ u32 warp_max[abi::threads(kConfig) / 32];
  float amax = 0.0f;
  const long long stride = static_cast<long long>(gridDim.x) * blockDim.x * kUnits;
  for (long long first = static_cast<long long>(blockIdx.x) * blockDim.x * kUnits; first < p.total_units;
       first += stride) {
    Unit unit[kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const long long number = first + i * static_cast<int>(blockDim.x) + threadIdx.x;
      unit[i] = {-1, 0, 0};
      if (number < p.total_units) {
        const u32 row = divide(static_cast<u32>(number), p.units);
        unit[i] = unit_at(p, static_cast<int>(row), static_cast<int>(static_cast<u32>(number) - row * p.units.divisor));
      }
    }
    float v[kUnits][kUnit];
    read_units<kConfig.role, kUnits>(p, unit, v);
#pragma unroll
    for (int i = 0; i < kUnits; ++i) amax = max_nan(amax, amax_of(v[i]));
  }
  const u32 mine = ptx::warp_max(__float_as_uint(amax));
  if (threadIdx.x % 32 == 0) warp_max[threadIdx.x / 32] = mine;
  __syncthreads();  // all threads; protects warp_max until thread 0 reads it
  if (threadIdx.x != 0) return;
  u32 largest = mine;
  for (int warp = 1; warp < static_cast<int>(blockDim.x) / 32; ++warp) largest = max(largest, warp_max[warp]);
  atomicMax(static_cast<u32*>(p.scales), largest);
}

}  // namespace moesaic::quant
