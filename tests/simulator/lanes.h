// SPDX-License-Identifier: Apache-2.0
// Handlers of instructions whose lanes have nothing to do with each other, made from a function of one lane's values.
#pragma once

#include "simulator/decode.h"
#include "simulator/device_memory.h"
#include "simulator/machine.h"

namespace moesaic::sim {

template <typename Function>
void each_lane(u32 lanes, Function function) {
  if (lanes == kAllLanes) {
    for (u32 lane = 0; lane < kLanes; ++lane) function(lane);
  } else {
    for (; lanes != 0; lanes &= lanes - 1) function(static_cast<u32>(__builtin_ctz(lanes)));
  }
}

/// Where an address operand points for a lane: its base, of 4 or 8 bytes, and its offset.
inline u64 address_of(Warp& warp, Slot base, u32 lane) {
  const u64 start = base.bytes == 4 ? warp.at<u32>(base)[lane] : warp.at<u64>(base)[lane];
  return start + static_cast<u64>(base.offset);
}

/// Device memory that a lane reads, or writes to.
inline std::byte* touch(Warp& warp, u32 lane, u64 address, std::size_t bytes, std::size_t alignment, bool writes) {
  std::byte* place = device_bytes(address, bytes, alignment);
  Dependence* dependence = warp.block().cluster.launch.dependence;
  if (dependence == nullptr) return place;
  if (writes) dependence->written.add(address, bytes);
  if (dependence->under_way == nullptr || (warp.waited >> lane & 1) != 0) return place;
  if (writes) throw Fault("writes before it has waited for the kernel before");
  if (dependence->under_way->meet(address, bytes)) {
    throw Fault("reads what the kernel before may yet write, before it has waited for that");
  }
  dependence->read_early += bytes;
  return place;
}

/// Registers of another width than the type are not for all instructions.
inline Slot exact(Slot slot, std::size_t bytes) {
  if (slot.bytes != bytes) throw Fault("a register of " + std::to_string(slot.bytes) + " bytes");
  return slot;
}

/// kFunction: D of the instruction's operands, in order, of the types given.
template <auto kFunction>
struct PerLane;

template <typename D, typename A, D (*kFunction)(A)>
struct PerLane<kFunction> {
  static Flow run(Warp& warp, const Instruction& i, u32 lanes) {
    D* d = warp.at<D>(i.slots[0]);
    const A* a = warp.at<A>(i.slots[1]);
    each_lane(lanes, [&](u32 lane) { d[lane] = kFunction(a[lane]); });
    return Flow::kNext;
  }
  static void decode(const Statement& s, Names& names, Instruction& to) {
    to.run = run;
    to.slots = {exact(names.result(s.operands.at(0).name), sizeof(D)),
                exact(names.value(s.operands.at(1), sizeof(A)), sizeof(A))};
  }
};

template <typename D, typename A, typename B, D (*kFunction)(A, B)>
struct PerLane<kFunction> {
  static Flow run(Warp& warp, const Instruction& i, u32 lanes) {
    D* d = warp.at<D>(i.slots[0]);
    const A* a = warp.at<A>(i.slots[1]);
    const B* b = warp.at<B>(i.slots[2]);
    each_lane(lanes, [&](u32 lane) { d[lane] = kFunction(a[lane], b[lane]); });
    return Flow::kNext;
  }
  static void decode(const Statement& s, Names& names, Instruction& to) {
    to.run = run;
    to.slots = {exact(names.result(s.operands.at(0).name), sizeof(D)),
                exact(names.value(s.operands.at(1), sizeof(A)), sizeof(A)),
                exact(names.value(s.operands.at(2), sizeof(B)), sizeof(B))};
  }
};

template <typename D, typename A, typename B, typename C, D (*kFunction)(A, B, C)>
struct PerLane<kFunction> {
  static Flow run(Warp& warp, const Instruction& i, u32 lanes) {
    D* d = warp.at<D>(i.slots[0]);
    const A* a = warp.at<A>(i.slots[1]);
    const B* b = warp.at<B>(i.slots[2]);
    const C* c = warp.at<C>(i.slots[3]);
    each_lane(lanes, [&](u32 lane) { d[lane] = kFunction(a[lane], b[lane], c[lane]); });
    return Flow::kNext;
  }
  static void decode(const Statement& s, Names& names, Instruction& to) {
    to.run = run;
    to.slots = {exact(names.result(s.operands.at(0).name), sizeof(D)),
                exact(names.value(s.operands.at(1), sizeof(A)), sizeof(A)),
                exact(names.value(s.operands.at(2), sizeof(B)), sizeof(B)),
                exact(names.value(s.operands.at(3), sizeof(C)), sizeof(C))};
  }
};

using Decoder = void (*)(const Statement&, Names&, Instruction&);
using Decoders = std::map<std::string, Decoder>;

/// By the opcode's whole text.
inline bool decode_by(const Decoders& known, const Statement& s, Names& names, Instruction& to) {
  const auto found = known.find(s.text());
  if (found == known.end()) return false;
  found->second(s, names, to);
  return true;
}

}  // namespace moesaic::sim
