// SPDX-License-Identifier: Apache-2.0
// The simulator's bulk copies out of shared memory, boxes of tensors among them: read and written as late as waits
// allow, if asked to. And what fills the memory that they read: stmatrix.
#include <gtest/gtest.h>

#include "simulator/tensor_testing.h"

namespace moesaic::sim {
namespace {

// 16 bytes at room + `from`, of which word 0 is `value`.
std::string put(u32 from, u32 value) {
  return "mov.u32 %r1, room;\nmov.u32 %r2, " + std::to_string(value) + ";\nst.shared.u32 [%r1+" + std::to_string(from) +
         "], %r2;\n";
}
// To the memory's byte `to`.
std::string store(u32 from, u32 to) {
  return "cp.async.bulk.global.shared::cta.bulk_group [%base+" + std::to_string(to) + "], [%r1+" +
         std::to_string(from) + "], 16;\n";
}

// The box at shared address `from` to this corner of the launch's tensor map.
std::string tensor_store(u32 from, const std::string& corner, const std::string& kind = "") {
  return "mov.b64 %rd1, kernel_param_1;\ncvta.param.u64 %rd2, %rd1;\ncp.async.bulk.tensor.4d.global.shared::cta" +
         kind + ".bulk_group [%rd2, " + corner + "], [%r1+" + std::to_string(from) + "];\n";
}
const std::string kCommit = "cp.async.bulk.commit_group;\n", kWait = "cp.async.bulk.wait_group 0;\n",
                  kWaitRead = "cp.async.bulk.wait_group.read 0;\n";

std::vector<u32> result_of(const std::string& body, Asynchronous async, u32 threads = 1) {
  const Words words(std::vector<u32>(16));
  const CUtensorMap map = encode_of_slices(16, 8, 4).map(words.address);  // rows of 16 bytes
  run_on(words, body,
         {.threads = threads, .asynchronous = async, .tensor_map = reinterpret_cast<const std::byte*>(&map)});
  return words.get();
}

// The words of shared memory's first 16 bytes to those of the memory: by a bulk, and by a box of which that is all.
const std::string kStores[] = {store(0, 0), tensor_store(0, corner_of_slice(0, 0, 0, 1))};

void expect_sources_are_read_until_the_wait(const std::string& one_store) {
  const std::string begin = put(0, 7) + one_store + kCommit, change = put(0, 9);
  struct Case {
    std::string body;
    u32 early, late;
  };
  const Case cases[] = {{begin + kWaitRead + change + kWait, 7, 7},
                        {begin + kWait + change, 7, 7},
                        {begin + change + kWait, 7, 9},
                        {begin + change, 7, 9},                            // its end waits
                        {put(0, 7) + one_store + kWait + change, 7, 9},    // in no group
                        {begin + "cp.async.wait_all;\n" + change, 7, 9}};  // of other copies
  for (const Case& c : cases) {
    EXPECT_EQ(result_of(c.body, Asynchronous::kEarly)[0], c.early) << c.body;
    EXPECT_EQ(result_of(c.body, Asynchronous::kLate)[0], c.late) << c.body;
  }
}

TEST(SimulatorBulkStore, SourcesAreReadUntilTheThreadHasWaited) {
  for (const std::string& one_store : kStores) expect_sources_are_read_until_the_wait(one_store);
}

TEST(SimulatorBulkStore, WhatIsReadIsNotYetWritten) {
  const std::string look = "ld.global.u32 %r3, [%base];\nst.global.u32 [%base+32], %r3;\n";
  for (const std::string& one_store : kStores) {
    for (const bool all : {true, false}) {
      const std::string begin = put(0, 7) + one_store + kCommit;
      const std::vector<u32> got = result_of(begin + (all ? kWait : kWaitRead) + look, Asynchronous::kLate);
      EXPECT_EQ(got[8], all ? 7u : 0u) << one_store;
      EXPECT_EQ(got[0], 7u) << one_store;  // by the end
    }
  }
}

void expect_late_groups(const std::string& first, const std::string& second, u32 at) {
  const std::string two = put(0, 7) + put(at, 8) + first + kCommit + second + kCommit, change = put(0, 9) + put(at, 9);
  const auto late = [&](const std::string& wait) {
    const std::vector<u32> got = result_of(two + wait + change + kWait, Asynchronous::kLate);
    return std::vector<u32>{got[0], got[4]};
  };
  EXPECT_EQ(late("cp.async.bulk.wait_group.read 2;\n"), (std::vector<u32>{9, 9}));
  EXPECT_EQ(late("cp.async.bulk.wait_group.read 1;\n"), (std::vector<u32>{7, 9}));
  EXPECT_EQ(late("cp.async.bulk.wait_group.read 0;\n"), (std::vector<u32>{7, 8}));
  EXPECT_EQ(late("cp.async.bulk.wait_group 1;\n"), (std::vector<u32>{7, 9}));
  // A group that has been read is still one of those under way.
  EXPECT_EQ(late("cp.async.bulk.wait_group.read 1;\ncp.async.bulk.wait_group.read 1;\n"), (std::vector<u32>{7, 9}));
}

TEST(SimulatorBulkStore, TheLatestGroupsMayBeUnderWay) {
  expect_late_groups(store(0, 0), store(16, 16), 16);
  expect_late_groups(kStores[1], store(16, 16), 16);
  expect_late_groups(kStores[1], tensor_store(1024, corner_of_slice(0, 0, 1, 1)), 1024);
}

// Thread 0 stores and ends; thread 1 cannot know when that has been read.
TEST(SimulatorBulkStore, AThreadThatEndsHasNotWaited) {
  const std::string body =
      "setp.ne.s32 %p0, %r0, 0;\n@%p0 bra other;\n" + put(0, 7) + store(0, 0) + kCommit + "ret;\nother:\n" + put(0, 9);
  EXPECT_EQ(result_of(body, Asynchronous::kLate, 2)[0], 9u);
}

TEST(SimulatorBulkStore, WhatItMayNotDoIsTold) {
  const Words words(std::vector<u32>(16));
  const auto expect = [&](const std::string& copy, const char* wanted) {
    const std::string fault = fault_of(words, "mov.u32 %r1, room;\n" + copy, {});
    EXPECT_NE(fault.find(wanted), std::string::npos) << fault;
  };
  expect(store(8, 0), "at shared address 8");
  expect(store(8192, 0), "at shared address 8192");
  expect(store(0, 8), "is not a multiple of 16");
  expect(store(0, 64), "are in no allocation");
  expect("cp.async.bulk.global.shared::cta.bulk_group [%base], [%r1], 24;\n", "a bulk copy of 24 bytes");
  const std::string there = "mov.u32 %r2, 1;\nmapa.shared::cluster.u32 %r3, %r1, %r2;\n";
  const std::string fault = fault_of(
      words, "mov.u32 %r1, room;\n" + there + "cp.async.bulk.global.shared::cta.bulk_group [%base], [%r3], 16;\n",
      {.cluster_blocks = 2});
  EXPECT_NE(fault.find("another block's shared memory"), std::string::npos) << fault;
}

// ---- boxes of tensors -----------------------------------------------------------------------------------------------

constexpr u32 kRowPitch = 80, kAllRows = 30, kBoxRows = 10;  // the pitch in elements of 16 bits

/// Where a slice of rows has a box.
struct Place {
  u32 columns;                  // that the tensor has of each row
  u32 slice_begin, slice_rows;  // among all rows
  s32 column;
  u32 row;  // in the slice
};

// Thread t puts 2 t and 2 t + 1 into word t of room + `at`; thread 0 stores the box there.
std::string fill_and_store(u32 at, const Place& p, const std::string& kind) {
  return "mov.u32 %r1, room;\nshl.b32 %r2, %r0, 2;\nadd.s32 %r2, %r1, %r2;\nmul.lo.s32 %r3, %r0, 131074;\n"
         "add.s32 %r3, %r3, 65536;\nst.shared.u32 [%r2+" +
         std::to_string(at) + "], %r3;\nbar.sync 0;\nsetp.ne.s32 %p0, %r0, 0;\n@%p0 bra other;\n" +
         tensor_store(at, corner_of_slice(p.column, p.row, p.slice_begin, p.slice_rows), kind) + kCommit + kWait +
         "other:\n";
}

/// All elements of the memory, those that nothing is written to 0xdead.
std::vector<u16> written(u32 at, const Place& p, Asynchronous async, const std::string& kind = "") {
  const Words words(std::vector<u32>(kRowPitch * kAllRows / 2, 0xdeaddead));
  const CUtensorMap map = encode_of_slices(2 * kRowPitch, p.columns, kBoxRows).map(words.address);
  run_on(words, fill_and_store(at, p, kind),
         {.threads = kBoxRows * 32, .asynchronous = async, .tensor_map = reinterpret_cast<const std::byte*>(&map)});
  const std::vector<u32> got = words.get();
  std::vector<u16> all(2 * got.size());
  std::memcpy(all.data(), got.data(), 4 * got.size());
  return all;
}

// Pieces of 8 elements lie as expected_box in bulk_copies_test.cc has it.
std::vector<u16> expected(u32 at, const Place& p) {
  std::vector<u16> all(kRowPitch * kAllRows, 0xdead);
  for (u32 row = 0; row < kBoxRows && p.row + row < p.slice_rows; ++row) {
    for (u32 i = 0; i < 64; ++i) {
      const s32 column = p.column + static_cast<s32>(i);
      if (column < 0 || column >= static_cast<s32>(p.columns)) continue;
      const u32 piece = (row + at / 128) % 8 ^ i / 8;
      all[(p.slice_begin + p.row + row) * kRowPitch + static_cast<u32>(column)] =
          static_cast<u16>(row * 64 + piece * 8 + i % 8);
    }
  }
  return all;
}

TEST(SimulatorTensorStore, WritesWhatItsSliceAndTheColumnsHave) {
  const Place places[] = {
      {80, 3, 20, 0, 0},    // all of a box
      {80, 3, 14, 8, 10},   // 4 rows are left of the slice
      {80, 0, 10, 0, 9},    // one is
      {80, 29, 1, 0, 0},    // and begins the box
      {80, 3, 14, 0, 14},   // none
      {72, 3, 20, 64, 5},   // 8 columns are left
      {70, 3, 14, 64, 10},  // 6 are, of 4 rows
      {70, 3, 14, 5, 0},    // all, though no piece begins at a multiple of 16 bytes
      {70, 3, 20, -7, 0},   // all but 7 before the first
      {70, 3, 20, 128, 0},  // none
  };
  for (const Place& p : places) {
    for (const u32 at : {0u, 384u, 1024u}) {
      for (const Asynchronous async : {Asynchronous::kEarly, Asynchronous::kLate}) {
        EXPECT_EQ(written(at, p, async), expected(at, p))
            << p.slice_begin << " " << p.slice_rows << ", " << p.column << " " << p.row << " at " << at;
      }
    }
  }
  EXPECT_EQ(written(0, places[1], Asynchronous::kLate, ".tile"), expected(0, places[1]));
}

// By hand: row 1 of the box begins with its second piece, which is columns 0 to 7.
TEST(SimulatorTensorStore, TheSecondRowsPiecesSwapBack) {
  const std::vector<u16> got = written(0, {80, 4, 2, 8, 0}, Asynchronous::kLate);
  EXPECT_EQ(got[4 * kRowPitch + 7], 0xdead);
  EXPECT_EQ(got[4 * kRowPitch + 8], 0u);
  EXPECT_EQ(got[5 * kRowPitch + 8], 64u + 8);
  EXPECT_EQ(got[5 * kRowPitch + 16], 64u);
  EXPECT_EQ(got[5 * kRowPitch + 71], 64u + 55);
  EXPECT_EQ(got[6 * kRowPitch + 8], 0xdead);
}

// In memory of 8 rows of 16 bytes; %r1 is `room`.
std::string fault_of_box(const Encode& encode, const std::string& body, u32 cluster_blocks = 1) {
  const Words words(std::vector<u32>(32));
  const CUtensorMap map = encode.map(words.address);
  return fault_of(words, "mov.u32 %r1, room;\n" + body,
                  {.cluster_blocks = cluster_blocks, .tensor_map = reinterpret_cast<const std::byte*>(&map)});
}

void expect_in(const std::string& fault, const char* wanted) {
  EXPECT_NE(fault.find(wanted), std::string::npos) << fault;
}

TEST(SimulatorTensorStore, WhatItMayNotDoIsTold) {
  const Encode encode = encode_of_slices(16, 8, 4);
  const std::string first = corner_of_slice(0, 0, 0, 4);
  EXPECT_EQ(fault_of_box(encode, tensor_store(0, first)), "");
  expect_in(fault_of_box(encode, tensor_store(64, first)), "no multiple of 128");
  expect_in(fault_of_box(encode, tensor_store(7808, first)), "at shared address");
  expect_in(fault_of_box(encode, tensor_store(0, corner_of_slice(0, 0, 5, 4))), "are in no allocation");  // row 8
  expect_in(fault_of_box(encode, tensor_store(0, "{0, 0, 0, 1}")), "are in no allocation");
  EXPECT_EQ(fault_of_box(encode, tensor_store(0, "{0, 0, 0, -1}")), "");  // nothing of it is written
  Encode narrow = encode;
  narrow.box[0] = 32;
  expect_in(fault_of_box(narrow, tensor_store(0, first)), "narrower than its swizzle");
  Encode two = encode;
  two.rank = 2;
  expect_in(fault_of_box(two, tensor_store(0, first)), "a tensor map of rank 2");
  const std::string box = "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%base, " + first + "], [%r1];\n";
  expect_in(fault_of_box(encode, box), "no tensor map at");
  const std::string there = "mov.u32 %r2, 1;\nmapa.shared::cluster.u32 %r1, %r1, %r2;\n";
  expect_in(fault_of_box(encode, there + tensor_store(0, first), 2), "another block's shared memory");
}

// The last 16 bytes of all: their end is 0, which is before any allocation's.
TEST(SimulatorTensorStore, AddressesThatWrapAreInNoAllocation) {
  const Words words(std::vector<u32>(16));
  const u64 distance = -words.address - 16, far = u64{1} << 34;
  Encode encode = encode_of_slices(16, 8, 1);
  encode.strides[0] = distance % far, encode.strides[2] = far;
  const CUtensorMap map = encode.map(words.address);
  const std::string store =
      "mov.u32 %r1, room;\n" + tensor_store(0, "{0, 1, 0, " + std::to_string(distance / far) + "}");
  expect_in(fault_of(words, store, {.tensor_map = reinterpret_cast<const std::byte*>(&map)}),
            "16 bytes at 18446744073709551600 are in no allocation");
}

TEST(SimulatorTensorStore, WhatIsNotSimulatedSaysSo) {
  const std::string begin = "cp.async.bulk.tensor.", end = " [%rd2, {0, 0, 0, 0}], [%r1];\n";
  for (const char* kind : {"3d.global.shared::cta.bulk_group", "4d.global.shared::cta.im2col_no_offs.bulk_group",
                           "4d.global.shared::cta", "4d.global.shared::cluster.bulk_group"}) {
    expect_in(fault_of_box(encode_of_slices(16, 8, 4), begin + kind + end), "not simulated: cp.async.bulk.tensor.");
  }
}

// ---- stmatrix -------------------------------------------------------------------------------------------------------

// Register n of lane l holds 100 n + l; the rows, or columns, of 16 bytes are stored in reverse, lane l's at
// 16 (31 - l).
std::string store_matrices(const std::string& shape) {
  std::string body = "mov.u32 %r1, room;\nsub.s32 %r2, 31, %r0;\nshl.b32 %r2, %r2, 4;\nadd.s32 %r2, %r1, %r2;\n";
  for (u32 n = 0; n < 4; ++n) {
    body += "add.s32 %r" + std::to_string(4 + n) + ", %r0, " + std::to_string(100 * n) + ";\n";
  }
  body += "stmatrix.sync.aligned.m8n8.x4" + shape + ".shared.b16 [%r2], {%r4, %r5, %r6, %r7};\nbar.warp.sync -1;\n";
  for (u32 n = 0; n < 4; ++n) {
    body += "shl.b32 %r8, %r0, 2;\nadd.s32 %r8, %r1, %r8;\nld.shared.u32 %r9, [%r8+" + std::to_string(128 * n) +
            "];\nst.global.u32 [%mine+" + std::to_string(128 * n) + "], %r9;\n";
  }
  return body;
}

TEST(SimulatorMatrix, StoredMatricesLieByRows) {
  const Words words(std::vector<u32>(128));
  const std::string body = store_matrices("");
  run_on(words, body, {.threads = 32});
  const std::vector<u32> got = words.get();
  for (u32 matrix = 0; matrix < 4; ++matrix) {
    for (u32 row = 0; row < 8; ++row) {
      const u32 at = 4 * (31 - (8 * matrix + row));
      for (u32 pair = 0; pair < 4; ++pair) EXPECT_EQ(got[at + pair], 100 * matrix + 4 * row + pair);
    }
  }
  EXPECT_NE(fault_of(words, body, {.threads = 16}).find("by part of a warp"), std::string::npos);
}

TEST(SimulatorMatrix, TransposedMatricesLieByColumns) {
  const Words words(std::vector<u32>(128));
  run_on(words, store_matrices(".trans"), {.threads = 32});
  const std::vector<u32> got = words.get();
  for (u32 matrix = 0; matrix < 4; ++matrix) {
    for (u32 column = 0; column < 8; ++column) {
      const u32 at = 4 * (31 - (8 * matrix + column));
      for (u32 pair = 0; pair < 4; ++pair) {  // rows 2 pair and 2 pair + 1; odd columns are the registers' high halves
        const u32 low = 100 * matrix + 8 * pair + column / 2;
        EXPECT_EQ(got[at + pair], column % 2 == 0 ? low | (low + 4) << 16 : 0u);
      }
    }
  }
}

// One arrival ends nothing while bytes that were announced apart from it are under way.
TEST(SimulatorMbarrier, BytesMayBeAnnouncedWithoutAnArrival) {
  const auto body = [](u32 expected) {
    return "mov.u32 %r1, room;\nmbarrier.init.shared::cta.b64 [%r1], 1;\n"
           "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], " +
           std::to_string(expected) +
           ";\ncp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+16], [%base], 16, [%r1];\n"
           "mbarrier.arrive.shared::cta.b64 _, [%r1];\n"
           "again:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;\n@!%p1 bra again;\n"
           "ld.shared.u32 %r3, [%r1+16];\nst.global.u32 [%base+16], %r3;\n";
  };
  for (const Asynchronous async : {Asynchronous::kEarly, Asynchronous::kLate}) {
    const Words words({42, 0, 0, 0, 0});
    run_on(words, body(16), {.asynchronous = async});
    EXPECT_EQ(words.get()[4], 42u);
    EXPECT_NE(fault_of(words, body(32), {.asynchronous = async}).find("nobody can go on"), std::string::npos);
  }
}

}  // namespace
}  // namespace moesaic::sim
