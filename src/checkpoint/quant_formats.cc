// SPDX-License-Identifier: Apache-2.0
// The formats, row by row. N is the number of output channels (rows), K of input channels (columns).
#include "checkpoint/quant_formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "moesaic/error.h"
#include "tables/quant_table.h"

namespace moesaic::checkpoint {
namespace {

using Shapes = std::vector<Shape>;
using Extent = MatrixExtent;

std::int64_t div_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

const StoredPart& part_of(const StoredParts& parts, Part part) { return parts[static_cast<std::size_t>(part)]; }

// --- which parts must be there
// ----------------------------------------------------------------------------------------

Presence always(const Scheme&) { return Presence::kYes; }
Presence maybe(const Scheme&) { return Presence::kMaybe; }
Presence with_static_inputs(const Scheme& scheme) { return scheme.static_inputs ? Presence::kYes : Presence::kNo; }
// Symmetric weights may come with zero points that say so.
Presence with_zero_points(const Scheme& scheme) { return scheme.zero_points ? Presence::kYes : Presence::kMaybe; }
Presence with_group_index(const Scheme& scheme) { return scheme.group_index ? Presence::kYes : Presence::kMaybe; }

// --- shapes
// -----------------------------------------------------------------------------------------------------------

Shapes whole(const Scheme&, const Extent& m) { return {{m.rows, m.cols}}; }
Shapes half_bytes(const Scheme&, const Extent& m) { return {{m.rows, m.cols / 2}}; }
Shapes scalar(const Scheme&, const Extent&) { return {{}, {1}}; }
Shapes per_row(const Scheme&, const Extent& m) { return {{m.rows, 1}}; }
Shapes per_16(const Scheme&, const Extent& m) { return {{m.rows, m.cols / 16}}; }
Shapes per_32(const Scheme&, const Extent& m) { return {{m.rows, m.cols / 32}}; }
Shapes per_block(const Scheme& s, const Extent& m) {
  return {{div_up(m.rows, s.block_rows), div_up(m.cols, s.block_cols)}};
}
Shapes mxfp4_codes(const Scheme&, const Extent& m) { return {{m.experts, m.rows, m.cols / 32, 16}}; }
Shapes mxfp4_scales(const Scheme&, const Extent& m) { return {{m.experts, m.rows, m.cols / 32}}; }
// Words of 32 bits hold eight numbers along K or along N.
Shapes words_of_k(const Scheme&, const Extent& m) { return {{m.rows, m.cols / 8}}; }
Shapes words_of_k_by_n(const Scheme&, const Extent& m) { return {{m.cols / 8, m.rows}}; }
Shapes k_by_words_of_n(const Scheme&, const Extent& m) { return {{m.cols, m.rows / 8}}; }
Shapes n_by_groups(const Scheme& s, const Extent& m) { return {{m.rows, m.cols / s.group}}; }
Shapes groups_by_n(const Scheme& s, const Extent& m) { return {{m.cols / s.group, m.rows}}; }
Shapes words_of_n_by_groups(const Scheme& s, const Extent& m) { return {{div_up(m.rows, 8), m.cols / s.group}}; }
Shapes groups_by_words_of_n(const Scheme& s, const Extent& m) { return {{m.cols / s.group, m.rows / 8}}; }
Shapes one_per_k(const Scheme&, const Extent& m) { return {{m.cols}}; }
Shapes two_sizes(const Scheme&, const Extent&) { return {{2}}; }

// --- views
// ------------------------------------------------------------------------------------------------------------

ScaleFormat scale_format(const StoredPart& part) {
  std::string_view dtype = part.dtype;
  if (dtype == "F32") return ScaleFormat::kF32;
  if (dtype == "BF16") return ScaleFormat::kBF16;
  if (dtype == "F16") return ScaleFormat::kF16;
  return dtype == "F8_E4M3" ? ScaleFormat::kE4M3 : ScaleFormat::kE8M0;
}

// Codes in row-major order, with scales in row-major order [.., scale_cols] for blocks of the given size.
MatrixView row_major(CodeFormat codes, const StoredParts& parts, const Extent& m, std::int64_t block_rows,
                     std::int64_t block_cols) {
  const StoredPart& scales = part_of(parts, Part::kScales);
  MatrixView view{part_of(parts, Part::kCodes).data, DType::kU8, m.experts * m.rows, m.cols, m.cols, 1};
  Quantization& q = view.quantization;
  q.codes = codes;
  q.scales = scales.data;
  q.scale_format = scale_format(scales);
  q.block_rows = block_rows;
  q.block_cols = block_cols;
  q.scale_row_stride = div_up(m.cols, block_cols);
  q.scale_col_stride = 1;
  return view;
}

MatrixView plain_view(const Scheme&, const StoredParts& parts, const Extent& m) {
  const StoredPart& weight = part_of(parts, Part::kCodes);
  std::string_view dtype = weight.dtype;
  DType type = dtype == "F32" ? DType::kF32 : dtype == "F16" ? DType::kF16 : DType::kBF16;
  return {weight.data, type, m.rows, m.cols, m.cols, 1};
}

MatrixView fp8_block_view(const Scheme& s, const StoredParts& parts, const Extent& m) {
  return row_major(CodeFormat::kE4M3, parts, m, s.block_rows, s.block_cols);
}
MatrixView fp8_channel_view(const Scheme&, const StoredParts& parts, const Extent& m) {
  return row_major(CodeFormat::kE4M3, parts, m, 1, m.cols);
}
MatrixView fp8_tensor_view(const Scheme&, const StoredParts& parts, const Extent& m) {
  return row_major(CodeFormat::kE4M3, parts, m, m.rows, m.cols);
}
MatrixView mxfp8_view(const Scheme&, const StoredParts& parts, const Extent& m) {
  return row_major(CodeFormat::kE4M3, parts, m, 1, 32);
}
MatrixView mxfp4_view(const Scheme&, const StoredParts& parts, const Extent& m) {
  return row_major(CodeFormat::kE2M1, parts, m, 1, 32);
}
MatrixView nvfp4_view(const Scheme&, const StoredParts& parts, const Extent& m) {
  return row_major(CodeFormat::kE2M1, parts, m, 1, 16);
}

MatrixView ct_int4_view(const Scheme& s, const StoredParts& parts, const Extent& m) {
  MatrixView view = row_major(CodeFormat::kInt4, parts, m, 1, s.group);
  Quantization& q = view.quantization;
  q.zeros = part_of(parts, Part::kZeros).data;
  q.zero_order = NibbleOrder::kWordsAlongR;
  q.zero_row_stride = m.cols / s.group;
  q.zero_col_stride = 1;
  return view;
}

// GPTQ and AWQ: scales and zero points [K/g, N].
MatrixView transposed_int4(const Scheme& s, const StoredParts& parts, const Extent& m, NibbleOrder order) {
  MatrixView view = row_major(CodeFormat::kInt4, parts, m, 1, s.group);
  Quantization& q = view.quantization;
  q.order = order;
  q.scale_row_stride = 1;
  q.scale_col_stride = m.rows;
  q.zeros = part_of(parts, Part::kZeros).data;
  q.zero_row_stride = 1;
  q.zero_col_stride = m.rows;
  return view;
}

MatrixView gptq_view(const Scheme& s, const StoredParts& parts, const Extent& m) {
  MatrixView view = transposed_int4(s, parts, m, NibbleOrder::kWordsAlongC);
  view.row_stride = m.rows;
  view.quantization.zero_offset = s.zero_offset;
  return view;
}

MatrixView awq_view(const Scheme& s, const StoredParts& parts, const Extent& m) {
  MatrixView view = transposed_int4(s, parts, m, NibbleOrder::kAwq);
  view.row_stride = 1;
  view.col_stride = m.rows;
  view.quantization.zero_order = NibbleOrder::kAwq;
  return view;
}

// --- the table
// --------------------------------------------------------------------------------------------------------

using DTypes = std::array<const char*, 3>;
constexpr DTypes k16Or32Bits = {"BF16", "F16", "F32"}, kE4m3 = {"F8_E4M3"}, kBytes = {"U8"}, kWords = {"I32"};
constexpr DTypes kPowersOfTwo = {"U8", "F8_E8M0"}, kFp32OrBf16 = {"F32", "BF16"}, kIntegers = {"I32", "I64"};

constexpr PartRow kPlainParts[] = {{Part::kCodes, ".weight", k16Or32Bits, whole, always}};

constexpr PartRow kFp8BlockParts[] = {{Part::kCodes, ".weight", kE4m3, whole, always},
                                      {Part::kScales, ".weight_scale_inv", kFp32OrBf16, per_block, always}};

constexpr PartRow kFp8TensorParts[] = {{Part::kCodes, ".weight", kE4m3, whole, always},
                                       {Part::kScales, ".weight_scale", kFp32OrBf16, scalar, always},
                                       {Part::kInputScale, ".input_scale", kFp32OrBf16, scalar, with_static_inputs}};

constexpr PartRow kMxfp4Parts[] = {{Part::kCodes, "_blocks", kBytes, mxfp4_codes, always},
                                   {Part::kScales, "_scales", kPowersOfTwo, mxfp4_scales, always}};

constexpr PartRow kNvfp4Parts[] = {{Part::kCodes, ".weight", kBytes, half_bytes, always},
                                   {Part::kScales, ".weight_scale", kE4m3, per_16, always},
                                   {Part::kGlobalScale, ".weight_scale_2", kFp32OrBf16, scalar, always},
                                   {Part::kInputScale, ".input_scale", kFp32OrBf16, scalar, with_static_inputs}};

constexpr PartRow kMxfp8Parts[] = {{Part::kCodes, ".weight", kE4m3, whole, always},
                                   {Part::kScales, ".weight_scale", kPowersOfTwo, per_32, always}};

constexpr PartRow kCtNvfp4Parts[] = {
    {Part::kCodes, ".weight_packed", kBytes, half_bytes, always},
    {Part::kScales, ".weight_scale", kE4m3, per_16, always},
    {Part::kGlobalScale, ".weight_global_scale", kFp32OrBf16, scalar, always},
    {Part::kInputScale, ".input_global_scale", kFp32OrBf16, scalar, with_static_inputs}};

constexpr PartRow kCtFp8ChannelParts[] = {{Part::kCodes, ".weight", kE4m3, whole, always},
                                          {Part::kScales, ".weight_scale", k16Or32Bits, per_row, always}};

constexpr PartRow kCtFp8TensorParts[] = {{Part::kCodes, ".weight", kE4m3, whole, always},
                                         {Part::kScales, ".weight_scale", k16Or32Bits, scalar, always},
                                         {Part::kInputScale, ".input_scale", k16Or32Bits, scalar, with_static_inputs}};

constexpr PartRow kCtFp8BlockParts[] = {{Part::kCodes, ".weight", kE4m3, whole, always},
                                        {Part::kScales, ".weight_scale", k16Or32Bits, per_block, always}};

constexpr PartRow kCtInt4Parts[] = {
    {Part::kCodes, ".weight_packed", kWords, words_of_k, always},
    {Part::kScales, ".weight_scale", k16Or32Bits, n_by_groups, always},
    {Part::kZeros, ".weight_zero_point", kWords, words_of_n_by_groups, with_zero_points},
    {Part::kGroupIndex, ".weight_g_idx", kWords, one_per_k, with_group_index},
    {Part::kShape, ".weight_shape", kIntegers, two_sizes, maybe}};

constexpr PartRow kGptqParts[] = {{Part::kCodes, ".qweight", kWords, words_of_k_by_n, always},
                                  {Part::kScales, ".scales", k16Or32Bits, groups_by_n, always},
                                  {Part::kZeros, ".qzeros", kWords, groups_by_words_of_n, with_zero_points},
                                  {Part::kGroupIndex, ".g_idx", kWords, one_per_k, with_group_index}};

constexpr PartRow kAwqParts[] = {{Part::kCodes, ".qweight", kWords, k_by_words_of_n, always},
                                 {Part::kScales, ".scales", k16Or32Bits, groups_by_n, always},
                                 {Part::kZeros, ".qzeros", kWords, groups_by_words_of_n, with_zero_points}};

using F = StoredFormat;
constexpr FormatRow kFormats[] = {
    {F::kPlain, "16 or 32 bits", "[out, in]", nullptr, nullptr, false, 1, 1, false, kPlainParts, plain_view},
    {F::kFp8Blocks, "FP8 blocks", "[out, in]", "fp8_block", nullptr, false, 1, 1, false, kFp8BlockParts,
     fp8_block_view},
    {F::kFp8Tensor, "FP8 per tensor", "[out, in]", "fp8_tensor", nullptr, false, 1, 1, false, kFp8TensorParts,
     fp8_tensor_view},
    {F::kMxfp4, "MXFP4 blocks", "[E, 2I, H/32, 16], [E, H, I/32, 16]", nullptr, "bf16_mxfp4", true, 1, 32, false,
     kMxfp4Parts, mxfp4_view},
    {F::kModelOptNvfp4, "ModelOpt NVFP4", "[out, in/2]", "nvfp4", "bf16_nvfp4", false, 1, 16, false, kNvfp4Parts,
     nvfp4_view},
    {F::kModelOptFp8, "ModelOpt FP8", "[out, in]", "fp8_tensor", nullptr, false, 1, 1, false, kFp8TensorParts,
     fp8_tensor_view},
    {F::kModelOptMxfp8, "ModelOpt MXFP8", "[out, in]", "mxfp8", nullptr, false, 1, 32, false, kMxfp8Parts, mxfp8_view},
    {F::kCtNvfp4, "compressed-tensors NVFP4", "[out, in/2]", "nvfp4", "bf16_nvfp4", false, 1, 16, true, kCtNvfp4Parts,
     nvfp4_view},
    {F::kCtFp8Channel, "compressed-tensors FP8 per channel", "[out, in]", "fp8_channel", nullptr, false, 1, 1, false,
     kCtFp8ChannelParts, fp8_channel_view},
    {F::kCtFp8Tensor, "compressed-tensors FP8 per tensor", "[out, in]", "fp8_tensor", nullptr, false, 1, 1, false,
     kCtFp8TensorParts, fp8_tensor_view},
    {F::kCtFp8Blocks, "compressed-tensors FP8 blocks", "[out, in]", "fp8_block", nullptr, false, 1, 1, false,
     kCtFp8BlockParts, fp8_block_view},
    {F::kCtInt4, "compressed-tensors int4", "[out, in/8] words", "fp8_int4", "bf16_int4", false, 1, 8, false,
     kCtInt4Parts, ct_int4_view},
    {F::kGptq, "GPTQ int4", "[in/8, out] words", nullptr, "bf16_int4", false, 8, 8, false, kGptqParts, gptq_view},
    {F::kAwq, "AWQ int4", "[in, out/8] words", nullptr, "bf16_int4", false, 8, 8, false, kAwqParts, awq_view},
};

consteval bool rows_are_in_order() {
  for (std::size_t i = 0; i < std::size(kFormats); ++i) {
    if (static_cast<std::size_t>(kFormats[i].format) != i) return false;
  }
  return true;
}
static_assert(rows_are_in_order(), "rows stand in the order of StoredFormat");

}  // namespace

const FormatRow& format_row(StoredFormat format) { return kFormats[static_cast<std::size_t>(format)]; }

const char* recipe_of(const Scheme& scheme, const std::string& where) {
  const FormatRow& row = format_row(scheme.format);
  const char* recipe = scheme.quantized_inputs ? row.recipe : row.weight_only_recipe;
  if (recipe != nullptr) return recipe;
  throw Error(
      ErrorKind::kUnsupported,
      fmt::format("{}: {} weights with {} activations; this version computes them with {} ones", where, row.name,
                  scheme.quantized_inputs ? "quantised" : "16-bit", scheme.quantized_inputs ? "16-bit" : "quantised"));
}

std::string extent_problem(const FormatRow& row, const Scheme& scheme, const MatrixExtent& extent) {
  const std::int64_t cols_multiple = std::max(row.cols_multiple, scheme.group);
  if (extent.rows % row.rows_multiple == 0 && extent.cols % cols_multiple == 0) return "";
  return fmt::format("a matrix [{}, {}] in {}, which needs multiples of {} and {}", extent.rows, extent.cols, row.name,
                     row.rows_multiple, cols_multiple);
}

MatrixView matrix_of(const FormatRow& row, const Scheme& scheme, const StoredParts& parts, const MatrixExtent& extent) {
  MatrixView view = row.view(scheme, parts, extent);
  if (!view.quantized()) return view;
  Quantization& q = view.quantization;
  const StoredPart& scales = part_of(parts, Part::kScales);
  check_scales(scales);
  if (scales.shape.size() < 2) read_global_scale(scales);  // one for the matrix: 0 would be a matrix of zeros
  const StoredPart& global = part_of(parts, Part::kGlobalScale);
  if (global.data != nullptr) {
    double scale = read_global_scale(global);
    q.multiplier = row.global_scale_divides ? 1.0 / scale : scale;
  }
  check_group_index(part_of(parts, Part::kGroupIndex), scheme.group);
  check_stored_shape(part_of(parts, Part::kShape), extent.rows, extent.cols);
  const StoredPart& zeros = part_of(parts, Part::kZeros);
  if (zeros.data != nullptr && !scheme.zero_points && all_nibbles_are(zeros, 8 - scheme.zero_offset)) q.zeros = nullptr;
  return view;
}

float input_scale_of(const FormatRow& row, const StoredParts& parts) {
  const StoredPart& part = part_of(parts, Part::kInputScale);
  if (part.data == nullptr) return 0.0f;
  float scale = static_cast<float>(read_global_scale(part));
  float multiplier = row.global_scale_divides ? 1.0f / scale : scale;
  if (multiplier > 0.0f && multiplier <= std::numeric_limits<float>::max()) return multiplier;
  throw Error(ErrorKind::kIo, fmt::format("{} is {}; its reciprocal is no finite number", part.where, scale));
}

MatrixView rows_of(const MatrixView& matrix, std::int64_t first, std::int64_t step, std::int64_t count) {
  const Quantization& q = matrix.quantization;
  MatrixView rows = matrix;
  rows.data = static_cast<const std::byte*>(matrix.data) + first * matrix.row_stride * tables::code_bits(q.codes) / 8;
  rows.rows = count;
  rows.row_stride = step * matrix.row_stride;
  rows.quantization.scales =
      static_cast<const std::byte*>(q.scales) + first * q.scale_row_stride * tables::scale_size(q.scale_format);
  rows.quantization.scale_row_stride = step * q.scale_row_stride;
  return rows;
}

}  // namespace moesaic::checkpoint
