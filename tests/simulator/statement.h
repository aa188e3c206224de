// SPDX-License-Identifier: Apache-2.0
// One statement of PTX: its opcode in parts and its operands, names as they are written.
#pragma once

#include <string>
#include <vector>

#include "simulator/program.h"

namespace moesaic::sim {

struct Operand {
  enum class Kind { kName, kNumber, kFloat, kAddress, kVector };
  Kind kind = Kind::kName;
  std::string name;                // of a register, label or variable; of an address's base, empty for a number alone
  std::string also;                // behind '|': a second result
  u64 bits = 0;                    // a number; a float's bits; an address's offset
  std::vector<std::string> names;  // of a vector; of the one behind a tensor map's address
};

struct Statement {
  std::string guard;  // name of a predicate
  bool guard_negated = false;
  std::vector<std::string> op;  // "mul", "wide", "s32"
  std::vector<Operand> operands;
  u32 line = 0;

  bool has(const char* part) const;
  /// Its last part: the type.
  const std::string& type() const { return op.back(); }
  std::string text() const;
};

struct Token {
  std::string text;
  u32 line = 0;
};

/// Words, numbers and single characters; comments left out.
std::vector<Token> tokens_of(const std::string& text);

/// A word of a vector as an operand of its own.
Operand operand_of(const std::string& word);

/// The instruction that begins at `at`, which moves behind its ';'.
Statement read_statement(const std::vector<Token>& tokens, std::size_t& at);

}  // namespace moesaic::sim
