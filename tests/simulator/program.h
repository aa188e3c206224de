// SPDX-License-Identifier: Apache-2.0
// PTX text as a list of instructions that a simulated warp runs. Registers of a warp lie in one array of bytes, its
// frame: [register][32 lanes], a lane's element as wide as the register's type (a predicate: one byte).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace moesaic::sim {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

inline constexpr u32 kLanes = 32;
inline constexpr u32 kAllLanes = ~0u;

/// What this simulator does not know of PTX, or what a program does wrong.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Warp;
struct Instruction;

/// What an instruction has done with the lanes that run.
enum class Flow {
  kNext,    // they go on behind it
  kJumped,  // they go on at Warp::pc
  kMoved,   // each lane has its own place or waits
  kRetry,   // nothing: they try again later
};
using Handler = Flow (*)(Warp&, const Instruction&, u32 lanes);

struct Slot {
  u32 at = 0;      // in the frame
  u32 bytes = 0;   // of a lane's element
  s64 offset = 0;  // where the slot is an address's base: what the text adds to it
};

struct Instruction {
  Handler run = nullptr;
  Handler then = nullptr;  // what `run` goes on with
  bool guarded = false, guard_negated = false;
  u32 guard = 0;                // predicate in the frame
  std::array<Slot, 5> slots;    // result first, as in the text
  std::vector<Slot> registers;  // of vectors, in order
  u32 target = 0;               // of a branch; else what the handler makes of it
  u32 line = 0;                 // in the text, from 1
};

/// %tid.x and the like: read by `mov` from the frame, written when a warp starts.
enum class Special {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneId,
  kClusterRank,
  kClusterBlocks,
  kCount
};
const char* special_name(Special special);

struct Parameter {
  u32 offset, bytes;  // among all parameters
  u32 address;        // in the frame: u64 each, where it lies
};

struct Entry {
  std::vector<Instruction> code;
  std::vector<std::byte> frame;                                           // constants in their places, all else 0
  std::array<u32, static_cast<std::size_t>(Special::kCount)> specials{};  // in the frame, u32 each
  std::vector<Parameter> parameters;
  u32 parameter_bytes = 0;  // of all
  u32 shared_bytes = 0;     // static; dynamic shared memory follows at the next multiple of 1024
};

struct Program {
  std::map<std::string, Entry> entries;
  std::vector<std::string> lines;  // of the text, for messages
};

/// Throws Fault naming the line that it does not know.
Program read_program(const std::string& text);

}  // namespace moesaic::sim
