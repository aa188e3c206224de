// SPDX-License-Identifier: Apache-2.0
// How tests read machine code: a listing in nvdisasm's words.
#include "tests/support/machine_code.h"

#include <gtest/gtest.h>

namespace moesaic::testing {
namespace {

// A loop in a loop, a loop that a wait at the end makes, data behind it.
constexpr const char* kListing =
    "\t.section\t.text.kernel,\"ax\",@progbits\n"
    "kernel:\n"
    ".text.kernel:\n"
    "        /*0000*/                   S2R R0, SR_TID.X ;  /* 0x00 */\n"
    ".L_x_0:\n"
    "        /*0010*/                   HMMA.16816.F32 R4, R8, R12, R4 ;\n"
    ".L_x_1:\n"
    "        /*0020*/               @P0 HMMA.16816.F32 R4, R8.reuse, R12, R4 ;\n"
    "        /*0030*/                   IMAD.MOV.U32 R5, RZ, RZ, R6 ;\n"
    "        /*0040*/              @!P0 BRA `(.L_x_2) ;\n"
    ".L_x_3:\n"
    "        /*0050*/                   HMMA.16816.F32 R4, R8, R12, R4 ;\n"
    "        /*0060*/             @!UP1 BRA `(.L_x_1) ;\n"
    "        /*0070*/                   USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xe0 ;\n"
    "        /*0080*/               @P1 BRA `(.L_x_0) ;\n"
    "        /*0090*/                   EXIT ;\n"
    ".L_x_2:\n"
    "        /*00a0*/                   NOP;\n"
    "        /*00b0*/                   BRA `(.L_x_3) ;\n"
    "        /*0000*/ \t.byte\t0x04, 0x2f\n";

TEST(MachineCode, InstructionsInOrderWithoutTheirGuards) {
  const MachineCode code(kListing);
  ASSERT_EQ(code.all().size(), 12u);
  EXPECT_EQ(code.all()[2].opcode, "HMMA.16816.F32");
  EXPECT_EQ(code.all()[2].text, "HMMA.16816.F32 R4, R8.reuse, R12, R4");
  EXPECT_EQ(code.all()[7].last_number(), 224u);
  EXPECT_EQ(code.all()[10].opcode, "NOP");
}

TEST(MachineCode, NamesAreWholeWords) {
  const MachineCode code(kListing);
  EXPECT_EQ(count(code.all(), "HMMA"), 3u);
  EXPECT_EQ(count(code.all(), "HMMA.16816.F32"), 3u);
  EXPECT_EQ(count(code.all(), "HMMA.16816.F32.BF16"), 0u);
  EXPECT_EQ(count(code.all(), "HMMA.168"), 0u);
  EXPECT_EQ(count(code.all(), "MOV"), 0u);
  EXPECT_EQ(count(code.all(), "IMAD.MOV"), 1u);
}

TEST(MachineCode, MainLoopIsTheInnermostOneWithMost) {
  const MachineCode code(kListing);
  const Instructions loop = code.main_loop("HMMA");
  ASSERT_EQ(loop.size(), 5u);
  EXPECT_EQ(loop.front().text, "HMMA.16816.F32 R4, R8.reuse, R12, R4");
  EXPECT_EQ(loop.back().text, "BRA `(.L_x_1)");
  EXPECT_EQ(count(loop, "HMMA"), 2u) << "the first one is of the outer loop";
  EXPECT_TRUE(code.main_loop("S2R").empty());
  EXPECT_TRUE(code.main_loop("HGMMA").empty());
}

}  // namespace
}  // namespace moesaic::testing
