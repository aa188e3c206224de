// SPDX-License-Identifier: Apache-2.0
// Activations -> the bf16 operand of a grouped GEMM: quantised as the other kernels here quantise, and decoded at once.
// What all of a row has in common stays out of the operand, so that bf16 holds the rest without rounding: e4m3 and e5m2
// codes, products of e2m1 codes and e4m3 scales, and MX codes times what their block's power of two lies below the
// row's largest. Codes that the caller has quantised are only decoded.
// A block makes a row, in two passes where the row has a maximum to be found first. grid.x = rows, or more.
#pragma once

#include "kernels/quant/row.cuh"

namespace moesaic::quant {

__device__ __forceinline__ bool is_mx(const abi::OperandParams& p) {
  return p.format == abi::kQuantMxfp8 || p.format == abi::kQuantMxfp8E5m2;
}

/// Rows that exist.
__device__ __forceinline__ int operand_rows(const abi::OperandParams& p) {
  if (p.num_tiles == nullptr) return p.rows;
  const int tiles = *p.num_tiles;
  return tiles == 0 ? 0 : p.tiles[tiles - 1].row_end;
}

/// The unit's place in a row; it exists as far as the row has columns.
__device__ __forceinline__ Unit operand_unit(const abi::OperandParams& p, int row, int unit) {
  const int col = unit * kUnit, left = p.cols - col;
  return {row, col, left < 0 ? 0 : left > kUnit ? kUnit : left};
}

/// 2^(byte - top), at least 2^-149: such blocks vanish beside the row's largest. At most 1, for `top` leaves out blocks
/// of zeros. NaN for byte 255.
__device__ __forceinline__ float mx_factor(u32 byte, u32 top) {
  if (byte == 255) return __uint_as_float(codec::kNanBits);
  const int exponent = min(static_cast<int>(byte) - static_cast<int>(top), 0);
  return exponent >= -126 ? codec::power_of_two(exponent) : __uint_as_float(1u << (149 + max(exponent, -149)));
}

/// Values of a unit as FP32; 0 beyond the row.
__device__ __forceinline__ void read_values(const abi::OperandParams& p, const Unit& unit, float (&v)[kUnit]) {
  const long long at = unit.row * p.x_stride + unit.col;
  const char* from = static_cast<const char*>(p.x) + at * (p.source == abi::kSourceF32 ? 4 : 2);
  if (unit.count < kUnit || (reinterpret_cast<u64>(from) & 15) != 0) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) v[i] = i < unit.count ? load_source(p.x, p.source, at + i) : 0.0f;
    return;
  }
  const uint4* pieces = reinterpret_cast<const uint4*>(from);
  if (p.source == abi::kSourceF32) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to_floats(__ldg(pieces + i), v + 4 * i);
  } else {
    const uint4 low = __ldg(pieces), high = __ldg(pieces + 1);
    widen_half(p.source, low, v);
    widen_half(p.source, high, v + kHalf);
  }
}

/// A unit as codes: nibbles in x, y or bytes. Values are theirs times `factor`.
struct CodedUnit {
  uint4 codes;
  float factor;
};

/// What a row's units have in common.
struct OperandRow {
  EncodeScale encode;  // NVFP4's, or in its first member what fp8 multiplies by
  float scale;         // token_scale
  bool zero;           // fp8: all codes are 0
  u32 top;             // MX: the row's largest scale byte
};

// --- numbers --------------------------------------------------------------------------------------------------------

/// `largest`: MX: the largest scale byte; else bits of the row's maximum. `fixed`: the static scale, or 0.
__device__ __forceinline__ OperandRow rounded_row(const abi::OperandParams& p, u32 largest, float fixed) {
  const float amax = __uint_as_float(largest);
  if (is_mx(p)) return {{}, codec::decode_e8m0(largest), false, largest};
  if (p.format == abi::kQuantNvfp4Row) {
    if (fixed != 0.0f) return {encode_scale(__frcp_rn(fixed)), fixed, false, 0};
    const bool is_nan = amax != amax;
    const float scale = is_nan ? amax : nvfp4_row_scale(amax);
    return {encode_scale(is_nan ? amax : nvfp4_row_global(scale)), scale, false, 0};
  }
  const FloatScale scale = fixed != 0.0f ? fp8_static_scale(fixed) : fp8_scale(amax);
  return {{scale.multiplier, 0.0f}, scale.stored, scale.zero, 0};
}

/// Stores the scale of a 1x128 block, once.
__device__ __forceinline__ void store_block_scale(const abi::OperandParams& p, const Unit& unit, float scale) {
  if (unit.count == 0 || unit.col % abi::kTile != 0) return;
  const long long blocks = abi::div_up(p.cols, abi::kTile);
  p.token_block_scale[unit.row * blocks + unit.col / abi::kTile] = scale;
}

__device__ __forceinline__ ByteScale operand_mx_scale(const abi::OperandParams& p, float unit_amax) {
  const float amax = block_max(unit_amax, 1);
  return p.format == abi::kQuantMxfp8E5m2 ? mx_scale<codec::E5m2>(amax, false) : mx_scale<codec::E4m3>(amax, false);
}

/// Requires: all threads of the warp.
template <bool kFp4, bool kFp8>
__device__ __forceinline__ CodedUnit round_unit(const abi::OperandParams& p, const Unit& unit, const float (&v)[kUnit],
                                                const OperandRow& row) {
  const float amax = amax_of(v);
  if (p.format == abi::kQuantNvfp4Row) {
    const ByteScale scale = nvfp4_scale<kFp8>(amax, row.encode);
    uint2 codes = encode_nibbles<kFp4>(v, amax, scale.multiplier);
    if (scale.zero) codes = {0, 0};
    return {{codes.x, codes.y, 0, 0}, codec::decode<codec::E4m3>(scale.byte)};
  }
  float multiplier = row.encode.sixth, factor = 1.0f;
  bool zero = row.zero;
  if (is_mx(p)) {
    const ByteScale scale = operand_mx_scale(p, amax);
    multiplier = scale.multiplier, zero = scale.zero, factor = mx_factor(scale.byte, row.top);
  } else if (p.format == abi::kQuantFp8Block1x128) {
    const FloatScale scale = fp8_scale(block_max(amax, 3));
    multiplier = scale.multiplier, zero = scale.zero;
    store_block_scale(p, unit, scale.stored);
  }
  if (zero) return {{0, 0, 0, 0}, factor};
  return {p.format == abi::kQuantMxfp8E5m2 ? encode_bytes<codec::E5m2, kFp8>(v, multiplier)
                                           : encode_bytes<codec::E4m3, kFp8>(v, multiplier),
          factor};
}

// --- given codes ----------------------------------------------------------------------------------------------------

/// Codes of a unit, 0 beyond the row.
__device__ __forceinline__ uint4 given_codes(const abi::OperandParams& p, const Unit& unit) {
  const int shift = p.format == abi::kQuantNvfp4Row ? 1 : 0, size = unit.count >> shift;  // NVFP4: whole units
  const unsigned char* from = p.codes + ((static_cast<long long>(unit.row) * p.cols + unit.col) >> shift);
  if (size % 8 == 0 && (reinterpret_cast<u64>(from) & 7) == 0) {
    const uint2* pieces = reinterpret_cast<const uint2*>(from);
    const uint2 none{0, 0}, low = size > 0 ? __ldg(pieces) : none, high = size > 8 ? __ldg(pieces + 1) : none;
    return {low.x, low.y, high.x, high.y};
  }
  u32 words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kUnit; ++i) {
    if (i < size) words[i / 4] |= static_cast<u32>(from[i]) << 8 * (i % 4);
  }
  return {words[0], words[1], words[2], words[3]};
}

/// Index of the unit's scale among those given, `width` columns to a scale.
__device__ __forceinline__ long long given_scale_at(const abi::OperandParams& p, const Unit& unit, int width) {
  return unit.row * p.given_row_stride + unit.col / width * p.given_col_stride;
}
__device__ __forceinline__ u32 given_byte(const abi::OperandParams& p, const Unit& unit, int width) {
  return static_cast<const unsigned char*>(p.given_scales)[given_scale_at(p, unit, width)];
}

/// The scale byte of a block that has numbers other than 0; else 0, for such a block needs no scale.
__device__ __forceinline__ u32 given_mx_byte(const abi::OperandParams& p, const Unit& unit) {
  if (unit.count == 0) return 0;
  const u32 byte = given_byte(p, unit, 32);
  const uint4 codes = given_codes(p, unit);
  return byte == 255 || ((codes.x | codes.y | codes.z | codes.w) & 0x7f7f7f7fu) == 0 ? 0 : byte;
}

/// `largest`: MX: the largest scale byte.
__device__ __forceinline__ OperandRow given_row(const abi::OperandParams& p, int row, u32 largest) {
  float scale = 1.0f;
  if (is_mx(p)) scale = codec::decode_e8m0(largest);
  if (p.format == abi::kQuantNvfp4Row) scale = p.given_rows[static_cast<long long>(row) * p.given_rows_stride];
  if (p.format == abi::kQuantFp8Row) scale = static_cast<const float*>(p.given_scales)[row * p.given_row_stride];
  return {{}, scale, false, largest};
}

__device__ __forceinline__ CodedUnit given_unit(const abi::OperandParams& p, const Unit& unit, const OperandRow& row) {
  float factor = 1.0f;
  if (unit.count == 0) return {{0, 0, 0, 0}, factor};
  if (is_mx(p)) factor = mx_factor(given_byte(p, unit, 32), row.top);
  if (p.format == abi::kQuantNvfp4Row) factor = codec::decode<codec::E4m3>(given_byte(p, unit, 16));
  if (p.format == abi::kQuantFp8Block1x128) {
    store_block_scale(p, unit, static_cast<const float*>(p.given_scales)[given_scale_at(p, unit, abi::kTile)]);
  }
  return {given_codes(p, unit), factor};
}

// --- both -----------------------------------------------------------------------------------------------------------

/// Writes what a unit's codes are worth: exact but for MX blocks far below the row's largest. 0 beyond the row.
template <typename Decode>
__device__ __forceinline__ void write_operand(const abi::OperandParams& p, const Unit& unit, float factor,
                                              const Decode& decode) {
  u16* to = static_cast<u16*>(p.operand) + unit.row * p.stride + unit.col;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (unit.col + half * kHalf >= p.stride) return;
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int first = half * kHalf + 2 * i;
      const float low = __fmul_rn(decode(first), factor), high = __fmul_rn(decode(first + 1), factor);
      words[i] = pack<abi::kIoBf16>(first < unit.count ? low : 0.0f, first + 1 < unit.count ? high : 0.0f);
    }
    reinterpret_cast<uint4*>(to)[half] = {words[0], words[1], words[2], words[3]};
  }
}

__device__ __forceinline__ void write_unit(const abi::OperandParams& p, const Unit& unit, const CodedUnit& coded) {
  const u32 words[4] = {coded.codes.x, coded.codes.y, coded.codes.z, coded.codes.w};
  const auto nibble = [&](int i) { return words[i / 8] >> 4 * (i % 8) & 0xf; };
  const auto byte = [&](int i) { return words[i / 4] >> 8 * (i % 4) & 0xff; };
  if (p.format == abi::kQuantNvfp4Row) {
    write_operand(p, unit, coded.factor, [&](int i) { return codec::decode<codec::E2m1>(nibble(i)); });
  } else if (p.format == abi::kQuantMxfp8E5m2) {
    write_operand(p, unit, coded.factor, [&](int i) { return codec::decode<codec::E5m2>(byte(i)); });
  } else {
    write_operand(p, unit, coded.factor, [&](int i) { return codec::decode<codec::E4m3>(byte(i)); });
  }
}

/// Requires: `stride` a multiple of 8, `operand` on 16 bytes.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void make_operand(const abi::OperandParams& p) {
  constexpr bool kFp8 = (kConfig.features & abi::kConvertFp8) != 0, kFp4 = (kConfig.features & abi::kConvertFp4) != 0;
  constexpr int kThreads = abi::threads(kConfig), kRowShift = 8;
  static_assert(kThreads == 1 << kRowShift);
  __shared__ u32 warp_max[kThreads / 32];
  const int row = static_cast<int>(blockIdx.x), units = static_cast<int>((p.stride + kUnit - 1) / kUnit);
  if (row >= operand_rows(p)) return;
  const bool given = p.codes != nullptr;
  const float fixed = p.static_scale == nullptr || given ? 0.0f : *p.static_scale;
  const bool has_maximum = is_mx(p) || (!given && fixed == 0.0f && p.format != abi::kQuantFp8Block1x128);
  float v[kUnit];
  u32 largest = 0;
  OperandRow common{};
#pragma unroll 1  // one text for both passes
  for (int pass = 0; pass < 2; ++pass) {
    const int end = pass == 1 || has_maximum ? units : 0;
#pragma unroll 1
    for (int first = 0; first < end; first += kThreads) {
      const Unit unit = operand_unit(p, row, first + static_cast<int>(threadIdx.x));
      // A thread that has one unit keeps it from the first pass.
      if (!given && (pass == 0 || !has_maximum || units > kThreads)) read_values(p, unit, v);
      if (pass == 1) {
        write_unit(p, unit, given ? given_unit(p, unit, common) : round_unit<kFp4, kFp8>(p, unit, v, common));
      } else if (given) {
        largest = max(largest, given_mx_byte(p, unit));
      } else if (is_mx(p)) {
        const u32 byte = operand_mx_scale(p, amax_of(v)).byte;
        if (byte != 255) largest = max(largest, byte);  // a block with a NaN: that is in its operands
      } else {
        largest = max(largest, __float_as_uint(amax_of(v)));
      }
    }
    if (pass == 1) break;
    if (has_maximum) largest = row_max(largest, kRowShift, warp_max);
    common = given ? given_row(p, row, largest) : rounded_row(p, largest, fixed);
    if (threadIdx.x == 0 && p.token_scale != nullptr) p.token_scale[row] = common.scale;
  }
}

}  // namespace moesaic::quant
