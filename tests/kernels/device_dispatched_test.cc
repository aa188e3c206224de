// SPDX-License-Identifier: Apache-2.0
// Rows that were dispatched before, on a GPU: against the oracle, in both forms, with counts that the host never sees.
#include <gtest/gtest.h>

#include "support/device_layer.h"
#include "support/dispatched_rows.h"
#include "support/poisoned_buffer.h"

namespace moesaic {
namespace {

using testing::DeviceLayer;
using testing::DispatchedRows;
using testing::HostLayer;
using testing::PoisonedBuffer;

constexpr Device kDevice{DeviceType::kCuda, 0};

struct DeviceDispatchedTest : testing::DeviceTest {};

void check_rows(const HostLayer& host, const DeviceLayer& device, const DispatchedRows& rows) {
  SCOPED_TRACE(std::to_string(rows.count()) + (rows.max > 0 ? " rows, masked" : " rows, contiguous"));
  std::vector<double> wanted(static_cast<std::size_t>(rows.x.size()));
  MoeRun run = rows.run(wanted.data(), DType::kF64);
  reference_moe(host.config, host.weights, ReferenceMode::kOracle, run);
  const PoisonedBuffer x(kDevice, rows.x.bytes), numbers(kDevice, rows.numbers), out(kDevice, wanted.size() * 4),
      workspace(kDevice, device.layer().dispatched_workspace_bytes(rows.count()));
  run.x.data = x.data();
  run.out.data = out.data();
  run.out.dtype = DType::kF32;
  (rows.max > 0 ? run.expert_counts : run.expert_offsets).data = numbers.data();
  run.prepared = device.prepared();
  run.workspace = workspace.data();
  run.workspace_bytes = workspace.size();
  device.layer().run(run);
  const testing::Distance d = testing::compare(out.fetch<float>(), wanted, host.config.hidden, tables::kTolBf16);
  EXPECT_TRUE(d.finite);
  EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2) << "row " << d.row;
  // A bf16 output is that rounded once, and no more.
  const PoisonedBuffer rounded(kDevice, wanted.size() * 2);
  run.out.data = rounded.data();
  run.out.dtype = DType::kBF16;
  device.layer().run(run);
  EXPECT_EQ(testing::to_floats({DType::kBF16, rounded.fetch<unsigned char>()}),
            testing::to_floats(testing::to_array(out.fetch<float>(), DType::kBF16)));
  EXPECT_TRUE(rounded.intact());
  EXPECT_TRUE(out.intact());
  EXPECT_TRUE(workspace.intact());
}

/// Shared experts, which may lie behind the others, have no part in it.
void check_layer(std::mt19937& rng, int shared) {
  MoeConfig c;
  c.shared.intermediate = shared;
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

TEST_F(DeviceDispatchedTest, MatchesTheOracle) {
  std::mt19937 rng(testing::fresh_seed());
  check_layer(rng, 0);
  check_layer(rng, 40);
}

}  // namespace
}  // namespace moesaic
