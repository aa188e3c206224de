// SPDX-License-Identifier: Apache-2.0
// Quantisers with a scale of each row: fp8 by rows, NVFP4 by rows. 2^row_shift threads share a row, in two passes: the
// maximum, then the codes. Each thread keeps its first tile_k / 16 units in shared memory, where no other thread looks,
// and reads what else it has twice, the second time from a cache. In registers they would halve the threads that are
// resident, and with them how well one block's loads hide behind another's codes.
// grid.x = padded rows * 2^row_shift / block size, rounded up.
#pragma once

#include "kernels/common/code_scale.cuh"
#include "kernels/quant/write.cuh"

namespace moesaic::quant {

/// Largest over the 2^row_shift threads of a row. `warp_max`: one number a warp. Every thread of the block calls it:
/// the barrier protects the numbers that the row's other warps then read.
__device__ __forceinline__ u32 row_max(u32 value, int row_shift, u32* warp_max) {
  const u32 mine = ptx::warp_max(value);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) warp_max[warp] = mine;
  __syncthreads();
  const int warps = 1 << (row_shift - 5);
  return ptx::warp_max(warp_max[(warp & -warps) + (lane & (warps - 1))]);
}
/// The same of magnitudes; NaN wins, for their bits order like the numbers and NaN's lie above.
__device__ __forceinline__ float row_max(float value, int row_shift, u32* warp_max) {
  return __uint_as_float(row_max(__float_as_uint(value), row_shift, warp_max));
}

/// `amax`: the unit's maximum. `factor`: NVFP4's encode scale, or in its first member what fp8 multiplies by; NaN where
/// the row has one.
template <bool kFp4, bool kFp8>
__device__ __forceinline__ void write_row_unit(const abi::QuantizeParams& p, const Unit& unit, const float (&v)[kUnit],
                                               float amax, const EncodeScale& factor) {
  if (p.format == abi::kQuantNvfp4Row) {
    const ByteScale scale = nvfp4_scale<kFp8>(amax, factor);
    write_e2m1<kFp4>(p, unit, v, amax, scale);
    write_byte_scale(p, unit, scale.byte);
  } else {
    write_e4m3<kFp8>(p, unit, v, factor.sixth, factor.sixth != factor.sixth);
  }
}

/// The thread's number in its row.
__device__ __forceinline__ int row_thread(const abi::QuantizeParams& p) {
  return static_cast<int>(threadIdx.x) & ((1 << p.row_shift) - 1);
}

/// Factor of a row with this maximum; its first thread stores the scale.
__device__ __forceinline__ EncodeScale row_factor(const abi::QuantizeParams& p, int row, float amax) {
  asm volatile("" : "+r"(row));  // the address is made here, not before the loop, where registers are short
  const bool is_nan = amax != amax, stores = row_thread(p) == 0 && row < p.rows;
  const float nan = __uint_as_float(codec::kNanBits);
  if (p.format == abi::kQuantNvfp4Row) {
    const float scale = nvfp4_row_scale(amax);
    if (stores) p.row_scales[row] = is_nan ? nan : scale;
    return encode_scale(is_nan ? nan : nvfp4_row_global(scale));
  }
  const FloatScale scale = fp8_scale(amax);
  if (stores) static_cast<float*>(p.scales)[row] = scale.stored;
  return {is_nan ? nan : scale.multiplier, 0.0f};
}

/// The units that a thread keeps: pieces of 16 bytes in shared memory, first as they lie in global memory (gate, then
/// up), then, after an activation, as FP32.
template <abi::KernelConfig kConfig>
struct KeptUnits {
  static constexpr bool kGated = (kConfig.role & abi::kRoleGated) != 0;
  static constexpr int kCount = kConfig.tile_k / kUnit, kPieces = kGated ? 4 : 2, kThreads = abi::threads(kConfig);
  uint4 (&pieces)[kCount][kPieces][kThreads];
  float (&largest)[kCount][kThreads];  // maximum of each unit

  /// Starts the loads of unit `index` of this thread.
  __device__ __forceinline__ void fetch(const abi::QuantizeParams& p, const Unit& unit, int index) const {
    const bool exists = unit.count > 0;
    const long long row = static_cast<long long>(exists ? unit.row : 0) * p.cols * (kGated ? 2 : 1);
    const char* at = static_cast<const char*>(p.x) + (row + (exists ? unit.col : 0)) * 2;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const char* from = at + (i < 2 ? 0 : static_cast<long long>(p.cols) * 2) + i % 2 * 16;
      ptx::cp_async_16_l1(ptx::shared_address(&pieces[index][i][threadIdx.x]), from, exists ? 16 : 0);
    }
  }

  /// First reading of what was fetched: its maximum. A half of a gated unit becomes FP32 in the place of its gate and
  /// up.
  __device__ __forceinline__ float read(const abi::QuantizeParams& p, int index) const {
    float amax = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v[kHalf];
      widen_half(p.source, pieces[index][half][threadIdx.x], v);
      if constexpr (kGated) {
        float up[kHalf];
        widen_half(p.source, pieces[index][2 + half][threadIdx.x], up);
        activate_half(p, v, up);
#pragma unroll
        for (int i = 0; i < 2; ++i) pieces[index][2 * i + half][threadIdx.x] = to_piece(v + 4 * i);
      }
      amax = max_nan(amax, amax_of(v));
    }
    return amax;
  }

  /// Second reading.
  __device__ __forceinline__ void read_again(const abi::QuantizeParams& p, int index, float (&v)[kUnit]) const {
    if constexpr (kGated) {
#pragma unroll
      for (int i = 0; i < 4; ++i) to_floats(pieces[index][i][threadIdx.x], v + i % 2 * kHalf + i / 2 * 4);
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        widen_half(p.source, pieces[index][half][threadIdx.x], v + half * kHalf);
      }
    }
  }
};

/// Requires: 2^row_shift divides the block size.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void quantize_row(const abi::QuantizeParams& p) {
  constexpr bool kFp8 = (kConfig.features & abi::kConvertFp8) != 0, kFp4 = (kConfig.features & abi::kConvertFp4) != 0;
  using Kept = KeptUnits<kConfig>;
  __shared__ u32 warp_max[Kept::kThreads / 32];
  __shared__ uint4 pieces[Kept::kCount][Kept::kPieces][Kept::kThreads];
  __shared__ float largest[Kept::kCount][Kept::kThreads];
  const Kept kept{pieces, largest};
  const int row = static_cast<int>((static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x) >> p.row_shift);
  const int units = row < p.shape.padded_rows ? static_cast<int>(p.units.divisor) : 0;
  // FP32 numbers, which would need twice the room, and rows that are not on 16 bytes are read twice.
  const int keeps = p.aligned && p.source != abi::kSourceF32 ? Kept::kCount : 0;
#pragma unroll 1
  for (int i = 0; i < keeps; ++i) {
    const int u = row_thread(p) + (i << p.row_shift);
    if (u < units) kept.fetch(p, unit_at(p, row, u), i);
  }
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  float amax = 0.0f;
  EncodeScale factor{};
#pragma unroll 1  // one text for both passes
  for (int pass = 0; pass < 2; ++pass) {
#pragma unroll 1
    for (int u = row_thread(p); u < units; u += 1 << p.row_shift) {
      const int i = u >> p.row_shift;
      const Unit unit[1] = {unit_at(p, row, u)};
      if (i < keeps && pass == 0) {
        const float unit_amax = kept.read(p, i);
        largest[i][threadIdx.x] = unit_amax;
        amax = max_nan(amax, unit_amax);
        continue;
      }
      float v[1][kUnit], unit_amax;
      if (i < keeps) {
        kept.read_again(p, i, v[0]);
        unit_amax = largest[i][threadIdx.x];
      } else {
        read_units<kConfig.role, 1>(p, unit, v);
        unit_amax = amax_of(v[0]);
      }
      if (pass == 0) {
        amax = max_nan(amax, unit_amax);
      } else {
        write_row_unit<kFp4, kFp8>(p, unit[0], v[0], unit_amax, factor);
      }
    }
    if (pass == 0) factor = row_factor(p, row, row_max(amax, p.row_shift, warp_max));
  }
}

}  // namespace moesaic::quant
