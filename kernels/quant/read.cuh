// SPDX-License-Identifier: Apache-2.0
// Reads units of 16 elements as FP32, through a gated activation where the configuration says so. All loads of a thread
// are under way before the first is used.
#pragma once

#include "kernels/common/activation.cuh"
#include "kernels/common/codec.cuh"
#include "kernels/common/ptx.cuh"
#include "kernels/common/scale_layout.cuh"

namespace moesaic::quant {

using abi::kUnit;

/// Where a unit lies. `count` elements of it exist: 0 for padding.
struct Unit {
  int row, col, count;
};

__device__ __forceinline__ Unit unit_at(const abi::QuantizeParams& p, int row, int unit) {
  const int col = unit * kUnit;
  const int left = row < p.rows ? p.cols - col : 0;
  return {row, col, left < 0 ? 0 : left > kUnit ? kUnit : left};
}

template <int kIo>
__device__ __forceinline__ void widen(const uint4& bits, float* v) {
  const float2 a = unpack<kIo>(bits.x), b = unpack<kIo>(bits.y), c = unpack<kIo>(bits.z), d = unpack<kIo>(bits.w);
  v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
}

/// kParts stretches of 16 elements, each with its first index and its number of elements; the rest become 0.
template <int kParts>
__device__ __forceinline__ void read_parts(const abi::QuantizeParams& p, const long long (&at)[kParts],
                                           const int (&count)[kParts], float (&v)[kParts][kUnit]) {
  const char* x = static_cast<const char*>(p.x);
  if (!p.aligned) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) v[part][i] = i < count[part] ? load_source(p.x, p.source, at[part] + i) : 0.0f;
    }
    return;
  }
  if (p.source == abi::kSourceF32) {
    uint4 bits[kParts][4] = {};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (count[part] == 0) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) bits[part][i] = __ldg(reinterpret_cast<const uint4*>(x + at[part] * 4) + i);
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[part][4 * i] = __uint_as_float(bits[part][i].x), v[part][4 * i + 1] = __uint_as_float(bits[part][i].y);
        v[part][4 * i + 2] = __uint_as_float(bits[part][i].z), v[part][4 * i + 3] = __uint_as_float(bits[part][i].w);
      }
    }
    return;
  }
  uint4 bits[kParts][2] = {};
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (count[part] == 0) continue;
#pragma unroll
    for (int i = 0; i < 2; ++i) bits[part][i] = __ldg(reinterpret_cast<const uint4*>(x + at[part] * 2) + i);
  }
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (p.source == abi::kSourceBf16) {
        widen<abi::kIoBf16>(bits[part][i], v[part] + 8 * i);
      } else {
        widen<abi::kIoFp16>(bits[part][i], v[part] + 8 * i);
      }
    }
  }
}

/// act(g, u) into g. SwiGLU, which nearly every model has, has builds of its own. The others go four elements a turn,
/// then the arrays move on by four: an unrolled loop over 16 elements would hold every formula 16 times.
template <int kRole>
__device__ __forceinline__ void activate_unit(const abi::QuantizeParams& p, float (&g)[kUnit], float (&u)[kUnit]) {
  if constexpr ((kRole & abi::kRoleSwiglu) != 0) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) g[i] = silu(g[i]) * u[i];
    return;
  }
  const ActivationParams a{p.activation, p.alpha, p.beta, p.limit};
#pragma unroll 1
  for (int turn = 0; turn < kUnit / 4; ++turn) {
    float out[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = activate(a, g[i], u[i]);
#pragma unroll
    for (int i = 0; i < kUnit - 4; ++i) g[i] = g[i + 4], u[i] = u[i + 4];
#pragma unroll
    for (int i = 0; i < 4; ++i) g[kUnit - 4 + i] = out[i];
  }
}

/// Values of `kUnits` units; 0 beyond their elements.
template <int kRole, int kUnits>
__device__ __forceinline__ void read_units(const abi::QuantizeParams& p, const Unit (&unit)[kUnits],
                                           float (&v)[kUnits][kUnit]) {
  if constexpr ((kRole & (abi::kRoleGated | abi::kRoleSwiglu)) == 0) {
    long long at[kUnits];
    int count[kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      at[i] = static_cast<long long>(unit[i].row) * p.cols + unit[i].col;
      count[i] = unit[i].count;
    }
    read_parts<kUnits>(p, at, count, v);
  } else {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const long long gate = static_cast<long long>(unit[i].row) * 2 * p.cols + unit[i].col;
      const long long at[2] = {gate, gate + p.cols};
      const int count[2] = {unit[i].count, unit[i].count};
      float gu[2][kUnit];
      read_parts<2>(p, at, count, gu);
      activate_unit<kRole>(p, gu[0], gu[1]);
#pragma unroll
      for (int j = 0; j < kUnit; ++j) v[i][j] = j < unit[i].count ? gu[0][j] : 0.0f;
    }
  }
}

__device__ __forceinline__ float amax_of(const float (&v)[kUnit]) {
  float largest = fabsf(v[0]);
#pragma unroll
  for (int i = 1; i < kUnit; ++i) largest = codec::max_nan(largest, fabsf(v[i]));
  return largest;
}

/// Largest of the 2^shift neighbouring lanes that share a block; a NaN wins. Requires: all lanes of the warp.
__device__ __forceinline__ float block_max(float value, int shift) {
  for (int delta = 1; delta < 1 << shift; delta *= 2) {
    value = codec::max_nan(value, __shfl_xor_sync(0xffffffffu, value, delta));
  }
  return value;
}

}  // namespace moesaic::quant
