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

inline constexpr int kHalf = kUnit / 2;  // 16 bytes of 16-bit numbers

template <int kIo>
__device__ __forceinline__ void widen(const uint4& bits, float* v) {
  const float2 a = unpack<kIo>(bits.x), b = unpack<kIo>(bits.y), c = unpack<kIo>(bits.z), d = unpack<kIo>(bits.w);
  v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
}
/// FP32 numbers of a piece, and the piece of four.
__device__ __forceinline__ void to_floats(const uint4& bits, float* v) {
  v[0] = __uint_as_float(bits.x), v[1] = __uint_as_float(bits.y);
  v[2] = __uint_as_float(bits.z), v[3] = __uint_as_float(bits.w);
}
__device__ __forceinline__ uint4 to_piece(const float* v) {
  return {__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3])};
}
/// Half a unit of 16-bit numbers.
__device__ __forceinline__ void widen_half(int source, const uint4& bits, float* v) {
  if (source == abi::kSourceBf16) {
    widen<abi::kIoBf16>(bits, v);
  } else {
    widen<abi::kIoFp16>(bits, v);
  }
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
      for (int i = 0; i < 4; ++i) to_floats(bits[part][i], v[part] + 4 * i);
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
      widen_half(p.source, bits[part][i], v[part] + kHalf * i);
    }
  }
}

template <int kCount>
__device__ __forceinline__ float amax_of(const float (&v)[kCount]) {
  float largest = fabsf(v[0]);
#pragma unroll
  for (int i = 1; i < kCount; ++i) largest = max_nan(largest, fabsf(v[i]));
  return largest;
}

template <int kKind>
__device__ __forceinline__ void activate_half_as(const ActivationParams& a, float (&g)[kHalf],
                                                 const float (&u)[kHalf]) {
#pragma unroll
  for (int i = 0; i < kHalf; ++i) g[i] = activate_as<kKind>(a, g[i], u[i]);
}

/// SITU of half a unit; the up half of all but outliers lies within beta, where its tanh takes fewer instructions.
__device__ __forceinline__ void situ_half(const ActivationParams& a, float (&g)[kHalf], float (&u)[kHalf]) {
  if (amax_of(u) <= a.beta) {
#pragma unroll
    for (int i = 0; i < kHalf; ++i) u[i] = scaled_tanh_near_zero(u[i], a.beta);
  } else {
#pragma unroll
    for (int i = 0; i < kHalf; ++i) u[i] = situ_up(a, u[i]);
  }
#pragma unroll
  for (int i = 0; i < kHalf; ++i) g[i] = situ_of_up(a, g[i], u[i]);
}

/// act(g, u) of a gated kind into g: one straight line for each formula, and half a unit, for registers' sake.
__device__ __forceinline__ void activate_half(const abi::QuantizeParams& p, float (&g)[kHalf], float (&u)[kHalf]) {
  const ActivationParams a{p.activation, p.alpha, p.beta, p.limit};
  if (p.activation == 10) return situ_half(a, g, u);  // the longest first: it waits for no other comparison
  switch (p.activation) {
    case 3:
      return activate_half_as<3>(a, g, u);
    case 4:
      return activate_half_as<4>(a, g, u);
    case 5:
      return activate_half_as<5>(a, g, u);
    case 7:
      return activate_half_as<7>(a, g, u);
    default:
      return activate_half_as<8>(a, g, u);
  }
}

/// `count` of 8 elements from index `at` on, one by one or as FP32 of which the first lies on 16 bytes.
__device__ __forceinline__ void read_half(const abi::QuantizeParams& p, long long at, int count, float (&v)[kHalf]) {
  if (p.aligned) {
    const uint4* from = reinterpret_cast<const uint4*>(static_cast<const float*>(p.x) + at);
#pragma unroll
    for (int i = 0; i < 2; ++i) to_floats(count > 0 ? __ldg(from + i) : uint4{0, 0, 0, 0}, v + 4 * i);
  } else {
#pragma unroll
    for (int i = 0; i < kHalf; ++i) v[i] = i < count ? load_source(p.x, p.source, at + i) : 0.0f;
  }
}

/// A unit through the activation. Pieces of 16-bit numbers are all under way before the first half is worked on.
__device__ __forceinline__ void read_gated_unit(const abi::QuantizeParams& p, const Unit& unit, float (&v)[kUnit]) {
  const long long gate = static_cast<long long>(unit.row) * 2 * p.cols + unit.col;
  const bool pieces = p.aligned && p.source != abi::kSourceF32;
  uint4 bits[2][2] = {};  // [gate, up][half]
  if (pieces && unit.count > 0) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const u16* from = static_cast<const u16*>(p.x) + gate + (i < 2 ? 0 : p.cols);
      bits[i / 2][i % 2] = __ldg(reinterpret_cast<const uint4*>(from) + i % 2);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float g[kHalf], u[kHalf];
    const int count = unit.count - half * kHalf;
    if (pieces) {
      widen_half(p.source, bits[0][half], g);
      widen_half(p.source, bits[1][half], u);
    } else {
      read_half(p, gate + half * kHalf, count, g);
      read_half(p, gate + p.cols + half * kHalf, count, u);
    }
    activate_half(p, g, u);
#pragma unroll
    for (int i = 0; i < kHalf; ++i) v[half * kHalf + i] = g[i];
  }
  if (p.aligned && unit.count > 0) return;  // all 16 exist
#pragma unroll
  for (int i = 0; i < kUnit; ++i) {
    if (i >= unit.count) v[i] = 0.0f;
  }
}

/// Values of `kUnits` units; 0 beyond their elements.
template <int kRole, int kUnits>
__device__ __forceinline__ void read_units(const abi::QuantizeParams& p, const Unit (&unit)[kUnits],
                                           float (&v)[kUnits][kUnit]) {
  if constexpr ((kRole & abi::kRoleGated) == 0) {
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
    for (int i = 0; i < kUnits; ++i) read_gated_unit(p, unit[i], v[i]);
  }
}

/// Largest of the 2^shift neighbouring lanes that share a block; a NaN wins. Requires: all lanes of the warp.
__device__ __forceinline__ float block_max(float value, int shift) {
  for (int delta = 1; delta < 1 << shift; delta *= 2) {
    value = max_nan(value, __shfl_xor_sync(0xffffffffu, value, delta));
  }
  return value;
}

}  // namespace moesaic::quant
