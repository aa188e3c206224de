// SPDX-License-Identifier: Apache-2.0
// Expert and tensor parallelism on a GPU: each part against the oracle's part, and the sum against the whole.
#include <gtest/gtest.h>

#include <cmath>

#include "backend_cpu/backend_cpu.h"
#include "support/device_layer.h"
#include "support/slices.h"

namespace moesaic {
namespace {

using testing::DeviceLayer;
using testing::DeviceResult;
using testing::HostArray;
using testing::HostLayer;
using testing::LayerPart;

struct DeviceParallelTest : testing::DeviceTest {};

void check_parts(std::mt19937& rng, const std::vector<LayerPart>& parts, const HostLayer& whole, int tokens) {
  const MoeConfig& c = whole.config;
  const HostArray x = testing::random_array(rng, std::int64_t{tokens} * c.hidden, DType::kBF16, 1.0);
  // Not the layer's own: every part must route by the same numbers.
  const std::vector<float> logits =
      testing::to_floats(testing::random_array(rng, std::int64_t{tokens} * c.num_experts, DType::kF32, 2.0));
  const std::vector<double> wanted = testing::oracle_output(whole, x, logits);
  std::vector<float> sum(wanted.size(), 0.0f);
  for (const LayerPart& part : parts) {
    HostLayer host;
    host.config = part.config;
    host.weights = part.weights;
    const DeviceResult result = DeviceLayer(host, part.config).run(x, logits);
    EXPECT_TRUE(result.guard_intact);
    const testing::Distance d =
        testing::compare(result.out, testing::oracle_output(host, x, logits), c.hidden, tables::kTolBf16);
    EXPECT_TRUE(d.finite);
    EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += result.out[i];
  }
  EXPECT_LE(testing::compare(sum, wanted, c.hidden, tables::kTolBf16).row_l2, tables::kTolBf16.oracle_row_l2);
}

/// 48: shared experts of the routed ones' size, whole and in slices.
void check_partitions(int shared) {
  std::mt19937 rng(testing::fresh_seed());
  MoeConfig c;
  c.hidden = 64, c.intermediate = 48, c.num_experts = 9, c.top_k = 3, c.max_tokens = 700;
  c.shared.intermediate = shared;
  c.shared.gated = true;
  c.device = {DeviceType::kCuda, 0};
  const HostLayer whole = testing::random_layer(rng, c, {.biases = true});
  int way = 0;
  for (const std::vector<LayerPart>& parts : testing::all_partitions(whole)) {
    SCOPED_TRACE("partition " + std::to_string(way++));
    // By registers, by one block, by two launches.
    for (const int tokens : {1, 10, 100, 700}) {
      SCOPED_TRACE("T=" + std::to_string(tokens));
      check_parts(rng, parts, whole, tokens);
    }
  }
}

TEST_F(DeviceParallelTest, PartsAddUp) {
  check_partitions(24);
  check_partitions(48);
}

// A part without any of the tokens' experts gives zeros, whatever the buffers held.
TEST_F(DeviceParallelTest, TokensOfOtherExpertsGetZero) {
  std::mt19937 rng(testing::fresh_seed());
  MoeConfig c;
  c.hidden = 64, c.intermediate = 16, c.num_experts = 8, c.top_k = 2;
  c.device = {DeviceType::kCuda, 0};
  const HostLayer whole = testing::random_layer(rng, c, {});
  const LayerPart part = testing::expert_slice(whole, 6, 2);
  HostLayer host;
  host.config = part.config;
  host.weights = part.weights;
  const DeviceLayer device(host, part.config);
  for (const int tokens : {3, 90, 400}) {
    const HostArray x = testing::random_array(rng, std::int64_t{tokens} * c.hidden, DType::kBF16, 1.0);
    std::vector<int> ids(static_cast<std::size_t>(2 * tokens));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int>(i % 6);
    const DeviceResult result = device.run(x, {}, ids, std::vector<float>(ids.size(), 1.0f));
    EXPECT_EQ(result.out, std::vector<float>(result.out.size(), 0.0f)) << "T=" << tokens;
    EXPECT_EQ(result.ids, ids) << "global ids are what was given";
  }
}

}  // namespace
}  // namespace moesaic
