// SPDX-License-Identifier: Apache-2.0
// THE list of quantised formats; sizes and scale layouts that follow from it. Declarations: moesaic/quantize.h.
#pragma once

#include <array>

#include "moesaic/quantize.h"
#include "tables/recipe_table.h"

namespace moesaic::tables {

struct QuantRow {
  const char* name;
  QuantFormat format;
  QuantTraits traits;   // kInt4: block_cols is the spec's group
  int cols_multiple;    // K must be a multiple of it
  bool padded_layouts;  // whether scales may lie in 128x4 and 8x4 tiles
  bool global_scale;    // whether QuantizeRun::global_scale is read
};

inline constexpr std::array kQuantTable = {
    QuantRow{"nvfp4", QuantFormat::kNvfp4, {CodeFormat::kE2M1, ScaleFormat::kE4M3, 1, 16}, 16, true, true},
    QuantRow{"nvfp4_row", QuantFormat::kNvfp4Row, {CodeFormat::kE2M1, ScaleFormat::kE4M3, 1, 16}, 16, true, false},
    QuantRow{"mxfp4", QuantFormat::kMxfp4, {CodeFormat::kE2M1, ScaleFormat::kE8M0, 1, 32}, 32, true, false},
    QuantRow{"mxfp8", QuantFormat::kMxfp8, {CodeFormat::kE4M3, ScaleFormat::kE8M0, 1, 32}, 32, true, false},
    QuantRow{"mxfp8_e5m2", QuantFormat::kMxfp8E5m2, {CodeFormat::kE5M2, ScaleFormat::kE8M0, 1, 32}, 32, true, false},
    QuantRow{"fp8_static", QuantFormat::kFp8Static, {CodeFormat::kE4M3, ScaleFormat::kF32, 0, 0}, 1, false, true},
    QuantRow{"fp8_tensor", QuantFormat::kFp8Tensor, {CodeFormat::kE4M3, ScaleFormat::kF32, 0, 0}, 1, false, false},
    QuantRow{"fp8_row", QuantFormat::kFp8Row, {CodeFormat::kE4M3, ScaleFormat::kF32, 1, 0}, 1, false, false},
    QuantRow{"fp8_1x128", QuantFormat::kFp8Block1x128, {CodeFormat::kE4M3, ScaleFormat::kF32, 1, 128}, 1, false, false},
    QuantRow{"fp8_128x128",
             QuantFormat::kFp8Block128x128,
             {CodeFormat::kE4M3, ScaleFormat::kF32, 128, 128},
             1,
             false,
             false},
    QuantRow{"int4", QuantFormat::kInt4, {CodeFormat::kInt4, ScaleFormat::kBF16, 1, 0}, 1, false, false},
};

/// The row of a format.
const QuantRow& quant_row(QuantFormat format);

/// Throws Error(kInvalidArgument) for a layout or group size that the format has not.
void check_quant_spec(const char* operation, const QuantSpec& spec);

/// The recipe of the shared experts: their own, or the layer's.
const std::string& shared_recipe(const MoeConfig& config) noexcept;

/// Bits of one code: 4 or 8.
int code_bits(CodeFormat codes) noexcept;
/// Bytes of one scale.
int scale_size(ScaleFormat scales) noexcept;

}  // namespace moesaic::tables
