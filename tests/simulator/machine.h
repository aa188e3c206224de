// SPDX-License-Identifier: Apache-2.0
// What runs: warps of blocks of a cluster, interleaved instruction by instruction at random. Lanes that parted run one
// group after the other, the one furthest behind first, and join again where they meet.
#pragma once

#include <deque>
#include <functional>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "simulator/dependence.h"
#include "simulator/program.h"

namespace moesaic::sim {

struct Cluster;
struct Block;

/// When asynchronous copies and products happen: as they are issued, or as late as the program lets them.
enum class Asynchronous { kEarly, kLate };

/// Kernel parameters: a tensor map among them is where its alignment puts it.
template <typename T>
struct ParameterAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{128};
  ParameterAllocator() = default;
  template <typename U>
  explicit ParameterAllocator(const ParameterAllocator<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kAlignment)); }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, kAlignment); }
  bool operator==(const ParameterAllocator&) const { return true; }
};

struct Launch {
  const Program& program;
  const Entry& entry;
  std::array<u32, 3> grid{1, 1, 1};
  u32 threads = 1;
  u32 cluster_blocks = 1;
  u32 dynamic_shared = 0;
  std::vector<std::byte, ParameterAllocator<std::byte>> parameters;
  Asynchronous asynchronous = Asynchronous::kEarly;
  u32 seed = 0;
  Dependence* dependence = nullptr;  // of kernels before and behind; nullptr: there are none
};

/// Runs all blocks. Throws Fault: what, where, which thread.
void run(const Launch& launch);

struct Copy {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;  // null: zeros
  u32 bytes = 0;
  void perform() const;
};

/// A bulk copy out of shared memory, which is read and written to at different times.
struct BulkStore {
  std::vector<Copy> parts;
  std::vector<std::byte> read;  // all parts' bytes, one behind the other; empty until that has been done

  void read_source();
  void write();  // reads, too, where that has not been done
};

class Warp {
 public:
  Warp(Block& owner, u32 number, u32 threads);

  template <typename T>
  T* at(Slot slot) {
    return reinterpret_cast<T*>(frame_.data() + slot.at);
  }
  template <typename T>
  T uniform(Slot slot) {  // of any lane that runs
    return at<T>(slot)[static_cast<u32>(__builtin_ctz(active_))];
  }

  /// Runs some instructions; false when it could not run any.
  bool run(u32 most);
  bool done() const { return live_ == 0; }
  std::string where() const;

  Block& block() const { return block_; }
  u32 number() const { return number_; }
  u32 active() const { return active_; }
  u32 live() const { return live_; }

  // --- what handlers of control flow use: they take all lanes that run, guards included ---
  u32 pc = 0;                        // of the lanes that run
  void split(u32 lanes, u32 there);  // `lanes` to there, the rest of those that run behind this instruction
  void leave(u32 lanes);             // they have returned
  void wait_at_barrier(u32 barrier);
  void pass_barrier(u32 barrier);  // those who waited go on
  /// True when all of `members` run here; else those that run wait for the others.
  bool converge(u32 members);

  // --- asynchronous copies by a lane, products by the warp ---
  struct Copies {
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
  };
  std::array<Copies, kLanes> copies;
  struct BulkStores {
    std::vector<BulkStore> open;
    std::vector<std::vector<BulkStore>> groups;
  };
  std::array<BulkStores, kLanes> bulk_stores;
  std::vector<std::function<void()>> products;  // not committed
  std::deque<std::vector<std::function<void()>>> product_groups;
  std::array<u32, kLanes> cluster_phase{};  // at this lane's arrival
  u32 waited = 0;                           // lanes that have, for the kernel before

 private:
  enum class State : u8 { kRuns, kBarrier, kConverges, kRetries, kGone };

  bool select();
  bool run_group(u32& most);
  void park(u32 lanes, State state, u32 place);

  Block& block_;
  u32 number_;
  std::vector<std::byte> frame_;
  u32 live_ = 0, active_ = 0;
  u32 next_other_ = ~0u;  // the least place of lanes that could run and do not
  std::array<u32, kLanes> place_{};
  std::array<State, kLanes> state_{};
  std::array<u8, kLanes> barrier_{};
};

struct Barrier {
  u32 arrived = 0, expected = 0;
};

struct Block {
  Cluster& cluster;
  u32 rank;
  std::array<u32, 3> index;
  std::vector<std::byte> shared;
  std::deque<Warp> warps;
  std::array<Barrier, 16> barriers{};

  u32 live() const;
  /// `lanes` threads more wait; true when that is all.
  bool arrive(u32 barrier, u32 lanes, u32 expected);
  void release_if_complete(u32 barrier);
};

struct Cluster {
  const Launch& launch;
  std::deque<Block> blocks;
  std::mt19937 random;
  std::deque<std::function<void()>> pending;  // copies under way that no thread waits for by itself
  std::vector<BulkStore> unawaited;           // by threads that have ended
  u32 arrived = 0, phase = 0;                 // of the cluster's barrier

  void begin(std::function<void()> work);  // now or later
  void run();
};

/// Addresses of the shared state space: own block, or those that `mapa` made.
inline constexpr u32 kRankShift = 24;
std::byte* shared_bytes(Block& block, u64 address, std::size_t bytes, std::size_t alignment);
/// Parameters of the kernel; null where others are.
const std::byte* parameter_bytes(const Launch& launch, u64 address, std::size_t bytes);

// mbarriers: 8 bytes of shared memory.
void mbarrier_init(std::byte* barrier, u32 arrivals);
void mbarrier_arrive(std::byte* barrier, u32 arrivals);
void mbarrier_bytes(std::byte* barrier, s64 expected);  // negative: landed
bool mbarrier_passed(const std::byte* barrier, u32 parity);

}  // namespace moesaic::sim
