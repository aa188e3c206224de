// SPDX-License-Identifier: Apache-2.0
// Router on a GPU: the oracle's choice and sorted rows, by one block and by two launches, up to the largest sizes.
#include <gtest/gtest.h>

#include <cmath>

#include "backend_cuda/device_memory.h"
#include "support/device_layer.h"
#include "support/router_case.h"

namespace moesaic {
namespace {

using cuda::DeviceBuffer;
using testing::RouterCase;
using testing::RouterResult;

constexpr Device kDevice{DeviceType::kCuda, 0};

struct DeviceRouterTest : testing::DeviceTest {};

template <typename T>
DeviceBuffer upload(const std::vector<T>& values) {
  DeviceBuffer buffer(kDevice, std::max<std::size_t>(values.size() * sizeof(T), 1));
  buffer.upload(values.data(), values.size() * sizeof(T));
  return buffer;
}

DeviceBuffer poisoned(std::size_t bytes) {
  DeviceBuffer buffer(kDevice, std::max<std::size_t>(bytes, 1));
  buffer.fill(0xff);
  return buffer;
}

template <typename T>
std::vector<T> fetch(const DeviceBuffer& buffer, std::size_t count) {
  std::vector<T> values(count);
  buffer.download(values.data(), count * sizeof(T));
  return values;
}

RouterResult run_on_device(const Router& router, const RouterCase& c) {
  const auto entries = static_cast<std::size_t>(c.tokens * c.slots());
  const auto offsets = static_cast<std::size_t>(c.sorted_experts() + 1);
  const DeviceBuffer logits = upload(c.logits), bias = upload(c.selection_bias), token_ids = upload(c.token_ids),
                     token_experts = upload(c.token_experts);
  const DeviceBuffer ids = poisoned(entries * 4), weights = poisoned(entries * 4), row_offsets = poisoned(offsets * 4),
                     row_token = poisoned(entries * 4), row_weight = poisoned(entries * 4),
                     slot_row = poisoned(entries * 4);
  const std::size_t workspace_bytes = router.workspace_bytes(c.tokens);
  const DeviceBuffer workspace = poisoned(workspace_bytes);
  RouteRun run;
  run.logits = TensorView(logits.data(), DType::kF32, {c.tokens, c.config.num_experts});
  if (!c.selection_bias.empty()) run.selection_bias = TensorView(bias.data(), DType::kF32, {c.config.num_experts});
  if (c.config.routing.method == RoutingMethod::kHash) {
    run.token_ids = TensorView(token_ids.data(), DType::kI64, {c.tokens});
    run.token_experts = TensorView(token_experts.data(), DType::kI32, {c.config.routing.vocabulary, c.config.top_k});
  }
  run.ids = TensorView(ids.data(), DType::kI32, {c.tokens, c.slots()});
  run.weights = TensorView(weights.data(), DType::kF32, {c.tokens, c.slots()});
  router.run(run);
  RouterResult chosen_only;
  chosen_only.ids = fetch<int>(ids, entries);
  chosen_only.weights = fetch<float>(weights, entries);
  run.row_offsets = TensorView(row_offsets.data(), DType::kI32, {c.sorted_experts() + 1});
  run.row_token = TensorView(row_token.data(), DType::kI32, {c.tokens * c.slots()});
  run.row_weight = TensorView(row_weight.data(), DType::kF32, {c.tokens * c.slots()});
  run.slot_row = TensorView(slot_row.data(), DType::kI32, {c.tokens, c.slots()});
  run.workspace = workspace.data();
  run.workspace_bytes = workspace_bytes;
  router.run(run);
  RouterResult result;
  result.ids = fetch<int>(ids, entries);
  result.weights = fetch<float>(weights, entries);
  result.row_offsets = fetch<int>(row_offsets, offsets);
  result.row_token = fetch<int>(row_token, entries);
  result.row_weight = fetch<float>(row_weight, entries);
  result.slot_row = fetch<int>(slot_row, entries);
  EXPECT_EQ(chosen_only.ids, result.ids) << "with and without sorted rows";
  EXPECT_EQ(chosen_only.weights, result.weights);
  return result;
}

void check_case(const Router& router, const RouterCase& c) {
  SCOPED_TRACE(std::string(routing_method_name(c.config.routing.method)) + " T=" + std::to_string(c.tokens));
  const RouterResult result = run_on_device(router, c), wanted = testing::oracle_routing(c);
  // Biased scores of two experts can be equal to the last FP32 bit by chance.
  std::size_t swapped = 0;
  for (std::size_t i = 0; i < wanted.ids.size(); ++i) {
    swapped += result.ids[i] != wanted.ids[i] ? 1 : 0;
    if (result.ids[i] != wanted.ids[i]) continue;
    EXPECT_NEAR(result.weights[i], wanted.weights[i], 3e-6 * std::abs(wanted.weights[i]) + 1e-9) << "slot " << i;
  }
  EXPECT_LE(swapped, c.selection_bias.empty() ? 0u : 2u);
  testing::expect_sorted_rows(c, result);
}

TEST_F(DeviceRouterTest, EveryMethodAndMap) {
  std::mt19937 rng(testing::fresh_seed());
  for (const RouterConfig& config : testing::router_configs(kDevice)) {
    const Router router = Router::create(config);
    for (const std::int64_t tokens : {0, 1, 4, 100, 128, 129, 1500}) {
      check_case(router, testing::random_router_case(rng, config, tokens));
    }
  }
}

TEST_F(DeviceRouterTest, LargestSizes) {
  std::mt19937 rng(testing::fresh_seed());
  RouterConfig config;
  config.num_experts = 1024, config.top_k = 32, config.max_tokens = 65536, config.device = kDevice;
  const Router widest = Router::create(config);
  for (const std::int64_t tokens : {64, 3000}) check_case(widest, testing::random_router_case(rng, config, tokens));
  // 16,384 entries a segment; the oracle's search would take minutes at 1,024 experts.
  config.num_experts = 32, config.top_k = 32;
  check_case(Router::create(config), testing::random_router_case(rng, config, 65536));
}

}  // namespace
}  // namespace moesaic
