// SPDX-License-Identifier: Apache-2.0
// Shapes of codes and scales that follow from the quantised formats.
#include "tables/given_codes.h"

#include <fmt/format.h>

#include "base/tensor_text.h"
#include "moesaic/error.h"
#include "tables/quant_table.h"

namespace moesaic::tables {
namespace {

struct Refusal {
  const char* operation;

  [[noreturn]] void operator()(const char* argument, const std::string& got, const std::string& wanted) const {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: {} is {}, wanted {}", operation, argument, got, wanted));
  }
};

std::string text_of(const GivenTensor& tensor) {
  TensorView view(static_cast<void*>(nullptr), tensor.dtype, {tensor.shape[0], tensor.shape[1]});
  view.rank = tensor.rank;
  return base::tensor_text(view);
}

bool fits(const TensorView& t, const GivenTensor& wanted) {
  return t.dtype == wanted.dtype && t.rank == wanted.rank && t.shape[0] == wanted.shape[0] &&
         (wanted.rank == 1 || t.shape[1] == wanted.shape[1]);
}

/// `common`: one number for all will do.
void check(const Refusal& refuse, const char* name, const TensorView& t, const GivenTensor& wanted, bool common) {
  const GivenTensor one{wanted.dtype, 1, {1, 0}};
  const std::string text = text_of(wanted) + (common ? " or [1]" : "");
  if (!fits(t, wanted) && !(common && fits(t, one))) refuse(name, base::tensor_text(t), text + ": x is codes");
  if (t.num_elements() == 0) return;
  if (t.data == nullptr) refuse(name, "a null pointer", text);
  if (!base::is_aligned_for(t.data, t.dtype)) {
    refuse(name, fmt::format("at {}", t.data), fmt::format("a multiple of {} bytes", dtype_size(t.dtype)));
  }
}

/// "fp8_tensor, fp8_channel, ...".
std::string recipes_that_take_codes() {
  std::string names;
  for (const RecipeRow& row : kRecipeTable) {
    if (row.activation.scale != Scale::kNone) names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
  }
  return names;
}

}  // namespace

std::optional<GivenCodes> given_codes(const std::string& recipe, std::int64_t rows, std::int64_t cols, bool e5m2) {
  const std::optional<QuantSpec> spec = activation_spec(recipe, false);
  if (!spec) return std::nullopt;
  const bool is_e5m2 = e5m2 && spec->format == QuantFormat::kMxfp8;
  const QuantRow& row = quant_row(is_e5m2 ? QuantFormat::kMxfp8E5m2 : spec->format);
  const int width = row.traits.block_cols;
  GivenCodes given{};
  given.format = row.format;
  given.codes = {DType::kU8, 2, {rows, cols * code_bits(row.traits.codes) / 8}};
  given.scale.dtype = row.traits.scales == ScaleFormat::kF32 ? DType::kF32 : DType::kU8;
  given.scale.rank = width == 0 ? 1 : 2;
  given.scale.shape = {rows, width == 0 ? 0 : (cols + width - 1) / width};
  given.common_scale = get_recipe(recipe).activation.scale == Scale::kTensorStatic;
  given.row_scale = row.format == QuantFormat::kNvfp4Row;
  return given;
}

void check_given_codes(const char* operation, const GivenCodes& form, const TensorView& x, const TensorView& x_scale,
                       const TensorView& x_row_scale) {
  const Refusal refuse{operation};
  check(refuse, "x", x, form.codes, false);
  check(refuse, "x_scale", x_scale, form.scale, form.common_scale);
  if (form.row_scale) {
    check(refuse, "x_row_scale", x_row_scale, {DType::kF32, 1, {form.codes.shape[0], 0}}, true);
  } else if (!x_row_scale.empty()) {
    refuse("x_row_scale", base::tensor_text(x_row_scale), "empty: only NVFP4 codes have one");
  }
}

void check_given_codes(const char* operation, const std::string& recipe, const std::optional<GivenCodes>& form,
                       const TensorView& x, const TensorView& x_scale, const TensorView& x_row_scale) {
  const Refusal refuse{operation};
  if (x.dtype == DType::kU8) {
    if (form) return check_given_codes(operation, *form, x, x_scale, x_row_scale);
    refuse("x", base::tensor_text(x),
           fmt::format("{} numbers: recipe {} has 16-bit activations, codes are for {}",
                       dtype_name(get_recipe(recipe).io), recipe, recipes_that_take_codes()));
  }
  for (const auto& [name, scale] : {std::pair{"x_scale", &x_scale}, std::pair{"x_row_scale", &x_row_scale}}) {
    if (!scale->empty()) refuse(name, base::tensor_text(*scale), "empty: x is numbers, not codes (u8)");
  }
}

}  // namespace moesaic::tables
