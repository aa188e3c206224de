// SPDX-License-Identifier: Apache-2.0
// Argument checks of Gemm: every refusal names the argument, what was got and what is wanted.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/tensor_text.h"
#include "ops/argument_check.h"
#include "ops/gemm_impl.h"
#include "plan/gemm_plan.h"
#include "tables/given_codes.h"

namespace moesaic::ops {
namespace {

using base::tensor_text;
using Shape = std::vector<std::int64_t>;

constexpr ArgumentCheck kCheck{"gemm"};
constexpr DType kF32[] = {DType::kF32}, kI32[] = {DType::kI32};
// What an operand that the kernels copy in 16-byte pieces begins at.
constexpr std::size_t kRowAlignment = 16;
constexpr std::int64_t kMostRows = 1 << 30;  // of a reference

bool is_masked(const GemmRun& run) { return !run.group_counts.empty(); }

void check_groups(const GemmConfig& c, const GemmRun& run) {
  if (!run.group_offsets.empty() && is_masked(run)) {
    kCheck.refuse("group_counts", "given with group_offsets", "one of them");
  }
  const std::int64_t groups = c.groups;
  if (is_masked(run)) {
    kCheck.tensor("group_counts", run.group_counts, Shape{groups}, kI32);
  } else if (!run.group_offsets.empty()) {
    kCheck.tensor("group_offsets", run.group_offsets, Shape{groups + 1}, kI32);
  } else if (c.groups > 1) {
    kCheck.refuse("group_offsets", "empty",
                  fmt::format("group_offsets [{}] or group_counts [{}]: the weights are of {} groups", groups + 1,
                              groups, groups));
  }
}

/// [M, cols], or [groups, max, cols] with counts.
Shape rows_shape(const GemmConfig& c, const GemmRun& run, std::int64_t rows, std::int64_t cols) {
  return is_masked(run) ? Shape{c.groups, rows / c.groups, cols} : Shape{rows, cols};
}

/// Rows of x, whose last dimension is not looked at.
std::int64_t count_rows(const GemmConfig& c, const GemmRun& run, Precision precision) {
  const TensorView& x = run.x;
  const bool masked = is_masked(run);
  const bool fits = masked ? x.rank == 3 && x.shape[0] == c.groups : x.rank == 2;
  if (!fits) {
    kCheck.refuse(
        "x", tensor_text(x),
        masked ? fmt::format("[{}, max, {}]: one block of rows a group", c.groups, c.k) : fmt::format("[M, {}]", c.k));
  }
  const std::int64_t each = x.shape[masked ? 1 : 0], groups = masked ? c.groups : 1;
  const std::int64_t most = precision == Precision::kIo ? c.max_rows : kMostRows;
  if (each < 0 || each > most / groups) {
    kCheck.refuse("x", tensor_text(x),
                  fmt::format("0 to {} rows (max_rows){}", most, masked ? ", those of all groups together" : ""));
  }
  return each * groups;
}

/// The form of codes of x [rows, ...], with the scales as the run orders them; std::nullopt: 16-bit activations.
std::optional<tables::GivenCodes> given_form(const GemmConfig& c, const GemmRun& run, std::int64_t rows) {
  std::optional<tables::GivenCodes> form = tables::given_codes(c.recipe, rows, c.k, c.e5m2);
  if (run.scale_major > ScaleMajor::kMn) {
    kCheck.refuse("scale_major", fmt::format("value {}", static_cast<int>(run.scale_major)), "an enumerator");
  }
  if (run.scale_major == ScaleMajor::kK) return form;
  if (!form || form->format != QuantFormat::kFp8Block1x128) {
    kCheck.refuse("scale_major", "kMn", fmt::format("kK: recipe {} has no scales per 1 x 128", c.recipe));
  }
  std::swap(form->scale.shape[0], form->scale.shape[1]);
  return form;
}

/// x and what belongs to it, `flat` as [rows, ...].
void check_input(const GemmConfig& c, const GemmRun& run, const TensorView& flat, Precision precision) {
  constexpr DType kAny[] = {DType::kF32, DType::kBF16, DType::kF16};
  const tables::RecipeRow& recipe = tables::get_recipe(c.recipe);
  const std::int64_t rows = flat.shape[0];
  tables::check_given_codes("gemm", c.recipe, given_form(c, run, rows), flat, run.x_scale, run.x_row_scale);
  if (!gives_codes(run)) {
    kCheck.tensor("x", run.x, rows_shape(c, run, rows, c.k),
                  precision == Precision::kIo ? std::span(&recipe.io, 1) : std::span<const DType>(kAny));
  }
  if (run.input_scale.empty()) return;
  if (gives_codes(run)) kCheck.refuse("input_scale", tensor_text(run.input_scale), "empty: x is quantised already");
  if (!tables::takes_static_scales(recipe)) {
    kCheck.refuse("input_scale", tensor_text(run.input_scale),
                  fmt::format("empty: activations of recipe {} have no static scale", c.recipe));
  }
  kCheck.tensor("input_scale", run.input_scale, Shape{1}, kF32);
}

}  // namespace

void check_gemm_weights(const GemmConfig& c, std::span<const GemmWeights> weights, WeightFormats formats) {
  if (weights.size() != static_cast<std::size_t>(c.groups)) {
    kCheck.refuse("weights", fmt::format("{} matrices", weights.size()), fmt::format("{}: one a group", c.groups));
  }
  for (std::size_t g = 0; g < weights.size(); ++g) {
    const std::string name = fmt::format("weights[{}]", g);
    const MatrixView& w = weights[g].w;
    kCheck.matrix(name + ".w", w, c.n, c.k);
    if (formats == WeightFormats::kOfRecipe && !fits_recipe(c.recipe, c.int4, w)) {
      kCheck.refuse(name + ".w", w.quantized() ? "stored in another quantised format" : dtype_name(w.dtype),
                    fmt::format("the weights of recipe {}: Quantizer makes them", c.recipe));
    }
    kCheck.vector(name + ".bias", weights[g].bias, c.n);
  }
}

std::int64_t check_gemm_run(const GemmConfig& c, const GemmRun& run, Precision precision) {
  check_groups(c, run);
  const std::int64_t rows = count_rows(c, run, precision);
  const std::int64_t width = run.x.shape[static_cast<std::size_t>(run.x.rank - 1)];
  check_input(c, run, TensorView(run.x.data, run.x.dtype, {rows, width}), precision);
  constexpr DType kResults[] = {DType::kBF16, DType::kF16, DType::kF32, DType::kF64};
  kCheck.tensor("out", run.out, rows_shape(c, run, rows, c.n),
                std::span(kResults, precision == Precision::kIo ? 3 : 4));
  if (!std::isfinite(run.alpha)) kCheck.refuse("alpha", fmt::format("{}", run.alpha), "a finite number");
  if (precision == Precision::kIo && c.device.type == DeviceType::kCuda && !gives_codes(run)) {
    kCheck.aligned("x", run.x.data, kRowAlignment);
  }
  return rows;
}

void check_gemm_memory(const GemmRun& run, std::size_t prepared, std::size_t workspace) {
  kCheck.memory("prepared", run.prepared, prepared, prepared);
  kCheck.memory("workspace", run.workspace, run.workspace_bytes, workspace);
}

void check_group_values(const GemmConfig& c, const GemmRun& run, std::int64_t rows) {
  if (is_masked(run)) {
    kCheck.count_values("group_counts", run.group_counts, rows / c.groups);
  } else if (!run.group_offsets.empty()) {
    kCheck.offset_values("group_offsets", run.group_offsets, rows);
  }
}

}  // namespace moesaic::ops
