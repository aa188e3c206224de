// SPDX-License-Identifier: Apache-2.0
// Instructions by which lanes of a warp see each other's values. All members must get there.
#include <algorithm>

#include "simulator/lanes.h"

namespace moesaic::sim {
namespace {

// Runs `function` on the members once all are here.
template <typename Function>
Flow together(Warp& warp, u32 members, Function function) {
  if (!warp.converge(members & (members == kAllLanes ? warp.live() : kAllLanes))) return Flow::kMoved;
  function(warp.active());
  return Flow::kNext;
}

enum class Shuffle { kIndex, kUp, kDown, kButterfly };

// shfl.sync.mode.b32 d|p, a, b, c, members
template <Shuffle kMode>
Flow shuffle(Warp& warp, const Instruction& i, u32) {
  return together(warp, warp.uniform<u32>(i.registers[0]), [&](u32 lanes) {
    std::array<u32, kLanes> values;
    std::copy_n(warp.at<u32>(i.slots[1]), kLanes, values.begin());
    each_lane(lanes, [&](u32 lane) {
      const u32 b = warp.at<u32>(i.slots[2])[lane] & 31, c = warp.at<u32>(i.slots[3])[lane];
      const u32 bound = c & 31, mask = c >> 8 & 31, first = lane & mask, last = first | (bound & ~mask);
      const s32 from = kMode == Shuffle::kIndex  ? static_cast<s32>(first | (b & ~mask))
                       : kMode == Shuffle::kUp   ? static_cast<s32>(lane) - static_cast<s32>(b)
                       : kMode == Shuffle::kDown ? static_cast<s32>(lane + b)
                                                 : static_cast<s32>(lane ^ b);
      const bool inside = kMode == Shuffle::kUp ? from >= static_cast<s32>(last) : from <= static_cast<s32>(last);
      const u32 source = inside ? static_cast<u32>(from) : lane;
      if ((lanes >> source & 1) == 0) throw Fault("shuffles from a lane that is not here");
      warp.at<u32>(i.slots[0])[lane] = values[source];
      if (i.slots[4].bytes != 0) warp.at<u8>(i.slots[4])[lane] = inside;
    });
  });
}

u32 ballot(Warp& warp, Slot predicate, bool negated, u32 lanes) {
  u32 votes = 0;
  each_lane(lanes, [&](u32 lane) { votes |= ((warp.at<u8>(predicate)[lane] != 0) != negated ? 1u : 0u) << lane; });
  return votes;
}

enum class Vote { kBallot, kAny, kAll };
template <Vote kVote>
Flow vote(Warp& warp, const Instruction& i, u32) {
  return together(warp, warp.uniform<u32>(i.slots[2]), [&](u32 lanes) {
    const u32 votes = ballot(warp, i.slots[1], i.target != 0, lanes);
    each_lane(lanes, [&](u32 lane) {
      if (kVote == Vote::kBallot) warp.at<u32>(i.slots[0])[lane] = votes;
      if (kVote == Vote::kAny) warp.at<u8>(i.slots[0])[lane] = votes != 0;
      if (kVote == Vote::kAll) warp.at<u8>(i.slots[0])[lane] = votes == lanes;
    });
  });
}

Flow match_any(Warp& warp, const Instruction& i, u32) {
  return together(warp, warp.uniform<u32>(i.slots[2]), [&](u32 lanes) {
    const u32* values = warp.at<u32>(i.slots[1]);
    std::array<u32, kLanes> result{};
    each_lane(lanes, [&](u32 lane) {
      each_lane(lanes, [&](u32 other) { result[lane] |= (values[other] == values[lane] ? 1u : 0u) << other; });
    });
    each_lane(lanes, [&](u32 lane) { warp.at<u32>(i.slots[0])[lane] = result[lane]; });
  });
}

enum class Reduce { kMax, kMin, kOr };

template <Reduce kReduce>
Flow reduce(Warp& warp, const Instruction& i, u32) {
  return together(warp, warp.uniform<u32>(i.slots[2]), [&](u32 lanes) {
    u32 result = kReduce == Reduce::kMin ? ~0u : 0;
    each_lane(lanes, [&](u32 lane) {
      const u32 value = warp.at<u32>(i.slots[1])[lane];
      result = kReduce == Reduce::kMax   ? std::max(result, value)
               : kReduce == Reduce::kMin ? std::min(result, value)
                                         : result | value;
    });
    each_lane(lanes, [&](u32 lane) { warp.at<u32>(i.slots[0])[lane] = result; });
  });
}

bool decode_shuffle(const Statement& s, Names& names, Instruction& to) {
  if (s.op[0] != "shfl") return false;
  to.slots = {names.result(s.operands.at(0).name), names.value(s.operands.at(1), 4), names.value(s.operands.at(2), 4),
              names.value(s.operands.at(3), 4)};
  if (!s.operands[0].also.empty()) to.slots[4] = names.result(s.operands[0].also);
  to.registers = {names.value(s.operands.at(4), 4)};
  to.run = s.has("idx")    ? shuffle<Shuffle::kIndex>
           : s.has("up")   ? shuffle<Shuffle::kUp>
           : s.has("down") ? shuffle<Shuffle::kDown>
                           : shuffle<Shuffle::kButterfly>;
  return true;
}

}  // namespace

bool decode_lanes(const Statement& s, Names& names, Instruction& to) {
  if (decode_shuffle(s, names, to)) return true;
  const std::string text = s.text();
  const std::map<std::string, Handler> known = {
      {"vote.sync.ballot.b32", vote<Vote::kBallot>}, {"vote.sync.any.pred", vote<Vote::kAny>},
      {"vote.sync.all.pred", vote<Vote::kAll>},      {"match.any.sync.b32", match_any},
      {"redux.sync.max.u32", reduce<Reduce::kMax>},  {"redux.sync.min.u32", reduce<Reduce::kMin>},
      {"redux.sync.or.b32", reduce<Reduce::kOr>},
  };
  const auto found = known.find(text);
  if (found == known.end()) return false;
  to.run = found->second;
  to.slots = {names.result(s.operands.at(0).name), names.value(s.operands.at(1), s.op[0] == "vote" ? 1 : 4),
              names.value(s.operands.at(2), 4)};
  return true;
}

}  // namespace moesaic::sim
