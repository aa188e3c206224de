// SPDX-License-Identifier: Apache-2.0
// Names, sizes and parsing for moesaic/tensor.h.
#include "moesaic/tensor.h"

#include <fmt/format.h>

#include <charconv>

#include "base/tensor_text.h"
#include "moesaic/error.h"

namespace moesaic {

std::size_t dtype_size(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

const char* dtype_name(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF64:
      return "f64";
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI64:
      return "i64";
    case DType::kI32:
      return "i32";
    case DType::kU8:
      return "u8";
  }
  return "unknown";
}

Device parse_device(const std::string& text) {
  if (text == "cpu") return {DeviceType::kCpu, 0};
  if (text == "cuda") return {DeviceType::kCuda, 0};
  constexpr std::string_view kPrefix = "cuda:";
  if (text.rfind(kPrefix, 0) == 0) {
    const char* first = text.data() + kPrefix.size();
    const char* last = text.data() + text.size();
    int index = 0;
    const auto [stop, error] = std::from_chars(first, last, index);
    // from_chars takes a minus sign; an ordinal has none.
    if (error == std::errc() && stop == last && *first != '-') return {DeviceType::kCuda, index};
  }
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("device '{}' is not known; accepted: cpu, cuda, cuda:N (N a device ordinal)", text));
}

std::string device_name(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

TensorView::TensorView(void* data_, DType dtype_, std::initializer_list<std::int64_t> shape_)
    : data(data_), dtype(dtype_), rank(static_cast<int>(shape_.size())) {
  if (shape_.size() > shape.size()) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("tensor view: got {} dimensions, at most {} are possible", shape_.size(), shape.size()));
  }
  std::size_t i = 0;
  for (const std::int64_t size : shape_) {
    if (size < 0) {
      throw Error(ErrorKind::kInvalidArgument, fmt::format("tensor view: dimension {} has negative size {}", i, size));
    }
    shape[i++] = size;
  }
}

TensorView::TensorView(const void* data_, DType dtype_, std::initializer_list<std::int64_t> shape_)
    : TensorView(const_cast<void*>(data_), dtype_, shape_) {}

std::int64_t TensorView::num_elements() const noexcept {
  if (rank == 0) return 0;
  std::int64_t elements = 1;
  for (int i = 0; i < rank; ++i) elements *= shape[static_cast<std::size_t>(i)];
  return elements;
}

namespace base {

std::string tensor_text(const TensorView& tensor) {
  if (tensor.empty()) return "empty";
  if (tensor.rank < 0 || tensor.rank > static_cast<int>(tensor.shape.size())) {
    return fmt::format("a view of rank {}", tensor.rank);
  }
  std::string text = fmt::format("{} [", dtype_name(tensor.dtype));
  for (int i = 0; i < tensor.rank; ++i) {
    text += fmt::format("{}{}", i > 0 ? ", " : "", tensor.shape[static_cast<std::size_t>(i)]);
  }
  return text + "]";
}

bool is_aligned_for(const void* data, DType dtype) noexcept {
  const std::size_t size = dtype_size(dtype);
  return size != 0 && reinterpret_cast<std::uintptr_t>(data) % size == 0;
}

}  // namespace base

}  // namespace moesaic
