// SPDX-License-Identifier: Apache-2.0
// DLTensor -> views, with every refusal by name.
#include "capi/tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "capi/structs.h"
#include "tables/quant_table.h"

namespace moesaic::capi {
namespace {

struct DlpackType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
  DType dtype;
  const char* name;
  std::optional<CodeFormat> codes = {};
  std::optional<ScaleFormat> scales = {};
};

// Codes 10 to 17 are of DLPack 1.1; older headers have no names for them.
const std::vector<DlpackType>& dlpack_types() {
  static const std::vector<DlpackType> types = {
      {kDLFloat, 64, 1, DType::kF64, "f64"},
      {kDLFloat, 32, 1, DType::kF32, "f32"},
      {kDLFloat, 16, 1, DType::kF16, "f16"},
      {kDLBfloat, 16, 1, DType::kBF16, "bf16"},
      {kDLInt, 64, 1, DType::kI64, "i64"},
      {kDLInt, 32, 1, DType::kI32, "i32"},
      {kDLUInt, 8, 1, DType::kU8, "u8"},
      {10, 8, 1, DType::kU8, "f8_e4m3fn", CodeFormat::kE4M3, ScaleFormat::kE4M3},
      {12, 8, 1, DType::kU8, "f8_e5m2", CodeFormat::kE5M2},
      {14, 8, 1, DType::kU8, "f8_e8m0fnu", {}, ScaleFormat::kE8M0},
      {17, 4, 1, DType::kU8, "f4_e2m1fn", CodeFormat::kE2M1},
      {17, 4, 2, DType::kU8, "f4_e2m1fn x 2", CodeFormat::kE2M1},
  };
  return types;
}

const DlpackType* find_type(DLDataType type) {
  for (const DlpackType& row : dlpack_types()) {
    if (row.code == type.code && row.bits == type.bits && row.lanes == type.lanes) return &row;
  }
  return nullptr;
}

std::string type_names() {
  std::vector<std::string> names;
  for (const DlpackType& row : dlpack_types()) names.emplace_back(row.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string shape_text(const StridedView& view) {
  return fmt::format("{} [{}]", view.type_name, fmt::join(view.shape.begin(), view.shape.begin() + view.rank, ", "));
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Whether the first and the last element lie further apart than memory is large: sums and small multiples of what is
// left fit 64 bits.
bool reaches_too_far(const StridedView& view) {
  constexpr __int128 kMost = __int128{1} << 60;
  __int128 elements = 1;
  for (std::size_t d = 0; d < static_cast<std::size_t>(view.rank); ++d) {
    const __int128 stride = view.strides[d];
    elements += (stride < 0 ? -stride : stride) * std::max<std::int64_t>(view.shape[d] - 1, 0);
    if (elements * static_cast<__int128>(dtype_size(view.dtype)) > kMost) return true;
  }
  return false;
}

// Two 4-bit elements in a byte: the last dimension and all strides in bytes. False when they are not whole.
bool count_bytes(StridedView& view) {
  if (view.rank == 0) return false;
  const auto last = static_cast<std::size_t>(view.rank - 1);
  if (view.shape[last] % 2 != 0 || view.strides[last] != 1) return false;
  view.shape[last] /= 2;
  for (std::size_t i = 0; i < last; ++i) {
    if (view.strides[i] % 2 != 0) return false;
    view.strides[i] /= 2;
  }
  return true;
}

// One past the last nibble that (rows, cols) in an order reaches; -1 for strides that make no sense.
__int128 nibbles_reached(NibbleOrder order, std::int64_t rows, std::int64_t cols, std::int64_t row_stride,
                         std::int64_t col_stride) {
  if (rows < 1 || cols < 1 || row_stride < 0 || col_stride < 0) return -1;
  const __int128 r = rows - 1, c = cols - 1;
  switch (order) {
    case NibbleOrder::kLinear:
      return r * row_stride + c * col_stride + 1;
    case NibbleOrder::kWordsAlongC:
      return c / 8 * 8 * row_stride + 8 * r + 8;
    case NibbleOrder::kWordsAlongR:
      return r / 8 * 8 * row_stride + 8 * c + 8;
    case NibbleOrder::kAwq:
      return c * col_stride + r / 8 * 8 + 8;
  }
  return -1;
}

__int128 nibbles_of(const StridedView& view) {
  __int128 nibbles = 2 * static_cast<__int128>(dtype_size(view.dtype));
  for (int i = 0; i < view.rank; ++i) nibbles *= view.shape[static_cast<std::size_t>(i)];
  return nibbles;
}

}  // namespace

void TensorReader::refuse(const std::string& name, const std::string& got, const std::string& wanted) const {
  capi::refuse(operation_, name, got, wanted);
}

void TensorReader::check_device(const std::string& name, DLDevice device) {
  const std::int32_t type = device_type_of(device);
  const bool anywhere_cuda = type == kDLCUDAManaged;  // DLPack gives managed memory no number
  const bool host = type == kDLCPU || type == kDLCUDAHost;
  if (!host && !anywhere_cuda && type != kDLCUDA) {
    refuse(name, fmt::format("on DLPack device type {}", type),
           "memory of the CPU (kDLCPU, kDLCUDAHost) or of a CUDA device (kDLCUDA, kDLCUDAManaged)");
  }
  const Device lies_on = host ? Device{} : Device{DeviceType::kCuda, anywhere_cuda ? 0 : device.device_id};
  if (!device_) device_ = lies_on;
  const bool fits = device_->type == lies_on.type && (host || anywhere_cuda || device_->index == lies_on.index);
  if (!fits) refuse(name, fmt::format("on {}", device_name(lies_on)), fmt::format("on {}", device_name(*device_)));
}

StridedView TensorReader::read(const std::string& name, const DLTensor& t) {
  const DlpackType* type = find_type(t.dtype);
  if (type == nullptr) {
    refuse(name, fmt::format("DLPack type {} of {} bits x {}", t.dtype.code, t.dtype.bits, t.dtype.lanes),
           "one of " + type_names());
  }
  StridedView view;
  if (t.ndim < 1 || t.ndim > static_cast<int>(view.shape.size())) {
    refuse(name, fmt::format("a tensor of {} dimensions", t.ndim), fmt::format("1 to {}", view.shape.size()));
  }
  if (t.shape == nullptr) refuse(name, "a tensor whose shape is NULL", fmt::format("{} sizes", t.ndim));
  check_device(name, t.device);
  view.dtype = type->dtype;
  view.type_name = type->name;
  view.codes = type->codes;
  view.scales = type->scales;
  view.rank = t.ndim;
  std::int64_t bytes = static_cast<std::int64_t>(dtype_size(view.dtype));
  for (int i = t.ndim - 1; i >= 0; --i) {
    const auto d = static_cast<std::size_t>(i);
    view.shape[d] = t.shape[i];
    if (t.shape[i] < 0) refuse(name, fmt::format("of size {} in dimension {}", t.shape[i], i), "0 or more");
    const std::int64_t compact = bytes / static_cast<std::int64_t>(dtype_size(view.dtype));
    // Where there is one index producers say anything.
    view.strides[d] = t.strides == nullptr || t.shape[i] == 1 ? compact : t.strides[i];
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(t.shape[i], 1), &bytes)) {
      refuse(name, "of more than 2^63 bytes", "a tensor that memory holds");
    }
  }
  if (reaches_too_far(view))
    refuse(name, "of strides that reach over more than 2^60 bytes", "a tensor that memory holds");
  const bool has_elements = std::find(t.shape, t.shape + t.ndim, 0) == t.shape + t.ndim;
  if (type->bits * type->lanes == 4 && !count_bytes(view)) {
    refuse(name, shape_text(view), "an even last dimension without gaps, and even strides: two numbers share a byte");
  }
  if (t.data == nullptr && has_elements) refuse(name, "at a null pointer", shape_text(view));
  if (t.data != nullptr) view.data = static_cast<char*>(t.data) + t.byte_offset;
  if (reinterpret_cast<std::uintptr_t>(view.data) % dtype_size(view.dtype) != 0) {
    refuse(name, fmt::format("at {}", view.data), fmt::format("a multiple of {} bytes", dtype_size(view.dtype)));
  }
  return view;
}

void TensorReader::check_compact(const std::string& name, const StridedView& view) const {
  std::int64_t compact = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    const auto d = static_cast<std::size_t>(i);
    if (view.shape[d] == 0) return;
    if (view.shape[d] > 1 && view.strides[d] != compact) {
      refuse(name, fmt::format("{} with stride {} in dimension {}", shape_text(view), view.strides[d], i),
             fmt::format("a compact tensor, stride {}", compact));
    }
    compact *= view.shape[d];
  }
}

void TensorReader::check_rank(const std::string& name, const StridedView& view, int rank, const char* wanted) const {
  if (view.rank != rank) refuse(name, shape_text(view), wanted);
  for (int i = 0; i < rank; ++i) {
    if (view.shape[static_cast<std::size_t>(i)] < 1) refuse(name, shape_text(view), "sizes of 1 or more");
  }
}

TensorView TensorReader::compact(const std::string& name, const DLTensor* tensor, std::optional<CodeFormat> codes,
                                 std::optional<ScaleFormat> scales) {
  TensorView to;
  if (tensor == nullptr) return to;
  const StridedView view = read(name, *tensor);
  check_compact(name, view);
  const bool typed = view.codes || view.scales;
  if (typed && !(codes && view.codes == codes) && !(scales && view.scales == scales)) {
    refuse(name, view.type_name, codes || scales ? "u8, or the format's own type" : "a type that is no code");
  }
  to.data = view.data;
  to.dtype = view.dtype;
  to.rank = view.rank;
  to.shape = view.shape;
  return to;
}

TensorView TensorReader::activations(const std::string& name, const DLTensor* tensor,
                                     const std::optional<tables::GivenCodes>& given) {
  return compact(name, tensor, given ? std::optional(quant_traits({given->format}).codes) : std::nullopt);
}

TensorView TensorReader::activation_scales(const std::string& name, const DLTensor* tensor,
                                           const std::optional<tables::GivenCodes>& given) {
  return compact(name, tensor, std::nullopt,
                 given ? std::optional(quant_traits({given->format}).scales) : std::nullopt);
}

MatrixView TensorReader::numbers(const std::string& name, const DLTensor* tensor) {
  if (tensor == nullptr) return {};
  const StridedView view = read(name, *tensor);
  check_rank(name, view, 2, "a matrix [rows, columns]");
  if (view.dtype != DType::kBF16 && view.dtype != DType::kF16 && view.dtype != DType::kF32) {
    refuse(name, shape_text(view), "bf16, f16 or f32, or a moesaic_matrix that says what its codes are");
  }
  return {view.data, view.dtype, view.shape[0], view.shape[1], view.strides[0], view.strides[1]};
}

VectorView TensorReader::vector(const std::string& name, const DLTensor* tensor) {
  if (tensor == nullptr) return {};
  const StridedView view = read(name, *tensor);
  check_rank(name, view, 1, "a vector");
  if (view.dtype != DType::kBF16 && view.dtype != DType::kF16 && view.dtype != DType::kF32) {
    refuse(name, shape_text(view), "bf16, f16 or f32");
  }
  return {view.data, view.dtype, view.shape[0], view.strides[0]};
}

MatrixView TensorReader::matrix(const std::string& name, const moesaic_matrix* matrix) {
  if (matrix == nullptr) return {};
  const moesaic_matrix m = read_struct(operation_, name.c_str(), matrix);
  check_given(operation_, (name + ".values").c_str(), m.values, "a tensor");
  const auto codes = enumerator(operation_, (name + ".codes").c_str(), m.codes, CodeFormat::kInt4);
  if (codes == CodeFormat::kNone) {
    if (m.scales != nullptr || m.zeros != nullptr) {
      refuse(name + ".scales", "given for numbers", "NULL, or `codes` that says what the codes are");
    }
    return numbers(name, m.values);
  }
  MatrixView to;
  to.quantization.codes = codes;
  to.dtype = DType::kU8;
  to.quantization.order = enumerator(operation_, (name + ".nibble_order").c_str(), m.nibble_order, NibbleOrder::kAwq);
  read_codes(name, m, to);
  if (m.block_rows < 1 || m.block_cols < 1) {
    refuse(name + ".block_rows, block_cols", fmt::format("{}, {}", m.block_rows, m.block_cols), "1 or more");
  }
  to.quantization.block_rows = m.block_rows;
  to.quantization.block_cols = m.block_cols;
  to.quantization.multiplier = m.multiplier;
  read_scales(name, m, to);
  read_zeros(name, m, to);
  return to;
}

ExpertWeights TensorReader::expert(const std::string& name, const moesaic_expert* expert) {
  const moesaic_expert e = read_struct(operation_, name.c_str(), expert);
  ExpertWeights to;
  to.gate = matrix(name + ".gate", e.gate);
  to.up = matrix(name + ".up", e.up);
  to.down = matrix(name + ".down", e.down);
  to.gate_bias = vector(name + ".gate_bias", e.gate_bias);
  to.up_bias = vector(name + ".up_bias", e.up_bias);
  to.down_bias = vector(name + ".down_bias", e.down_bias);
  to.input_scale = e.input_scale;
  to.down_input_scale = e.down_input_scale;
  return to;
}

void TensorReader::read_codes(const std::string& name, const moesaic_matrix& from, MatrixView& to) {
  const Quantization& q = to.quantization;
  const StridedView view = read(name + ".values", *from.values);
  if (view.codes && *view.codes != q.codes) refuse(name + ".values", view.type_name, "what `codes` says, or u8");
  if (view.scales && !view.codes) refuse(name + ".values", view.type_name, "u8 codes");
  to.data = view.data;
  const bool four_bits = tables::code_bits(q.codes) == 4;
  if (!four_bits && view.dtype != DType::kU8) refuse(name + ".values", shape_text(view), "u8 codes");
  if (four_bits && view.dtype != DType::kU8 && view.dtype != DType::kI32) {
    refuse(name + ".values", shape_text(view), "u8 or i32 of packed codes");
  }
  if (!four_bits || (from.row_stride == 0 && from.col_stride == 0)) {
    check_rank(name + ".values", view, 2, "a matrix of codes, or strides in nibbles");
    const std::int64_t packed = four_bits ? 2 * static_cast<std::int64_t>(dtype_size(view.dtype)) : 1;
    const std::int64_t held = view.shape[1] * packed;
    to.rows = view.shape[0];
    to.cols = from.cols == 0 ? held : from.cols;
    if ((from.rows != 0 && from.rows != to.rows) || to.cols > held || to.cols <= held - packed) {
      refuse(name + ".rows, cols", fmt::format("{}, {}", from.rows, from.cols),
             fmt::format("0, or {} and {} to {}", to.rows, held - packed + 1, held));
    }
    if (four_bits && (view.strides[1] != 1 || q.order != NibbleOrder::kLinear)) {
      refuse(name + ".values", shape_text(view), "linear order and stride 1 in a row, or strides given in nibbles");
    }
    to.row_stride = view.strides[0] * packed;
    to.col_stride = four_bits ? 1 : view.strides[1];
    return;
  }
  check_compact(name + ".values", view);
  to.rows = from.rows, to.cols = from.cols;
  to.row_stride = from.row_stride, to.col_stride = from.col_stride;
  const __int128 reached = nibbles_reached(q.order, to.rows, to.cols, to.row_stride, to.col_stride);
  if (reached < 0 || reached > nibbles_of(view)) {
    refuse(name + ".rows, cols, strides", fmt::format("{}, {}, {}, {}", to.rows, to.cols, to.row_stride, to.col_stride),
           fmt::format("1 or more, with every code within the {} of values", shape_text(view)));
  }
}

void TensorReader::read_scales(const std::string& name, const moesaic_matrix& from, MatrixView& to) {
  Quantization& q = to.quantization;
  q.scale_format = enumerator(operation_, (name + ".scale_format").c_str(), from.scale_format, ScaleFormat::kE8M0);
  if (from.scales == nullptr) return;
  const std::string scales = name + ".scales";
  const StridedView view = read(scales, *from.scales);
  constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kU8, DType::kU8};
  if (view.dtype != kTypes[from.scale_format] || (view.scales && *view.scales != q.scale_format) ||
      (view.codes && !view.scales)) {
    refuse(scales, shape_text(view),
           fmt::format("{} for scale_format {}", dtype_name(kTypes[from.scale_format]), from.scale_format));
  }
  const std::int64_t rows = ceil_div(to.rows, q.block_rows), cols = ceil_div(to.cols, q.block_cols);
  q.scales = view.data;
  if (rows == 1 && cols == 1 && view.rank == 1 && view.shape[0] == 1) return;
  if (view.rank != 2 || view.shape[0] != rows || view.shape[1] != cols) {
    refuse(scales, shape_text(view), fmt::format("[{}, {}]", rows, cols));
  }
  q.scale_row_stride = view.strides[0];
  q.scale_col_stride = view.strides[1];
}

void TensorReader::read_zeros(const std::string& name, const moesaic_matrix& from, MatrixView& to) {
  Quantization& q = to.quantization;
  q.zero_offset = from.zero_offset;
  if (from.zeros == nullptr) return;
  const std::string zeros = name + ".zeros";
  if (q.codes != CodeFormat::kInt4) refuse(zeros, "given", "NULL: only int4 codes have zero points");
  const StridedView view = read(zeros, *from.zeros);
  check_compact(zeros, view);
  if ((view.dtype != DType::kU8 && view.dtype != DType::kI32) || view.codes || view.scales) {
    refuse(zeros, shape_text(view), "u8 or i32 of packed zero points");
  }
  q.zeros = view.data;
  q.zero_order = enumerator(operation_, (name + ".zero_order").c_str(), from.zero_order, NibbleOrder::kAwq);
  q.zero_row_stride = from.zero_row_stride;
  q.zero_col_stride = from.zero_col_stride;
  const std::int64_t rows = ceil_div(to.rows, q.block_rows), cols = ceil_div(to.cols, q.block_cols);
  const __int128 reached = nibbles_reached(q.zero_order, rows, cols, q.zero_row_stride, q.zero_col_stride);
  if (reached < 0 || reached > nibbles_of(view)) {
    refuse(zeros, fmt::format("{} with strides {}, {}", shape_text(view), q.zero_row_stride, q.zero_col_stride),
           fmt::format("4 bits for each of {} x {} scales, strides of 0 or more", rows, cols));
  }
}

}  // namespace moesaic::capi
