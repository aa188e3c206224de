// SPDX-License-Identifier: Apache-2.0
// The GEMM tile in Highway, for each instruction set: panels of any codes times a few tokens.
#if defined(MOESAIC_BACKEND_CPU_FAST_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MOESAIC_BACKEND_CPU_FAST_GEMM_INL_H_
#undef MOESAIC_BACKEND_CPU_FAST_GEMM_INL_H_
#else
#define MOESAIC_BACKEND_CPU_FAST_GEMM_INL_H_
#endif

#include <hwy/highway.h>

#include "backend_cpu/fast_kernels.h"

// NOLINTBEGIN(misc-definitions-in-headers): included once for each instruction set, into one namespace each.
HWY_BEFORE_NAMESPACE();
namespace moesaic::cpu::HWY_NAMESPACE {

// Defined by the files that include this one; constant data, so reading them runs no code of the target.
extern const GemmTable kGemmBf16, kGemmFp16, kGemmE4m3, kGemmE4m3Blocks, kGemmE2m1Blocks, kGemmInt4Blocks;

namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::CappedTag<float, 16> kF32;
constexpr hn::RebindToUnsigned<decltype(kF32)> kU32;
constexpr hn::RebindToSigned<decltype(kF32)> kI32;
constexpr hn::Rebind<std::uint16_t, decltype(kF32)> kU16;
constexpr hn::Rebind<std::int16_t, decltype(kF32)> kI16;
using F32 = hn::Vec<decltype(kF32)>;
using U32 = hn::Vec<decltype(kU32)>;
using U16 = hn::Vec<decltype(kU16)>;

constexpr int kLanes = hn::MaxLanes(kF32);
constexpr int kVectors = kPanelRows / kLanes;
// Sums that stay in registers beside the weights and the broadcast token value.
constexpr int kMaxSums = HWY_TARGET == HWY_AVX3 ? 24 : HWY_TARGET == HWY_AVX2 ? 12 : kVectors;
constexpr int kTileTokens = kMaxSums / kVectors;
static_assert(1 <= kTileTokens && kTileTokens <= kMaxTileTokens);
// Hardware prefetchers stop at the end of a page. 12 tokens of bf16 on a Sapphire Rapids core: 8.2 to 4.9 ns per 16
// weights (docs/performance-log.md).
constexpr std::int64_t kPrefetchBytes = 4096;
HWY_INLINE void prefetch(const void* line) { __builtin_prefetch(static_cast<const char*>(line) + kPrefetchBytes); }

// fp16 widening without the F16C instructions; as half_to_float.
HWY_INLINE F32 widen_half_bits(U32 bits) {
  const U32 magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(kU32, 0x7fffu)));
  const U32 scaled = hn::BitCast(kU32, hn::Mul(hn::BitCast(kF32, magnitude), hn::Set(kF32, 0x1p112f)));
  const U32 special = hn::Or(magnitude, hn::Set(kU32, 0x7f800000u));
  // Signed comparison: Highway has no unsigned one for every target, and bit 31 is clear.
  const auto is_special = hn::Gt(hn::BitCast(kI32, magnitude), hn::Set(kI32, 0x0f7fffff));
  const U32 result = hn::IfThenElse(hn::RebindMask(kU32, is_special), special, scaled);
  return hn::BitCast(kF32, hn::Or(result, hn::ShiftLeft<16>(hn::And(bits, hn::Set(kU32, 0x8000u)))));
}

HWY_INLINE F32 widen_half(U16 bits) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  const hn::Rebind<hwy::float16_t, decltype(kF32)> f16;
  return hn::PromoteTo(kF32, hn::BitCast(f16, bits));
#else
  return widen_half_bits(hn::PromoteTo(kU32, bits));
#endif
}

HWY_INLINE F32 load_half(const std::uint16_t* from) { return widen_half(hn::LoadU(kU16, from)); }

// e4m3 codes in the high bytes, sign in place: exponent and fraction go one bit down to where fp16 has them.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V half_of_e4m3(D d, V codes) {
  const V half = hn::BitCast(d, hn::ShiftRight<1>(hn::BitCast(hn::RebindToSigned<D>(), codes)));
  return hn::And(half, hn::Set(d, 0xbf80));
}

// The weights of two k: even ones in the low bytes of `line`, odd ones in the high bytes.
HWY_INLINE void load_e4m3(const std::uint16_t* line, F32 (&even)[kVectors], F32 (&odd)[kVectors]) {
#if HWY_TARGET == HWY_AVX3
  // All 32 rows at once: a quarter fewer instructions than by vectors of 16.
  constexpr hn::CappedTag<std::uint16_t, 32> kRows;
  static_assert(kVectors == 2);
  const auto pairs = hn::LoadU(kRows, line);
  const auto low = half_of_e4m3(kRows, hn::ShiftLeft<8>(pairs)), high = half_of_e4m3(kRows, pairs);
  even[0] = widen_half(hn::LowerHalf(kU16, low));
  even[1] = widen_half(hn::UpperHalf(kU16, low));
  odd[0] = widen_half(hn::LowerHalf(kU16, high));
  odd[1] = widen_half(hn::UpperHalf(kU16, high));
#else
  for (int v = 0; v < kVectors; ++v) {
    const U16 pairs = hn::LoadU(kU16, line + v * kLanes);
    even[v] = widen_half(half_of_e4m3(kU16, hn::ShiftLeft<8>(pairs)));
    odd[v] = widen_half(half_of_e4m3(kU16, pairs));
  }
#endif
}

// --- scales of one block of K ----------------------------------------------------------------------------------------

// Scales number `index` and following.
HWY_INLINE F32 load_scale(const std::byte* scales, PanelScale kind, std::int64_t index) {
  const hn::Rebind<std::uint8_t, decltype(kF32)> u8;
  switch (kind) {
    case PanelScale::kE4m3: {
      const U32 code = hn::PromoteTo(kU32, hn::LoadU(u8, reinterpret_cast<const std::uint8_t*>(scales) + index));
      // As fp32 bits with a bias that is 120 smaller. Scales are seldom subnormal, which would be slow.
      const U32 sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(kU32, 0x80u)));
      const U32 magnitude = hn::ShiftLeft<20>(hn::And(code, hn::Set(kU32, 0x7fu)));
      return hn::Mul(hn::BitCast(kF32, hn::Or(sign, magnitude)), hn::Set(kF32, 0x1p120f));
    }
    case PanelScale::kE8m0: {
      const U32 code = hn::PromoteTo(kU32, hn::LoadU(u8, reinterpret_cast<const std::uint8_t*>(scales) + index));
      return hn::BitCast(kF32, hn::ShiftLeft<23>(code));
    }
    case PanelScale::kF16:
      return load_half(reinterpret_cast<const std::uint16_t*>(scales) + index);
    case PanelScale::kF32:
      return hn::LoadU(kF32, reinterpret_cast<const float*>(scales) + index);
    case PanelScale::kNone:
      break;
  }
  return hn::Set(kF32, 1.0f);
}

HWY_INLINE F32 load_zero(const std::int8_t* zeros, std::int64_t index) {
  const hn::Rebind<std::int8_t, decltype(kF32)> i8;
  return hn::ConvertTo(kF32, hn::PromoteTo(kI32, hn::LoadU(i8, zeros + index)));
}

struct BlockScales {
  F32 scale[kVectors];
  F32 offset[kVectors];  // int4: - zero * scale; with FP32 scales, for which that is rounded: zero
};

template <PanelCodes kCodes>
HWY_INLINE void load_block(const PanelView& panels, int panel, std::int64_t block, BlockScales& scales) {
  const std::int64_t first = (panel * panels.blocks + block) * kPanelRows;
  for (int v = 0; v < kVectors; ++v) {
    const std::int64_t index = first + v * kLanes;
    scales.scale[v] = load_scale(panels.scales, panels.scale, index);
    if constexpr (kCodes == PanelCodes::kInt4Blocks) {
      const F32 zero = panels.zeros == nullptr ? hn::Set(kF32, 8.0f) : load_zero(panels.zeros, index);
      scales.offset[v] = panels.scale == PanelScale::kF32 ? zero : hn::Neg(hn::Mul(zero, scales.scale[v]));
    }
  }
}

// --- decoding --------------------------------------------------------------------------------------------------------

HWY_ALIGN constexpr float kE2m1Values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                             -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
HWY_ALIGN constexpr float kInt4Values[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// What decode_nibble looks codes up in, where there is such an instruction.
template <PanelCodes kCodes>
HWY_INLINE F32 nibble_table() {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  return hn::Load(kF32, kCodes == PanelCodes::kE2m1Blocks ? kE2m1Values : kInt4Values);
#else
  return hn::Zero(kF32);
#endif
}

// The lowest nibble of every lane as a number.
template <PanelCodes kCodes>
HWY_INLINE F32 decode_nibble([[maybe_unused]] F32 table, U32 word) {
#if HWY_TARGET == HWY_AVX3
  // The permutation reads only the lowest four bits of an index.
  return hn::TableLookupLanes(table, hn::IndicesFromVec(kF32, word));
#else
  if constexpr (kCodes == PanelCodes::kInt4Blocks) {
    return hn::ConvertTo(kF32, hn::BitCast(kI32, hn::And(word, hn::Set(kU32, 15u))));
  } else {
    const U32 sign = hn::And(hn::ShiftLeft<28>(word), hn::Set(kU32, 0x80000000u));
#if HWY_TARGET == HWY_AVX2
    // The permutation reads only the lowest three bits: eight magnitudes.
    return hn::Or(hn::TableLookupLanes(table, hn::IndicesFromVec(kF32, word)), hn::BitCast(kF32, sign));
#else
    // As fp32 bits with a bias that is 126 smaller.
    const U32 magnitude = hn::ShiftLeft<22>(hn::And(word, hn::Set(kU32, 7u)));
    return hn::Mul(hn::BitCast(kF32, hn::Or(magnitude, sign)), hn::Set(kF32, 0x1p126f));
#endif
  }
#endif
}

template <int kTokens, int kPanels>
struct Tile {
  F32 sums[kPanels][kTokens][kVectors];

  HWY_INLINE void clear() {
    for (int p = 0; p < kPanels; ++p) {
      for (int t = 0; t < kTokens; ++t) {
        for (int v = 0; v < kVectors; ++v) sums[p][t][v] = hn::Zero(kF32);
      }
    }
  }
  // One k of one panel; x: its values of all tokens.
  HWY_INLINE void add(int p, const F32 (&weights)[kVectors], const float* HWY_RESTRICT x) {
    for (int t = 0; t < kTokens; ++t) {
      const F32 value = hn::Set(kF32, x[t]);
      for (int v = 0; v < kVectors; ++v) sums[p][t][v] = hn::MulAdd(weights[v], value, sums[p][t][v]);
    }
  }
  HWY_INLINE void store(float* HWY_RESTRICT to) const {
    for (int p = 0; p < kPanels; ++p) {
      for (int t = 0; t < kTokens; ++t) {
        for (int v = 0; v < kVectors; ++v) {
          hn::StoreU(sums[p][t][v], kF32, to + (p * kTokens + t) * kPanelRows + v * kLanes);
        }
      }
    }
  }
};

// --- tiles by code ---------------------------------------------------------------------------------------------------

template <PanelCodes kCodes, int kTokens, int kPanels>
HWY_INLINE void add_numbers(const PanelView& panels, const float* HWY_RESTRICT x, Tile<kTokens, kPanels>& tile) {
  for (std::int64_t k = 0; k < panels.depth; ++k) {
    for (int p = 0; p < kPanels; ++p) {
      const auto* line = reinterpret_cast<const std::uint16_t*>(panels.codes + p * panels.code_stride) + k * kPanelRows;
      prefetch(line);
      F32 weights[kVectors];
      if constexpr (kCodes == PanelCodes::kBf16) {
        for (int v = 0; v < kVectors / 2; ++v) {
          const U32 pair = hn::Load(kU32, reinterpret_cast<const std::uint32_t*>(line) + v * kLanes);
          weights[v] = hn::BitCast(kF32, hn::ShiftLeft<16>(pair));
          weights[v + kVectors / 2] = hn::BitCast(kF32, hn::And(pair, hn::Set(kU32, 0xffff0000u)));
        }
      } else {
        for (int v = 0; v < kVectors; ++v) weights[v] = load_half(line + v * kLanes);
      }
      tile.add(p, weights, x + k * kTokens);
    }
  }
}

template <PanelCodes kCodes, int kTokens, int kPanels>
HWY_INLINE void add_bytes(const PanelView& panels, const BlockScales (&scales)[kPanels], std::int64_t begin,
                          std::int64_t end, const float* HWY_RESTRICT x, Tile<kTokens, kPanels>& tile) {
  for (std::int64_t k = begin; k < end; k += 2) {
    for (int p = 0; p < kPanels; ++p) {
      const auto* line = reinterpret_cast<const std::uint16_t*>(panels.codes + p * panels.code_stride + k * kPanelRows);
      prefetch(line);
      F32 even[kVectors], odd[kVectors];
      load_e4m3(line, even, odd);
      if constexpr (kCodes == PanelCodes::kE4m3Blocks) {
        for (int v = 0; v < kVectors; ++v) {
          even[v] = hn::Mul(even[v], scales[p].scale[v]);
          odd[v] = hn::Mul(odd[v], scales[p].scale[v]);
        }
      }
      tile.add(p, even, x + k * kTokens);
      tile.add(p, odd, x + (k + 1) * kTokens);
    }
  }
}

// kFloatScales: int4 with FP32 scales.
template <PanelCodes kCodes, bool kFloatScales, int kTokens, int kPanels>
HWY_INLINE void add_nibbles(const PanelView& panels, const BlockScales (&scales)[kPanels], std::int64_t begin,
                            std::int64_t end, const float* HWY_RESTRICT x, Tile<kTokens, kPanels>& tile) {
  const F32 table = nibble_table<kCodes>();
  for (std::int64_t k = begin; k < end; k += 8) {
    for (int p = 0; p < kPanels; ++p) {
      const auto* line =
          reinterpret_cast<const std::uint32_t*>(panels.codes + p * panels.code_stride + k * (kPanelRows / 2));
      prefetch(line);
      prefetch(line + kPanelRows / 2);  // two cache lines hold the panel's words
      U32 words[kVectors];
      for (int v = 0; v < kVectors; ++v) words[v] = hn::LoadU(kU32, line + v * kLanes);
      for (int j = 0; j < 8; ++j) {
        F32 weights[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          const F32 code = decode_nibble<kCodes>(table, words[v]);
          words[v] = hn::ShiftRight<4>(words[v]);
          if constexpr (kFloatScales) {
            weights[v] = hn::Mul(hn::Sub(code, scales[p].offset[v]), scales[p].scale[v]);
          } else if constexpr (kCodes == PanelCodes::kInt4Blocks) {
            weights[v] = hn::MulAdd(code, scales[p].scale[v], scales[p].offset[v]);
          } else {
            weights[v] = hn::Mul(code, scales[p].scale[v]);
          }
        }
        tile.add(p, weights, x + (k + j) * kTokens);
      }
    }
  }
}

template <PanelCodes kCodes, int kTokens, int kPanels>
void gemm_tile(const PanelView& panels, const float* HWY_RESTRICT x, float* HWY_RESTRICT sums) {
  Tile<kTokens, kPanels> tile;
  tile.clear();
  if constexpr (panel_code_bits(kCodes) == 16) {
    add_numbers<kCodes>(panels, x, tile);
  } else {
    for (std::int64_t block = 0, begin = 0; begin < panels.depth; ++block, begin += panels.block) {
      const std::int64_t end = begin + panels.block < panels.depth ? begin + panels.block : panels.depth;
      BlockScales scales[kPanels];
      if constexpr (kCodes != PanelCodes::kE4m3) {
        for (int p = 0; p < kPanels; ++p) load_block<kCodes>(panels, p, block, scales[p]);
      }
      if constexpr (panel_code_bits(kCodes) == 8) {
        add_bytes<kCodes>(panels, scales, begin, end, x, tile);
      } else if (kCodes == PanelCodes::kInt4Blocks && panels.scale == PanelScale::kF32) {
        add_nibbles<kCodes, kCodes == PanelCodes::kInt4Blocks>(panels, scales, begin, end, x, tile);
      } else {
        add_nibbles<kCodes, false>(panels, scales, begin, end, x, tile);
      }
    }
  }
  tile.store(sums);
}

template <PanelCodes kCodes, int kTokens, int kPanels>
constexpr GemmTable::Gemm gemm_entry() {
  if constexpr (kTokens * kVectors * kPanels <= kMaxSums) {
    return &gemm_tile<kCodes, kTokens, kPanels>;
  } else {
    return nullptr;
  }
}

template <PanelCodes kCodes, int kTokens = kMaxTileTokens>
constexpr void fill_table(GemmTable& table) {
  static_assert(kMaxTilePanels == 4);
  table.tile[kTokens - 1][0] = gemm_entry<kCodes, kTokens, 1>();
  table.tile[kTokens - 1][1] = gemm_entry<kCodes, kTokens, 2>();
  table.tile[kTokens - 1][2] = gemm_entry<kCodes, kTokens, 3>();
  table.tile[kTokens - 1][3] = gemm_entry<kCodes, kTokens, 4>();
  if constexpr (kTokens > 1) fill_table<kCodes, kTokens - 1>(table);
}

template <PanelCodes kCodes>
constexpr GemmTable make_gemm_table() {
  GemmTable table{};
  fill_table<kCodes>(table);
  return table;
}

}  // namespace
}  // namespace moesaic::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
// NOLINTEND(misc-definitions-in-headers)

#endif  // per-target include guard
