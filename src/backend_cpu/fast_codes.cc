// SPDX-License-Identifier: Apache-2.0
// Maxima and codes in Highway. Every step is one fp32 operation, so this file is compiled without contraction of
// products and sums (see CMakeLists.txt), and all instruction sets give the same bytes.
#include "backend_cpu/fast_codes.h"

#include "backend_cpu/fast_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend_cpu/fast_codes.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, which chooses the target.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace moesaic::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::CappedTag<float, 16> kFloat;
constexpr hn::RebindToUnsigned<decltype(kFloat)> kBits;
constexpr hn::RebindToSigned<decltype(kFloat)> kSigned;
constexpr hn::Rebind<std::uint8_t, decltype(kFloat)> kBytes;
using Floats = hn::Vec<decltype(kFloat)>;
using Signed = hn::Vec<decltype(kSigned)>;
constexpr int kStep = hn::MaxLanes(kFloat);

std::uint32_t amax_bits(const float* x, std::int64_t count) {
  // Magnitudes have bit 31 clear: signed comparison orders them, NaN above infinity.
  Signed largest = hn::Zero(kSigned);
  const Signed mask = hn::Set(kSigned, 0x7fffffff);
  std::int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    largest = hn::Max(largest, hn::And(hn::BitCast(kSigned, hn::LoadU(kFloat, x + i)), mask));
  }
  auto result = static_cast<std::uint32_t>(hn::GetLane(hn::MaxOfLanes(kSigned, largest)));
  for (; i < count; ++i) {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x[i]) & 0x7fffffffu;
    result = bits > result ? bits : result;
  }
  return result;
}

void range(const float* x, std::int64_t count, float* low, float* high) {
  Floats lowest = hn::Zero(kFloat), highest = lowest;
  std::int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const Floats values = hn::LoadU(kFloat, x + i);
    lowest = hn::Min(lowest, values);
    highest = hn::Max(highest, values);
  }
  *low = hn::GetLane(hn::MinOfLanes(kFloat, lowest));
  *high = hn::GetLane(hn::MaxOfLanes(kFloat, highest));
  for (; i < count; ++i) {
    *low = x[i] < *low ? x[i] : *low;
    *high = x[i] > *high ? x[i] : *high;
  }
}

// As encode_float.
template <int kExponentBits, int kFractionBits, int kBias, int kLargest, int kNan>
HWY_INLINE Signed encode(Floats value) {
  constexpr CodeFields kFields{kExponentBits, kFractionBits, kBias, kLargest, kNan};
  constexpr int kDropped = 23 - kFractionBits;
  const Signed bits = hn::BitCast(kSigned, value);
  const Signed magnitude = hn::And(bits, hn::Set(kSigned, 0x7fffffff));
  const Floats shift = hn::Set(kFloat, subnormal_shift(kFields));
  const Signed subnormal =
      hn::Sub(hn::BitCast(kSigned, hn::Add(hn::BitCast(kFloat, magnitude), shift)), hn::BitCast(kSigned, shift));
  const Signed odd = hn::And(hn::ShiftRight<kDropped>(magnitude), hn::Set(kSigned, 1));
  const Signed half = hn::Add(odd, hn::Set(kSigned, (1 << (kDropped - 1)) - 1));
  const Signed normal =
      hn::Sub(hn::ShiftRight<kDropped>(hn::Add(magnitude, half)), hn::Set(kSigned, (127 - kBias) << kFractionBits));
  const auto is_subnormal = hn::Lt(magnitude, hn::Set(kSigned, static_cast<int>(smallest_normal_bits(kFields))));
  const Signed code = hn::IfThenElse(is_subnormal, subnormal, hn::Min(normal, hn::Set(kSigned, kLargest)));
  const Signed sign = hn::And(hn::ShiftRight<31 - kExponentBits - kFractionBits>(bits),
                              hn::Set(kSigned, 1 << (kExponentBits + kFractionBits)));
  const auto is_nan = hn::Gt(magnitude, hn::Set(kSigned, 0x7f800000));
  return hn::IfThenElse(is_nan, hn::Set(kSigned, kNan), hn::Or(code, sign));
}

template <int kExponentBits, int kFractionBits, int kBias, int kLargest, int kNan>
void encode_all(const float* x, std::int64_t count, float factor, std::uint8_t* codes) {
  constexpr CodeFields kFields{kExponentBits, kFractionBits, kBias, kLargest, kNan};
  const Floats factors = hn::Set(kFloat, factor);
  std::int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const Signed code =
        encode<kExponentBits, kFractionBits, kBias, kLargest, kNan>(hn::Mul(hn::LoadU(kFloat, x + i), factors));
    hn::StoreU(hn::DemoteTo(kBytes, code), kBytes, codes + i);
  }
  for (; i < count; ++i) codes[i] = encode_float(x[i] * factor, kFields);
}

HWY_INLINE float quotient(float x, float step) {
  const hn::CappedTag<float, 1> one;
  return hn::GetLane(hn::Round(hn::Set(one, x / step)));
}

void encode_int4(const float* x, std::int64_t count, float step, float zero, std::uint8_t* codes) {
  const Floats steps = hn::Set(kFloat, step), zeros = hn::Set(kFloat, zero), least = hn::Zero(kFloat),
               most = hn::Set(kFloat, 15.0f);
  std::int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const Floats shifted = hn::Add(hn::Round(hn::Div(hn::LoadU(kFloat, x + i), steps)), zeros);
    const Floats number = hn::IfThenElse(hn::Eq(shifted, shifted), shifted, least);
    const Floats bounded = hn::Min(hn::Max(number, least), most);
    hn::StoreU(hn::DemoteTo(kBytes, hn::ConvertTo(kSigned, bounded)), kBytes, codes + i);
  }
  for (; i < count; ++i) {
    const float shifted = quotient(x[i], step) + zero;
    codes[i] = static_cast<std::uint8_t>(!(shifted > 0.0f) ? 0.0f : shifted > 15.0f ? 15.0f : shifted);
  }
}

}  // namespace

extern const CodeKernels kCodeKernels;
constexpr CodeKernels kCodeKernels = {&amax_bits,
                                      &range,
                                      &encode_all<4, 3, 7, 0x7e, 0x7f>,
                                      &encode_all<5, 2, 15, 0x7b, 0x7f>,
                                      &encode_all<2, 1, 1, 7, 7>,
                                      &encode_int4};

}  // namespace moesaic::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
