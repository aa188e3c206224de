// SPDX-License-Identifier: Apache-2.0
// Scales of blocks and the rounding of activations, which a GEMM then reads as fp32.
#pragma once

#include <cstdint>
#include <string>

#include "backend_cpu/fast_kernels.h"
#include "moesaic/moe.h"
#include "moesaic/quantize.h"

namespace moesaic::cpu {

/// How a block is written.
struct BlockCode {
  float factor = 1.0f;       // codes are those of fl(x * factor)
  float step = 1.0f;         // what a decoded code is multiplied by (NVFP4: before the global scale); may be NaN
  std::uint32_t stored = 0;  // the scale as stored: a byte, or the bits of an fp32 number
  bool empty = false;        // all codes are 0
};

/// fp8 with fp32 scales, from a maximum's bits; and with a given scale.
BlockCode fp8_block(std::uint32_t amax_bits);
BlockCode fp8_static_block(float scale);
/// Formats with E8M0 scales.
BlockCode mx_block(QuantFormat format, E8m0Rounding rounding, std::uint32_t amax_bits);
/// `encode_scale`: the global scale that values are multiplied by.
BlockCode nvfp4_block(float encode_scale, std::uint32_t amax_bits);
/// NVFP4's scale of a row and what it is encoded with.
float nvfp4_row_scale(std::uint32_t amax_bits);
float nvfp4_row_encode_scale(float row_scale);

/// The encoder of a format with floating-point codes, and the values of its codes [256] (4 bits: [16]).
CodeKernels::Encode encoder(const CodeKernels& kernels, CodeFormat codes);
const float* code_values(CodeFormat codes);

/// Rounds a row in place to what its quantised form is worth. `static_scale`: value = code * scale (kFp8Static,
/// kNvfp4). `codes` [size] is scratch.
void round_row(const FastKernels& kernels, const QuantSpec& spec, float static_scale, float* row, std::int64_t size,
               std::uint8_t* codes);

/// Row `row` of a run's x [rows][size] that is given as codes of the recipe's activations.
void decode_given_row(const std::string& recipe, const MoeRun& run, std::int64_t row, std::int64_t size, float* to);

}  // namespace moesaic::cpu
