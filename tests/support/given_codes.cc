// SPDX-License-Identifier: Apache-2.0
// x of a run quantised by Quantizer.
#include "support/given_codes.h"

#include <algorithm>

#include "moesaic/quantize.h"
#include "tables/given_codes.h"

namespace moesaic::testing {

CodedRows coded_rows(const std::string& recipe, const HostArray& x, std::int64_t rows, std::int64_t cols,
                     float static_scale) {
  const QuantSpec spec = activation_spec(recipe, static_scale != 0.0f).value();
  const QuantSizes sizes = quant_sizes(spec, rows, cols);
  CodedRows coded{rows, {}, {}, {}, recipe, cols};
  coded.codes.resize(static_cast<std::size_t>(sizes.code_bytes));
  coded.scales.resize(static_cast<std::size_t>(sizes.scale_bytes));
  const DType scale_type = quant_traits(spec).scales == ScaleFormat::kF32 ? DType::kF32 : DType::kU8;
  const float global = spec.format == QuantFormat::kNvfp4 ? 1.0f / static_scale : static_scale;
  QuantizeRun run;
  run.x = TensorView(x.bytes.data(), x.dtype, {rows, cols});
  run.codes = TensorView(coded.codes.data(), DType::kU8, {rows, sizes.code_bytes / rows});
  run.scales = TensorView(coded.scales.data(), scale_type, {sizes.scale_rows, sizes.scale_cols});
  if (static_scale != 0.0f) run.global_scale = TensorView(&global, DType::kF32, {1});
  if (spec.format == QuantFormat::kNvfp4Row) {
    coded.row_scales.resize(static_cast<std::size_t>(rows));
    run.row_scales = TensorView(coded.row_scales.data(), DType::kF32, {rows});
  }
  Quantizer::create(spec, {}).quantize(run);
  if (spec.format == QuantFormat::kNvfp4) coded.row_scales = {static_scale};
  return coded;
}

void CodedRows::give(MoeRun& run) const {
  const tables::GivenCodes form = tables::given_codes(recipe, rows, cols).value();
  run.x = TensorView(codes.data(), DType::kU8, {form.codes.shape[0], form.codes.shape[1]});
  run.x_scale = TensorView(scales.data(), form.scale.dtype, {form.scale.shape[0], form.scale.shape[1]});
  run.x_scale.rank = form.scale.rank;
  if (form.scale.rank == 1) run.x_scale.shape = {static_cast<std::int64_t>(scales.size() / 4)};
  if (form.row_scale) {
    run.x_row_scale = TensorView(row_scales.data(), DType::kF32, {static_cast<std::int64_t>(row_scales.size())});
  }
}

}  // namespace moesaic::testing
