// SPDX-License-Identifier: Apache-2.0
// THE list of recipes: which number format and scales activations and weights have, and how near a result must be.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "moesaic/tensor.h"

namespace moesaic::tables {

enum class Number : std::uint8_t {
  kBf16,
  kFp16,
  kIo16,
  kE4m3,
  kE2m1,
  kInt4
};  // kIo16: bf16 or fp16, as the caller's x
enum class Scale : std::uint8_t {
  kNone,
  kTensorStatic,  // one fp32 per tensor (weights: per expert), known before the run
  kToken,         // fp32 per token, from its own maximum
  kChannel,       // fp32 per output channel
  kBlock1x128,    // fp32 per token and 128 of K
  kBlock128x128,  // fp32
  kE8m0x32,       // power of two per 32 of K
  kE4m3x16,       // e4m3 per 16 of K, times a global fp32
  kGroup,         // 16-bit per group of 32, 64 or 128 of K, optional zero point
};

struct Operand {
  Number number;
  Scale scale;
  bool operator==(const Operand&) const = default;
};

/// How near results must be; the only place where tolerances stand. Relative L2 is per token row, the worst counts.
struct Tolerance {
  double exact_row_l2;   // against exact mode or recorded outputs of unquantised activations
  double oracle_row_l2;  // against the oracle: same roundings, other summation order
  double element_rel;    // |d| <= element_rel |ref| + element_rms * rms(row), against the oracle
  double element_rms;
  double converted_row_l2;  // as exact_row_l2, with weights quantised from ones of more bits
};

struct RecipeRow {
  const char* name;
  DType io;  // type of x and y that `moesaic run` uses
  Operand activation, weight;
  bool global_scale;
  Tolerance tolerance;
  const char* checkpoints;  // where one meets it
};

// exact_row_l2: bf16 rounding of both GEMM inputs was measured at 4e-3, plus 2^-9 for the output's; e4m3 per token or
// 1x128 at 9e-2, mxfp8 8e-2, nvfp4 3e-1. converted_row_l2: the worst of the twelve test checkpoints, measured at 0.13
// (e4m3), 0.11 (mxfp8), 0.46 (mxfp4 weights), 0.45 and 0.31 (nvfp4, weight-only), 0.33 (int4), plus a fifth.
inline constexpr Tolerance kTolBf16{6e-3, 6e-3, 0x1p-7, 4 * 0x1p-8, 6e-3};
inline constexpr Tolerance kTolFp16{1e-3, 1e-3, 0x1p-10, 4 * 0x1p-11, 1e-3};
inline constexpr Tolerance kTolFp8{9e-2, 6e-3, 0x1p-7, 4 * 0x1p-8, 0.16};
inline constexpr Tolerance kTolMxfp8{8e-2, 6e-3, 0x1p-7, 4 * 0x1p-8, 0.13};
inline constexpr Tolerance kTolNvfp4{3e-1, 6e-3, 0x1p-7, 4 * 0x1p-8, 0.54};

constexpr Tolerance with_weights(Tolerance tolerance, double converted_row_l2) {
  tolerance.converted_row_l2 = converted_row_l2;
  return tolerance;
}

inline constexpr std::array kRecipeTable = {
    RecipeRow{"bf16",
              DType::kBF16,
              {Number::kBf16, Scale::kNone},
              {Number::kBf16, Scale::kNone},
              false,
              kTolBf16,
              "Mixtral, Qwen3, ..."},
    RecipeRow{"fp16",
              DType::kF16,
              {Number::kFp16, Scale::kNone},
              {Number::kFp16, Scale::kNone},
              false,
              kTolFp16,
              "older checkpoints"},
    RecipeRow{"fp8_tensor",
              DType::kBF16,
              {Number::kE4m3, Scale::kTensorStatic},
              {Number::kE4m3, Scale::kTensorStatic},
              false,
              kTolFp8,
              "ModelOpt FP8, TensorRT-LLM"},
    RecipeRow{"fp8_channel",
              DType::kBF16,
              {Number::kE4m3, Scale::kToken},
              {Number::kE4m3, Scale::kChannel},
              false,
              kTolFp8,
              "compressed-tensors FP8-dynamic"},
    RecipeRow{"fp8_block",
              DType::kBF16,
              {Number::kE4m3, Scale::kBlock1x128},
              {Number::kE4m3, Scale::kBlock128x128},
              false,
              kTolFp8,
              "DeepSeek-V3/R1, Qwen3-FP8"},
    RecipeRow{"mxfp8",
              DType::kBF16,
              {Number::kE4m3, Scale::kE8m0x32},
              {Number::kE4m3, Scale::kE8m0x32},
              false,
              kTolMxfp8,
              "MXFP8"},
    RecipeRow{"mxfp8_mxfp4",
              DType::kBF16,
              {Number::kE4m3, Scale::kE8m0x32},
              {Number::kE2m1, Scale::kE8m0x32},
              false,
              with_weights(kTolMxfp8, 0.56),
              "gpt-oss on Blackwell"},
    RecipeRow{"fp8_mxfp4",
              DType::kBF16,
              {Number::kE4m3, Scale::kToken},
              {Number::kE2m1, Scale::kE8m0x32},
              false,
              with_weights(kTolFp8, 0.56),
              "W4A8"},
    RecipeRow{"bf16_mxfp4",
              DType::kBF16,
              {Number::kIo16, Scale::kNone},
              {Number::kE2m1, Scale::kE8m0x32},
              false,
              with_weights(kTolBf16, 0.56),
              "gpt-oss (W4A16)"},
    RecipeRow{"nvfp4",
              DType::kBF16,
              {Number::kE2m1, Scale::kE4m3x16},
              {Number::kE2m1, Scale::kE4m3x16},
              true,
              kTolNvfp4,
              "ModelOpt and compressed-tensors NVFP4"},
    RecipeRow{"bf16_nvfp4",
              DType::kBF16,
              {Number::kIo16, Scale::kNone},
              {Number::kE2m1, Scale::kE4m3x16},
              true,
              with_weights(kTolBf16, 0.38),
              "the same, weight-only"},
    RecipeRow{"bf16_int4",
              DType::kBF16,
              {Number::kIo16, Scale::kNone},
              {Number::kInt4, Scale::kGroup},
              false,
              with_weights(kTolBf16, 0.4),
              "AWQ, GPTQ, Kimi-K2 INT4"},
    RecipeRow{"fp8_int4",
              DType::kBF16,
              {Number::kE4m3, Scale::kToken},
              {Number::kInt4, Scale::kGroup},
              false,
              with_weights(kTolFp8, 0.4),
              "W4A8"},
};

inline constexpr int kNumRecipes = static_cast<int>(kRecipeTable.size());
inline constexpr std::uint32_t kAllRecipes = (1u << kNumRecipes) - 1;

/// Index of a recipe in the table, or -1. constexpr so that kernel rows name recipes.
constexpr int recipe_index(std::string_view name) {
  for (int i = 0; i < kNumRecipes; ++i) {
    if (name == kRecipeTable[i].name) return i;
  }
  return -1;
}
constexpr std::uint32_t recipe_bit(std::string_view name) { return 1u << recipe_index(name); }

const char* number_name(Number number) noexcept;
const char* scale_name(Scale scale) noexcept;
/// The row of a recipe; throws Error(kInvalidArgument) that lists all names.
const RecipeRow& get_recipe(std::string_view name);

}  // namespace moesaic::tables
