// SPDX-License-Identifier: Apache-2.0
// Sizes, scale layouts and names of quantised formats; which formats a recipe's operands have.
#include "tables/quant_table.h"

#include <fmt/format.h>

#include "moesaic/error.h"

namespace moesaic {
namespace tables {
namespace {

consteval bool rows_are_in_order() {
  for (std::size_t i = 0; i < kQuantTable.size(); ++i) {
    if (static_cast<std::size_t>(kQuantTable[i].format) != i) return false;
  }
  return true;
}
static_assert(rows_are_in_order(), "quant_table.h: rows stand in the order of QuantFormat");

struct LayoutRow {
  const char* name;
  int tile_rows, tile_cols;
};
constexpr std::array kLayouts = {LayoutRow{"linear", 1, 1}, LayoutRow{"128x4", 128, 4}, LayoutRow{"8x4", 8, 4}};

std::int64_t div_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return div_up(a, b) * b; }

const LayoutRow& layout_row(ScaleLayout layout) { return kLayouts.at(static_cast<std::size_t>(layout)); }

template <typename Rows>
[[noreturn]] void unknown_name(const char* what, const std::string& name, const Rows& rows) {
  std::string names;
  for (const auto& row : rows) names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
  throw Error(ErrorKind::kInvalidArgument, fmt::format("{} '{}' is not known; known: {}", what, name, names));
}

}  // namespace

const QuantRow& quant_row(QuantFormat format) {
  const auto index = static_cast<std::size_t>(format);
  if (index < kQuantTable.size()) return kQuantTable[index];
  throw Error(ErrorKind::kInvalidArgument, fmt::format("quantise: format has value {}, wanted an enumerator", index));
}

const std::string& shared_recipe(const MoeConfig& config) noexcept {
  return config.shared.recipe.empty() ? config.recipe : config.shared.recipe;
}

int code_bits(CodeFormat codes) noexcept { return codes == CodeFormat::kE2M1 || codes == CodeFormat::kInt4 ? 4 : 8; }

int scale_size(ScaleFormat scales) noexcept {
  switch (scales) {
    case ScaleFormat::kF32:
      return 4;
    case ScaleFormat::kBF16:
    case ScaleFormat::kF16:
      return 2;
    case ScaleFormat::kE4M3:
    case ScaleFormat::kE8M0:
      return 1;
  }
  return 0;
}

void check_quant_spec(const char* operation, const QuantSpec& spec) {
  const QuantRow& row = quant_row(spec.format);
  if (static_cast<std::size_t>(spec.layout) >= kLayouts.size()) {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: scale layout has value {}, wanted an enumerator",
                                                         operation, static_cast<int>(spec.layout)));
  }
  if (spec.layout != ScaleLayout::kLinear && !row.padded_layouts) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: scale layout {} with format {}, which has linear scales only", operation,
                            scale_layout_name(spec.layout), row.name));
  }
  const int group = spec.int4.size;
  if (spec.format == QuantFormat::kInt4 && group != 32 && group != 64 && group != 128) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: int4 group of {} elements, wanted 32, 64 or 128", operation, group));
  }
}

}  // namespace tables

using namespace tables;  // NOLINT(google-build-using-namespace): this file is that table's public face

const char* quant_format_name(QuantFormat format) noexcept {
  const auto index = static_cast<std::size_t>(format);
  return index < kQuantTable.size() ? kQuantTable[index].name : "unknown";
}

const char* scale_layout_name(ScaleLayout layout) noexcept {
  const auto index = static_cast<std::size_t>(layout);
  return index < kLayouts.size() ? kLayouts[index].name : "unknown";
}

QuantFormat parse_quant_format(const std::string& name) {
  for (const QuantRow& row : kQuantTable) {
    if (name == row.name) return row.format;
  }
  unknown_name("quantised format", name, kQuantTable);
}

ScaleLayout parse_scale_layout(const std::string& name) {
  for (std::size_t i = 0; i < kLayouts.size(); ++i) {
    if (name == kLayouts[i].name) return static_cast<ScaleLayout>(i);
  }
  unknown_name("scale layout", name, kLayouts);
}

QuantTraits quant_traits(const QuantSpec& spec) {
  QuantTraits traits = quant_row(spec.format).traits;
  if (spec.format == QuantFormat::kInt4) traits.block_cols = spec.int4.size;
  return traits;
}

QuantSizes quant_sizes(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  check_quant_spec("quantise", spec);
  const QuantTraits traits = quant_traits(spec);
  const int multiple = spec.format == QuantFormat::kInt4 ? traits.block_cols : quant_row(spec.format).cols_multiple;
  if (rows < 0 || cols < 1 || cols % multiple != 0) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("quantise: shape [{}, {}] with format {}, wanted 0 or more rows and columns that are a "
                            "positive multiple of {}",
                            rows, cols, quant_format_name(spec.format), multiple));
  }
  // 4 PB of codes, and no product below comes near the end of 64 bits.
  constexpr std::int64_t kMostElements = std::int64_t{1} << 52;
  if (rows > kMostElements / cols) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("quantise: shape [{}, {}] has more than {} elements", rows, cols, kMostElements));
  }
  QuantSizes sizes{};
  sizes.code_bytes = rows * cols * code_bits(traits.codes) / 8;
  // A tensor's scale exists even when the tensor has no rows.
  sizes.scale_rows = traits.block_rows == 0 ? 1 : div_up(rows, traits.block_rows);
  sizes.scale_cols = traits.block_cols == 0 ? 1 : div_up(cols, traits.block_cols);
  sizes.scale_bytes = scale_layout_bytes(spec.layout, sizes.scale_rows, sizes.scale_cols) * scale_size(traits.scales);
  sizes.zero_bytes = spec.format == QuantFormat::kInt4 && spec.int4.zero_points ? rows * sizes.scale_cols : 0;
  return sizes;
}

std::int64_t scale_index(ScaleLayout layout, std::int64_t row, std::int64_t col, std::int64_t cols) {
  if (layout == ScaleLayout::kLinear) return row * cols + col;
  const LayoutRow& tile = layout_row(layout);
  const std::int64_t tiles = div_up(cols, tile.tile_cols);
  const std::int64_t start = (row / tile.tile_rows * tiles + col / tile.tile_cols) * tile.tile_rows * tile.tile_cols;
  const std::int64_t inner = row % tile.tile_rows;
  if (layout == ScaleLayout::k8x4) return start + inner * 4 + col % 4;
  return start + inner % 32 * 16 + inner / 32 * 4 + col % 4;
}

std::int64_t scale_layout_bytes(ScaleLayout layout, std::int64_t rows, std::int64_t cols) {
  const LayoutRow& tile = layout_row(layout);
  return round_up(rows, tile.tile_rows) * round_up(cols, tile.tile_cols);
}

std::int64_t grouped_scale_row(std::int64_t row, std::int64_t group) { return (row + 127 * group) / 128 * 128; }

std::optional<QuantSpec> weight_spec(const std::string& recipe, const Int4Groups& int4) {
  const Operand& weight = get_recipe(recipe).weight;
  QuantSpec spec;
  spec.int4 = int4;
  switch (weight.scale) {
    case Scale::kNone:
      return std::nullopt;
    case Scale::kTensorStatic:
      spec.format = QuantFormat::kFp8Tensor;
      return spec;
    case Scale::kToken:
    case Scale::kChannel:
      spec.format = QuantFormat::kFp8Row;
      return spec;
    case Scale::kBlock1x128:
      spec.format = QuantFormat::kFp8Block1x128;
      return spec;
    case Scale::kBlock128x128:
      spec.format = QuantFormat::kFp8Block128x128;
      return spec;
    case Scale::kE8m0x32:
      spec.format = weight.number == Number::kE2m1 ? QuantFormat::kMxfp4 : QuantFormat::kMxfp8;
      return spec;
    case Scale::kE4m3x16:
      spec.format = QuantFormat::kNvfp4;
      return spec;
    case Scale::kGroup:
      spec.format = QuantFormat::kInt4;
      return spec;
  }
  return std::nullopt;
}

std::optional<QuantSpec> activation_spec(const std::string& recipe, bool static_scale) {
  const Operand& activation = get_recipe(recipe).activation;
  QuantSpec spec;
  switch (activation.scale) {
    case Scale::kTensorStatic:
      spec.format = static_scale ? QuantFormat::kFp8Static : QuantFormat::kFp8Row;
      return spec;
    case Scale::kToken:
      spec.format = QuantFormat::kFp8Row;
      return spec;
    case Scale::kBlock1x128:
      spec.format = QuantFormat::kFp8Block1x128;
      return spec;
    case Scale::kE8m0x32:
      spec.format = QuantFormat::kMxfp8;
      return spec;
    case Scale::kE4m3x16:
      spec.format = static_scale ? QuantFormat::kNvfp4 : QuantFormat::kNvfp4Row;
      return spec;
    default:
      return std::nullopt;
  }
}

bool fits_recipe(const std::string& recipe, const Int4Groups& int4, const MatrixView& matrix) {
  const std::optional<QuantSpec> spec = weight_spec(recipe, int4);
  const Quantization& q = matrix.quantization;
  if (!spec) return !matrix.quantized();
  const QuantTraits traits = quant_traits(*spec);
  if (q.codes != traits.codes) return false;
  const auto is_byte = [](ScaleFormat scale) { return scale_size(scale) == 1; };
  if (is_byte(q.scale_format) || is_byte(traits.scales)) {
    if (q.scale_format != traits.scales) return false;
  }
  // Scales of whole rows may be shared by more than one row: a kernel has one for every row anyway.
  const bool rows_fit = traits.block_cols == 0 && traits.block_rows == 1 ? true
                        : traits.block_rows == 0                         ? q.block_rows >= matrix.rows
                                                                         : q.block_rows == traits.block_rows;
  const bool cols_fit = traits.block_cols == 0 ? q.block_cols >= matrix.cols : q.block_cols == traits.block_cols;
  const bool scaled = q.scales != nullptr || traits.block_rows == 0;
  const bool zeros_fit = q.zeros == nullptr || int4.zero_points;
  return rows_fit && cols_fit && scaled && zeros_fit;
}

}  // namespace moesaic
