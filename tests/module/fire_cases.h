// SPDX-License-Identifier: Apache-2.0
// What the fake compiler and the real one must both stand: many processes that start at once with an empty cache, and
// processes killed anywhere.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): SIGKILL

#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "module/cache.h"
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
/// compile load NVRTC (so that memory does not grow with the number of processes). One that waits for ever for a lock
/// ends with an error by MOESAIC_COMPILE_TIMEOUT.
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
  gate.open();
  int compiled = 0;
  for (const Child& child : children) {
    const int code = child.wait();
    EXPECT_LE(code, static_cast<int>(instances.size())) << "98: NVRTC loaded for nothing; 99: an exception";
    compiled += code;
  }
  EXPECT_EQ(compiled, static_cast<int>(instances.size()));
}

/// Waits up to `most` from a fixed sequence: a failure can be had again.
class RandomDelays {
 public:
  void wait(std::chrono::microseconds most) {
    std::uniform_int_distribution<long> delay(0, most.count());
    std::this_thread::sleep_for(std::chrono::microseconds(delay(engine_)));
  }

 private:
  std::mt19937 engine_{1};
};

/// A process that repeats `work(turn)` is killed up to `most` after it began. It never ends by itself, so the kill
/// falls into its work however fast or slow the machine is.
template <typename Work>
void kill_amid(const Work& work, RandomDelays& delays, std::chrono::microseconds most) {
  const StartingGate begun;
  const Child victim([&] {
    begun.open();
    for (int turn = 0;; ++turn) work(turn);
    return 0;
  });
  begun.wait();
  delays.wait(most);
  EXPECT_EQ(victim.end_by_kill(), 128 + SIGKILL);
}

/// A process compiles everything into an empty cache, again and again, and is killed amid that; the next one gets
/// everything from what is left. Returns whether kernels were missing when it was killed.
inline bool expect_next_gets_all_after_kill(const ModuleOptions& options, RandomDelays& delays,
                                            std::chrono::microseconds most) {
  const std::vector<module::KernelInstance> instances = small_instances();
  const module::Cache cache(*options.cache_dir);
  kill_amid(
      [&](int) {
        cache.clear();
        module::Store(options).get_all(instances, 1);
      },
      delays, most);
  const bool missing = cache.list().size() < instances.size();
  const Child next([&] {
    for (const auto& cubin : module::Store(options).get_all(instances, 1)) {
      if (image_of(*cubin).find(cubin->entry) == std::string::npos) return 1;
    }
    return 0;
  });
  EXPECT_EQ(next.wait(), 0);
  const auto entries = cache.list();
  EXPECT_EQ(entries.size(), instances.size());
  for (const module::CacheEntry& entry : entries) EXPECT_EQ(entry.damage, "");
  return missing;
}

}  // namespace moesaic::testing
