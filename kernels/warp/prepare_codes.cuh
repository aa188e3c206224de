// SPDX-License-Identifier: Apache-2.0
// Quantised weights of one expert, in any stored order -> codes, scales, zero points and multipliers as the GEMMs read
// them: layouts in kernels/abi/params.h. A block of threads makes one row block: first what its rows have in common,
// then the rest.
#pragma once

#include "kernels/common/codec.cuh"
#include "kernels/common/ptx.cuh"

namespace moesaic::warp {

using abi::CodeSource;

/// Nibble that holds element (r, c): moesaic::NibbleOrder.
__device__ __forceinline__ long long nibble_index(int order, long long row_stride, long long col_stride, int r, int c) {
  switch (order) {
    case 0:
      return r * row_stride + c * col_stride;
    case 1:
      return (c / 8 * row_stride + r) * 8 + c % 8;
    case 2:
      return (r / 8 * row_stride + c) * 8 + r % 8;
    default:  // words of rows 0 2 4 6 1 3 5 7
      return c * col_stride + r / 8 * 8 + (r % 2 == 0 ? r % 8 / 2 : 4 + r % 8 / 2);
  }
}

__device__ __forceinline__ u32 load_nibble(const void* data, long long index) {
  return static_cast<const unsigned char*>(data)[index / 2] >> index % 2 * 4 & 15u;
}

/// One row of a source; it does not `exist` when it only fills its row block.
struct SourceRow {
  CodeSource source;
  int row, k;
  bool exists;

  __device__ __forceinline__ u32 code(int weights, int col) const {
    if (!exists || col >= k) return 0;
    if (abi::weight_bits(weights) == 8) {
      return static_cast<const unsigned char*>(source.codes)[row * source.row_stride + col * source.col_stride];
    }
    return load_nibble(source.codes, nibble_index(source.order, source.row_stride, source.col_stride, row, col));
  }

  /// The scale of an element: moesaic::ScaleFormat.
  __device__ __forceinline__ float scale(int col) const {
    if (source.scales == nullptr) return 1.0f;
    const long long at =
        row / source.block_rows * source.scale_row_stride + col / source.block_cols * source.scale_col_stride;
    switch (source.scale_format) {
      case 3:
        return codec::decode<codec::E4m3>(static_cast<const unsigned char*>(source.scales)[at]);
      case 4:
        return codec::decode_e8m0(static_cast<const unsigned char*>(source.scales)[at]);
      default:
        return load_source(source.scales, source.scale_format, at);
    }
  }

  __device__ __forceinline__ u32 zero_point(int col) const {
    if (!exists || source.zeros == nullptr) return 8;
    const long long at = nibble_index(source.zero_order, source.zero_row_stride, source.zero_col_stride,
                                      row / source.block_rows, col / source.block_cols);
    return load_nibble(source.zeros, at) + source.zero_offset;
  }
};

/// What prepared row `index` of row block `block` is made of.
__device__ __forceinline__ SourceRow source_row(const abi::PrepareCodesParams& p, int block, int index) {
  const bool gated = p.up.codes != nullptr;
  const int row = gated ? block * 8 + index % 8 : block * abi::kBlockRows + index;
  return {gated && index >= 8 ? p.up : p.gate, row, p.k, row < p.rows};
}

/// Of a block's 16 rows: bits of the largest scale's magnitude, and whether a code or scale is NaN.
struct RowFacts {
  u32 largest[abi::kBlockRows];
  u32 is_nan[abi::kBlockRows];

  __device__ __forceinline__ int exponent(int row) const { return static_cast<int>(largest[row] >> 23); }
};

/// 2^(exponent - 127), for exponents 0 to 254.
__device__ __forceinline__ float row_power(int exponent) {
  return __uint_as_float(exponent == 0 ? 0x00400000u : static_cast<u32>(exponent) << 23);
}
/// Its inverse.
__device__ __forceinline__ float inverse_row_power(int exponent) { return row_power(254 - exponent); }

/// int4: fp16 scales are stored as fractions of their row's power of two, times this.
inline constexpr float kGroupScale = 256.0f;

__device__ __forceinline__ int blocks_of(int k, int size) { return abi::div_up(k, size); }

/// 16 threads look at each row's scales. Those of padding stay as `facts` begins: 0, not NaN.
__device__ __forceinline__ void find_largest_scales(const abi::PrepareCodesParams& p, int block, RowFacts& facts) {
  const int index = static_cast<int>(threadIdx.x) % 16;
  const SourceRow row = source_row(p, block, index);
  const int size = p.block_scale == abi::kScaleNone ? p.k : p.group;
  const int scales = row.exists ? blocks_of(p.k, size) : 0;
  u32 largest = 0, is_nan = 0;
  for (int i = static_cast<int>(threadIdx.x) / 16; i < scales; i += static_cast<int>(blockDim.x) / 16) {
    const u32 magnitude = __float_as_uint(row.scale(i * size)) & 0x7fffffffu;
    if (magnitude >= codec::kInfinityBits) {
      is_nan = 1;
    } else {
      largest = max(largest, magnitude);
    }
  }
  if (largest != 0) atomicMax(&facts.largest[index], largest);
  if (is_nan != 0) atomicOr(&facts.is_nan[index], 1u);
}

/// Four codes of a row, as decode_e4m3 wants them.
__device__ __forceinline__ u32 e4m3_word(const SourceRow& row, int col, u32& is_nan) {
  u32 code[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    code[i] = row.code(abi::kWeightsE4m3, col + i);
    if ((code[i] & 0x7fu) == codec::E4m3::kNan) is_nan = 1;
  }
  return code[2] | code[0] << 8 | code[3] << 16 | code[1] << 24;
}

/// Eight codes of a row, as decode_e2m1 wants them; their 16 share an e4m3 scale, whose sign and zero they take over.
__device__ __forceinline__ u32 e2m1_word(const SourceRow& row, int col, int block_scale) {
  u32 sign = 0;
  bool zero = false;
  if (block_scale == abi::kScaleE4m3 && row.exists && col < row.k) {
    const float scale = row.scale(col);
    sign = __float_as_uint(scale) >> 31 << 3;
    zero = scale == 0.0f;
  }
  u32 code[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) code[i] = zero ? 0u : row.code(abi::kWeightsE2m1, col + i) ^ sign;
  return abi::e2m1_half(code[0], code[2], code[4], code[6]) | abi::e2m1_half(code[1], code[3], code[5], code[7]) << 16;
}

/// Eight codes of a row: even k in the low half's nibbles.
__device__ __forceinline__ u32 int4_word(const SourceRow& row, int col) {
  u32 word = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) word |= row.code(abi::kWeightsInt4, col + i) << (i / 2 * 4 + i % 2 * 16);
  return word;
}

template <int kWeights>
__device__ __forceinline__ void write_codes(const abi::PrepareCodesParams& p, int block, RowFacts& facts) {
  constexpr bool k8Bits = abi::weight_bits(kWeights) == 8;
  const int units = blocks_of(p.k, abi::unit_k(kWeights));
  uint4* out = static_cast<uint4*>(p.codes) + static_cast<long long>(block) * units * 32;
#pragma unroll 1
  for (int i = threadIdx.x; i < units * 32; i += blockDim.x) {
    const int g = i % 32 / 4, t = i % 4, unit = i / 32;
    u32 words[4];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const SourceRow row = source_row(p, block, g + 8 * r);
      u32 is_nan = 0;
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int col = k8Bits ? unit * 32 + 8 * t + 4 * s : unit * 64 + 32 * s + 8 * t;
        if constexpr (k8Bits) {
          words[2 * s + r] = e4m3_word(row, col, is_nan);
        } else if constexpr (kWeights == abi::kWeightsE2m1) {
          words[2 * s + r] = e2m1_word(row, col, p.block_scale);
        } else {
          words[2 * s + r] = int4_word(row, col);
        }
      }
      if (is_nan != 0) atomicOr(&facts.is_nan[g + 8 * r], 1u);
    }
    out[i] = {words[0], words[1], words[2], words[3]};
  }
}

/// A power of two as the exponent field of a bf16 number, relative to the row's largest.
__device__ __forceinline__ unsigned char power_byte(const SourceRow& row, int col, int base, int row_exponent) {
  if (!row.exists || col >= row.k) return 0;
  const int exponent = static_cast<int>(__float_as_uint(row.scale(col)) >> 23 & 0xffu);
  return static_cast<unsigned char>(max(0, base + exponent - row_exponent));
}

/// An e4m3 scale's magnitude, normalised, as abi::kNvfp4Exponent says. FP32 has it normalised already.
__device__ __forceinline__ unsigned char nvfp4_byte(const SourceRow& row, int col) {
  if (!row.exists || col >= row.k) return 0;
  const u32 bits = __float_as_uint(row.scale(col)) & 0x7fffffffu;
  if (bits == 0 || bits >= codec::kInfinityBits) return 0;
  return static_cast<unsigned char>((static_cast<int>(bits >> 23) - 127 + 10) << 3 | (bits >> 20 & 7u));
}

/// Scales of a byte, in order: `per_unit` bytes for each unit, two rows for each position along K.
template <int kWeights>
__device__ __forceinline__ void write_byte_scales(const abi::PrepareCodesParams& p, int block, const RowFacts& facts) {
  const bool fine = p.block_scale == abi::kScaleE4m3;
  const int positions = abi::unit_k(kWeights) / p.group, per_unit = positions * abi::kBlockRows;
  const int bytes = blocks_of(p.k, abi::unit_k(kWeights)) * per_unit;
  unsigned char* out = static_cast<unsigned char*>(p.scales) + static_cast<long long>(block) * bytes;
  for (int i = threadIdx.x; i < bytes; i += blockDim.x) {
    const int unit = i / per_unit, g = i % per_unit / (2 * positions), position = i / 2 % positions;
    const int index = g + 8 * (i % 2);
    // [q 2][h 2] for 16 elements each, [h 2] for 32
    const int part = fine ? position % 2 * 2 + position / 2 : position;
    const int col = unit * abi::unit_k(kWeights) + part * p.group;
    const SourceRow row = source_row(p, block, index);
    constexpr int kBase = kWeights == abi::kWeightsE4m3 ? abi::kE4m3Exponent : abi::kMxfp4Exponent;
    out[i] = fine ? nvfp4_byte(row, col) : power_byte(row, col, kBase, facts.exponent(index));
  }
}

/// 128 x 128 scales, of 8 rows each: without the power of two that these rows have in common.
__device__ __forceinline__ void write_block_scales(const abi::PrepareCodesParams& p, int block, const RowFacts& facts) {
  const int blocks = blocks_of(p.k, p.group);
  float* out = static_cast<float*>(p.scales) + static_cast<long long>(block) * blocks * 2;
  for (int i = threadIdx.x; i < 2 * blocks; i += blockDim.x) {
    const int index = i % 2 * 8;
    const SourceRow row = source_row(p, block, index);
    out[i] = row.exists ? __fmul_rn(row.scale(i / 2 * p.group), inverse_row_power(facts.exponent(index))) : 0.0f;
  }
}

/// int4: scales without their row's power of two, and zero points.
__device__ __forceinline__ void write_groups(const abi::PrepareCodesParams& p, int block, const RowFacts& facts) {
  const int groups = blocks_of(p.k, p.group);
  const long long first = static_cast<long long>(block) * groups * abi::kBlockRows;
  for (int i = threadIdx.x; i < groups * abi::kBlockRows; i += blockDim.x) {
    const int index = i % 16 / 2 + i % 2 * 8, col = i / 16 * p.group;
    const SourceRow row = source_row(p, block, index);
    const float relative = row.exists ? __fmul_rn(row.scale(col), inverse_row_power(facts.exponent(index))) : 0.0f;
    if (p.block_scale == abi::kScaleGroupFloat) {
      static_cast<float*>(p.scales)[first + i] = relative;
    } else {
      static_cast<u16*>(p.scales)[first + i] = from_float<abi::kIoFp16>(__fmul_rn(relative, kGroupScale));
    }
    if (p.zeros != nullptr) p.zeros[first + i] = static_cast<unsigned char>(row.zero_point(col));
  }
}

/// What a row's sums are multiplied by: whatever the codes and their scales do not say.
__device__ __forceinline__ float row_multiplier(const abi::PrepareCodesParams& p, const SourceRow& row, int exponent) {
  const float multiplier = row.source.multiplier;
  switch (p.block_scale) {
    case abi::kScaleNone:
      return __fmul_rn(row.scale(0), multiplier);
    case abi::kScaleE4m3:
      return __fmul_rn(multiplier, static_cast<float>(1 << abi::kNvfp4Shift));
    case abi::kScaleGroup:
      return __fmul_rn(__fmul_rn(row_power(exponent), 1.0f / kGroupScale), multiplier);
    default:
      return __fmul_rn(row_power(exponent), multiplier);
  }
}

/// grid.x = row blocks.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void prepare_codes(const abi::PrepareCodesParams& p) {
  constexpr int kWeights = kConfig.weights;
  __shared__ RowFacts facts;
  const int block = blockIdx.x;
  if (threadIdx.x < abi::kBlockRows) facts.largest[threadIdx.x] = facts.is_nan[threadIdx.x] = 0;
  __syncthreads();  // facts begin at 0
  find_largest_scales(p, block, facts);
  __syncthreads();  // `largest` is complete
  write_codes<kWeights>(p, block, facts);
  if constexpr (kWeights == abi::kWeightsE4m3Block) {
    write_block_scales(p, block, facts);
  } else if constexpr (kWeights == abi::kWeightsInt4) {
    write_groups(p, block, facts);
  } else if (p.block_scale != abi::kScaleNone) {
    write_byte_scales<kWeights>(p, block, facts);
  }
  __syncthreads();  // `is_nan` is complete
  if (threadIdx.x >= abi::kBlockRows) return;
  const int index = threadIdx.x;
  const SourceRow row = source_row(p, block, index);
  float multiplier = row.exists ? row_multiplier(p, row, facts.exponent(index)) : 1.0f;
  if (facts.is_nan[index] != 0) multiplier = __uint_as_float(codec::kNanBits);
  p.multipliers[block * abi::kBlockRows + index] = multiplier;
}

/// One warp.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void static_scales(const abi::StaticScalesParams& p) {
  const int lane = threadIdx.x;
  if (lane < 2) p.scales[2 * p.index + lane] = p.values[lane];
  if (p.common == nullptr) return;
  __syncwarp();  // the warp sees what lanes 0 and 1 have stored
  u32 largest[2] = {0, 0};
  bool all = true;
  for (int i = lane; i < 2 * p.count; i += 32) {
    const float scale = p.scales[i];  // column i % 2, the lane's own
    all = all && scale != 0.0f;
    largest[0] = max(largest[0], __float_as_uint(scale));
  }
  // Bits of positive numbers order like the numbers. Even lanes have the first column, odd ones the second.
  largest[1] = lane % 2 == 1 ? largest[0] : 0;
  largest[0] = lane % 2 == 0 ? largest[0] : 0;
  all = __all_sync(0xffffffffu, all);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const u32 bits = ptx::warp_max(largest[i]);
    if (lane == i) p.common[i] = all ? __uint_as_float(bits) : 0.0f;
  }
}

}  // namespace moesaic::warp
