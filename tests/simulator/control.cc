// SPDX-License-Identifier: Apache-2.0
// Branches, and instructions that have lanes wait for each other: barriers of blocks and clusters, mbarriers.
#include <bit>

#include "simulator/lanes.h"

namespace moesaic::sim {
namespace {

Flow nothing(Warp&, const Instruction&, u32) { return Flow::kNext; }

Flow branch(Warp& warp, const Instruction& i, u32 lanes) {
  if (lanes == warp.active()) {
    warp.pc = i.target;
    return Flow::kJumped;
  }
  warp.split(lanes, i.target);
  return Flow::kMoved;
}

Flow leave(Warp& warp, const Instruction&, u32 lanes) {
  warp.leave(lanes);
  return Flow::kMoved;
}

void need_all(const Warp& warp, u32 lanes) {
  if (lanes != warp.active()) throw Fault("a guard parts the lanes at a barrier");
}

// bar.sync barrier {, threads}
Flow block_barrier(Warp& warp, const Instruction& i, u32 lanes) {
  need_all(warp, lanes);
  const u32 barrier = warp.uniform<u32>(i.slots[0]);
  const u32 expected = i.slots[1].bytes == 0 ? 0 : warp.uniform<u32>(i.slots[1]);
  if (warp.block().arrive(barrier, static_cast<u32>(std::popcount(lanes)), expected)) return Flow::kNext;
  warp.wait_at_barrier(barrier);
  return Flow::kMoved;
}

Flow warp_barrier(Warp& warp, const Instruction& i, u32 lanes) {
  need_all(warp, lanes);
  return warp.converge(warp.uniform<u32>(i.slots[0]) & warp.live()) ? Flow::kNext : Flow::kMoved;
}

Flow cluster_arrive(Warp& warp, const Instruction&, u32 lanes) {
  Cluster& cluster = warp.block().cluster;
  each_lane(lanes, [&](u32 lane) { warp.cluster_phase[lane] = cluster.phase; });
  cluster.arrived += static_cast<u32>(std::popcount(lanes));
  u32 all = 0;
  for (const Block& block : cluster.blocks) all += block.live();
  if (cluster.arrived == all) cluster.arrived = 0, ++cluster.phase;
  return Flow::kNext;
}

Flow cluster_wait(Warp& warp, const Instruction&, u32 lanes) {
  need_all(warp, lanes);
  bool passed = true;
  each_lane(lanes, [&](u32 lane) { passed = passed && warp.cluster_phase[lane] != warp.block().cluster.phase; });
  return passed ? Flow::kNext : Flow::kRetry;
}

std::byte* mbarrier_at(Warp& warp, const Instruction& i, u32 lane) {
  return shared_bytes(warp.block(), address_of(warp, i.slots[1], lane), 8, 8);
}

Flow mbarrier_start(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) { mbarrier_init(mbarrier_at(warp, i, lane), warp.at<u32>(i.slots[2])[lane]); });
  return Flow::kNext;
}

template <bool kExpect>
Flow mbarrier_arrival(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    std::byte* barrier = mbarrier_at(warp, i, lane);
    if (kExpect) mbarrier_bytes(barrier, warp.at<u32>(i.slots[2])[lane]);
    mbarrier_arrive(barrier, 1);
  });
  return Flow::kNext;
}

Flow mbarrier_expect(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) { mbarrier_bytes(mbarrier_at(warp, i, lane), warp.at<u32>(i.slots[2])[lane]); });
  return Flow::kNext;
}

// Lanes that wait for different phases part ways by the predicate, as they would.
Flow mbarrier_try(Warp& warp, const Instruction& i, u32 lanes) {
  u32 passed = 0;
  each_lane(lanes, [&](u32 lane) {
    const bool is = mbarrier_passed(mbarrier_at(warp, i, lane), warp.at<u32>(i.slots[2])[lane]);
    passed |= is ? 1u << lane : 0u;
  });
  if (passed == 0 && lanes == warp.active()) return Flow::kRetry;
  each_lane(lanes, [&](u32 lane) { warp.at<u8>(i.slots[0])[lane] = passed >> lane & 1; });
  return Flow::kNext;
}

// The place in block `rank` of the cluster that an address is in this one.
Flow map_address(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    const u32 own = warp.at<u32>(i.slots[1])[lane] & ((1u << kRankShift) - 1);
    warp.at<u32>(i.slots[0])[lane] = (warp.at<u32>(i.slots[2])[lane] + 1) << kRankShift | own;
  });
  return Flow::kNext;
}

bool decode_mbarrier(const Statement& s, Names& names, Instruction& to) {
  if (s.op[0] != "mbarrier") return false;
  const std::string& verb = s.op.at(1);
  if (verb == "init") {
    to.slots[1] = names.address(s.operands.at(0));
    to.slots[2] = names.value(s.operands.at(1), 4);
    to.run = mbarrier_start;
  } else if (verb == "arrive") {
    if (s.operands.at(0).name != "_") return false;
    to.slots[1] = names.address(s.operands.at(1));
    if (s.has("expect_tx")) to.slots[2] = names.value(s.operands.at(2), 4);
    to.run = s.has("expect_tx") ? mbarrier_arrival<true> : mbarrier_arrival<false>;
  } else if (verb == "expect_tx") {
    to.slots[1] = names.address(s.operands.at(0));
    to.slots[2] = names.value(s.operands.at(1), 4);
    to.run = mbarrier_expect;
  } else if (verb == "try_wait" && s.has("parity")) {
    to.slots[0] = names.result(s.operands.at(0).name);
    to.slots[1] = names.address(s.operands.at(1));
    to.slots[2] = names.value(s.operands.at(2), 4);
    to.run = mbarrier_try;
  } else {
    return false;
  }
  return true;
}

Flow wait_for_kernel_before(Warp& warp, const Instruction&, u32 lanes) {
  warp.waited |= lanes;
  return Flow::kNext;
}
Flow let_kernel_behind_begin(Warp& warp, const Instruction&, u32 lanes) {
  Dependence* dependence = warp.block().cluster.launch.dependence;
  if (dependence != nullptr && (lanes & ~warp.waited) != 0) dependence->lets_begin_early = true;
  return Flow::kNext;
}

}  // namespace

bool decode_control(const Statement& s, Names&, Instruction& to) {
  const std::string& op = s.op[0];
  if (op == "bra") {
    to.run = branch;
  } else if (op == "ret" || op == "exit") {
    to.run = leave;
  } else if (op == "griddepcontrol") {
    to.run = s.has("wait") ? wait_for_kernel_before : let_kernel_behind_begin;
  } else if (op == "setmaxnreg" || op == "fence" || op == "membar") {
    to.run = nothing;  // registers are plenty, memory is one
  } else {
    return false;
  }
  return true;
}

bool decode_barrier(const Statement& s, Names& names, Instruction& to) {
  const std::string text = s.text();
  if (text == "bar.warp.sync") {
    to.slots[0] = names.value(s.operands.at(0), 4);
    to.run = warp_barrier;
  } else if (text == "bar.sync") {
    to.slots[0] = names.value(s.operands.at(0), 4);
    if (s.operands.size() > 1) to.slots[1] = names.value(s.operands[1], 4);
    to.run = block_barrier;
  } else if (text.rfind("barrier.cluster.", 0) == 0) {
    to.run = s.has("arrive") ? cluster_arrive : cluster_wait;
  } else if (text == "mapa.shared::cluster.u32") {
    to.slots = {names.result(s.operands.at(0).name), names.value(s.operands.at(1), 4),
                names.value(s.operands.at(2), 4)};
    to.run = map_address;
  } else {
    return decode_mbarrier(s, names, to);
  }
  return true;
}

}  // namespace moesaic::sim
