// SPDX-License-Identifier: Apache-2.0
// How a matrix is read that Quantizer, or anything that stores the same, has made.
#pragma once

#include <cstdint>

#include "moesaic/quantize.h"
#include "moesaic/tensor.h"

namespace moesaic::tables {

/// Formats, blocks and strides of linear scales, row by row; no addresses, no multiplier.
/// Throws Error(kInvalidArgument) as quant_sizes.
Quantization stored_quantization(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

}  // namespace moesaic::tables
