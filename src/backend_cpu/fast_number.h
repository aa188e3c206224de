// SPDX-License-Identifier: Apache-2.0
// Numbers of the fast path, one at a time. 16 bits: nearest even, subnormals kept, NaN stays NaN, overflow to infinity.
// Codes: nearest even, saturating.
#pragma once

#include <bit>
#include <cstdint>

namespace moesaic::cpu {

/// The 16-bit type of x and y.
enum class Io : int { kBf16 = 0, kFp16 = 1 };

inline float bf16_to_float(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

inline std::uint16_t float_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

inline float half_to_float(std::uint16_t bits) {
  const std::uint32_t magnitude = (bits & 0x7fffu) << 13;
  // The exponents' bias differs by 112; the product is exact for normal and subnormal numbers alike.
  std::uint32_t result = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  if (magnitude >= 0x0f800000u) result = magnitude | 0x7f800000u;
  return std::bit_cast<float>(result | static_cast<std::uint32_t>(bits & 0x8000u) << 16);
}

inline std::uint16_t float_to_half(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65520 and up round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the spacing is 2^-24 = the last place of 0.5: adding 0.5 lets the FPU round.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline float to_float(std::uint16_t bits, Io io) { return io == Io::kBf16 ? bf16_to_float(bits) : half_to_float(bits); }
inline std::uint16_t from_float(float value, Io io) {
  return io == Io::kBf16 ? float_to_bf16(value) : float_to_half(value);
}

/// Fields of a code: sign, exponent, fraction; `largest`: magnitude code of the largest finite number.
struct CodeFields {
  int exponent_bits, fraction_bits, bias;
  std::uint32_t largest, nan;
};
inline constexpr CodeFields kE4m3Fields{4, 3, 7, 0x7e, 0x7f};
inline constexpr CodeFields kE5m2Fields{5, 2, 15, 0x7b, 0x7f};
inline constexpr CodeFields kE2m1Fields{2, 1, 1, 7, 7};

/// Magnitudes below the smallest normal number, 2^(1 - bias), are spaced evenly: adding the power of two whose last
/// place is that spacing, 2^(1 - bias - fraction bits + 23), lets the FPU round.
constexpr float subnormal_shift(const CodeFields& f) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(127 + 24 - f.bias - f.fraction_bits) << 23);
}
constexpr std::uint32_t smallest_normal_bits(const CodeFields& f) {
  return static_cast<std::uint32_t>(127 + 1 - f.bias) << 23;
}

inline std::uint8_t encode_float(float value, const CodeFields& f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value), magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint8_t>(f.nan);
  const int dropped = 23 - f.fraction_bits;
  std::uint32_t code;
  if (magnitude < smallest_normal_bits(f)) {
    const float shift = subnormal_shift(f);
    code = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + shift) - std::bit_cast<std::uint32_t>(shift);
  } else {
    const std::uint32_t half = (1u << (dropped - 1)) - 1 + (magnitude >> dropped & 1u);
    code = ((magnitude + half) >> dropped) - (static_cast<std::uint32_t>(127 - f.bias) << f.fraction_bits);
    if (code > f.largest) code = f.largest;
  }
  return static_cast<std::uint8_t>(code | bits >> 31 << (f.exponent_bits + f.fraction_bits));
}
inline std::uint8_t float_to_e4m3(float value) { return encode_float(value, kE4m3Fields); }
inline std::uint8_t float_to_e5m2(float value) { return encode_float(value, kE5m2Fields); }
inline std::uint8_t float_to_e2m1(float value) { return encode_float(value, kE2m1Fields); }

/// e5m2 has infinities; the other formats use every code for numbers, but for e4m3's NaN.
inline float decode_float(std::uint8_t code, const CodeFields& f) {
  const int width = f.exponent_bits + f.fraction_bits;
  const std::uint32_t magnitude = code & ((1u << width) - 1);
  const std::uint32_t sign = static_cast<std::uint32_t>(code >> width & 1) << 31;
  std::uint32_t bits = magnitude << (23 - f.fraction_bits);
  if (magnitude > f.largest) {
    bits = f.fraction_bits == 2 && magnitude == 0x7c ? 0x7f800000u : 0x7fc00000u;
  } else {
    // Biases differ by 127 - f.bias; the product is exact for normal and subnormal numbers alike.
    const float factor = std::bit_cast<float>(static_cast<std::uint32_t>(254 - f.bias) << 23);
    bits = std::bit_cast<std::uint32_t>(std::bit_cast<float>(bits) * factor);
  }
  return std::bit_cast<float>(bits | sign);
}
inline float e4m3_to_float(std::uint8_t code) { return decode_float(code, kE4m3Fields); }
inline float e5m2_to_float(std::uint8_t code) { return decode_float(code, kE5m2Fields); }
inline float e2m1_to_float(std::uint8_t code) { return decode_float(code, kE2m1Fields); }

/// 2^(byte - 127); 255 is NaN.
inline float e8m0_to_float(std::uint8_t byte) {
  if (byte == 255) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(byte == 0 ? 0x00400000u : static_cast<std::uint32_t>(byte) << 23);
}

/// The smallest byte with which `amax` fits below `largest`, which is (1 + top_fraction / 2^23) 2^top_exponent; or,
/// with `floor`, the one that gives the largest code's exponent to amax.
inline std::uint8_t e8m0_of_amax(float amax, int top_exponent, std::uint32_t top_fraction, bool floor) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(amax);
  if (bits > 0x7f800000u) return 255;
  if (bits == 0x7f800000u) return 254;
  // Subnormal numbers have exponent field 0: their byte is 0 either way, for 2^top_exponent is at least 4.
  const int exponent = static_cast<int>(bits >> 23) - top_exponent;
  const int byte = exponent + (!floor && (bits & 0x7fffffu) > top_fraction ? 1 : 0);
  return static_cast<std::uint8_t>(byte < 0 ? 0 : byte);
}

}  // namespace moesaic::cpu
