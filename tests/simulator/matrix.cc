// SPDX-License-Identifier: Apache-2.0
// Matrix instructions: ldmatrix, stmatrix, mma.sync m16n8k16, wgmma m64nNk16 with both operands in shared memory,
// K-major. Products are summed in FP32 one after the other; tensor cores sum in another order.
#include <cstring>

#include "simulator/lanes.h"
#include "simulator/numbers.h"

namespace moesaic::sim {
namespace {

constexpr u32 kK = 16;  // of one instruction

template <bool kBf16>
float element(u32 pair, u32 half) {
  const u16 bits = static_cast<u16>(pair >> (16 * half));
  return kBf16 ? from_bf16(bits) : from_fp16(bits);
}

void need_warp(u32 lanes) {
  if (lanes != kAllLanes) throw Fault("a matrix instruction by part of a warp");
}

Flow load_matrices(Warp& warp, const Instruction& i, u32 lanes) {
  need_warp(lanes);
  std::array<std::array<u32, 4>, kLanes> rows;  // [address lane][a row's pairs]
  for (u32 lane = 0; lane < kLanes; ++lane) {
    const u64 address = address_of(warp, i.slots[0], lane);
    if (lane < 8 * i.registers.size()) std::memcpy(rows[lane].data(), shared_bytes(warp.block(), address, 16, 16), 16);
  }
  for (u32 matrix = 0; matrix < i.registers.size(); ++matrix) {
    u32* to = warp.at<u32>(i.registers[matrix]);
    for (u32 lane = 0; lane < kLanes; ++lane) to[lane] = rows[8 * matrix + lane / 4][lane % 4];
  }
  return Flow::kNext;
}

// Lane 8 m + r has the address of row r of matrix m; lane 4 r + c its columns 2 c and 2 c + 1.
Flow store_matrices(Warp& warp, const Instruction& i, u32 lanes) {
  need_warp(lanes);
  std::array<std::byte*, kLanes> rows;
  for (u32 lane = 0; lane < kLanes; ++lane) {
    rows[lane] = shared_bytes(warp.block(), address_of(warp, i.slots[0], lane), 16, 16);
  }
  for (u32 matrix = 0; matrix < 4; ++matrix) {
    const u32* from = warp.at<u32>(i.registers[matrix]);
    for (u32 lane = 0; lane < kLanes; ++lane) {
      std::memcpy(rows[8 * matrix + lane / 4] + lane % 4 * sizeof(u32), &from[lane], sizeof(u32));
    }
  }
  return Flow::kNext;
}

// Lane 8 m + c has the address of column c of matrix m.
Flow store_transposed_matrices(Warp& warp, const Instruction& i, u32 lanes) {
  need_warp(lanes);
  for (u32 lane = 0; lane < kLanes; ++lane) {
    std::byte* column = shared_bytes(warp.block(), address_of(warp, i.slots[0], lane), 16, 16);
    const u32* from = warp.at<u32>(i.registers[lane / 8]);
    for (u32 row = 0; row < 8; ++row) {
      const u16 element = static_cast<u16>(from[row * 4 + lane % 8 / 2] >> lane % 2 * 16);
      std::memcpy(column + row * sizeof(u16), &element, sizeof(u16));
    }
  }
  return Flow::kNext;
}

// Registers: d 4, a 4, b 2, c 4. Lane 4 g + t: rows g and g + 8, columns (or k) 2 t and 2 t + 1.
template <bool kBf16>
Flow multiply_sync(Warp& warp, const Instruction& i, u32 lanes) {
  need_warp(lanes);
  float a[16][kK], b[kK][8], d[16][8];
  for (u32 lane = 0; lane < kLanes; ++lane) {
    const u32 g = lane / 4, t = lane % 4 * 2;
    for (u32 n = 0; n < 4; ++n) {
      const u32 pair = warp.at<u32>(i.registers[4 + n])[lane];
      for (u32 h = 0; h < 2; ++h) a[g + n % 2 * 8][t + n / 2 * 8 + h] = element<kBf16>(pair, h);
      d[g + n / 2 * 8][t + n % 2] = warp.at<float>(i.registers[10 + n])[lane];
    }
    for (u32 n = 0; n < 2; ++n) {
      const u32 pair = warp.at<u32>(i.registers[8 + n])[lane];
      for (u32 h = 0; h < 2; ++h) b[t + n * 8 + h][g] = element<kBf16>(pair, h);
    }
  }
  for (u32 m = 0; m < 16; ++m) {
    for (u32 k = 0; k < kK; ++k) {
      for (u32 n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    }
  }
  for (u32 lane = 0; lane < kLanes; ++lane) {
    for (u32 n = 0; n < 4; ++n) {
      warp.at<float>(i.registers[n])[lane] = d[lane / 4 + n / 2 * 8][lane % 4 * 2 + n % 2];
    }
  }
  return Flow::kNext;
}

// ---- wgmma ----------------------------------------------------------------------------------------------------------

/// A matrix descriptor: start, distance of groups of 8 rows, and swizzle width. PTX ISA, "Matrix Descriptor Format".
struct Descriptor {
  u32 start, group_stride, width;

  explicit Descriptor(u64 bits)
      : start(static_cast<u32>(bits & 0x3fff) << 4), group_stride(static_cast<u32>(bits >> 32 & 0x3fff) << 4) {
    const u32 mode = static_cast<u32>(bits >> 62);  // 1: 128 bytes, 2: 64, 3: 32
    if (mode == 0 || (bits >> 49 & 7) != 0) throw Fault("a matrix descriptor that is not simulated");
    width = 256u >> mode;
  }
  /// 16 elements of a row begin here; pieces of 16 bytes are swapped by the row's place in `width` * 8 bytes.
  void read(Block& block, u32 row, bool bf16, float* to) const {
    for (u32 piece = 0; piece < 2; ++piece) {
      u32 address = start + row / 8 * group_stride + row % 8 * width + piece * 16;
      address ^= (address >> 7 & (width / 16 - 1)) << 4;
      u16 bits[8];
      std::memcpy(bits, shared_bytes(block, address, 16, 16), 16);
      for (u32 n = 0; n < 8; ++n) to[piece * 8 + n] = bf16 ? from_bf16(bits[n]) : from_fp16(bits[n]);
    }
  }
};

// This warp's 16 of the 64 rows. Slots: descriptors of a and b. Registers: sums.
void multiply_group(Warp& warp, const Instruction& i, u64 a_bits, u64 b_bits, bool keep, bool bf16) {
  const Descriptor a(a_bits), b(b_bits);
  const u32 columns = static_cast<u32>(i.registers.size()) * 2;
  std::vector<float> right(std::size_t{columns} * kK);  // [column][k]
  for (u32 n = 0; n < columns; ++n) b.read(warp.block(), n, bf16, &right[n * kK]);
  std::array<std::array<float, kK>, 16> left;
  for (u32 m = 0; m < 16; ++m) a.read(warp.block(), warp.number() % 4 * 16 + m, bf16, left[m].data());
  for (u32 lane = 0; lane < kLanes; ++lane) {
    for (u32 n = 0; n < i.registers.size(); ++n) {
      const u32 row = lane / 4 + n % 4 / 2 * 8, column = n / 4 * 8 + lane % 4 * 2 + n % 2;
      float& to = warp.at<float>(i.registers[n])[lane];
      float sum = keep ? to : 0.0f;
      for (u32 k = 0; k < kK; ++k) sum += left[row][k] * right[column * kK + k];
      to = sum;
    }
  }
}

Flow multiply_async(Warp& warp, const Instruction& i, u32 lanes) {
  need_warp(lanes);
  const u64 a = warp.uniform<u64>(i.slots[0]), b = warp.uniform<u64>(i.slots[1]);
  const bool keep = warp.uniform<u8>(i.slots[2]) != 0, bf16 = i.target != 0;
  auto work = [&warp, &i, a, b, keep, bf16] { multiply_group(warp, i, a, b, keep, bf16); };
  if (warp.block().cluster.launch.asynchronous == Asynchronous::kEarly) {
    work();
  } else {
    warp.products.push_back(work);
  }
  return Flow::kNext;
}

Flow commit_products(Warp& warp, const Instruction&, u32 lanes) {
  need_warp(lanes);
  warp.product_groups.push_back(std::move(warp.products));
  warp.products.clear();
  return Flow::kNext;
}

Flow wait_products(Warp& warp, const Instruction& i, u32 lanes) {
  need_warp(lanes);
  while (warp.product_groups.size() > i.target) {
    for (const auto& work : warp.product_groups.front()) work();
    warp.product_groups.pop_front();
  }
  return Flow::kNext;
}

Flow fence_products(Warp&, const Instruction&, u32 lanes) {
  need_warp(lanes);
  return Flow::kNext;
}

void add_vector(const Operand& operand, Names& names, Instruction& to) {
  for (const std::string& name : operand.names) to.registers.push_back(names.result(name));
}

bool decode_wgmma(const Statement& s, Names& names, Instruction& to) {
  if (s.op[0] != "wgmma") return false;
  if (s.has("mma_async")) {
    for (std::size_t i = 4; i < 8; ++i) {  // no negation, K-major
      if (s.operands.at(i).bits != (i < 6 ? 1u : 0u)) return false;
    }
    add_vector(s.operands.at(0), names, to);
    to.slots = {names.value(s.operands.at(1), 8), names.value(s.operands.at(2), 8), names.value(s.operands.at(3), 1)};
    to.target = s.type() == "bf16" ? 1 : 0;
    to.run = multiply_async;
  } else if (s.has("commit_group")) {
    to.run = commit_products;
  } else if (s.has("wait_group")) {
    to.target = static_cast<u32>(s.operands.at(0).bits);
    to.run = wait_products;
  } else {
    to.run = fence_products;
  }
  return true;
}

}  // namespace

bool decode_matrix(const Statement& s, Names& names, Instruction& to) {
  const std::string text = s.text();
  if (text == "ldmatrix.sync.aligned.m8n8.x4.shared.b16") {
    add_vector(s.operands.at(0), names, to);
    to.slots[0] = names.address(s.operands.at(1));
    to.run = load_matrices;
  } else if (text == "stmatrix.sync.aligned.m8n8.x4.shared.b16" ||
             text == "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16") {
    to.slots[0] = names.address(s.operands.at(0));
    add_vector(s.operands.at(1), names, to);
    if (to.registers.size() != 4) return false;
    to.run = s.has("trans") ? store_transposed_matrices : store_matrices;
  } else if (text.rfind("mma.sync.aligned.m16n8k16.row.col.f32.", 0) == 0) {
    for (std::size_t i = 0; i < 4; ++i) add_vector(s.operands.at(i), names, to);
    if (to.registers.size() != 14) return false;
    to.run = s.op.at(7) == "bf16" ? multiply_sync<true> : multiply_sync<false>;
    if (s.op[7] != "bf16" && s.op[7] != "f16") return false;
  } else {
    return decode_wgmma(s, names, to);
  }
  return true;
}

}  // namespace moesaic::sim
