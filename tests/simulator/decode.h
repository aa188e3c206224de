// SPDX-License-Identifier: Apache-2.0
// From statements to handlers. Each decoder knows some opcodes and answers false for others.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "simulator/program.h"
#include "simulator/statement.h"

namespace moesaic::sim {

/// Names in scope: registers, variables in shared memory, parameters. A parameter's value is its address.
class Names {
 public:
  explicit Names(Entry& entry) : entry_(entry), scopes_(1) {}

  void open_scope() { scopes_.emplace_back(); }
  void close_scope() { scopes_.pop_back(); }
  /// A register, or `count` of them, "%r" as "%r0" and so on.
  void declare(const std::string& name, u32 bytes, u32 count);
  void declare_shared(const std::string& name, u32 bytes, u32 alignment);
  void declare_dynamic(const std::string& name);                              // behind what is declared
  void declare_parameter(const std::string& name, u32 bytes, u32 alignment);  // behind those before it

  /// A register; `_` is a place of its own.
  Slot result(const std::string& name);
  /// What an operand of a type of `bytes` reads: a register, or a constant's place.
  Slot value(const Operand& operand, u32 bytes);
  Slot constant(u64 bits, u32 bytes);
  /// Base (u32 or u64) and offset.
  Slot address(const Operand& operand);

 private:
  Slot place(u32 bytes);
  const Slot* find(const std::string& name) const;

  Entry& entry_;
  std::vector<std::map<std::string, Slot>> scopes_;
  std::map<std::string, u32> shared_;  // offsets
  std::map<std::pair<u64, u32>, Slot> constants_;
};

/// Bytes of "u32", "f16", "b64", "pred".
u32 type_bytes(const std::string& type);

bool decode_arithmetic(const Statement& statement, Names& names, Instruction& to);
bool decode_floating(const Statement& statement, Names& names, Instruction& to);
bool decode_conversion(const Statement& statement, Names& names, Instruction& to);
bool decode_bulk(const Statement& statement, Names& names, Instruction& to);
bool decode_memory(const Statement& statement, Names& names, Instruction& to);
bool decode_control(const Statement& statement, Names& names, Instruction& to);
bool decode_lanes(const Statement& statement, Names& names, Instruction& to);
bool decode_barrier(const Statement& statement, Names& names, Instruction& to);
bool decode_matrix(const Statement& statement, Names& names, Instruction& to);

}  // namespace moesaic::sim
