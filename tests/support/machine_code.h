// SPDX-License-Identifier: Apache-2.0
// Machine code of a cubin (SASS) as nvdisasm lists it: instructions in order, and the loops they form.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::testing {

struct Instruction {
  std::string opcode;  // with its suffixes: "HGMMA.64x128x16.F32"
  std::string text;    // opcode and operands, without the predicate that guards it
  /// `name` is the opcode, or its first words up to a dot.
  bool is(const std::string& name) const;
  /// The last operand: a number.
  unsigned long last_number() const;
};
using Instructions = std::span<const Instruction>;

std::size_t count(Instructions instructions, const std::string& name);

class MachineCode {
 public:
  /// What nvdisasm prints of one kernel.
  explicit MachineCode(const std::string& listing);

  Instructions all() const { return instructions_; }
  /// Of the innermost loops around instructions of that name the one that has most of them; empty: there is none. A
  /// loop is a branch back and what it jumps over.
  Instructions main_loop(const std::string& name) const;

 private:
  std::vector<Instruction> instructions_;
  std::vector<std::pair<std::size_t, std::size_t>> loops_;  // first and last instruction
};

/// nvdisasm of tools/fetch_nvrtc.sh, or of a toolkit; empty where there is none.
std::string find_disassembler();
/// Needs it. Throws Error(kIo): it fails.
MachineCode disassemble(const std::vector<char>& cubin);

#define MOESAIC_NEED_DISASSEMBLER()                                                                         \
  if (::moesaic::testing::find_disassembler().empty()) {                                                    \
    GTEST_SKIP() << "no nvdisasm in .deps/nvdisasm or a toolkit: run tools/fetch_nvrtc.sh (needs network)"; \
  }

}  // namespace moesaic::testing
