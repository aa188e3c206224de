// SPDX-License-Identifier: Apache-2.0
// What tests of the simulator run kernels of a few lines with: memory, a kernel around its body, a launch of it.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "simulator/device_memory.h"
#include "simulator/machine.h"

namespace moesaic::sim {

/// Device memory of one test.
struct Words {
  explicit Words(std::vector<u32> from) : count(from.size()), address(allocate(4 * from.size())) {
    std::memcpy(reinterpret_cast<void*>(address), from.data(), 4 * count);
  }
  ~Words() { release(address); }
  Words(const Words&) = delete;
  Words& operator=(const Words&) = delete;
  std::vector<u32> get() const {
    const u32* words = reinterpret_cast<const u32*>(address);
    return {words, words + count};
  }
  std::size_t count;
  u64 address;
};

/// A kernel whose first parameter is the address of its memory, in %base; in %mine that of this thread's word. The
/// second: 128 bytes, a tensor map. 8 KB of shared memory, `room`, at a multiple of 1024.
inline Program program_of(const std::string& body) {
  return read_program(
      ".version 8.0\n.target sm_80\n.address_size 64\n"
      ".visible .entry kernel(.param .u64 kernel_param_0,\n.param .align 64 .b8 kernel_param_1[128])\n{\n"
      ".reg .pred %p<4>;\n.reg .b32 %r<19>;\n.reg .b64 %rd<9>;\n.reg .b64 %base, %mine;\n"
      ".shared .align 1024 .b8 room[8192];\n"
      "ld.param.u64 %base, [kernel_param_0];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %mine, %r0, 4;\n"
      "add.s64 %mine, %base, %mine;\n" +
      body + "ret;\n}\n");
}

struct Run {
  u32 threads = 1;
  Asynchronous asynchronous = Asynchronous::kEarly;
  u32 cluster_blocks = 1;                 // and as many blocks
  const std::byte* tensor_map = nullptr;  // 128 bytes
  Dependence* dependence = nullptr;
};

inline void run_on(const Words& words, const std::string& body, const Run& how) {
  const Program program = program_of(body);
  const Entry& entry = program.entries.at("kernel");
  Launch launch{.program = program,
                .entry = entry,
                .grid = {how.cluster_blocks, 1, 1},
                .threads = how.threads,
                .cluster_blocks = how.cluster_blocks,
                .parameters = {},
                .asynchronous = how.asynchronous,
                .dependence = how.dependence};
  launch.parameters.resize(entry.parameter_bytes);
  std::memcpy(launch.parameters.data() + entry.parameters.at(0).offset, &words.address, 8);
  if (how.tensor_map != nullptr) {
    std::memcpy(launch.parameters.data() + entry.parameters.at(1).offset, how.tensor_map, 128);
  }
  run(launch);
}

/// What the simulator says of it; empty: nothing.
inline std::string fault_of(const Words& words, const std::string& body, const Run& how) {
  try {
    run_on(words, body, how);
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "";
}

}  // namespace moesaic::sim
