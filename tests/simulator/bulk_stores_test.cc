// SPDX-License-Identifier: Apache-2.0
// The simulator's bulk copies out of shared memory: read and written as late as waits allow, if asked to. And what
// fills the memory that they read: stmatrix.
#include <gtest/gtest.h>

#include "simulator/testing.h"

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
const std::string kCommit = "cp.async.bulk.commit_group;\n", kWait = "cp.async.bulk.wait_group 0;\n",
                  kWaitRead = "cp.async.bulk.wait_group.read 0;\n";

std::vector<u32> result_of(const std::string& body, Asynchronous async, u32 threads = 1) {
  const Words words(std::vector<u32>(16));
  run_on(words, body, {.threads = threads, .asynchronous = async});
  return words.get();
}

TEST(SimulatorBulkStore, SourcesAreReadUntilTheThreadHasWaited) {
  const std::string begin = put(0, 7) + store(0, 0) + kCommit, change = put(0, 9);
  struct Case {
    std::string body;
    u32 early, late;
  };
  const Case cases[] = {{begin + kWaitRead + change + kWait, 7, 7},
                        {begin + kWait + change, 7, 7},
                        {begin + change + kWait, 7, 9},
                        {begin + change, 7, 9},                            // its end waits
                        {put(0, 7) + store(0, 0) + kWait + change, 7, 9},  // in no group
                        {begin + "cp.async.wait_all;\n" + change, 7, 9}};  // of other copies
  for (const Case& c : cases) {
    EXPECT_EQ(result_of(c.body, Asynchronous::kEarly)[0], c.early) << c.body;
    EXPECT_EQ(result_of(c.body, Asynchronous::kLate)[0], c.late) << c.body;
  }
}

TEST(SimulatorBulkStore, WhatIsReadIsNotYetWritten) {
  const std::string begin = put(0, 7) + store(0, 0) + kCommit,
                    look = "ld.global.u32 %r3, [%base];\nst.global.u32 [%base+32], %r3;\n";
  for (const bool all : {true, false}) {
    const std::vector<u32> got = result_of(begin + (all ? kWait : kWaitRead) + look, Asynchronous::kLate);
    EXPECT_EQ(got[8], all ? 7u : 0u);
    EXPECT_EQ(got[0], 7u);  // by the end
  }
}

TEST(SimulatorBulkStore, TheLatestGroupsMayBeUnderWay) {
  const std::string two = put(0, 7) + put(16, 8) + store(0, 0) + kCommit + store(16, 16) + kCommit,
                    change = put(0, 9) + put(16, 9);
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
