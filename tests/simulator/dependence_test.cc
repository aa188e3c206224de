// SPDX-License-Identifier: Apache-2.0
// Kernels that begin before the one before has ended: what they touch too early is told.
#include "simulator/dependence.h"

#include <gtest/gtest.h>

#include "simulator/testing.h"

namespace moesaic::sim {
namespace {

const std::string kWait = "griddepcontrol.wait;\n", kLet = "griddepcontrol.launch_dependents;\n";
std::string load(u32 at) { return "ld.global.u32 %r1, [%base+" + std::to_string(at) + "];\n"; }
std::string store(u32 at) { return "st.global.u32 [%base+" + std::to_string(at) + "], %r0;\n"; }

/// What the simulator says of kernels in a row, each of which may begin early.
std::string fault_of_chain(const std::vector<std::string>& bodies) {
  const Words words(std::vector<u32>(64));
  std::shared_ptr<const Places> under_way;
  for (const std::string& body : bodies) {
    Dependence dependence;
    dependence.under_way = under_way;
    std::string fault = fault_of(words, body, {.dependence = &dependence});
    if (!fault.empty()) return fault;
    under_way = dependence.behind();
  }
  return "";
}

TEST(SimulatorDependence, WhatTheKernelBeforeWritesIsReadBehindTheWait) {
  EXPECT_EQ(fault_of_chain({store(0), kWait + load(0)}), "");
  EXPECT_EQ(fault_of_chain({store(0), load(16) + kWait}), "");  // that it does not write
  for (const u32 at : {0u, 12u}) {
    EXPECT_NE(fault_of_chain({store(0), load(at) + kWait}).find("reads what the kernel before may yet write"),
              std::string::npos);
  }
  const std::string copy = "mov.u32 %r1, room;\ncp.async.cg.shared.global [%r1], [%base+32], 16;\ncp.async.wait_all;\n";
  EXPECT_EQ(fault_of_chain({store(32), kWait + copy}), "");
  EXPECT_NE(fault_of_chain({store(32), copy + kWait}).find("reads what"), std::string::npos);
}

TEST(SimulatorDependence, NothingIsWrittenBeforeTheWait) {
  EXPECT_EQ(fault_of_chain({store(0), kWait + store(64)}), "");
  EXPECT_NE(fault_of_chain({store(0), store(64) + kWait}).find("writes before it has waited"), std::string::npos);
}

// The second kernel lets the third begin: behind its wait, when the first has ended, or before.
TEST(SimulatorDependence, AKernelThatLetsOthersBeginEarlyStandsForThoseBefore) {
  const std::string third = load(0) + kWait;
  EXPECT_EQ(fault_of_chain({store(0), kWait + kLet + store(64), third}), "");
  EXPECT_NE(fault_of_chain({store(0), kLet + kWait + store(64), third}).find("reads what"), std::string::npos);
}

}  // namespace
}  // namespace moesaic::sim
