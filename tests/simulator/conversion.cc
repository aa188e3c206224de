// SPDX-License-Identifier: Apache-2.0
// `cvt` and `cvta`. Integer results may lie in wider registers: they are extended as their type says.
#include <cstring>
#include <limits>

#include "simulator/lanes.h"
#include "simulator/numbers.h"

namespace moesaic::sim {
namespace {

template <typename D, typename A>
D integer(A a) {
  return static_cast<D>(a);
}
template <typename A>
float to_float(A a) {
  return static_cast<float>(a);
}
float half_to_float(u16 a) { return from_fp16(a); }
float saturate(float a) { return std::isnan(a) ? 0.0f : std::fmin(std::fmax(a, 0.0f), 1.0f); }
float to_whole(float a) { return std::nearbyint(a); }
// Out of range: the nearest; NaN: 0.
template <typename D, bool kNearest>
D to_integer(float a) {
  if (std::isnan(a)) return 0;
  const double whole = kNearest ? std::nearbyint(a) : std::trunc(a);
  constexpr double kLeast = std::numeric_limits<D>::min(), kMost = std::numeric_limits<D>::max();
  return static_cast<D>(whole < kLeast ? kLeast : whole > kMost ? kMost : whole);
}
// The first operand goes to the upper half.
u32 pair_bf16(float upper, float lower) { return static_cast<u32>(to_bf16(upper)) << 16 | to_bf16(lower); }
u32 pair_fp16(float upper, float lower) { return static_cast<u32>(to_fp16(upper)) << 16 | to_fp16(lower); }
u16 pair_e4m3(float upper, float lower) { return static_cast<u16>(to_e4m3(upper) << 8 | to_e4m3(lower)); }
u16 pair_e5m2(float upper, float lower) { return static_cast<u16>(to_e5m2(upper) << 8 | to_e5m2(lower)); }

template <typename A>
void add_from(Decoders& known, const std::string& t) {
  known["cvt.u16." + t] = PerLane<integer<u16, A>>::decode;
  known["cvt.s16." + t] = PerLane<integer<s16, A>>::decode;
  known["cvt.u32." + t] = PerLane<integer<u32, A>>::decode;
  known["cvt.s32." + t] = PerLane<integer<s32, A>>::decode;
  known["cvt.u64." + t] = PerLane<integer<u64, A>>::decode;
  known["cvt.s64." + t] = PerLane<integer<s64, A>>::decode;
  known["cvt.rn.f32." + t] = PerLane<to_float<A>>::decode;
}

Decoders all_known() {
  Decoders known = {
      {"cvt.f32.f16", PerLane<half_to_float>::decode},
      {"cvt.sat.f32.f32", PerLane<saturate>::decode},
      {"cvt.rni.f32.f32", PerLane<to_whole>::decode},
      {"cvt.rzi.u32.f32", PerLane<to_integer<u32, false>>::decode},
      {"cvt.rzi.s32.f32", PerLane<to_integer<s32, false>>::decode},
      {"cvt.rni.s32.f32", PerLane<to_integer<s32, true>>::decode},
      {"cvt.rn.bf16x2.f32", PerLane<pair_bf16>::decode},
      {"cvt.rn.f16x2.f32", PerLane<pair_fp16>::decode},
      {"cvt.rn.bf16.f32", PerLane<to_bf16>::decode},
      {"cvt.rn.f16.f32", PerLane<to_fp16>::decode},
      {"cvt.rn.satfinite.e4m3x2.f32", PerLane<pair_e4m3>::decode},
      {"cvt.rn.satfinite.e5m2x2.f32", PerLane<pair_e5m2>::decode},
      {"cvta.to.global.u64", PerLane<integer<u64, u64>>::decode},
      {"cvta.param.u64", PerLane<integer<u64, u64>>::decode},  // both are addresses of the host
  };
  add_from<u16>(known, "u16"), add_from<s16>(known, "s16");
  add_from<u32>(known, "u32"), add_from<s32>(known, "s32");
  add_from<u64>(known, "u64"), add_from<s64>(known, "s64");
  return known;
}

// The low bytes of a wider register, to a place of the type's width.
Flow narrow_first(Warp& warp, const Instruction& i, u32 lanes) {
  const Slot wide = i.registers[0], narrow = i.slots[1];
  each_lane(lanes, [&](u32 lane) {
    std::memcpy(warp.at<std::byte>(narrow) + lane * narrow.bytes, warp.at<std::byte>(wide) + lane * wide.bytes,
                narrow.bytes);
  });
  return i.then(warp, i, lanes);
}

}  // namespace

bool decode_conversion(const Statement& s, Names& names, Instruction& to) {
  static const Decoders known = all_known();
  if (s.op[0] != "cvt" || s.operands.size() != 2 || s.operands[1].kind != Operand::Kind::kName) {
    return decode_by(known, s, names, to);
  }
  const Slot source = names.result(s.operands[1].name);
  const u32 bytes = type_bytes(s.type());
  if (source.bytes <= bytes) return decode_by(known, s, names, to);
  Statement narrow = s;
  narrow.operands[1].name += " narrowed to " + s.type();
  names.declare(narrow.operands[1].name, bytes, 1);
  if (!decode_by(known, narrow, names, to)) return false;
  to.registers = {source};
  to.then = to.run;
  to.run = narrow_first;
  return true;
}

}  // namespace moesaic::sim
