// SPDX-License-Identifier: Apache-2.0
// Lanes, warps, blocks and clusters: who runs next, and who waits for whom.
#include "simulator/machine.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

namespace moesaic::sim {
namespace {

u32 lanes_of(u32 number, u32 threads) {
  const u32 rest = threads - number * kLanes;
  return rest >= kLanes ? kAllLanes : (1u << rest) - 1;
}

}  // namespace

void Copy::perform() const {
  if (from == nullptr) {
    std::memset(to, 0, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
}

void BulkStore::read_source() {
  if (!read.empty()) return;
  for (const Copy& part : parts) read.insert(read.end(), part.from, part.from + part.bytes);
}

void BulkStore::write() {
  read_source();
  const std::byte* from = read.data();
  for (const Copy& part : parts) std::memcpy(part.to, from, part.bytes), from += part.bytes;
}

// ---- warps ----------------------------------------------------------------------------------------------------------

Warp::Warp(Block& owner, u32 number, u32 threads)
    : block_(owner), number_(number), frame_(owner.cluster.launch.entry.frame), live_(lanes_of(number, threads)) {
  const Launch& launch = owner.cluster.launch;
  const Entry& entry = launch.entry;
  for (u32 lane = 0; lane < kLanes; ++lane) {
    const u32 values[] = {number * kLanes + lane,
                          0,
                          0,
                          launch.threads,
                          owner.index[0],
                          owner.index[1],
                          owner.index[2],
                          launch.grid[0],
                          launch.grid[1],
                          launch.grid[2],
                          lane,
                          owner.rank,
                          launch.cluster_blocks};
    static_assert(std::size(values) == static_cast<std::size_t>(Special::kCount));
    for (std::size_t i = 0; i < std::size(values); ++i) at<u32>({entry.specials[i], 4})[lane] = values[i];
    for (const Parameter& parameter : entry.parameters) {
      at<u64>({parameter.address, 8})[lane] = reinterpret_cast<u64>(launch.parameters.data()) + parameter.offset;
    }
    if ((live_ >> lane & 1) == 0) state_[lane] = State::kGone;
  }
}

bool Warp::select() {
  active_ = 0;
  u32 least = ~0u;
  for (u32 lane = 0; lane < kLanes; ++lane) {
    if (state_[lane] == State::kRuns) least = std::min(least, place_[lane]);
  }
  next_other_ = ~0u;
  for (u32 lane = 0; lane < kLanes; ++lane) {
    if (state_[lane] != State::kRuns) continue;
    if (place_[lane] == least) {
      active_ |= 1u << lane;
    } else {
      next_other_ = std::min(next_other_, place_[lane]);
    }
  }
  pc = least;
  return active_ != 0;
}

bool Warp::run(u32 most) {
  std::replace(state_.begin(), state_.end(), State::kRetries, State::kRuns);
  bool ran = false;
  while (most > 0 && select()) ran = run_group(most) || ran;
  return ran;
}

bool Warp::run_group(u32& most) try {
  const auto& code = block_.cluster.launch.entry.code;
  bool ran = false;
  for (; most > 0 && pc < next_other_; --most) {
    const Instruction& instruction = code[pc];
    u32 lanes = active_;
    if (instruction.guarded) {
      const u8* guard = at<u8>({instruction.guard, 1});
      for (u32 lane = 0; lane < kLanes; ++lane) {
        if ((guard[lane] != 0) == instruction.guard_negated) lanes &= ~(1u << lane);
      }
    }
    const Flow flow = lanes == 0 ? Flow::kNext : instruction.run(*this, instruction, lanes);
    if (flow == Flow::kMoved) return true;
    if (flow == Flow::kRetry) {
      park(active_, State::kRetries, pc);
      return ran;
    }
    if (flow == Flow::kNext) ++pc;
    ran = true;
  }
  park(active_, State::kRuns, pc);
  return ran;
} catch (const Fault&) {
  park(active_, State::kRuns, pc);  // for the message
  throw;
}

void Warp::park(u32 lanes, State state, u32 place) {
  for (u32 lane = 0; lane < kLanes; ++lane) {
    if ((lanes >> lane & 1) != 0) state_[lane] = state, place_[lane] = place;
  }
}

void Warp::split(u32 lanes, u32 there) {
  park(lanes, State::kRuns, there);
  park(active_ & ~lanes, State::kRuns, pc + 1);
}

void Warp::leave(u32 lanes) {
  park(active_ & ~lanes, State::kRuns, pc + 1);
  park(lanes, State::kGone, pc);
  live_ &= ~lanes;
  for (u32 lane = 0; lane < kLanes; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    if (!copies[lane].open.empty() || !copies[lane].groups.empty()) throw Fault("left with copies under way");
    auto& [open, groups] = bulk_stores[lane];
    groups.push_back(std::move(open));
    for (auto& group : groups) {
      std::move(group.begin(), group.end(), std::back_inserter(block_.cluster.unawaited));
    }
    groups.clear();
  }
  for (u32 i = 0; i < 16; ++i) block_.release_if_complete(i);
}

void Warp::wait_at_barrier(u32 barrier) {
  park(active_, State::kBarrier, pc + 1);
  for (u32 lane = 0; lane < kLanes; ++lane) {
    if ((active_ >> lane & 1) != 0) barrier_[lane] = static_cast<u8>(barrier);
  }
}

void Warp::pass_barrier(u32 barrier) {
  for (u32 lane = 0; lane < kLanes; ++lane) {
    if (state_[lane] == State::kBarrier && barrier_[lane] == barrier) state_[lane] = State::kRuns;
  }
}

bool Warp::converge(u32 members) {
  u32 here = active_;
  for (u32 lane = 0; lane < kLanes; ++lane) {
    if (state_[lane] == State::kConverges && place_[lane] == pc) here |= 1u << lane;
  }
  if ((members & ~here) != 0) {
    if ((members & ~live_) != 0) throw Fault("waits for lanes that have returned");
    park(active_, State::kConverges, pc);
    return false;
  }
  park(here, State::kRuns, pc);
  active_ = here;
  return true;
}

std::string Warp::where() const {
  const Launch& launch = block_.cluster.launch;
  std::string text;
  for (u32 lane = 0; lane < kLanes; ++lane) {
    if (state_[lane] == State::kGone ||
        (lane > 0 && place_[lane] == place_[lane - 1] && state_[lane] == state_[lane - 1]))
      continue;
    const u32 waits_at = state_[lane] == State::kBarrier ? 1 : 0;  // the place is where it goes on
    const u32 line = launch.entry.code.at(place_[lane] - waits_at).line;
    static constexpr const char* kStates[] = {"runs", "at a barrier", "converges", "retries", "gone"};
    text += "\n  block " + std::to_string(block_.index[0]) + "." + std::to_string(block_.index[1]) + " warp " +
            std::to_string(number_) + " from lane " + std::to_string(lane) + ": " +
            kStates[static_cast<int>(state_[lane])] + ", line " + std::to_string(line) + ": " +
            launch.program.lines.at(line - 1);
  }
  return text;
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

u32 Block::live() const {
  u32 count = 0;
  for (const Warp& warp : warps) count += static_cast<u32>(std::popcount(warp.live()));
  return count;
}

bool Block::arrive(u32 barrier, u32 lanes, u32 expected) {
  Barrier& b = barriers.at(barrier);
  b.arrived += lanes;
  b.expected = expected;  // 0: all that live
  const u32 needed = expected == 0 ? live() : expected;
  if (b.arrived > needed) throw Fault("more threads at barrier " + std::to_string(barrier) + " than it is for");
  if (b.arrived < needed) return false;
  b = {};
  for (Warp& warp : warps) warp.pass_barrier(barrier);
  return true;
}

void Block::release_if_complete(u32 barrier) {
  Barrier& b = barriers.at(barrier);
  if (b.arrived > 0 && b.expected == 0) arrive(barrier, 0, 0);
}

std::byte* shared_bytes(Block& block, u64 address, std::size_t bytes, std::size_t alignment) {
  Block* owner = &block;
  if (const u64 rank = address >> kRankShift; rank != 0) {
    if (rank > block.cluster.blocks.size()) throw Fault("shared address " + std::to_string(address));
    owner = &block.cluster.blocks[rank - 1];
    address &= (1u << kRankShift) - 1;
  }
  if (address % alignment != 0 || address + bytes > owner->shared.size()) {
    throw Fault(std::to_string(bytes) + " bytes at shared address " + std::to_string(address) + " of " +
                std::to_string(owner->shared.size()));
  }
  return owner->shared.data() + address;
}

const std::byte* parameter_bytes(const Launch& launch, u64 address, std::size_t bytes) {
  const u64 at = address - reinterpret_cast<u64>(launch.parameters.data()), size = launch.parameters.size();
  return at < size && bytes <= size - at ? launch.parameters.data() + at : nullptr;
}

// ---- mbarriers: bits 0 to 19 arrivals to come, 20 to 39 of a phase, 40 to 62 bytes to come (biased), 63 parity
// ---------

namespace {

constexpr s64 kBytesBias = 1 << 22;

struct Phase {
  u32 left, arrivals;
  s64 bytes;
  u32 parity;
};

Phase read_phase(const std::byte* barrier) {
  u64 bits = 0;
  std::memcpy(&bits, barrier, 8);
  return {static_cast<u32>(bits & 0xfffff), static_cast<u32>(bits >> 20 & 0xfffff),
          static_cast<s64>(bits >> 40 & 0x7fffff) - kBytesBias, static_cast<u32>(bits >> 63)};
}

void write_phase(std::byte* barrier, Phase phase) {
  if (phase.left == 0 && phase.bytes == 0) phase.left = phase.arrivals, phase.parity ^= 1;
  const u64 bits = phase.left | static_cast<u64>(phase.arrivals) << 20 |
                   static_cast<u64>(phase.bytes + kBytesBias) << 40 | static_cast<u64>(phase.parity) << 63;
  std::memcpy(barrier, &bits, 8);
}

}  // namespace

void mbarrier_init(std::byte* barrier, u32 arrivals) { write_phase(barrier, {arrivals, arrivals, 0, 0}); }

void mbarrier_arrive(std::byte* barrier, u32 arrivals) {
  Phase phase = read_phase(barrier);
  if (phase.left < arrivals) throw Fault("an mbarrier has more arrivals than it expects");
  phase.left -= arrivals;
  write_phase(barrier, phase);
}

void mbarrier_bytes(std::byte* barrier, s64 expected) {
  Phase phase = read_phase(barrier);
  phase.bytes += expected;
  write_phase(barrier, phase);
}

bool mbarrier_passed(const std::byte* barrier, u32 parity) { return read_phase(barrier).parity != parity; }

// ---- clusters -------------------------------------------------------------------------------------------------------

void Cluster::begin(std::function<void()> work) {
  if (launch.asynchronous == Asynchronous::kEarly) {
    work();
  } else {
    pending.push_back(std::move(work));
  }
}

void Cluster::run() {
  std::vector<Warp*> running;
  for (Block& block : blocks) {
    for (Warp& warp : block.warps) running.push_back(&warp);
  }
  while (!running.empty()) {
    bool ran = false;
    std::shuffle(running.begin(), running.end(), random);
    for (Warp* warp : running) ran = warp->run(1 + static_cast<u32>(random() % 200)) || ran;
    running.erase(std::remove_if(running.begin(), running.end(), [](const Warp* w) { return w->done(); }),
                  running.end());
    if (!pending.empty() && (!ran || random() % 8 == 0)) {
      const auto work = std::move(pending.front());
      pending.pop_front();
      work();
    } else if (!ran && !running.empty()) {
      std::string text = "nobody can go on:";
      for (const Warp* warp : running) text += warp->where();
      throw Fault(text);
    }
  }
  if (!pending.empty()) throw Fault("blocks end with copies under way");
  for (BulkStore& store : unawaited) store.read_source();  // while there is shared memory
}

namespace {

// What has been read of shared memory and must be written by the end of the grid.
std::vector<BulkStore> run_cluster(const Launch& launch, u32 first, u32 y, u32 z, u32 seed) {
  Cluster cluster{.launch = launch, .blocks = {}, .random = std::mt19937(seed), .pending = {}, .unawaited = {}};
  constexpr u32 kAligned = 1024;
  const u32 dynamic_at = (launch.entry.shared_bytes + kAligned - 1) / kAligned * kAligned;
  for (u32 rank = 0; rank < launch.cluster_blocks; ++rank) {
    Block& block = cluster.blocks.emplace_back(Block{cluster, rank, {first + rank, y, z}, {}, {}});
    block.shared.resize(dynamic_at + launch.dynamic_shared, std::byte{0xff});
    for (u32 i = 0; i * kLanes < launch.threads; ++i) block.warps.emplace_back(block, i, launch.threads);
  }
  try {
    cluster.run();
  } catch (const Fault& fault) {
    std::string text = fault.what();
    if (text.rfind("nobody", 0) != 0) {
      for (const Block& block : cluster.blocks) {
        for (const Warp& warp : block.warps) text += warp.where();
      }
    }
    throw Fault(text);
  }
  return std::move(cluster.unawaited);
}

}  // namespace

void run(const Launch& launch) {
  u32 seed = launch.seed;
  std::vector<BulkStore> unawaited;
  for (u32 z = 0; z < launch.grid[2]; ++z) {
    for (u32 y = 0; y < launch.grid[1]; ++y) {
      for (u32 x = 0; x < launch.grid[0]; x += launch.cluster_blocks) {
        std::vector<BulkStore> more = run_cluster(launch, x, y, z, seed++);
        std::move(more.begin(), more.end(), std::back_inserter(unawaited));
      }
    }
  }
  for (BulkStore& store : unawaited) store.write();
}

}  // namespace moesaic::sim
