// SPDX-License-Identifier: Apache-2.0
// Weights from one stored format to another, a matrix at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "moesaic/quantize.h"

namespace moesaic::ops {

/// One matrix in the linear form of its format, with memory of its own.
struct ConvertedMatrix {
  std::vector<std::uint8_t> codes;   // or bf16 / f16 numbers
  std::vector<std::uint8_t> scales;  // as the format's traits say
  std::vector<std::uint8_t> zeros;   // int4 with zero points: one byte for every scale
  float multiplier = 1.0f;           // NVFP4: amax / 2688
  std::int64_t rows = 0, cols = 0;
};

/// The matrix as codes of `spec`.
ConvertedMatrix quantize_matrix(const MatrixView& matrix, const QuantSpec& spec);
/// The matrix as bf16 or f16 numbers.
ConvertedMatrix round_matrix(const MatrixView& matrix, DType dtype);

}  // namespace moesaic::ops
