// SPDX-License-Identifier: Apache-2.0
// Copies by the copy engine: bulks and boxes of tensors into shared memory, counted in bytes by an mbarrier, and both
// out of it, whose groups a thread waits for.
#include <algorithm>
#include <cstring>

#include "simulator/device_memory.h"
#include "simulator/lanes.h"
#include "simulator/tensor_map.h"

namespace moesaic::sim {
namespace {

// ---- into shared memory ---------------------------------------------------------------------------------------------

// Slots of both: shared address, what is copied, bytes, mbarrier, and blocks of the cluster where there are several.
constexpr std::size_t kTo = 0, kFrom = 1, kBytes = 2, kBarrier = 3, kBlocks = 4;

// Begins a copy to the same place of each block that the instruction names. `parts_for(block)`: what it consists of.
template <typename Function>
void copy_to_blocks(Warp& warp, const Instruction& i, u32 lane, u32 bytes, Function parts_for) {
  Cluster& cluster = warp.block().cluster;
  const u64 barrier = address_of(warp, i.slots[kBarrier], lane);
  const bool several = i.slots[kBlocks].bytes != 0;
  const u32 blocks = several ? warp.at<u16>(i.slots[kBlocks])[lane] : 1u << warp.block().rank;
  if (blocks >> cluster.blocks.size() != 0) throw Fault("a copy to blocks that the cluster does not have");
  for (u32 rank = 0; rank < cluster.blocks.size(); ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    std::byte* arrive = shared_bytes(cluster.blocks[rank], barrier, 8, 8);
    cluster.begin([parts = parts_for(cluster.blocks[rank]), arrive, bytes] {
      for (const Copy& part : parts) part.perform();
      mbarrier_bytes(arrive, -static_cast<s64>(bytes));
    });
  }
}

void need_whole_pieces(u32 bytes) {
  if (bytes % 16 != 0) throw Fault("a bulk copy of " + std::to_string(bytes) + " bytes");
}

Flow bulk_copy(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    const u32 bytes = warp.at<u32>(i.slots[kBytes])[lane];
    need_whole_pieces(bytes);
    const std::byte* from = touch(warp, lane, address_of(warp, i.slots[kFrom], lane), bytes, 16, false);
    const u64 to = address_of(warp, i.slots[kTo], lane);
    copy_to_blocks(warp, i, lane, bytes, [&](Block& block) {
      return std::vector<Copy>{{shared_bytes(block, to, bytes, 16), from, bytes}};
    });
  });
  return Flow::kNext;
}

// ---- boxes of tensors -----------------------------------------------------------------------------------------------

using Corner = std::array<s64, kTensorRanks>;  // of a box, in elements

TensorMap map_at(const Launch& launch, u64 address) {
  const std::byte* place = parameter_bytes(launch, address, sizeof(TensorMap));
  if (place == nullptr) place = device_bytes(address, sizeof(TensorMap), 64);
  if (address % 64 != 0) throw Fault("a tensor map that is not aligned to 64 bytes");
  TensorMap map;
  std::memcpy(&map, place, sizeof(map));
  if (map.mark != TensorMap::kMark) throw Fault("no tensor map at " + std::to_string(address));
  return map;
}

// What one lane's instruction copies: a box of a tensor, and where it lies in shared memory.
struct Box {
  TensorMap map;
  Corner corner{};
  u64 shared = 0;
};

// Registers: coordinates.
Box box_of(Warp& warp, const Instruction& i, u32 lane, Slot tensor, Slot shared) {
  Box box{map_at(warp.block().cluster.launch, address_of(warp, tensor, lane)), {}, address_of(warp, shared, lane)};
  const TensorMap& map = box.map;
  if (map.rank != i.registers.size()) throw Fault("a tensor map of rank " + std::to_string(map.rank));
  if (box.shared % 128 != 0) {
    throw Fault("a box at shared address " + std::to_string(box.shared) + ", no multiple of 128");
  }
  // How far apart such rows lie is said nowhere.
  if (map.swizzle_bytes > map.row_bytes() && map.rows() > 1) throw Fault("rows of a box narrower than its swizzle");
  for (u32 n = 0; n < map.rank; ++n) box.corner[n] = warp.at<s32>(i.registers[n])[lane];
  return box;
}

// The bytes of a row of the box that the tensor has, from the row's first byte on.
struct Inside {
  std::byte* place = nullptr;
  s64 begin = 0, end = 0;
};
// Addresses are sums modulo 2^64: a large coordinate may take back what others add (so that a dimension's end clips a
// box somewhere in a tensor).
Inside inside(Warp& warp, u32 lane, const Box& box, u32 row, bool writes) {
  const TensorMap& map = box.map;
  u64 address = map.address;
  for (u32 i = 1; i < map.rank; row /= map.box[i], ++i) {
    const s64 at = box.corner[i] + row % map.box[i];
    if (at < 0 || at >= static_cast<s64>(map.sizes[i])) return {};
    address += static_cast<u64>(at) * map.strides[i];
  }
  const s64 element = map.element_bytes, first = box.corner[0] * element;
  const s64 begin = std::max<s64>(0, -first);
  const s64 end = std::min<s64>(map.row_bytes(), static_cast<s64>(map.sizes[0]) * element - first);
  if (begin >= end) return {};
  const std::size_t bytes = static_cast<std::size_t>(end - begin);
  return {touch(warp, lane, address + static_cast<u64>(first + begin), bytes, 1, writes), begin, end};
}

constexpr u32 kPiece = 16;

// Calls piece(shared, tensor, begin, end) for each 16 bytes of the box, which lie at `shared`, their swizzled place in
// the block: the tensor has those from `begin` to `end`, at `tensor`.
template <typename Function>
void each_piece(Warp& warp, u32 lane, const Box& box, Block& block, bool writes, Function piece) {
  u64 address = box.shared;
  for (u32 row = 0; row < box.map.rows(); ++row) {
    const Inside have = inside(warp, lane, box, row, writes);
    for (s64 at = 0; at < box.map.row_bytes(); at += kPiece, address += kPiece) {
      std::byte* shared = shared_bytes(block, swizzled(address, box.map.swizzle_bytes), kPiece, kPiece);
      const s64 begin = std::clamp(have.begin, at, at + kPiece), end = std::clamp(have.end, begin, at + kPiece);
      std::byte* tensor = begin < end ? have.place + (begin - have.begin) : nullptr;
      piece(shared, tensor, static_cast<u32>(begin - at), static_cast<u32>(end - at));
    }
  }
}

// With zeros where the tensor has nothing.
std::vector<Copy> parts_of_box(Warp& warp, u32 lane, const Box& box, Block& block) {
  std::vector<Copy> parts;
  const auto add = [&](std::byte* to, const std::byte* from, u32 bytes) {
    if (bytes > 0) parts.push_back({to, from, bytes});
  };
  each_piece(warp, lane, box, block, false, [&](std::byte* shared, const std::byte* tensor, u32 begin, u32 end) {
    add(shared, nullptr, begin);
    add(shared + begin, tensor, end - begin);
    add(shared + end, nullptr, kPiece - end);
  });
  return parts;
}

Flow tensor_copy(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    const Box box = box_of(warp, i, lane, i.slots[kFrom], i.slots[kTo]);
    copy_to_blocks(warp, i, lane, box.map.rows() * box.map.row_bytes(),
                   [&](Block& block) { return parts_of_box(warp, lane, box, block); });
  });
  return Flow::kNext;
}

// ---- out of shared memory -------------------------------------------------------------------------------------------

// Begins a store from there in shared memory, of the thread's open group. `parts_for(block)`: what it consists of.
template <typename Function>
void store_from(Warp& warp, u32 lane, u64 shared, Function parts_for) {
  Block& block = warp.block();
  const u64 rank = shared >> kRankShift;
  if (rank != 0 && rank != block.rank + 1) throw Fault("a bulk copy out of another block's shared memory");
  BulkStore store{parts_for(block), {}};
  if (block.cluster.launch.asynchronous == Asynchronous::kEarly) return store.write();
  warp.bulk_stores[lane].open.push_back(std::move(store));
}

Flow bulk_store(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    const u32 bytes = warp.at<u32>(i.slots[kBytes])[lane];
    need_whole_pieces(bytes);
    const u64 from = address_of(warp, i.slots[kFrom], lane);
    store_from(warp, lane, from, [&](Block& block) {
      std::byte* to = touch(warp, lane, address_of(warp, i.slots[kTo], lane), bytes, 16, true);
      return std::vector<Copy>{{to, shared_bytes(block, from, bytes, 16), bytes}};
    });
  });
  return Flow::kNext;
}

// What the tensor does not have is read, and goes nowhere.
Flow tensor_store(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    const Box box = box_of(warp, i, lane, i.slots[kTo], i.slots[kFrom]);
    store_from(warp, lane, box.shared, [&](Block& block) {
      std::vector<Copy> parts;
      each_piece(warp, lane, box, block, true, [&](const std::byte* shared, std::byte* tensor, u32 begin, u32 end) {
        if (begin < end) parts.push_back({tensor, shared + begin, end - begin});
      });
      return parts;
    });
  });
  return Flow::kNext;
}

Flow commit_stores(Warp& warp, const Instruction&, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    auto& [open, groups] = warp.bulk_stores[lane];
    groups.push_back(std::move(open));
    open.clear();
  });
  return Flow::kNext;
}

// Slot: how many of the latest groups may be under way. Those before have been read, or written and are no more.
template <bool kRead>
Flow wait_stores(Warp& warp, const Instruction& i, u32 lanes) {
  each_lane(lanes, [&](u32 lane) {
    auto& groups = warp.bulk_stores[lane].groups;
    const std::size_t most = warp.at<u32>(i.slots[0])[lane];
    const std::size_t over = groups.size() > most ? groups.size() - most : 0;
    for (std::size_t n = 0; n < over; ++n) {
      for (BulkStore& store : groups[n]) kRead ? store.read_source() : store.write();
    }
    if (!kRead) groups.erase(groups.begin(), groups.begin() + static_cast<std::ptrdiff_t>(over));
  });
  return Flow::kNext;
}

// ---- decoding -------------------------------------------------------------------------------------------------------

/// Whether the parts from `first` on are `all` of these, in order, with the optional ones (behind '?') or without.
bool reads(const Statement& s, std::size_t first, std::initializer_list<const char*> all) {
  for (const char* part : all) {
    const bool optional = part[0] == '?';
    if (first < s.op.size() && s.op[first] == part + (optional ? 1 : 0)) {
      ++first;
    } else if (!optional) {
      return false;
    }
  }
  return first == s.op.size();
}

// Behind [to], what is copied: the barrier, a mask of blocks; a cache policy is nothing here.
void add_arrival(const Statement& s, std::size_t at, Names& names, Instruction& to) {
  to.slots[kTo] = names.address(s.operands.at(0));
  to.slots[kFrom] = names.address(s.operands.at(1));
  to.slots[kBarrier] = names.address(s.operands.at(at));
  if (s.has("multicast::cluster")) to.slots[kBlocks] = names.value(s.operands.at(at + 1), 2);
}

// Whether they are as many as the opcode says.
bool add_coordinates(const Statement& s, const Operand& tensor, Names& names, Instruction& to) {
  for (const std::string& name : tensor.names) to.registers.push_back(names.value(operand_of(name), 4));
  return s.op[4] == std::to_string(to.registers.size()) + "d";
}

bool decode_tensor_copy(const Statement& s, Names& names, Instruction& to) {
  if (!reads(s, 5,
             {"shared::cluster", "global", "?tile", "mbarrier::complete_tx::bytes", "?multicast::cluster",
              "?L2::cache_hint"})) {
    return false;
  }
  add_arrival(s, 2, names, to);
  to.run = tensor_copy;
  return add_coordinates(s, s.operands.at(1), names, to);
}

bool decode_tensor_store(const Statement& s, Names& names, Instruction& to) {
  if (!reads(s, 5, {"global", "shared::cta", "?tile", "bulk_group", "?L2::cache_hint"})) return false;
  to.slots[kTo] = names.address(s.operands.at(0));
  to.slots[kFrom] = names.address(s.operands.at(1));
  to.run = tensor_store;
  return add_coordinates(s, s.operands.at(0), names, to);
}

bool decode_bulk_copy(const Statement& s, Names& names, Instruction& to) {
  if (!reads(s, 3,
             {"shared::cluster", "global", "mbarrier::complete_tx::bytes", "?multicast::cluster", "?L2::cache_hint"})) {
    return false;
  }
  add_arrival(s, 3, names, to);
  to.slots[kBytes] = names.value(s.operands.at(2), 4);
  to.run = bulk_copy;
  return true;
}

bool decode_store(const Statement& s, Names& names, Instruction& to) {
  if (reads(s, 3, {"commit_group"})) {
    to.run = commit_stores;
  } else if (reads(s, 3, {"wait_group", "?read"})) {
    to.slots[0] = names.value(s.operands.at(0), 4);
    to.run = s.has("read") ? wait_stores<true> : wait_stores<false>;
  } else if (reads(s, 3, {"global", "shared::cta", "bulk_group", "?L2::cache_hint"})) {
    to.slots[kTo] = names.address(s.operands.at(0));
    to.slots[kFrom] = names.address(s.operands.at(1));
    to.slots[kBytes] = names.value(s.operands.at(2), 4);
    to.run = bulk_store;
  } else {
    return false;
  }
  return true;
}

Flow nothing(Warp&, const Instruction&, u32) { return Flow::kNext; }

}  // namespace

bool decode_bulk(const Statement& s, Names& names, Instruction& to) {
  if (s.op[0] == "prefetch" && s.type() == "tensormap") {
    names.address(s.operands.at(0));
    to.run = nothing;
    return true;
  }
  if (s.op[0] != "cp" || s.op.size() < 4 || s.op[2] != "bulk") return false;
  return s.op[3] == "tensor" ? decode_tensor_copy(s, names, to) || decode_tensor_store(s, names, to)
                             : decode_bulk_copy(s, names, to) || decode_store(s, names, to);
}

}  // namespace moesaic::sim
