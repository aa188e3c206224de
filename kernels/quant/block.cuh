// SPDX-License-Identifier: Apache-2.0
// Quantisers whose scale blocks lie in one row: NVFP4, MXFP4; MXFP8, fp8 1x128, fp8 with a scale that is known; int4.
// A thread holds tile_k / 16 units, a block's width apart; the 1 to 8 units of a scale block are neighbouring lanes.
// Units are counted row by row over the padded scale layout, so that padding is written by the same launch.
// grid.x = total units / (threads * tile_k / 16), rounded up.
#pragma once

#include "kernels/common/code_scale.cuh"
#include "kernels/quant/write.cuh"

namespace moesaic::quant {

/// The unit that a thread holds at `index`; row -1: none.
__device__ __forceinline__ Unit unit_of_thread(const abi::QuantizeParams& p, int index, int units) {
  const long long number = (static_cast<long long>(blockIdx.x) * units + index) * blockDim.x + threadIdx.x;
  if (number >= p.total_units) return {-1, 0, 0};
  const u32 row = divide(static_cast<u32>(number), p.units);
  return unit_at(p, static_cast<int>(row), static_cast<int>(static_cast<u32>(number) - row * p.units.divisor));
}

/// True in the lane that stores its block's scale.
__device__ __forceinline__ bool leads_block(const abi::QuantizeParams& p, const Unit& unit) {
  return unit.row >= 0 && (unit.col / kUnit & ((1 << p.block_shift) - 1)) == 0;
}

/// NVFP4 with a given global scale, MXFP4.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void quantize_fp4(const abi::QuantizeParams& p) {
  constexpr int kUnits = kConfig.tile_k / kUnit;
  constexpr bool kFp8 = (kConfig.features & abi::kConvertFp8) != 0, kFp4 = (kConfig.features & abi::kConvertFp4) != 0;
  Unit unit[kUnits];
#pragma unroll
  for (int i = 0; i < kUnits; ++i) unit[i] = unit_of_thread(p, i, kUnits);
  float v[kUnits][kUnit];
  read_units<kConfig.role, kUnits>(p, unit, v);
  const bool mx = p.format == abi::kQuantMxfp4;
  const EncodeScale global = encode_scale(mx ? 1.0f : __ldg(p.global_scale));
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    const float amax = block_max(amax_of(v[i]), p.block_shift);
    const ByteScale scale = mx ? mx_scale<codec::E2m1>(amax, p.floor_e8m0 != 0) : nvfp4_scale<kFp8>(amax, global);
    write_e2m1<kFp4>(p, unit[i], v[i], amax, scale);
    if (leads_block(p, unit[i])) write_byte_scale(p, unit[i], scale.byte);
  }
}

/// MXFP8 of both kinds.
template <bool kHardware>
__device__ __forceinline__ void quantize_mx8_unit(const abi::QuantizeParams& p, const Unit& unit,
                                                  const float (&v)[kUnit], float amax) {
  const bool e5m2 = p.format == abi::kQuantMxfp8E5m2;
  const ByteScale scale =
      e5m2 ? mx_scale<codec::E5m2>(amax, p.floor_e8m0 != 0) : mx_scale<codec::E4m3>(amax, p.floor_e8m0 != 0);
  if (unit.count > 0) {
    uint4 codes = e5m2 ? encode_bytes<codec::E5m2, kHardware>(v, scale.multiplier)
                       : encode_bytes<codec::E4m3, kHardware>(v, scale.multiplier);
    if (scale.zero) codes = {0, 0, 0, 0};
    write_bytes(p, unit, codes);
  }
  if (leads_block(p, unit)) write_byte_scale(p, unit, scale.byte);
}

/// MXFP8, fp8 1x128, fp8 by a static scale, and by the tensor's maximum, whose bits the amax kernel left in `scales`.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void quantize_fp8(const abi::QuantizeParams& p) {
  constexpr int kUnits = kConfig.tile_k / kUnit;
  constexpr bool kHardware = (kConfig.features & abi::kConvertFp8) != 0;
  Unit unit[kUnits];
#pragma unroll
  for (int i = 0; i < kUnits; ++i) unit[i] = unit_of_thread(p, i, kUnits);
  float v[kUnits][kUnit];
  read_units<kConfig.role, kUnits>(p, unit, v);
  float* scales = static_cast<float*>(p.scales);
  if (p.format == abi::kQuantFp8Static || p.format == abi::kQuantFp8Tensor) {
    const bool is_static = p.format == abi::kQuantFp8Static;
    const FloatScale scale = is_static ? fp8_static_scale(__ldg(p.global_scale)) : fp8_scale(scales[0]);
#pragma unroll
    for (int i = 0; i < kUnits; ++i) write_e4m3<kHardware>(p, unit[i], v[i], scale.multiplier, scale.zero);
    if (is_static && blockIdx.x == 0 && threadIdx.x == 0) scales[0] = scale.stored;
    return;
  }
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    const float amax = block_max(amax_of(v[i]), p.block_shift);
    if (p.format != abi::kQuantFp8Block1x128) {
      quantize_mx8_unit<kHardware>(p, unit[i], v[i], amax);
      continue;
    }
    const FloatScale scale = fp8_scale(amax);
    write_e4m3<kHardware>(p, unit[i], v[i], scale.multiplier, scale.zero);
    if (leads_block(p, unit[i])) {
      scales[static_cast<long long>(unit[i].row) * p.shape.cols + (unit[i].col / abi::kTile)] = scale.stored;
    }
  }
}

}  // namespace moesaic::quant
