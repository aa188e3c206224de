// SPDX-License-Identifier: Apache-2.0
// Routing and projection on a GPU: against the CPU oracle on many sizes, and on exact ties.
#include <gtest/gtest.h>

#include <cmath>

#include "backend_cpu/backend_cpu.h"
#include "support/device_layer.h"

namespace moesaic {
namespace {

using testing::DeviceLayer;
using testing::DeviceResult;
using testing::HostArray;
using testing::HostLayer;

struct DeviceRoutingTest : testing::DeviceTest {};

MoeConfig routing_config(int experts, int top_k, RoutingMethod method) {
  MoeConfig c;
  c.hidden = 32;
  // Enough that one element of h, rounded the other way after another order of sums, is little of a row: with 8, a bf16
  // step (2^-7) of the one that dominates a row is more than the tolerance, once in thousands of rows.
  c.intermediate = 64;
  c.num_experts = experts;
  c.top_k = top_k;
  c.router = false;
  c.routing.method = method;
  if (method == RoutingMethod::kDeepSeekV2 || method == RoutingMethod::kDeepSeekV3) {
    c.routing.n_group = experts % 8 != 0 ? 1 : experts > 8 ? 8 : 4;  // at least two experts a group
    c.routing.topk_group = (c.routing.n_group + 1) / 2;
    c.routing.scaling = 2.5f;
    c.routing.renormalize = method == RoutingMethod::kDeepSeekV3;
  }
  c.device = {DeviceType::kCuda, 0};
  return c;
}

/// ids and weights equal. Without exact ties, a few slots may hold the other one of two experts whose FP32 scores
/// differ by rounding alone (a sigmoid near 1 moves one unit in the last place over many logits); their weights agree
/// all the same.
void expect_same_routing(const DeviceResult& got, const std::vector<int>& ids, const std::vector<float>& weights,
                         bool exact) {
  std::size_t swapped = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (got.ids[i] != ids[i]) ++swapped;
    EXPECT_NEAR(got.weights[i], weights[i], 2e-6f * std::abs(weights[i]) + 1e-9f) << "slot " << i;
  }
  EXPECT_LE(swapped, exact ? 0 : 2 + ids.size() / 500) << "of " << ids.size();
}

/// The oracle's output under the experts that the GPU chose.
std::vector<double> output_under(const HostLayer& host, const HostArray& x, const DeviceResult& routing) {
  const std::int64_t tokens = x.size() / host.config.hidden;
  std::vector<double> out(static_cast<std::size_t>(x.size()));
  MoeRun run;
  run.x = TensorView(x.bytes.data(), x.dtype, {tokens, host.config.hidden});
  run.topk_ids = TensorView(routing.ids.data(), DType::kI32, {tokens, host.config.top_k});
  run.topk_weights = TensorView(routing.weights.data(), DType::kF32, {tokens, host.config.top_k});
  run.out = TensorView(out.data(), DType::kF64, {tokens, host.config.hidden});
  reference_moe(host.config, host.weights, ReferenceMode::kOracle, run);
  return out;
}

void check_routing(std::mt19937& rng, int experts, int top_k, RoutingMethod method, const std::vector<int>& sizes,
                   bool ties) {
  const MoeConfig c = routing_config(experts, top_k, method);
  SCOPED_TRACE(std::string(routing_method_name(method)) + " E=" + std::to_string(experts) +
               " k=" + std::to_string(top_k));
  const HostLayer host = testing::random_layer(rng, c, {});
  const DeviceLayer device(host, c);
  for (const int tokens : sizes) {
    SCOPED_TRACE("T=" + std::to_string(tokens));
    std::vector<float> logits =
        testing::to_floats(testing::random_array(rng, static_cast<std::int64_t>(tokens) * experts, DType::kF32, 2.0));
    if (ties) {
      // Not negative: sigmoid(1) + sigmoid(-1) and 2 sigmoid(0) are equal group scores only before rounding.
      for (float& l : logits) l = std::abs(std::round(l));
    }
    const HostArray x = testing::random_array(rng, static_cast<std::int64_t>(tokens) * c.hidden, DType::kBF16, 1.0);
    const DeviceResult result = device.run(x, logits);
    std::vector<int> ids(static_cast<std::size_t>(tokens * top_k));
    std::vector<float> weights(ids.size());
    cpu::route(c.routing, logits.data(), nullptr, tokens, experts, top_k, ids.data(), weights.data());
    expect_same_routing(result, ids, weights, ties);
    const std::vector<double> wanted = output_under(host, x, result);
    const testing::Distance d = testing::compare(result.out, wanted, c.hidden, tables::kTolBf16);
    EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2);
  }
}

TEST_F(DeviceRoutingTest, MatchesTheOracleOnManySizes) {
  std::mt19937 rng(testing::fresh_seed());
  for (const auto method : {RoutingMethod::kSoftmaxTopKRenorm, RoutingMethod::kTopKSoftmax, RoutingMethod::kDeepSeekV3,
                            RoutingMethod::kDeepSeekV2, RoutingMethod::kSigmoid, RoutingMethod::kMiniMax2}) {
    check_routing(rng, 8, 2, method, {1, 2, 127, 128, 129, 1000}, false);
    check_routing(rng, 128, 8, method, {1, 7, 64, 65, 300}, false);
  }
  check_routing(rng, 1024, 32, RoutingMethod::kSoftmaxTopKRenorm, {1, 33, 130}, false);
  check_routing(rng, 384, 8, RoutingMethod::kDeepSeekV3, {1, 100, 200}, false);
  check_routing(rng, 60, 4, RoutingMethod::kSoftmaxTopK, {5, 129, 4096}, false);
}

TEST_F(DeviceRoutingTest, ExactTiesGoToTheLowerId) {
  std::mt19937 rng(testing::fresh_seed());
  for (const auto method : {RoutingMethod::kSoftmaxTopKRenorm, RoutingMethod::kTopKSoftmax, RoutingMethod::kDeepSeekV3,
                            RoutingMethod::kDeepSeekV2, RoutingMethod::kLlama4, RoutingMethod::kSigmoid}) {
    check_routing(rng, 16, 4, method, {1, 3, 50, 400}, true);
  }
}

// The whole layer by token ids, ids and experts on both sides of what exists.
TEST_F(DeviceRoutingTest, ByTokenId) {
  std::mt19937 rng(testing::fresh_seed());
  MoeConfig c = routing_config(16, 3, RoutingMethod::kHash);
  c.routing.vocabulary = 41;
  c.routing.scaling = 1.5f;
  HostLayer host = testing::random_layer(rng, c, {});
  std::vector<std::int32_t> table(41 * 3);
  for (auto& expert : table) expert = static_cast<int>(rng() % 18) - 1;
  host.weights.token_experts = TensorView(table.data(), DType::kI32, {41, 3});
  const DeviceLayer device(host, c);
  for (const int tokens : {1, 9, 100, 500}) {
    SCOPED_TRACE("T=" + std::to_string(tokens));
    const HostArray x = testing::random_array(rng, static_cast<std::int64_t>(tokens) * c.hidden, DType::kBF16, 1.0);
    const std::vector<float> logits =
        testing::to_floats(testing::random_array(rng, static_cast<std::int64_t>(tokens) * 16, DType::kF32, 2.0));
    std::vector<std::int64_t> token_ids(static_cast<std::size_t>(tokens));
    for (auto& id : token_ids) id = static_cast<std::int64_t>(rng() % 43) - 1;
    const DeviceResult result = device.run(x, logits, {}, {}, token_ids);
    std::vector<int> ids(static_cast<std::size_t>(3 * tokens));
    std::vector<float> weights(ids.size());
    cpu::RouteTask task;
    task.tokens = tokens, task.num_experts = 16, task.top_k = 3;
    task.logits = logits.data();
    task.token_ids = token_ids.data();
    task.token_experts = table.data();
    task.ids = ids.data();
    task.weights = weights.data();
    cpu::route(c.routing, task);
    expect_same_routing(result, ids, weights, true);
    const testing::Distance d = testing::compare(result.out, output_under(host, x, result), c.hidden, tables::kTolBf16);
    EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2);
  }
}

TEST_F(DeviceRoutingTest, ProjectionHasFp32Results) {
  std::mt19937 rng(testing::fresh_seed());
  for (const auto& [hidden, experts] : std::vector<std::array<int, 2>>{{160, 6}, {2048, 128}, {2880, 33}}) {
    MoeConfig c = routing_config(experts, 1, RoutingMethod::kLlama4);
    c.hidden = hidden;
    c.router = true;
    const HostLayer host = testing::random_layer(rng, c, {.biases = true});
    const DeviceLayer device(host, c);
    for (const int tokens : {1, 9, 512, 513, 700}) {
      const HostArray x = testing::random_array(rng, static_cast<std::int64_t>(tokens) * hidden, DType::kBF16, 1.0);
      const DeviceResult result = device.run(x, {});
      std::vector<float> wanted(static_cast<std::size_t>(tokens * experts));
      cpu::project(x.bytes.data(), x.dtype, tokens, host.weights.router, host.weights.router_bias, wanted.data());
      double worst = 0;
      for (std::size_t i = 0; i < wanted.size(); ++i)
        worst = std::max(worst, std::abs(static_cast<double>(result.logits[i]) - static_cast<double>(wanted[i])));
      EXPECT_LE(worst, 2e-5) << "H=" << hidden
                             << " T=" << tokens;  // logits are of size 2: FP32 sums of `hidden` products
    }
  }
}

}  // namespace
}  // namespace moesaic
