// SPDX-License-Identifier: Apache-2.0
// Loads, stores, atomics, asynchronous copies by threads.
#include <cstring>

#include "simulator/lanes.h"

namespace moesaic::sim {
namespace {

enum Space : u32 { kGlobal, kShared, kParam };

// An instruction's target field: the space, bytes of an element, and whether it has a sign.
constexpr u32 pack(Space space, u32 bytes, bool is_signed) { return space | bytes << 4 | (is_signed ? 1u << 12 : 0); }
Space space_of(const Instruction& i) { return static_cast<Space>(i.target & 0xf); }
u32 bytes_of(const Instruction& i) { return i.target >> 4 & 0xff; }
bool is_signed(const Instruction& i) { return (i.target >> 12 & 1) != 0; }

std::byte* locate(Warp& warp, const Instruction& i, Slot base, u32 lane, u32 bytes, bool writes) {
  const u64 address = address_of(warp, base, lane);
  switch (space_of(i)) {
    case kGlobal:
      return touch(warp, lane, address, bytes, bytes, writes);
    case kShared:
      return shared_bytes(warp.block(), address, bytes, bytes);
    case kParam: {
      const std::byte* place = parameter_bytes(warp.block().cluster.launch, address, bytes);
      if (place == nullptr) throw Fault("reads behind the parameters");
      return const_cast<std::byte*>(place);  // only loads have this space
    }
  }
  throw Fault("state space");
}

Flow load(Warp& warp, const Instruction& i, u32 lanes) {
  const u32 bytes = bytes_of(i), count = static_cast<u32>(i.registers.size());
  each_lane(lanes, [&](u32 lane) {
    const std::byte* from = locate(warp, i, i.slots[1], lane, bytes * count, false);
    for (u32 n = 0; n < count; ++n, from += bytes) {
      const Slot to = i.registers[n];
      std::byte* place = warp.at<std::byte>(to) + lane * to.bytes;
      if (to.bytes > bytes) {
        const bool negative = is_signed(i) && (static_cast<u8>(from[bytes - 1]) & 0x80) != 0;
        std::memset(place, negative ? 0xff : 0, to.bytes);
      }
      std::memcpy(place, from, bytes);
    }
  });
  return Flow::kNext;
}

Flow store(Warp& warp, const Instruction& i, u32 lanes) {
  const u32 bytes = bytes_of(i), count = static_cast<u32>(i.registers.size());
  each_lane(lanes, [&](u32 lane) {
    std::byte* to = locate(warp, i, i.slots[1], lane, bytes * count, true);
    for (u32 n = 0; n < count; ++n, to += bytes) {
      std::memcpy(to, warp.at<std::byte>(i.registers[n]) + lane * i.registers[n].bytes, bytes);
    }
  });
  return Flow::kNext;
}

enum class Atomic { kMax, kMin, kOr, kAdd };
template <Atomic kOperation>
Flow atomic(Warp& warp, const Instruction& i, u32 lanes) {
  static_assert(sizeof(u32) == 4);
  each_lane(lanes, [&](u32 lane) {
    std::byte* place = locate(warp, i, i.slots[1], lane, 4, true);
    u32 old = 0;
    std::memcpy(&old, place, 4);
    const u32 value = warp.at<u32>(i.slots[2])[lane];
    const u32 result = kOperation == Atomic::kMax   ? std::max(old, value)
                       : kOperation == Atomic::kMin ? std::min(old, value)
                       : kOperation == Atomic::kOr  ? old | value
                                                    : old + value;
    std::memcpy(place, &result, 4);
    if (i.slots[0].bytes != 0) warp.at<u32>(i.slots[0])[lane] = old;
  });
  return Flow::kNext;
}

// ---- cp.async: slots 1 to 3 are shared address, global address, bytes read ------------------------------------------

Flow copy_async(Warp& warp, const Instruction& i, u32 lanes) {
  const u32 bytes = bytes_of(i);
  each_lane(lanes, [&](u32 lane) {
    const u32 read = i.slots[3].bytes == 0 ? bytes : warp.at<u32>(i.slots[3])[lane];
    std::byte* to = shared_bytes(warp.block(), address_of(warp, i.slots[1], lane), bytes, bytes);
    auto& copies = warp.copies[lane];
    const std::byte* from =
        read == 0 ? nullptr : touch(warp, lane, address_of(warp, i.slots[2], lane), read, bytes, false);
    copies.open.push_back({to, from, read == 0 ? bytes : read});
    if (read > 0 && read < bytes) copies.open.push_back({to + read, nullptr, bytes - read});
    if (warp.block().cluster.launch.asynchronous == Asynchronous::kLate) return;
    for (const Copy& copy : copies.open) copy.perform();
    copies.open.clear();
  });
  return Flow::kNext;
}

Flow commit_copies(Warp& warp, const Instruction&, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    auto& copies = warp.copies[lane];
    copies.groups.push_back(std::move(copies.open));
    copies.open.clear();
  });
  return Flow::kNext;
}

Flow wait_copies(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    auto& copies = warp.copies[lane];
    const bool all = i.slots[0].bytes == 0;
    const u32 most = all ? 0 : warp.at<u32>(i.slots[0])[lane];
    while (copies.groups.size() > most) {
      for (const Copy& copy : copies.groups.front()) copy.perform();
      copies.groups.pop_front();
    }
    if (!all) return;
    for (const Copy& copy : copies.open) copy.perform();
    copies.open.clear();
  });
  return Flow::kNext;
}

Flow arrive_with_copies(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    auto& copies = warp.copies[lane];
    std::vector<Copy> all;
    for (auto& group : copies.groups) all.insert(all.end(), group.begin(), group.end());
    all.insert(all.end(), copies.open.begin(), copies.open.end());
    copies.groups.clear(), copies.open.clear();
    std::byte* barrier = shared_bytes(warp.block(), address_of(warp, i.slots[0], lane), 8, 8);
    warp.block().cluster.begin([all = std::move(all), barrier] {
      for (const Copy& copy : all) copy.perform();
      mbarrier_arrive(barrier, 1);
    });
  });
  return Flow::kNext;
}

// Slots: shared address and mbarrier, both of one block of the cluster. A launch that names no clusters ends with an
// illegal instruction (seen on an H200).
Flow store_async(Warp& warp, const Instruction& i, u32 lanes) {
  if (warp.block().cluster.blocks.size() == 1) throw Fault("st.async in a launch without clusters");
  each_lane(lanes, [&](u32 lane) {
    std::vector<u32> values;
    for (const Slot from : i.registers) values.push_back(warp.at<u32>(from)[lane]);
    const std::size_t bytes = values.size() * 4;
    std::byte* to = shared_bytes(warp.block(), address_of(warp, i.slots[0], lane), bytes, bytes);
    std::byte* counts = shared_bytes(warp.block(), address_of(warp, i.slots[1], lane), 8, 8);
    warp.block().cluster.begin([values = std::move(values), to, counts, bytes] {
      std::memcpy(to, values.data(), bytes);
      mbarrier_bytes(counts, -static_cast<s64>(bytes));
    });
  });
  return Flow::kNext;
}

// ---- decoding -------------------------------------------------------------------------------------------------------

void add_registers(const Operand& operand, u32 bytes, Names& names, Instruction& to) {
  if (operand.kind == Operand::Kind::kVector) {
    for (const std::string& name : operand.names) to.registers.push_back(names.result(name));
  } else {
    to.registers.push_back(names.value(operand, bytes));
  }
}

bool decode_load_store(const Statement& s, Names& names, Instruction& to) {
  const bool is_load = s.op[0] == "ld";
  if (!is_load && s.op[0] != "st") return false;
  const Space space = s.has("global") ? kGlobal : s.has("param") ? kParam : kShared;
  if (space == kShared && !s.has("shared") && !s.has("shared::cluster") && !s.has("shared::cta")) return false;
  const u32 bytes = type_bytes(s.type());
  to.target = pack(space, bytes, s.type()[0] == 's');
  add_registers(s.operands.at(is_load ? 0 : 1), bytes, names, to);
  to.slots[1] = names.address(s.operands.at(is_load ? 1 : 0));
  to.run = is_load ? load : store;
  return true;
}

bool decode_store_async(const Statement& s, Names& names, Instruction& to) {
  if (s.op[0] != "st" || s.op.at(1) != "async" || !s.has("mbarrier::complete_tx::bytes")) return false;
  if (type_bytes(s.type()) != 4) return false;
  to.slots[0] = names.address(s.operands.at(0));
  add_registers(s.operands.at(1), 4, names, to);
  to.slots[1] = names.address(s.operands.at(2));
  to.run = store_async;
  return true;
}

bool decode_atomic(const Statement& s, Names& names, Instruction& to) {
  if ((s.op[0] != "atom" && s.op[0] != "red") || type_bytes(s.type()) != 4) return false;
  const bool gives = s.op[0] == "atom";
  to.target = pack(s.has("global") ? kGlobal : kShared, 4, false);
  if (gives) to.slots[0] = names.result(s.operands.at(0).name);
  to.slots[1] = names.address(s.operands.at(gives ? 1 : 0));
  to.slots[2] = names.value(s.operands.at(gives ? 2 : 1), 4);
  if (s.type()[0] == 's' && (s.has("max") || s.has("min"))) return false;
  to.run = s.has("max")   ? atomic<Atomic::kMax>
           : s.has("min") ? atomic<Atomic::kMin>
           : s.has("or")  ? atomic<Atomic::kOr>
           : s.has("add") ? atomic<Atomic::kAdd>
                          : nullptr;
  return to.run != nullptr;
}

}  // namespace

bool decode_memory(const Statement& s, Names& names, Instruction& to) {
  if (decode_store_async(s, names, to)) return true;
  if (decode_load_store(s, names, to) || decode_atomic(s, names, to)) return true;
  if (s.op[0] != "cp" || s.op.at(1) != "async" || s.has("bulk")) return false;
  if (s.has("commit_group")) {
    to.run = commit_copies;
  } else if (s.has("wait_group")) {
    to.slots[0] = names.value(s.operands.at(0), 4);
    to.run = wait_copies;
  } else if (s.has("wait_all")) {
    to.run = wait_copies;
  } else if (s.has("noinc")) {
    to.slots[0] = names.address(s.operands.at(0));
    to.run = arrive_with_copies;
  } else if (s.has("global")) {
    to.slots[1] = names.address(s.operands.at(0));
    to.slots[2] = names.address(s.operands.at(1));
    to.target = pack(kShared, static_cast<u32>(s.operands.at(2).bits), false);
    if (s.operands.size() > 3) to.slots[3] = names.value(s.operands.at(3), 4);
    to.run = copy_async;
  } else {
    return false;
  }
  return true;
}

}  // namespace moesaic::sim
