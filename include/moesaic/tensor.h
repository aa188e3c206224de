// SPDX-License-Identifier: Apache-2.0
// Views of memory that the caller owns. Nothing here allocates, copies or frees.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#pragma GCC visibility push(default)
namespace moesaic {

/// Element types, as dtype_name says them; kU8 also holds codes and byte scales.
enum class DType : std::uint8_t { kF64, kF32, kBF16, kF16, kI64, kI32, kU8 };

/// Bytes of one element.
std::size_t dtype_size(DType dtype) noexcept;
/// "f32", "bf16", "f16", "f64", "i64", "i32" or "u8".
const char* dtype_name(DType dtype) noexcept;

/// Where memory lies and work is done.
enum class DeviceType : std::uint8_t { kCpu, kCuda };

/// A device of this process.
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

/// Number format of quantised codes; docs/numerics.md has the value of every code.
enum class CodeFormat : std::uint8_t {
  kNone,  // not quantised
  kE4M3,  // e4m3fn: largest 448, no infinity, 0x7F and 0xFF are NaN
  kE5M2,
  kE2M1,  // 4 bits: 0, 0.5, 1, 1.5, 2, 3, 4, 6; + 8: negative
  kInt4,  // 4 bits: 0..15, value code - zero point
};

/// Number format of block scales. kE8M0: byte b is 2^(b - 127), 255 is NaN.
enum class ScaleFormat : std::uint8_t { kF32, kBF16, kF16, kE4M3, kE8M0 };

/// Where a 4-bit number (r, c) lies, as a nibble index from the start: byte = index / 2, an even index is the low
/// nibble. `row_stride` and `col_stride` are in nibbles. Words are 32 bits, little endian.
enum class NibbleOrder : std::uint8_t {
  kLinear,       // r row_stride + c col_stride
  kWordsAlongC,  // (c / 8) 8 row_stride + 8 r + c % 8: words [C/8][R]; row_stride = R   (GPTQ qweight, r = n, c = k)
  kWordsAlongR,  // (r / 8) 8 row_stride + 8 c + r % 8: words [R/8][C]; row_stride = C   (compressed-tensors zeros)
  kAwq,          // c col_stride + r / 8 * 8 + position of r % 8 in 0 2 4 6 1 3 5 7; col_stride = R   (AWQ)
};

/// How the codes of a matrix become numbers: value(r, c) = decode(code) * scale * multiplier.
/// The scale of (r, c) is number r / block_rows, c / block_cols of `scales`; without `scales` it is 1.
struct Quantization {
  CodeFormat codes = CodeFormat::kNone;
  NibbleOrder order = NibbleOrder::kLinear;  // of 4-bit codes; 8-bit codes are linear
  ScaleFormat scale_format = ScaleFormat::kF32;
  const void* scales = nullptr;
  std::int64_t block_rows = 1, block_cols = 1;
  std::int64_t scale_row_stride = 0, scale_col_stride = 0;  // in scales
  double multiplier = 1.0;                                  // NVFP4: weight_scale_2, or 1 / weight_global_scale
  // Zero points of kInt4, 4 bits each, one for every scale; nullptr: 8.
  const void* zeros = nullptr;
  NibbleOrder zero_order = NibbleOrder::kLinear;
  std::int64_t zero_row_stride = 0, zero_col_stride = 0;
  int zero_offset = 0;  // added to what is stored (GPTQ stores zero - 1)
};

/// A matrix with element strides: transposed, interleaved and sliced weights are views, never copies.
/// Quantised: `dtype` is kU8, `data` the codes, strides in codes (4-bit ones: as NibbleOrder says).
struct MatrixView {
  const void* data = nullptr;
  DType dtype = DType::kBF16;
  std::int64_t rows = 0, cols = 0;
  std::int64_t row_stride = 0, col_stride = 0;  // in elements
  Quantization quantization = {};

  /// True when the view was not given.
  bool empty() const noexcept { return data == nullptr; }
  /// True when the elements are codes.
  bool quantized() const noexcept { return quantization.codes != CodeFormat::kNone; }
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
#pragma GCC visibility pop
