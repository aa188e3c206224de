// SPDX-License-Identifier: Apache-2.0
// Rows that were dispatched before, on a GPU: against the oracle, in both forms, with counts that the host never sees.
#include <gtest/gtest.h>

#include "backend_cuda/device_memory.h"
#include "support/device_layer.h"
#include "support/dispatched_rows.h"

namespace moesaic {
namespace {

using cuda::DeviceBuffer;
using testing::DeviceLayer;
using testing::DispatchedRows;
using testing::HostLayer;

constexpr Device kDevice{DeviceType::kCuda, 0};
constexpr std::size_t kGuard = 4096;

class DeviceDispatchedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
  }
};

DeviceBuffer poisoned(std::size_t bytes) {
  DeviceBuffer buffer(kDevice, bytes + kGuard);
  buffer.fill(0xff);
  return buffer;
}

bool guard_intact(const DeviceBuffer& buffer) {
  std::vector<unsigned char> bytes(kGuard);
  buffer.download(bytes.data(), kGuard, buffer.size() - kGuard);
  return bytes == std::vector<unsigned char>(kGuard, 0xff);
}

void check_rows(const HostLayer& host, const DeviceLayer& device, const DispatchedRows& rows) {
  SCOPED_TRACE(std::to_string(rows.count()) + (rows.max > 0 ? " rows, masked" : " rows, contiguous"));
  std::vector<double> wanted(static_cast<std::size_t>(rows.x.size()));
  MoeRun run = rows.run(wanted.data(), DType::kF64);
  reference_moe(host.config, host.weights, ReferenceMode::kOracle, run);
  DeviceBuffer x(kDevice, rows.x.bytes.size()), numbers(kDevice, rows.numbers.size() * 4);
  x.upload(rows.x.bytes.data(), rows.x.bytes.size());
  numbers.upload(rows.numbers.data(), rows.numbers.size() * 4);
  const std::size_t workspace_bytes = device.layer().dispatched_workspace_bytes(rows.count());
  const DeviceBuffer out = poisoned(wanted.size() * 4), workspace = poisoned(workspace_bytes);
  run.x.data = x.data();
  run.out.data = out.data();
  run.out.dtype = DType::kF32;
  (rows.max > 0 ? run.expert_counts : run.expert_offsets).data = numbers.data();
  run.prepared = device.prepared();
  run.workspace = workspace.data();
  run.workspace_bytes = workspace_bytes;
  device.layer().run(run);
  std::vector<float> y(wanted.size());
  out.download(y.data(), y.size() * 4);
  const testing::Distance d = testing::compare(y, wanted, host.config.hidden, tables::kTolBf16);
  EXPECT_TRUE(d.finite);
  EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2) << "row " << d.row;
  EXPECT_TRUE(guard_intact(out));
  EXPECT_TRUE(guard_intact(workspace));
}

TEST_F(DeviceDispatchedTest, MatchesTheOracle) {
  std::mt19937 rng(testing::fresh_seed());
  MoeConfig c;
  c.hidden = 64, c.intermediate = 40, c.num_experts = 12, c.top_k = 3, c.max_tokens = 2000;
  c.experts.first = 4, c.experts.count = 5;
  c.router = false;
  c.device = kDevice;
  MoeConfig local = c;  // weights of the five that are held
  local.num_experts = 5;
  HostLayer host = testing::random_layer(rng, local, {.biases = true});
  host.config = c;
  host.weights.router_bias = {};
  const DeviceLayer device(host, c);
  for (const std::vector<int>& counts : {std::vector<int>{0, 1, 0, 0, 0},
                                         {1, 2, 3, 0, 5},
                                         {64, 0, 65, 127, 1},
                                         {0, 0, 0, 900, 0},
                                         {300, 301, 1, 0, 299}}) {
    for (const bool masked : {false, true}) {
      check_rows(host, device, testing::random_rows(rng, c, counts, masked));
    }
  }
}

}  // namespace
}  // namespace moesaic
