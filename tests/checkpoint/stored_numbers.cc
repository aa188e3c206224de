// SPDX-License-Identifier: Apache-2.0
// Formulas of golden formats: value of one element from the raw tensors.
#include "stored_numbers.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moesaic::testing {
namespace {

template <typename T>
T load(const void* bytes, std::int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(bytes) + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// Sign, `exponent` bits, `mantissa` bits; no infinities where all exponents are numbers.
double minifloat(unsigned bits, int exponent, int mantissa) {
  const int bias = (1 << (exponent - 1)) - 1;
  const int e = static_cast<int>(bits >> mantissa) & ((1 << exponent) - 1);
  const int m = static_cast<int>(bits) & ((1 << mantissa) - 1);
  const double size =
      e == 0 ? std::ldexp(m, 1 - bias - mantissa) : std::ldexp((1 << mantissa) + m, e - bias - mantissa);
  return (bits >> (exponent + mantissa) & 1) != 0 ? -size : size;
}

double e2m1(unsigned code) { return minifloat(code, 2, 1); }
double e4m3(unsigned code) { return (code & 0x7F) == 0x7F ? std::nan("") : minifloat(code, 4, 3); }
double e8m0(unsigned code) { return std::ldexp(1.0, static_cast<int>(code) - 127); }
double f16(unsigned bits) { return minifloat(bits, 5, 10); }
double bf16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  return double{load<float>(&wide, 0)};
}

double number(const std::string& dtype, const void* bytes, std::int64_t index) {
  if (dtype == "F32") return double{load<float>(bytes, index)};
  if (dtype == "BF16") return bf16(load<std::uint16_t>(bytes, index));
  if (dtype == "F16") return f16(load<std::uint16_t>(bytes, index));
  if (dtype == "F8_E4M3") return e4m3(load<std::uint8_t>(bytes, index));
  throw std::runtime_error("no number: " + dtype);
}

double number(const StoredArray& array, std::int64_t index) { return number(array.dtype, array.bytes.data(), index); }
unsigned byte(const StoredArray& array, std::int64_t index) { return load<std::uint8_t>(array.bytes.data(), index); }

// Number `lane` of the 32-bit word at `index`, lane 0 in the lowest bits.
int in_word(const StoredArray& words, std::int64_t index, std::int64_t lane) {
  return static_cast<int>(load<std::uint32_t>(words.bytes.data(), index) >> (4 * lane) & 15);
}

// Byte k / 2 of row n, even k low.
double e2m1_at(const StoredArray& codes, std::int64_t n, std::int64_t k) {
  return e2m1(byte(codes, n * codes.shape[1] + k / 2) >> (k % 2 * 4) & 15);
}

}  // namespace

double only_number(const StoredArray& array) {
  if (array.bytes.size() > 4) throw std::runtime_error("more than one number");
  return number(array, 0);
}

double plain_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k) {
  const StoredArray& w = file.at(m + ".weight");
  return number(w, n * w.shape[1] + k);
}

double fp8_block_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k) {
  const StoredArray& scale = file.at(m + ".weight_scale_inv");
  return plain_formula(file, m, n, k) * number(scale, n / 128 * scale.shape[1] + k / 128);
}

double fp8_scaled_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k) {
  const StoredArray& scale = file.at(m + ".weight_scale");
  return plain_formula(file, m, n, k) * number(scale, scale.shape.size() == 2 ? n : 0);
}

double mxfp8_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k) {
  const StoredArray& scale = file.at(m + ".weight_scale");
  return plain_formula(file, m, n, k) * e8m0(byte(scale, n * scale.shape[1] + k / 32));
}

double nvfp4_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k) {
  const StoredArray& scale = file.at(m + ".weight_scale");
  return e2m1_at(file.at(m + ".weight"), n, k) * number(scale, n * scale.shape[1] + k / 16) *
         only_number(file.at(m + ".weight_scale_2"));
}

double ct_nvfp4_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k) {
  const StoredArray& scale = file.at(m + ".weight_scale");
  return e2m1_at(file.at(m + ".weight_packed"), n, k) * number(scale, n * scale.shape[1] + k / 16) /
         only_number(file.at(m + ".weight_global_scale"));
}

double ct_int4_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k) {
  const StoredArray &words = file.at(m + ".weight_packed"), &scale = file.at(m + ".weight_scale");
  const std::int64_t groups = scale.shape[1], group = words.shape[1] * 8 / groups;
  const auto zeros = file.arrays.find(m + ".weight_zero_point");
  const int zero = zeros == file.arrays.end() ? 8 : in_word(zeros->second, n / 8 * groups + k / group, n % 8);
  return (in_word(words, n * words.shape[1] + k / 8, k % 8) - zero) * number(scale, n * groups + k / group);
}

double gptq_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k) {
  const StoredArray &words = file.at(m + ".qweight"), &zeros = file.at(m + ".qzeros"), &scale = file.at(m + ".scales");
  const std::int64_t rows = words.shape[1], g = k / (words.shape[0] * 8 / scale.shape[0]);
  const int zero = in_word(zeros, g * zeros.shape[1] + n / 8, n % 8) + 1;
  return (in_word(words, k / 8 * rows + n, k % 8) - zero) * number(scale, g * rows + n);
}

double awq_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k) {
  // Lane j of a word holds output order[j] of its eight.
  static constexpr int kLaneOf[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // inverse of 0 2 4 6 1 3 5 7
  const StoredArray &words = file.at(m + ".qweight"), &zeros = file.at(m + ".qzeros"), &scale = file.at(m + ".scales");
  const std::int64_t g = k / (words.shape[0] / scale.shape[0]);
  const int code = in_word(words, k * words.shape[1] + n / 8, kLaneOf[n % 8]);
  return (code - in_word(zeros, g * zeros.shape[1] + n / 8, kLaneOf[n % 8])) * number(scale, g * scale.shape[1] + n);
}

double mxfp4_formula(const StoredFile& file, const std::string& m, std::int64_t e, std::int64_t n, std::int64_t k) {
  const StoredArray &blocks = file.at(m + "_blocks"), &scales = file.at(m + "_scales");
  const std::int64_t block = (e * blocks.shape[1] + n) * blocks.shape[2] + k / 32;
  return e2m1(byte(blocks, block * 16 + k % 32 / 2) >> (k % 2 * 4) & 15) * e8m0(byte(scales, block));
}

// --- through the view
// -------------------------------------------------------------------------------------------------

namespace {

std::int64_t nibble_index(NibbleOrder order, std::int64_t r, std::int64_t c, std::int64_t row_stride,
                          std::int64_t col_stride) {
  static constexpr int kAwqOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  switch (order) {
    case NibbleOrder::kLinear:
      return r * row_stride + c * col_stride;
    case NibbleOrder::kWordsAlongC:
      return c / 8 * 8 * row_stride + 8 * r + c % 8;
    case NibbleOrder::kWordsAlongR:
      return r / 8 * 8 * row_stride + 8 * c + r % 8;
    case NibbleOrder::kAwq:
      for (int lane = 0; lane < 8; ++lane) {
        if (kAwqOrder[lane] == r % 8) return c * col_stride + r / 8 * 8 + lane;
      }
  }
  throw std::runtime_error("unknown order");
}

int nibble(const void* data, std::int64_t index) { return load<std::uint8_t>(data, index / 2) >> (index % 2 * 4) & 15; }

double scale_number(ScaleFormat format, const void* scales, std::int64_t index) {
  switch (format) {
    case ScaleFormat::kF32:
      return number("F32", scales, index);
    case ScaleFormat::kBF16:
      return number("BF16", scales, index);
    case ScaleFormat::kF16:
      return number("F16", scales, index);
    case ScaleFormat::kE4M3:
      return number("F8_E4M3", scales, index);
    case ScaleFormat::kE8M0:
      return e8m0(load<std::uint8_t>(scales, index));
  }
  throw std::runtime_error("unknown scale format");
}

}  // namespace

double view_element(const MatrixView& view, std::int64_t r, std::int64_t c) {
  const Quantization& q = view.quantization;
  if (!view.quantized()) {
    const char* name = view.dtype == DType::kF32 ? "F32" : view.dtype == DType::kF16 ? "F16" : "BF16";
    return number(name, view.data, r * view.row_stride + c * view.col_stride);
  }
  const std::int64_t row = r / q.block_rows, col = c / q.block_cols;
  double scale = q.scales == nullptr
                     ? 1.0
                     : scale_number(q.scale_format, q.scales, row * q.scale_row_stride + col * q.scale_col_stride);
  double code = 0;
  if (q.codes == CodeFormat::kE4M3) {
    code = e4m3(load<std::uint8_t>(view.data, r * view.row_stride + c * view.col_stride));
  } else {
    const int stored = nibble(view.data, nibble_index(q.order, r, c, view.row_stride, view.col_stride));
    int zero = 8;
    if (q.zeros != nullptr) {
      zero = nibble(q.zeros, nibble_index(q.zero_order, row, col, q.zero_row_stride, q.zero_col_stride));
      zero += q.zero_offset;
    }
    code = q.codes == CodeFormat::kE2M1 ? e2m1(static_cast<unsigned>(stored)) : stored - zero;
  }
  return code * scale * q.multiplier;
}

void expect_elements(const MatrixView& view, double relative,
                     const std::function<double(std::int64_t n, std::int64_t k)>& formula) {
  ASSERT_FALSE(view.empty());
  std::int64_t wrong = 0;
  for (std::int64_t n = 0; n < view.rows; ++n) {
    for (std::int64_t k = 0; k < view.cols; ++k) {
      const double want = formula(n, k), got = view_element(view, n, k);
      if (!(std::abs(got - want) <= relative * std::abs(want)) && ++wrong == 1) {
        ADD_FAILURE() << "(" << n << ", " << k << "): " << got << ", wanted " << want;
      }
    }
  }
  EXPECT_EQ(wrong, 0);
}

}  // namespace moesaic::testing
