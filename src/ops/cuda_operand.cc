// SPDX-License-Identifier: Apache-2.0
// Formats of activations and the strides of their scales, as the operand kernel takes them.
#include "ops/cuda_operand.h"

#include "kernels/abi/quant_params.h"
#include "moesaic/quantize.h"
#include "ops/cuda_serve.h"
#include "tables/given_codes.h"

namespace moesaic::ops {
namespace {

// Distance between what two rows have: 0 where one number serves all.
std::int64_t row_stride(const TensorView& scales) {
  if (scales.rank == 1) return scales.shape[0] == 1 ? 0 : 1;
  return scales.shape[1];
}

}  // namespace

abi::OperandParams operand_params(const std::string& recipe, const OperandRows& rows, const float* static_scale) {
  abi::OperandParams p{};
  p.x = rows.data;
  p.source = source_type(rows.dtype);
  p.x_stride = rows.stride;
  p.static_scale = static_scale;
  // Static scales are a choice of the row formats at run time.
  p.format = static_cast<int>(activation_spec(recipe, false).value().format);
  p.rows = rows.rows;
  p.cols = rows.cols;
  return p;
}

abi::OperandParams given_operand_params(const tables::GivenCodes& form, const TensorView& x, const TensorView& x_scale,
                                        const TensorView& x_row_scale, int cols) {
  abi::OperandParams p{};
  p.codes = static_cast<const unsigned char*>(x.data);
  p.given_scales = x_scale.data;
  p.given_row_stride = row_stride(x_scale);
  p.given_col_stride = 1;
  if (form.row_scale) {
    p.given_rows = static_cast<const float*>(x_row_scale.data);
    p.given_rows_stride = static_cast<int>(row_stride(x_row_scale));
  }
  p.format = static_cast<int>(form.format);
  p.rows = static_cast<int>(x.shape[0]);
  p.cols = cols;
  return p;
}

abi::OperandParams input_operand_params(const std::string& recipe, const MoeConfig& config, const MoeRun& run,
                                        const float* static_scale) {
  const std::int64_t rows = run.x.shape[0];
  if (!gives_codes(run)) {
    const OperandRows numbers{run.x.data, run.x.dtype, config.hidden, static_cast<int>(rows), config.hidden};
    return operand_params(recipe, numbers, static_scale);
  }
  const tables::GivenCodes form = tables::given_codes(recipe, rows, config.hidden).value();
  return given_operand_params(form, run.x, run.x_scale, run.x_row_scale, config.hidden);
}

}  // namespace moesaic::ops
