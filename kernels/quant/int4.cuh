// SPDX-License-Identifier: Apache-2.0
// int4 in groups of 32, 64 or 128, with a zero point of its own for every group or without. Units and grid as in
// kernels/quant/block.cuh.
#pragma once

#include "kernels/quant/block.cuh"

namespace moesaic::quant {

/// A group's step (a bf16 number), zero point, and what its quotients are made with.
struct Group {
  float step;
  float inverse;  // 0: quotients need the exact division
  float zero;
  bool no_codes;  // NaN: codes are 0
};

__device__ __forceinline__ float round_to_bf16(float value) {
  return to_float<abi::kIoBf16>(from_float<abi::kIoBf16>(value));
}

__device__ __forceinline__ Group int4_group(float amax, float low, float high, bool zero_points) {
  Group g{0.0f, 0.0f, 8.0f, false};
  if (amax != amax) {
    g.step = __uint_as_float(codec::kNanBits);
    g.no_codes = true;
    return g;
  }
  g.step = round_to_bf16(zero_points ? __fdiv_rn(__fadd_rn(high, -low), 15.0f) : __fdiv_rn(amax, 7.5f));
  if (zero_points && g.step != 0.0f) {
    // An infinite range gives 0 / 0 nowhere but infinity / infinity here: zero point 0.
    g.zero = fminf(fmaxf(rintf(__fdiv_rn(-low, g.step)), 0.0f), 15.0f);
  }
  if (g.step > 0x1p-100f && g.step < 0x1p100f) g.inverse = __frcp_rn(g.step);
  return g;
}

/// fl(x / step) by the reciprocal and two corrections: with the correctly rounded reciprocal of a divisor whose
/// fraction is not all ones (a bf16 number's never is) the second quotient is the correctly rounded one (Markstein
/// 1990).
__device__ __forceinline__ float quotient(float x, const Group& g) {
  float q = __fmul_rn(x, g.inverse);
  q = __fmaf_rn(__fmaf_rn(-q, g.step, x), g.inverse, q);
  return __fmaf_rn(__fmaf_rn(-q, g.step, x), g.inverse, q);
}

/// Code and rounder (see NibblePacker) of a quotient. NaN (infinity over infinity) is dropped by fmaxf: code 0.
__device__ __forceinline__ u32 int4_code(float quotient, const Group& g) {
  const float shifted = __fadd_rn(__fadd_rn(quotient, codec::kIntegerRounder), g.zero);
  const float least = codec::kIntegerRounder;
  return __float_as_uint(fminf(fmaxf(shifted, least), least + 15.0f));
}

__device__ __forceinline__ uint2 int4_codes(const float (&v)[kUnit], const Group& g) {
  if (g.no_codes) return {0, 0};
  if (g.step == 0.0f) return {0x88888888u, 0x88888888u};
  codec::NibblePacker low, high;
  if (g.inverse != 0.0f) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      low.add(i, int4_code(quotient(v[i], g), g));
      high.add(i, int4_code(quotient(v[i + 8], g), g));
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      low.add(i, int4_code(__fdiv_rn(v[i], g.step), g));
      high.add(i, int4_code(__fdiv_rn(v[i + 8], g.step), g));
    }
  }
  return {low.nibbles(), high.nibbles()};
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void quantize_int4(const abi::QuantizeParams& p) {
  constexpr int kUnits = kConfig.tile_k / kUnit;
  Unit unit[kUnits];
#pragma unroll
  for (int i = 0; i < kUnits; ++i) unit[i] = unit_of_thread(p, i, kUnits);
  float v[kUnits][kUnit];
  read_units<kConfig.role, kUnits>(p, unit, v);
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    const float amax = block_max(amax_of(v[i]), p.block_shift);
    float low = 0.0f, high = 0.0f;
    if (p.zeros != nullptr) {
#pragma unroll
      for (int j = 0; j < kUnit; ++j) low = fminf(low, v[i][j]), high = fmaxf(high, v[i][j]);
      low = -block_max(-low, p.block_shift);
      high = block_max(high, p.block_shift);
    }
    const Group g = int4_group(amax, low, high, p.zeros != nullptr);
    if (unit[i].count > 0) write_nibbles(p, unit[i], int4_codes(v[i], g));
    if (unit[i].count > 0 && leads_block(p, unit[i])) {
      const long long at = static_cast<long long>(unit[i].row) * p.shape.cols + (unit[i].col / kUnit >> p.block_shift);
      static_cast<u16*>(p.scales)[at] = static_cast<u16>(__float_as_uint(g.step) >> 16);
      if (p.zeros != nullptr) p.zeros[at] = static_cast<unsigned char>(g.zero);
    }
  }
}

}  // namespace moesaic::quant
