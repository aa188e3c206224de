// SPDX-License-Identifier: Apache-2.0
// FP32, and pairs of bf16. Approximate instructions give what the exact ones would.
#include "simulator/lanes.h"
#include "simulator/numbers.h"

namespace moesaic::sim {
namespace {

float add(float a, float b) { return a + b; }
float add_to_zero(float a, float b) { return round_to_zero(static_cast<double>(a) + b); }
float sub(float a, float b) { return a - b; }
float mul(float a, float b) { return a * b; }
float fma_near(float a, float b, float c) { return std::fma(a, b, c); }
float fma_down(float a, float b, float c) { return round_down(static_cast<double>(a) * b + c); }
float divide(float a, float b) { return a / b; }
float reciprocal(float a) { return 1.0f / a; }
float root(float a) { return std::sqrt(a); }
float power_of_two(float a) { return std::exp2(a); }
float logarithm(float a) { return std::log2(a); }
float hyperbolic(float a) { return std::tanh(a); }
float magnitude(float a) { return std::fabs(a); }
float negate(float a) { return -a; }
float least(float a, float b) { return std::fmin(a, b); }
float most(float a, float b) { return std::fmax(a, b); }
float least_or_nan(float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : std::fmin(a, b); }
float most_or_nan(float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : std::fmax(a, b); }

bool unordered(float a, float b) { return std::isnan(a) || std::isnan(b); }
u8 eq(float a, float b) { return a == b; }
u8 ne(float a, float b) { return !unordered(a, b) && a != b; }
u8 lt(float a, float b) { return a < b; }
u8 le(float a, float b) { return a <= b; }
u8 gt(float a, float b) { return a > b; }
u8 ge(float a, float b) { return a >= b; }
u8 equ(float a, float b) { return unordered(a, b) || a == b; }
u8 neu(float a, float b) { return a != b; }
u8 ltu(float a, float b) { return unordered(a, b) || a < b; }
u8 leu(float a, float b) { return unordered(a, b) || a <= b; }
u8 gtu(float a, float b) { return unordered(a, b) || a > b; }
u8 geu(float a, float b) { return unordered(a, b) || a >= b; }
u8 are_numbers(float a, float b) { return !unordered(a, b); }
u8 any_nan(float a, float b) { return unordered(a, b); }

template <u16 (*kFunction)(u16, u16, u16)>
u32 of_pairs(u32 a, u32 b, u32 c) {
  const auto half = [&](u32 shift) {
    return static_cast<u32>(
        kFunction(static_cast<u16>(a >> shift), static_cast<u16>(b >> shift), static_cast<u16>(c >> shift)));
  };
  return half(0) | half(16) << 16;
}

Decoders all_known() {
  Decoders known = {
      {"add.f32", PerLane<add>::decode},
      {"add.rn.f32", PerLane<add>::decode},
      {"add.rz.f32", PerLane<add_to_zero>::decode},
      {"sub.f32", PerLane<sub>::decode},
      {"sub.rn.f32", PerLane<sub>::decode},
      {"mul.f32", PerLane<mul>::decode},
      {"mul.rn.f32", PerLane<mul>::decode},
      {"fma.rn.f32", PerLane<fma_near>::decode},
      {"fma.rm.f32", PerLane<fma_down>::decode},
      {"div.rn.f32", PerLane<divide>::decode},
      {"rcp.rn.f32", PerLane<reciprocal>::decode},
      {"sqrt.rn.f32", PerLane<root>::decode},
      {"abs.f32", PerLane<magnitude>::decode},
      {"neg.f32", PerLane<negate>::decode},
      {"min.f32", PerLane<least>::decode},
      {"max.f32", PerLane<most>::decode},
      {"min.NaN.f32", PerLane<least_or_nan>::decode},
      {"max.NaN.f32", PerLane<most_or_nan>::decode},
      {"rcp.approx.ftz.f32", PerLane<reciprocal>::decode},
      {"ex2.approx.ftz.f32", PerLane<power_of_two>::decode},
      {"lg2.approx.ftz.f32", PerLane<logarithm>::decode},
      {"tanh.approx.f32", PerLane<hyperbolic>::decode},
      {"fma.rn.bf16x2", PerLane<of_pairs<fma_bf16>>::decode},
      {"setp.eq.f32", PerLane<eq>::decode},
      {"setp.ne.f32", PerLane<ne>::decode},
      {"setp.lt.f32", PerLane<lt>::decode},
      {"setp.le.f32", PerLane<le>::decode},
      {"setp.gt.f32", PerLane<gt>::decode},
      {"setp.ge.f32", PerLane<ge>::decode},
      {"setp.equ.f32", PerLane<equ>::decode},
      {"setp.neu.f32", PerLane<neu>::decode},
      {"setp.ltu.f32", PerLane<ltu>::decode},
      {"setp.leu.f32", PerLane<leu>::decode},
      {"setp.gtu.f32", PerLane<gtu>::decode},
      {"setp.geu.f32", PerLane<geu>::decode},
      {"setp.num.f32", PerLane<are_numbers>::decode},
      {"setp.nan.f32", PerLane<any_nan>::decode},
  };
  return known;
}

}  // namespace

bool decode_floating(const Statement& s, Names& names, Instruction& to) {
  static const Decoders known = all_known();
  return decode_by(known, s, names, to);
}

}  // namespace moesaic::sim
