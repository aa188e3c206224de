// SPDX-License-Identifier: Apache-2.0
// Contents of scales, indices and shapes.
#include "checkpoint/stored_part.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "moesaic/error.h"

namespace moesaic::checkpoint {
namespace {

// Bits that are all set in every number of a type that is NaN or infinite, and in no other. e4m3fn has no infinity.
struct NotANumber {
  const char* dtype;
  int bytes;
  std::uint32_t mask;
};
constexpr NotANumber kNotANumber[] = {{"F32", 4, 0x7F800000}, {"BF16", 2, 0x7F80},  {"F16", 2, 0x7C00},
                                      {"F8_E4M3", 1, 0x7F},   {"F8_E8M0", 1, 0xFF}, {"U8", 1, 0xFF}};

std::int64_t elements(const StoredPart& part) {
  std::int64_t count = 1;
  for (std::int64_t extent : part.shape) count *= extent;
  return count;
}

template <typename T>
T load(const StoredPart& part, std::int64_t index) {
  T value;
  std::memcpy(&value, part.data + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// The first element with all bits of `mask`, or -1.
template <typename T>
std::int64_t find_mask(const StoredPart& part, std::uint32_t mask) {
  const T bits = static_cast<T>(mask);
  for (std::int64_t i = 0, count = elements(part); i < count; ++i) {
    if ((load<T>(part, i) & bits) == bits) return i;
  }
  return -1;
}

double half_value(std::uint16_t bits) {
  int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (bits & 0x8000) != 0 ? -size : size;
}

float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

void check_scales(const StoredPart& scales) {
  for (const NotANumber& row : kNotANumber) {
    if (std::string_view(row.dtype) != scales.dtype) continue;
    std::int64_t at = row.bytes == 4   ? find_mask<std::uint32_t>(scales, row.mask)
                      : row.bytes == 2 ? find_mask<std::uint16_t>(scales, row.mask)
                                       : find_mask<std::uint8_t>(scales, row.mask);
    if (at < 0) return;
    throw Error(ErrorKind::kIo, fmt::format("{}: scale number {} is NaN or infinite", scales.where, at));
  }
}

double read_global_scale(const StoredPart& scale) {
  std::string_view dtype = scale.dtype;
  check_scales(scale);
  double value = dtype == "F32"    ? double{load<float>(scale, 0)}
                 : dtype == "BF16" ? double{float_of(std::uint32_t{load<std::uint16_t>(scale, 0)} << 16)}
                                   : half_value(load<std::uint16_t>(scale, 0));
  if (value > 0.0) return value;
  throw Error(ErrorKind::kIo, fmt::format("{} is {}; wanted a positive number", scale.where, value));
}

void check_group_index(const StoredPart& index, int group) {
  if (index.data == nullptr) return;
  for (std::int64_t k = 0, count = elements(index); k < count; ++k) {
    auto stored = load<std::int32_t>(index, k);
    if (stored == k / group) continue;
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("{}: element {} is {}; wanted {}: rows quantised in another order (desc_act, act-order) are "
                    "not served; quantise without it",
                    index.where, k, stored, k / group));
  }
}

void check_stored_shape(const StoredPart& shape, std::int64_t rows, std::int64_t cols) {
  if (shape.data == nullptr) return;
  bool wide = std::string_view(shape.dtype) == "I64";
  auto size = [&](std::int64_t i) {
    return wide ? load<std::int64_t>(shape, i) : std::int64_t{load<std::int32_t>(shape, i)};
  };
  if (size(0) == rows && size(1) == cols) return;
  throw Error(ErrorKind::kIo, fmt::format("{} holds [{}, {}]; by config.json it should be [{}, {}]", shape.where,
                                          size(0), size(1), rows, cols));
}

bool all_nibbles_are(const StoredPart& words, int value) {
  const std::uint32_t wanted = 0x11111111u * static_cast<std::uint32_t>(value);
  for (std::int64_t i = 0, count = elements(words); i < count; ++i) {
    if (load<std::uint32_t>(words, i) != wanted) return false;
  }
  return true;
}

}  // namespace moesaic::checkpoint
