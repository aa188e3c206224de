// SPDX-License-Identifier: Apache-2.0
// Quantisers with a scale of each row: fp8 by rows, NVFP4 by rows. `row_threads` threads share a row, in two passes:
// the maximum, then the codes. Each thread keeps its first tile_k / 16 units in registers and reads what else it has
// twice, the second time from a cache. grid.x = padded rows * row_threads / block size, rounded up.
#pragma once

#include "kernels/quant/scale.cuh"
#include "kernels/quant/write.cuh"

namespace moesaic::quant {

/// Largest over the threads of a row. `warp_max`: one number a warp. Every thread of the block calls it: the barrier
/// protects the numbers that the row's other warps then read.
__device__ __forceinline__ float row_max(float value, int row_threads, float* warp_max) {
  value = block_max(value, 5);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x % 32 == 0) warp_max[warp] = value;
  __syncthreads();
  const int warps = row_threads / 32;
  const int first = warp / warps * warps;
  for (int i = 0; i < warps; ++i) value = codec::max_nan(value, warp_max[first + i]);
  return value;
}

/// `factor`: NVFP4's encode scale of the row, or what fp8 multiplies by; NaN where the row has one.
template <bool kFp4, bool kFp8>
__device__ __forceinline__ void write_row_unit(const abi::QuantizeParams& p, const Unit& unit, const float (&v)[kUnit],
                                               float factor) {
  if (p.format == abi::kQuantNvfp4Row) {
    const ByteScale scale = nvfp4_scale<kFp8>(amax_of(v), factor);
    write_e2m1<kFp4>(p, unit, v, scale.multiplier, scale.zero);
    write_byte_scale(p, unit, scale.byte);
  } else {
    write_e4m3<kFp8>(p, unit, v, factor, factor != factor);
  }
}

/// Factor of a row with this maximum; its first thread stores the scale.
__device__ __forceinline__ float row_factor(const abi::QuantizeParams& p, int row, int thread, float amax) {
  const bool fp4 = p.format == abi::kQuantNvfp4Row, is_nan = amax != amax;
  const float row_scale = nvfp4_row_scale(amax);
  const FloatScale scale = fp8_scale(amax);
  const float stored = is_nan ? __uint_as_float(codec::kNanBits) : fp4 ? row_scale : scale.stored;
  if (thread == 0 && row < p.rows) (fp4 ? p.row_scales : static_cast<float*>(p.scales))[row] = stored;
  return is_nan ? amax : fp4 ? nvfp4_row_global(row_scale) : scale.multiplier;
}

/// Requires: block size a multiple of row_threads.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void quantize_row(const abi::QuantizeParams& p) {
  constexpr bool kFp8 = (kConfig.convert & abi::kConvertFp8) != 0, kFp4 = (kConfig.convert & abi::kConvertFp4) != 0;
  constexpr int kKept = kConfig.tile_k / kUnit;
  __shared__ float warp_max[abi::threads(kConfig) / 32];
  const int thread = static_cast<int>(threadIdx.x) % p.row_threads;
  const int row = static_cast<int>((static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) / p.row_threads);
  const int units = row < p.shape.padded_rows ? static_cast<int>(p.units.divisor) : 0;
  // Computed where it is used, not held: registers are what bounds the threads that are resident.
  const auto kept_unit = [&](int i) {
    const int u = thread + i * p.row_threads;
    return u < units ? unit_at(p, row, u) : Unit{-1, 0, 0};
  };
  float kept[kKept][kUnit], amax = 0.0f, factor = 0.0f;
  {
    Unit unit[kKept];
#pragma unroll
    for (int i = 0; i < kKept; ++i) unit[i] = kept_unit(i);
    read_units<kConfig.role, kKept>(p, unit, kept);
  }
#pragma unroll
  for (int i = 0; i < kKept; ++i) amax = codec::max_nan(amax, amax_of(kept[i]));
#pragma unroll 1  // one text for both passes: it holds the activations' formulas
  for (int pass = 0; pass < 2; ++pass) {
#pragma unroll 1
    for (int u = thread + kKept * p.row_threads; u < units; u += p.row_threads) {
      const Unit far[1] = {unit_at(p, row, u)};
      float v[1][kUnit];
      read_units<kConfig.role, 1>(p, far, v);
      if (pass == 0) {
        amax = codec::max_nan(amax, amax_of(v[0]));
      } else {
        write_row_unit<kFp4, kFp8>(p, far[0], v[0], factor);
      }
    }
    if (pass == 0) factor = row_factor(p, row, thread, row_max(amax, p.row_threads, warp_max));
  }
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const Unit unit = kept_unit(i);
    if (unit.row >= 0) write_row_unit<kFp4, kFp8>(p, unit, kept[i], factor);
  }
}

}  // namespace moesaic::quant
