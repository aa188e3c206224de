// SPDX-License-Identifier: Apache-2.0
// Elements of stored matrices, a row at a time, for packing; where grouped scales lie.
#pragma once

#include <cstdint>

#include "backend_cpu/fast_number.h"
#include "moesaic/tensor.h"

namespace moesaic::cpu {

/// bf16, fp16 or fp32 number `index` as fp32.
float read_float(const void* data, DType type, std::int64_t index);

/// A row of numbers in 16 bits; a type that is stored already is copied bit by bit.
void read_numbers(const MatrixView& matrix, std::int64_t row, Io io, std::uint16_t* to);

/// A row of codes, one a byte.
void read_codes(const MatrixView& matrix, std::int64_t row, std::uint8_t* to);

/// The scale of an element, without the multiplier; NaN and infinity as stored.
double read_scale(const Quantization& quantization, std::int64_t row, std::int64_t col);

/// The row of scales that row `row` of a grouped tensor has by its group offsets, -1: it is in no group.
std::int64_t scale_row_in_group(const TensorView& group_offsets, std::int64_t row);

/// The zero point of an int4 element.
int read_zero(const Quantization& quantization, std::int64_t row, std::int64_t col);

}  // namespace moesaic::cpu
