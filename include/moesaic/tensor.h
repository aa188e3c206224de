// SPDX-License-Identifier: Apache-2.0
// Views of memory that the caller owns. Nothing here allocates, copies or frees.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace moesaic {

enum class DType : std::uint8_t { kF64, kF32, kBF16, kF16, kI64, kI32, kU8 };

/// Bytes of one element.
std::size_t dtype_size(DType dtype) noexcept;
/// "f32", "bf16", "f16", "f64", "i64", "i32" or "u8".
const char* dtype_name(DType dtype) noexcept;

enum class DeviceType : std::uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;  // CUDA device ordinal; 0 for the CPU
};

/// Parses "cpu", "cuda" (= "cuda:0") or "cuda:N". Throws Error(kInvalidArgument) that lists what is accepted.
Device parse_device(const std::string& text);
/// "cpu" or "cuda:N".
std::string device_name(Device device);

/// A dense row-major tensor of up to four dimensions in memory that the caller owns.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<std::int64_t, 4> shape{};  // [0] slowest

  TensorView() = default;
  TensorView(void* data_, DType dtype_, std::initializer_list<std::int64_t> shape_);
  TensorView(const void* data_, DType dtype_, std::initializer_list<std::int64_t> shape_);

  /// True for a default-constructed view: "not given".
  bool empty() const noexcept { return rank == 0; }
  /// Product of the dimensions.
  std::int64_t num_elements() const noexcept;
};

/// A matrix with element strides: transposed, interleaved and sliced weights are views, never copies.
struct MatrixView {
  const void* data = nullptr;
  DType dtype = DType::kBF16;
  std::int64_t rows = 0, cols = 0;
  std::int64_t row_stride = 0, col_stride = 0;  // in elements

  /// True when the view was not given.
  bool empty() const noexcept { return data == nullptr; }
};

/// A vector with an element stride.
struct VectorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t size = 0;
  std::int64_t stride = 1;  // in elements

  /// True when the view was not given.
  bool empty() const noexcept { return data == nullptr; }
};

}  // namespace moesaic
