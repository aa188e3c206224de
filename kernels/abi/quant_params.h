// SPDX-License-Identifier: Apache-2.0
// What the host hands to the quantise, dequantise and swizzle kernels. Plain C++ without includes from outside.
// Kernels work in units: 16 elements of one row, which always lie in one scale block. [a][b] means b fastest.
#pragma once

#include "kernels/abi/params.h"

namespace moesaic::abi {

/// Formats and layouts as in moesaic::QuantFormat and moesaic::ScaleLayout (checked equal by a static_assert in
/// src/ops).
enum Quant : int {
  kQuantNvfp4 = 0,
  kQuantNvfp4Row = 1,
  kQuantMxfp4 = 2,
  kQuantMxfp8 = 3,
  kQuantMxfp8E5m2 = 4,
  kQuantFp8Static = 5,
  kQuantFp8Tensor = 6,
  kQuantFp8Row = 7,
  kQuantFp8Block1x128 = 8,
  kQuantFp8Block128x128 = 9,
  kQuantInt4 = 10,
};
enum Layout : int { kLayoutLinear = 0, kLayout128x4 = 1, kLayout8x4 = 2 };

inline constexpr int kUnit = 16;          // elements
inline constexpr int kTile = 128;         // rows and columns of a 128x128 block
inline constexpr int kTileThreads = 512;  // of the kernel of 128x128 blocks: two units each

/// Division of n < 2^31 by a divisor that is known on the host only: (umulhi(n, multiplier) + n) >> shift.
struct Divider {
  unsigned divisor, multiplier, shift;
};
/// Requires: 1 <= divisor < 2^31. Granlund and Montgomery, "Division by invariant integers", figure 4.1.
MOESAIC_HD constexpr Divider make_divider(unsigned divisor) {
  unsigned shift = 0;
  while ((1ull << shift) < divisor) ++shift;
  const unsigned long long excess = (1ull << shift) - divisor;
  return {divisor, static_cast<unsigned>((excess << 32) / divisor + 1), shift};
}

/// Where block scales lie.
struct ScaleShape {
  int layout;      // Layout
  int rows, cols;  // scale rows and columns that exist
  int padded_rows, padded_cols;
  const int* group_offsets;  // [groups + 1] first rows, or nullptr: not grouped
  int groups;
};

/// x [rows][cols], or with an activation [rows][2 cols], gate first -> codes, scales.
struct QuantizeParams {
  const void* x;
  unsigned char* codes;       // [rows][cols], or 4 bits: [rows][cols / 2]
  void* scales;               // bytes in `shape`'s order; f32 or bf16 [scale rows][scale cols]
  unsigned char* zeros;       // [rows][scale cols]; nullptr: int4 without zero points
  const float* global_scale;  // [1]: NVFP4's encode scale, the static fp8 scale
  float* row_scales;          // [rows], written: NVFP4 by rows
  ScaleShape shape;
  Divider units;          // per row, those of padded scale columns included
  long long total_units;  // units times padded rows; below 2^31
  int source;             // SourceType of x
  int format;             // Quant
  int rows, cols;
  int block_shift;  // log2 of the units that share a scale: 0 (16), 1 (32), 2 (64), 3 (128)
  int floor_e8m0;   // 1: the OCP floor rule
  int aligned;      // 1: cols a multiple of 16 and all rows on 16 bytes
  int row_shift;    // of the row kernel: 2^row_shift threads share a row, 32 to 256
  int finish;       // of the amax kernel: 1 turns the maximum in `scales` into the stored scale
  int activation;   // moesaic::ActivationKind, gated
  float alpha, beta, limit;
};

/// codes, scales -> x.
struct DequantizeParams {
  void* x;  // [rows][cols] of `source` type
  const unsigned char* codes;
  const void* scales;
  const unsigned char* zeros;
  const float* global_scale;
  const float* row_scales;
  ScaleShape shape;
  Divider units;  // per row
  long long total_units;
  int source, format, rows, cols;
  int block_shift;
  int aligned;
};

/// Byte scales between linear [rows][cols] and a layout; a thread moves four neighbouring columns.
struct SwizzleParams {
  unsigned char* linear;
  unsigned char* tiles;
  ScaleShape shape;
  Divider quads;    // padded columns / 4
  long long total;  // quads times padded rows
  int to_linear;    // 1: tiles -> linear; else linear -> tiles, padding written as 0
};

}  // namespace moesaic::abi
