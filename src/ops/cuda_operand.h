// SPDX-License-Identifier: Apache-2.0
// What the kernel that makes GEMM operands of activations is given.
#pragma once

#include <string>

#include "kernels/abi/params.h"
#include "moesaic/moe.h"
#include "tables/given_codes.h"

namespace moesaic::ops {

/// Rows of numbers on the device.
struct OperandRows {
  const void* data;
  DType dtype;          // bf16, f16 or f32
  std::int64_t stride;  // elements between rows
  int rows, cols;
};

/// All fields but the results, `tiles` and `num_tiles`: rows that are quantised as the recipe's activations.
/// `static_scale`: device memory, nullptr where the recipe takes none.
abi::OperandParams operand_params(const std::string& recipe, const OperandRows& rows, const float* static_scale);

/// The same for rows of codes that the caller has quantised, x [rows, ...]; their block scales lie row by row.
abi::OperandParams given_operand_params(const tables::GivenCodes& form, const TensorView& x, const TensorView& x_scale,
                                        const TensorView& x_row_scale, int cols);

/// The same for x of a run, numbers or given codes.
abi::OperandParams input_operand_params(const std::string& recipe, const MoeConfig& config, const MoeRun& run,
                                        const float* static_scale);

}  // namespace moesaic::ops
