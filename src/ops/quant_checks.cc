// SPDX-License-Identifier: Apache-2.0
// Argument checks of Quantizer: every refusal names the argument, what was got and what is wanted.
#include <fmt/format.h>

#include <limits>

#include "base/tensor_text.h"
#include "moesaic/error.h"
#include "ops/quant_impl.h"
#include "plan/moe_plan.h"
#include "tables/quant_table.h"

namespace moesaic::ops {
namespace {

constexpr std::int64_t kLargestSide = std::numeric_limits<std::int32_t>::max() - 256;  // sizes are ints in kernels

[[noreturn]] void refuse(const std::string& argument, const std::string& got, const std::string& wanted) {
  throw Error(ErrorKind::kInvalidArgument, fmt::format("quantizer: {} is {}, wanted {}", argument, got, wanted));
}

using base::tensor_text;

std::string wanted_text(DType dtype, const std::vector<std::int64_t>& shape) {
  std::string text = fmt::format("{} [", dtype_name(dtype));
  for (std::size_t i = 0; i < shape.size(); ++i) text += fmt::format("{}{}", i > 0 ? ", " : "", shape[i]);
  return text + "]";
}

void check_tensor(const std::string& name, const TensorView& t, DType dtype, const std::vector<std::int64_t>& shape) {
  bool fits = t.dtype == dtype && t.rank == static_cast<int>(shape.size());
  for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = t.shape[i] == shape[i];
  if (!fits) refuse(name, tensor_text(t), wanted_text(dtype, shape));
  if (t.num_elements() == 0) return;
  if (t.data == nullptr) refuse(name, "a null pointer", wanted_text(dtype, shape));
  if (reinterpret_cast<std::uintptr_t>(t.data) % dtype_size(dtype) != 0) {
    refuse(name, fmt::format("at {}", t.data), fmt::format("a multiple of {} bytes", dtype_size(dtype)));
  }
}

/// Of a tensor of two dimensions.
void check_sides(const std::string& name, const TensorView& t) {
  for (const std::int64_t side : {t.shape[0], t.shape[1]}) {
    if (side < 0 || side > kLargestSide) {
      refuse(name, tensor_text(t), fmt::format("0 to {} rows and columns", kLargestSide));
    }
  }
}

/// `wanted` false: the tensor must not be given.
void check_optional(const std::string& name, const TensorView& t, bool wanted, const char* why, DType dtype,
                    const std::vector<std::int64_t>& shape) {
  if (wanted) {
    check_tensor(name, t, dtype, shape);
  } else if (!t.empty()) {
    refuse(name, tensor_text(t), fmt::format("empty: {}", why));
  }
}

DType scale_dtype(ScaleFormat scales) {
  if (tables::scale_size(scales) == 1) return DType::kU8;
  return scales == ScaleFormat::kF32 ? DType::kF32 : DType::kBF16;
}

QuantShape check_x(const QuantSpec& spec, bool gated, const TensorView& x) {
  const bool is_float = x.dtype == DType::kBF16 || x.dtype == DType::kF16 || x.dtype == DType::kF32;
  if (!is_float || x.rank != 2) {
    refuse("x", tensor_text(x), gated ? "bf16, f16 or f32 [M, 2 K]" : "bf16, f16 or f32 [M, K]");
  }
  if (gated && x.shape[1] % 2 != 0) refuse("x", tensor_text(x), "an even number of columns: gate, then up");
  check_sides("x", x);
  check_tensor("x", x, x.dtype, {x.shape[0], x.shape[1]});
  const std::int64_t rows = x.shape[0], cols = gated ? x.shape[1] / 2 : x.shape[1];
  return {rows, cols, quant_sizes(spec, rows, cols)};
}

void check_group_offsets(const QuantSpec& spec, const TensorView& offsets) {
  if (spec.layout != ScaleLayout::k128x4) {
    refuse("group_offsets", tensor_text(offsets),
           fmt::format("empty: scale layout {} has no groups, 128x4 has", scale_layout_name(spec.layout)));
  }
  if (offsets.rank != 1 || offsets.shape[0] < 2 || offsets.shape[0] > kLargestSide)
    refuse("group_offsets", tensor_text(offsets), "i32 [G + 1], G >= 1");
  check_tensor("group_offsets", offsets, DType::kI32, {offsets.shape[0]});
}

/// What quantisation and dequantisation have in common: everything but x and the row scales' direction.
void check_operands(const QuantSpec& spec, const QuantShape& s, const QuantizeRun& run) {
  const tables::QuantRow& row = tables::quant_row(spec.format);
  check_tensor("codes", run.codes, DType::kU8, {s.rows, s.cols * tables::code_bits(row.traits.codes) / 8});
  const DType scales = scale_dtype(row.traits.scales);
  if (!run.group_offsets.empty()) {
    const std::int64_t groups = run.group_offsets.shape[0] - 1;
    check_tensor("scales", run.scales, scales,
                 {scale_layout_bytes(spec.layout, grouped_scale_row(s.rows, groups) + 128, s.sizes.scale_cols)});
  } else if (spec.layout != ScaleLayout::kLinear) {
    check_tensor("scales", run.scales, scales, {s.sizes.scale_bytes});
  } else {
    check_tensor("scales", run.scales, scales, {s.sizes.scale_rows, s.sizes.scale_cols});
  }
  const bool zeros = spec.format == QuantFormat::kInt4 && spec.int4.zero_points;
  check_optional("zeros", run.zeros, zeros, "only int4 with zero points has them", DType::kU8,
                 {s.rows, s.sizes.scale_cols});
  check_optional("global_scale", run.global_scale, row.global_scale, "the format has no given scale", DType::kF32, {1});
  check_optional("row_scales", run.row_scales, spec.format == QuantFormat::kNvfp4Row, "only nvfp4_row has them",
                 DType::kF32, {s.rows});
}

}  // namespace

void check_quantizer(const QuantSpec& spec, const std::optional<Activation>& activation) {
  tables::check_quant_spec("quantizer", spec);
  if (spec.e8m0 != E8m0Rounding::kUp && spec.e8m0 != E8m0Rounding::kFloor) {
    refuse("e8m0 rounding", fmt::format("value {}", static_cast<int>(spec.e8m0)), "an enumerator");
  }
  if (!activation) return;
  if (!is_gated(activation->kind)) {
    refuse("activation", activation_name(activation->kind), "a gated kind, whose x is [M, 2 K]");
  }
  plan::check_activation("quantizer", *activation);
}

QuantShape check_quantize(const QuantSpec& spec, const std::optional<Activation>& activation, const QuantizeRun& run) {
  const QuantShape shape = check_x(spec, activation.has_value(), run.x);
  if (!run.group_offsets.empty()) check_group_offsets(spec, run.group_offsets);
  check_operands(spec, shape, run);
  return shape;
}

QuantShape check_dequantize(const QuantSpec& spec, const QuantizeRun& run) {
  const QuantShape shape = check_x(spec, false, run.x);
  if (!run.group_offsets.empty()) check_group_offsets(spec, run.group_offsets);
  check_operands(spec, shape, run);
  return shape;
}

void check_offset_values(const QuantShape& shape, const TensorView& offsets) {
  if (offsets.empty()) return;
  const auto* values = static_cast<const std::int32_t*>(offsets.data);
  std::int64_t before = 0;
  for (std::int64_t g = 0; g < offsets.shape[0]; ++g) {
    const bool fits = g == 0 ? values[g] == 0 : values[g] >= before && values[g] <= shape.rows;
    if (!fits) {
      refuse(fmt::format("group_offsets[{}]", g), fmt::format("{}", values[g]),
             g == 0 ? "0" : fmt::format("{} (the one before) to {} rows", before, shape.rows));
    }
    before = values[g];
  }
}

void check_swizzle(const QuantSpec& spec, const TensorView& linear, const TensorView& layout_scales) {
  if (!tables::quant_row(spec.format).padded_layouts) {
    refuse("format", quant_format_name(spec.format), "one whose scales are bytes: NVFP4, MXFP4 or MXFP8");
  }
  if (linear.rank != 2) refuse("linear scales", tensor_text(linear), "u8 [rows, scale columns]");
  check_sides("linear scales", linear);
  check_tensor("linear scales", linear, DType::kU8, {linear.shape[0], linear.shape[1]});
  check_tensor("layout scales", layout_scales, DType::kU8,
               {scale_layout_bytes(spec.layout, linear.shape[0], linear.shape[1])});
}

}  // namespace moesaic::ops
