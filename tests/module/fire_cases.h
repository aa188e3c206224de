// SPDX-License-Identifier: Apache-2.0
// What the fake compiler and the real one must both stand: many processes that start at once with an empty cache.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

#include "module/store.h"
#include "tests/module/child.h"
#include "tests/module/fake_cubin.h"

namespace moesaic::testing {

/// Ten kernels that compile quickly: the smallest one for ten targets.
inline std::vector<module::KernelInstance> small_instances() {
  std::vector<module::KernelInstance> instances;
  for (const char* target :
       {"sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121"}) {
    instances.push_back(small_instance(target));
  }
  return instances;
}

/// Processes with one cache: every one gets every kernel, each kernel is compiled by one of them, and only those that
/// compile load NVRTC (so that memory does not grow with the number of processes).
inline void expect_each_compiled_once(const ModuleOptions& options, int processes) {
  const std::vector<module::KernelInstance> instances = small_instances();
  const StartingGate gate;
  std::vector<Child> children;
  for (int i = 0; i < processes; ++i) {
    children.emplace_back([&] {
      gate.wait();
      module::Store store(options);
      int compiled = 0;
      for (const auto& cubin : store.get_all(instances, 1)) {
        compiled += cubin->origin == module::Origin::kCompiled ? 1 : 0;
      }
      return (compiled > 0) == nvrtc_is_loaded() ? compiled : 98;
    });
  }
  const auto start = std::chrono::steady_clock::now();
  gate.open();
  int compiled = 0;
  for (const Child& child : children) {
    const int code = child.wait();
    EXPECT_LE(code, static_cast<int>(instances.size())) << "98: NVRTC loaded for nothing; 99: an exception";
    compiled += code;
  }
  EXPECT_EQ(compiled, static_cast<int>(instances.size()));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

}  // namespace moesaic::testing
