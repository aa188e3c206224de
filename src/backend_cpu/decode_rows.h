// SPDX-License-Identifier: Apache-2.0
// Rows of stored matrices as fp32.
#pragma once

#include <cstdint>

#include "moesaic/tensor.h"

namespace moesaic::cpu {

/// Row `row` of any matrix view, each value rounded once to fp32.
void decode_row(const MatrixView& matrix, std::int64_t row, float* to);

}  // namespace moesaic::cpu
