// SPDX-License-Identifier: Apache-2.0
// Integers, bits, predicates and moves.
#include <bit>
#include <cstring>
#include <type_traits>

#include "simulator/lanes.h"

namespace moesaic::sim {
namespace {

template <typename T>
T add(T a, T b) {
  return static_cast<T>(a + b);
}
template <typename T>
T sub(T a, T b) {
  return static_cast<T>(a - b);
}
template <typename T>
T mul(T a, T b) {
  return static_cast<T>(static_cast<u64>(a) * static_cast<u64>(b));
}
template <typename T>
T mad(T a, T b, T c) {
  return static_cast<T>(static_cast<u64>(a) * static_cast<u64>(b) + static_cast<u64>(c));
}
template <typename D, typename A>
D mul_wide(A a, A b) {
  return static_cast<D>(a) * static_cast<D>(b);
}
template <typename D, typename A>
D mad_wide(A a, A b, D c) {
  return static_cast<D>(static_cast<u64>(static_cast<D>(a) * static_cast<D>(b)) + static_cast<u64>(c));
}
u32 mul_high_u(u32 a, u32 b) { return static_cast<u32>(u64{a} * b >> 32); }
s32 mul_high_s(s32 a, s32 b) { return static_cast<s32>(s64{a} * b >> 32); }
template <typename T>
T divide(T a, T b) {
  return b == 0 ? static_cast<T>(-1) : b == static_cast<T>(-1) ? static_cast<T>(0 - a) : static_cast<T>(a / b);
}
template <typename T>
T divide_unsigned(T a, T b) {
  return b == 0 ? static_cast<T>(-1) : static_cast<T>(a / b);
}
template <typename T>
T remainder_of(T a, T b) {
  return b == 0 ? a : b == static_cast<T>(-1) ? T{0} : static_cast<T>(a % b);
}
template <typename T>
T remainder_unsigned(T a, T b) {
  return b == 0 ? a : static_cast<T>(a % b);
}
template <typename T>
T least(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
T most(T a, T b) {
  return a > b ? a : b;
}
template <typename T>
T negate(T a) {
  return static_cast<T>(0 - a);
}
template <typename T>
T absolute(T a) {
  return a < 0 ? static_cast<T>(0 - a) : a;
}
template <typename T>
T both(T a, T b) {
  return static_cast<T>(a & b);
}
template <typename T>
T either(T a, T b) {
  return static_cast<T>(a | b);
}
template <typename T>
T one_of(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <typename T>
T invert(T a) {
  return static_cast<T>(~a);
}
u8 invert_predicate(u8 a) { return a == 0 ? 1 : 0; }
// Shifts by the width or more leave nothing, or signs.
template <typename T>
T shift_left(T a, u32 by) {
  return by >= 8 * sizeof(T) ? T{0} : static_cast<T>(a << by);
}
template <typename T>
T shift_right(T a, u32 by) {
  const u32 last = 8 * sizeof(T) - 1;
  if (by <= last) return static_cast<T>(a >> by);
  return std::is_signed_v<T> ? static_cast<T>(a >> last) : T{0};
}
u32 count_bits(u32 a) { return static_cast<u32>(std::popcount(a)); }
u32 leading_zeros(u32 a) { return static_cast<u32>(std::countl_zero(a)); }
template <typename T>
T move(T a) {
  return a;
}
template <typename T>
T select(T a, T b, u8 predicate) {
  return predicate != 0 ? a : b;
}

template <typename T>
u8 equal(T a, T b) {
  return a == b;
}
template <typename T>
u8 differ(T a, T b) {
  return a != b;
}
template <typename T>
u8 less(T a, T b) {
  return a < b;
}
template <typename T>
u8 less_or_equal(T a, T b) {
  return a <= b;
}
template <typename T>
u8 greater(T a, T b) {
  return a > b;
}
template <typename T>
u8 greater_or_equal(T a, T b) {
  return a >= b;
}

template <typename T>
void add_type(Decoders& known, const std::string& t) {
  known["add." + t] = PerLane<add<T>>::decode;
  known["sub." + t] = PerLane<sub<T>>::decode;
  known["mul.lo." + t] = PerLane<mul<T>>::decode;
  known["mad.lo." + t] = PerLane<mad<T>>::decode;
  known["div." + t] = std::is_signed_v<T> ? PerLane<divide<T>>::decode : PerLane<divide_unsigned<T>>::decode;
  known["rem." + t] = std::is_signed_v<T> ? PerLane<remainder_of<T>>::decode : PerLane<remainder_unsigned<T>>::decode;
  known["min." + t] = PerLane<least<T>>::decode;
  known["max." + t] = PerLane<most<T>>::decode;
  known["neg." + t] = PerLane<negate<T>>::decode;
  known["shr." + t] = PerLane<shift_right<T>>::decode;
  known["mov." + t] = PerLane<move<T>>::decode;
  known["selp." + t] = PerLane<select<T>>::decode;
  known["setp.eq." + t] = PerLane<equal<T>>::decode;
  known["setp.ne." + t] = PerLane<differ<T>>::decode;
  known["setp.lt." + t] = PerLane<less<T>>::decode;
  known["setp.le." + t] = PerLane<less_or_equal<T>>::decode;
  known["setp.gt." + t] = PerLane<greater<T>>::decode;
  known["setp.ge." + t] = PerLane<greater_or_equal<T>>::decode;
}

template <typename T>
void add_bits(Decoders& known, const std::string& t) {
  known["and." + t] = PerLane<both<T>>::decode;
  known["or." + t] = PerLane<either<T>>::decode;
  known["xor." + t] = PerLane<one_of<T>>::decode;
  known["not." + t] = PerLane<invert<T>>::decode;
  known["shl." + t] = PerLane<shift_left<T>>::decode;
  known["shr." + t] = PerLane<shift_right<T>>::decode;
  known["selp." + t] = PerLane<select<T>>::decode;
  known["setp.eq." + t] = PerLane<equal<T>>::decode;
  known["setp.ne." + t] = PerLane<differ<T>>::decode;
}

Decoders integers() {
  Decoders known;
  add_type<u16>(known, "u16"), add_type<s16>(known, "s16");
  add_type<u32>(known, "u32"), add_type<s32>(known, "s32");
  add_type<u64>(known, "u64"), add_type<s64>(known, "s64");
  add_bits<u16>(known, "b16"), add_bits<u32>(known, "b32"), add_bits<u64>(known, "b64");
  known["abs.s32"] = PerLane<absolute<s32>>::decode;
  known["mul.wide.s32"] = PerLane<mul_wide<s64, s32>>::decode;
  known["mul.wide.u32"] = PerLane<mul_wide<u64, u32>>::decode;
  known["mul.wide.u16"] = PerLane<mul_wide<u32, u16>>::decode;
  known["mul.wide.s16"] = PerLane<mul_wide<s32, s16>>::decode;
  known["mad.wide.s32"] = PerLane<mad_wide<s64, s32>>::decode;
  known["mad.wide.u32"] = PerLane<mad_wide<u64, u32>>::decode;
  known["mul.hi.u32"] = PerLane<mul_high_u>::decode;
  known["mul.hi.s32"] = PerLane<mul_high_s>::decode;
  known["popc.b32"] = PerLane<count_bits>::decode;
  known["clz.b32"] = PerLane<leading_zeros>::decode;
  known["and.pred"] = PerLane<both<u8>>::decode;
  known["or.pred"] = PerLane<either<u8>>::decode;
  known["xor.pred"] = PerLane<one_of<u8>>::decode;
  known["not.pred"] = PerLane<invert_predicate>::decode;
  known["mov.pred"] = PerLane<move<u8>>::decode;
  known["mov.f32"] = PerLane<move<u32>>::decode;
  known["selp.f32"] = PerLane<select<u32>>::decode;
  return known;
}

// ---- of four operands and more, and moves that pack
// --------------------------------------------------------------------

Flow insert_bits(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    const u32 a = warp.at<u32>(i.slots[1])[lane], b = warp.at<u32>(i.slots[2])[lane];
    const u32 at = warp.at<u32>(i.slots[3])[lane] & 0xff, count = warp.at<u32>(i.slots[4])[lane] & 0xff;
    const u64 mask = count >= 32 ? 0xffffffffu : (u64{1} << count) - 1;
    warp.at<u32>(i.slots[0])[lane] = at >= 32 ? b : static_cast<u32>((b & ~(mask << at)) | ((a & mask) << at));
  });
  return Flow::kNext;
}

Flow any_logic(Warp& warp, const Instruction& i, u32 lanes) {
  const u32* table = warp.at<u32>(i.slots[4]);
  each_lane(lanes, [&](u32 lane) {
    const u32 a = warp.at<u32>(i.slots[1])[lane], b = warp.at<u32>(i.slots[2])[lane],
              c = warp.at<u32>(i.slots[3])[lane];
    u32 result = 0;
    for (u32 entry = 0; entry < 8; ++entry) {
      if ((table[lane] >> entry & 1) == 0) continue;
      result |= ((entry & 4) != 0 ? a : ~a) & ((entry & 2) != 0 ? b : ~b) & ((entry & 1) != 0 ? c : ~c);
    }
    warp.at<u32>(i.slots[0])[lane] = result;
  });
  return Flow::kNext;
}

u32 permute_bytes(u32 a, u32 b, u32 selector) {
  const u64 bytes = u64{b} << 32 | a;
  u32 result = 0;
  for (u32 i = 0; i < 4; ++i) {
    const u32 choice = selector >> (4 * i) & 0xf;
    u32 byte = static_cast<u32>(bytes >> (8 * (choice & 7))) & 0xff;
    if ((choice & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

void copy_bytes(Warp& warp, Slot to, u32 to_byte, Slot from, u32 from_byte, u32 bytes, u32 lane) {
  std::memcpy(warp.at<std::byte>(to) + lane * to.bytes + to_byte,
              warp.at<std::byte>(from) + lane * from.bytes + from_byte, bytes);
}

Flow pack(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    u32 at = 0;
    for (const Slot& part : i.registers) {
      copy_bytes(warp, i.slots[0], at, part, 0, part.bytes, lane);
      at += part.bytes;
    }
  });
  return Flow::kNext;
}

Flow unpack(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    u32 at = 0;
    for (const Slot& part : i.registers) {
      copy_bytes(warp, part, 0, i.slots[0], at, part.bytes, lane);
      at += part.bytes;
    }
  });
  return Flow::kNext;
}

bool decode_mov(const Statement& s, Names& names, Instruction& to) {
  if (s.op[0] != "mov" || s.op.size() != 2) return false;
  const Operand &d = s.operands.at(0), &a = s.operands.at(1);
  const u32 bytes = type_bytes(s.type());
  if (d.kind == Operand::Kind::kVector) {
    for (const std::string& name : d.names) {
      to.registers.push_back(name == "_" ? names.constant(~u64{0}, bytes / static_cast<u32>(d.names.size()))
                                         : names.result(name));
    }
    to.slots[0] = names.value(a, bytes);
    to.run = unpack;
  } else if (a.kind == Operand::Kind::kVector) {
    for (const std::string& name : a.names) to.registers.push_back(names.result(name));
    to.slots[0] = names.result(d.name);
    to.run = pack;
  } else {
    to.slots = {names.result(d.name), names.value(a, bytes)};
    to.run = bytes == 1   ? PerLane<move<u8>>::run
             : bytes == 2 ? PerLane<move<u16>>::run
             : bytes == 4 ? PerLane<move<u32>>::run
                          : PerLane<move<u64>>::run;
  }
  return true;
}

}  // namespace

bool decode_arithmetic(const Statement& s, Names& names, Instruction& to) {
  static const Decoders known = [] {
    Decoders all = integers();
    all["prmt.b32"] = PerLane<permute_bytes>::decode;
    return all;
  }();
  if (decode_mov(s, names, to) || decode_by(known, s, names, to)) return true;
  const std::string text = s.text();
  if (text != "bfi.b32" && text != "lop3.b32") return false;
  to.run = text == "bfi.b32" ? insert_bits : any_logic;
  to.slots[0] = names.result(s.operands.at(0).name);
  for (std::size_t i = 1; i < 5; ++i) to.slots[i] = names.value(s.operands.at(i), 4);
  return true;
}

}  // namespace moesaic::sim
