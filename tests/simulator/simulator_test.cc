// SPDX-License-Identifier: Apache-2.0
// The simulator by itself: lanes that part, and what it must tell: accesses outside of memory, waits that nobody ends,
// copies that are read before they have landed.
#include <gtest/gtest.h>

#include <cmath>

#include "simulator/numbers.h"
#include "simulator/testing.h"

namespace moesaic::sim {
namespace {

TEST(Simulator, LanesThatPartJoinAgain) {
  const Words words(std::vector<u32>(40));
  run_on(words,
         "and.b32 %r1, %r0, 1;\nsetp.eq.s32 %p0, %r1, 0;\n@%p0 bra even;\nmov.u32 %r2, 100;\nbra.uni after;\n"
         "even:\nmov.u32 %r2, 200;\nafter:\nshfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;\nst.global.u32 [%mine], %r3;\n",
         {.threads = 32});
  const std::vector<u32> got = words.get();
  for (u32 i = 0; i < 32; ++i) EXPECT_EQ(got[i], i % 2 == 0 ? 100u : 200u) << i;
  EXPECT_EQ(got[32], 0u);
}

TEST(Simulator, BarriersOrderWarps) {
  const Words words(std::vector<u32>(64));
  run_on(words,
         "mov.u32 %r1, room;\nshl.b32 %r2, %r0, 2;\nadd.s32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %r0;\nbar.sync 0;\n"
         "sub.s32 %r4, 252, %r2;\nadd.s32 %r4, %r1, %r4;\nld.shared.u32 %r5, [%r4];\nst.global.u32 [%mine], %r5;\n",
         {.threads = 64});
  const std::vector<u32> got = words.get();
  for (u32 i = 0; i < 64; ++i) EXPECT_EQ(got[i], 63 - i);
}

TEST(Simulator, ABarrierThatOthersDoNotReachIsTold) {
  const Words words(std::vector<u32>(64));
  const std::string fault =
      fault_of(words, "setp.gt.u32 %p0, %r0, 31;\n@%p0 bra there;\nbar.sync 1, 64;\nthere:\n", {.threads = 64});
  EXPECT_NE(fault.find("nobody can go on"), std::string::npos) << fault;
  EXPECT_NE(fault.find("bar.sync 1, 64;"), std::string::npos) << fault;
}

TEST(Simulator, AccessesOutsideOfAllocationsAreTold) {
  const Words words(std::vector<u32>(31));  // for 32 lanes
  const std::string fault = fault_of(words, "st.global.u32 [%mine], %r0;\n", {.threads = 32});
  EXPECT_NE(fault.find("are in no allocation"), std::string::npos) << fault;
  EXPECT_NE(fault_of(words, "ld.global.u32 %r1, [%base+2];\n", {.threads = 1}).find("not a multiple"),
            std::string::npos);
  EXPECT_NE(
      fault_of(words, "mov.u32 %r1, 8192;\nld.shared.u32 %r2, [%r1];\n", {.threads = 1}).find("at shared address"),
      std::string::npos);
}

TEST(Simulator, CopiesThatNobodyWaitsForComeLate) {
  const std::string copy =
      "mov.u32 %r1, room;\nmov.u32 %r3, 7;\nst.shared.u32 [%r1], %r3;\n"
      "cp.async.cg.shared.global [%r1], [%base], 16;\ncp.async.commit_group;\n";
  const std::string use = "ld.shared.u32 %r2, [%r1];\n", store = "st.global.u32 [%base+16], %r2;\n";
  for (const bool waits : {true, false}) {
    const Words words({42, 0, 0, 0, 0});
    const std::string wait = "cp.async.wait_group 0;\n";
    run_on(words, waits ? copy + wait + use + store : copy + use + wait + store, {.asynchronous = Asynchronous::kLate});
    EXPECT_EQ(words.get()[4], waits ? 42u : 7u);
  }
}

TEST(Simulator, MbarriersCountArrivalsAndBytes) {
  const std::string before =
      "mov.u32 %r1, room;\nsetp.ne.s32 %p0, %r0, 0;\n@%p0 bra wait;\n"
      "mbarrier.init.shared::cta.b64 [%r1], 1;\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 16;\n"
      "add.s32 %r2, %r1, 16;\n";
  const std::string after =
      "wait:\nbar.sync 0;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;\n@!%p1 bra again;\n"
      "ld.shared.u32 %r3, [%r1+16];\nst.global.u32 [%mine+16], %r3;\n";
  const std::string copy =
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%base], 16, [%r1];\n";
  const std::string store =
      "mov.u32 %r6, %cluster_ctarank;\nmapa.shared::cluster.u32 %r2, %r2, %r6;\nmapa.shared::cluster.u32 %r4, %r1, "
      "%r6;\n"
      "mov.u32 %r5, 42;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r2], {%r5, %r5, %r5, %r5}, [%r4];\n";
  for (const std::string& work : {copy, store}) {
    for (const Asynchronous async : {Asynchronous::kEarly, Asynchronous::kLate}) {
      std::vector<u32> start(4 + 64);
      start[0] = 42;
      const Words words(start);
      run_on(words, before + work + after,
             {.threads = 64, .asynchronous = async, .cluster_blocks = work == store ? 2u : 1u});
      const std::vector<u32> got = words.get();
      for (u32 i = 0; i < 64; ++i) EXPECT_EQ(got[4 + i], 42u);
    }
  }
  const Words words({42, 0, 0, 0, 0});
  const std::string fault = fault_of(words, before + store + after, {});
  EXPECT_NE(fault.find("st.async in a launch without clusters"), std::string::npos) << fault;
}

// Values from the formats' definitions.
TEST(Simulator, NumberFormats) {
  for (u32 bits = 0; bits < 0x10000; ++bits) {
    const float value = from_fp16(static_cast<u16>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(to_fp16(value), bits);
  }
  EXPECT_EQ(to_fp16(65519.0f), 0x7bff);
  EXPECT_EQ(to_fp16(65520.0f), 0x7c00);  // a tie, to even: infinity
  EXPECT_EQ(to_fp16(0x1p-25f), 0);
  EXPECT_EQ(to_fp16(0x1.8p-25f), 1);
  EXPECT_EQ(from_fp16(0x3555), 0x1.554p-2f);
  EXPECT_EQ(to_e4m3(448.0f), 0x7e);
  EXPECT_EQ(to_e4m3(1e9f), 0x7e);
  EXPECT_EQ(to_e4m3(-0x1p-9f), 0x81);
  EXPECT_EQ(to_e4m3(1.0625f), 0x38);  // a tie, to even
  EXPECT_EQ(to_e5m2(57344.0f), 0x7b);
  EXPECT_EQ(to_bf16(1.00390625f), 0x3f80);
  EXPECT_EQ(fma_bf16(0x3f80, 0x3f80, 0x3f80), 0x4000);
}

TEST(Simulator, InstructionsThatItDoesNotKnowAreNamed) {
  try {
    program_of("frob.u32 %r1, %r0;\n");
    FAIL();
  } catch (const Fault& fault) {
    EXPECT_NE(std::string(fault.what()).find("not simulated: frob.u32"), std::string::npos) << fault.what();
  }
}

}  // namespace
}  // namespace moesaic::sim
