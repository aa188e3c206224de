// SPDX-License-Identifier: Apache-2.0
// The packed form of weights: panels of 32 rows, so that one run along K reads consecutive memory.
//
// Codes of a panel, K padded with zeros to a multiple of 8 (16-bit numbers: not padded):
//   bf16   [k][32] u16   row j at 2j and row 16 + j at 2j + 1: a 32-bit lane widens by one shift and one mask
//   fp16   [k][32] u16   row j at j
//   e4m3   [k/2][32] u16 row j at j, odd k in the high byte
//   4 bits [k/8][32] u32 row j at j, nibble k % 8
// Scales of a panel: [blocks of K][32 rows], zero points [blocks][32] i8 beside them.
// value(row, k) = decode(code) * scale(row, block) * multiplier(row); a NaN anywhere in a row is a NaN multiplier,
// because a row with a NaN weight gives NaN for every token.
#pragma once

#include <cstdint>
#include <string>

#include "moesaic/moe.h"

namespace moesaic::cpu {

inline constexpr int kPanelRows = 32;

/// What a panel's codes are, and thereby which kernel multiplies with it.
enum class PanelCodes : int { kBf16 = 0, kFp16, kE4m3, kE4m3Blocks, kE2m1Blocks, kInt4Blocks };
inline constexpr int kNumPanelCodes = 6;

/// How scales are stored. Those of wide range are divided by a power of two of their row, which goes to the multiplier.
enum class PanelScale : int {
  kNone,  // only the multiplier
  kE4m3,  // the stored byte
  kE8m0,  // s: 2^(s - 127), 0: zero. s = b - largest b of the row + 127 (e4m3 codes: + 135)
  kF16,   // largest of a row in [2^14, 2^15)
  kF32,   // largest of a row in [1, 2) (e4m3 codes: [2^8, 2^9)); 128 x 128 blocks, and int4 that asks for it
};

struct PanelFormat {
  PanelCodes codes = PanelCodes::kBf16;
  PanelScale scale = PanelScale::kNone;
  int block = 0;       // elements of K that share a scale; 0: all
  bool zeros = false;  // zero points are stored; else they are 8
};

/// The panels of a recipe's weights.
PanelFormat panel_format(const std::string& recipe, const Int4Groups& int4);

constexpr int panel_code_bits(PanelCodes codes) {
  return codes <= PanelCodes::kFp16 ? 16 : codes <= PanelCodes::kE4m3Blocks ? 8 : 4;
}
constexpr int panel_scale_bytes(PanelScale scale) {
  return scale == PanelScale::kNone ? 0 : scale == PanelScale::kF32 ? 4 : scale == PanelScale::kF16 ? 2 : 1;
}
/// K as stored.
constexpr std::int64_t panel_depth(PanelCodes codes, std::int64_t depth) {
  return panel_code_bits(codes) == 16 ? depth : (depth + 7) / 8 * 8;
}
/// Position of row `row` within a line of 16-bit numbers.
constexpr int panel_position(int row, PanelCodes codes) {
  return codes != PanelCodes::kBf16 ? row : row < 16 ? 2 * row : 2 * (row - 16) + 1;
}

/// fp16 has e4m3's numbers with an exponent bias that is 8 larger: decoding by fp16 leaves this factor to the scales.
inline constexpr float kE4m3AsHalf = 0x1p8f;

/// Consecutive panels as a kernel reads them.
struct PanelView {
  const std::byte* codes = nullptr;
  const std::byte* scales = nullptr;
  const std::int8_t* zeros = nullptr;  // nullptr: 8
  std::int64_t depth = 0;              // as stored
  std::int64_t block = 0;              // depth when there are no blocks
  std::int64_t code_stride = 0;        // bytes from panel to panel
  std::int64_t blocks = 0;             // of a panel: scales and zeros lie [blocks][32] apart
  PanelScale scale = PanelScale::kNone;
};

}  // namespace moesaic::cpu
