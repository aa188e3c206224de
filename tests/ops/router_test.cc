// SPDX-License-Identifier: Apache-2.0
// Router on the CPU: recorded table, the oracle's choice, sorted rows, and every argument that is refused, by name.
#include <gtest/gtest.h>

#include <cmath>

#include "support/expect_error.h"
#include "support/random_layer.h"
#include "support/router_case.h"
#include "support/safetensors_reader.h"

namespace moesaic {
namespace {

using testing::RouterCase;
using testing::RouterResult;

/// Output memory, poisoned, and the views of a run.
struct Buffers {
  RouterResult result;
  RouteRun run;

  explicit Buffers(const RouterCase& c, bool sorted = true) {
    const auto entries = static_cast<std::size_t>(c.tokens * c.slots());
    result.ids.assign(entries, -7);
    result.weights.assign(entries, std::nanf(""));
    result.row_token = result.slot_row = result.ids;
    result.row_weight = result.weights;
    result.row_offsets.assign(static_cast<std::size_t>(c.sorted_experts() + 1), -7);
    run.logits = TensorView(c.logits.data(), DType::kF32, {c.tokens, c.config.num_experts});
    if (!c.selection_bias.empty()) {
      run.selection_bias = TensorView(c.selection_bias.data(), DType::kF32, {c.config.num_experts});
    }
    if (c.config.routing.method == RoutingMethod::kHash) {
      run.token_ids = TensorView(c.token_ids.data(), DType::kI64, {c.tokens});
      run.token_experts =
          TensorView(c.token_experts.data(), DType::kI32, {c.config.routing.vocabulary, c.config.top_k});
    }
    run.ids = TensorView(result.ids.data(), DType::kI32, {c.tokens, c.slots()});
    run.weights = TensorView(result.weights.data(), DType::kF32, {c.tokens, c.slots()});
    if (!sorted) return;
    run.row_offsets = TensorView(result.row_offsets.data(), DType::kI32, {c.sorted_experts() + 1});
    run.row_token = TensorView(result.row_token.data(), DType::kI32, {c.tokens * c.slots()});
    run.row_weight = TensorView(result.row_weight.data(), DType::kF32, {c.tokens * c.slots()});
    run.slot_row = TensorView(result.slot_row.data(), DType::kI32, {c.tokens, c.slots()});
  }
};

TEST(Router, ChoosesAsTheOracleAndSortsRows) {
  std::mt19937 rng(testing::fresh_seed());
  for (const RouterConfig& config : testing::router_configs({})) {
    SCOPED_TRACE(routing_method_name(config.routing.method));
    const Router router = Router::create(config);
    for (const std::int64_t tokens : {0, 1, 5, 200}) {
      SCOPED_TRACE("T=" + std::to_string(tokens));
      const RouterCase c = testing::random_router_case(rng, config, tokens);
      Buffers b(c);
      router.run(b.run);
      const RouterResult wanted = testing::oracle_routing(c);
      EXPECT_EQ(b.result.ids, wanted.ids);
      for (std::size_t i = 0; i < wanted.weights.size(); ++i) {
        EXPECT_NEAR(b.result.weights[i], wanted.weights[i], 1e-6 * std::abs(wanted.weights[i])) << i;
      }
      testing::expect_sorted_rows(c, b.result);
      Buffers chosen_only(c, false);
      router.run(chosen_only.run);
      EXPECT_EQ(chosen_only.result.ids, b.result.ids);
      EXPECT_EQ(chosen_only.result.weights, b.result.weights);
    }
  }
}

// The table's rows have the shared expert's slot, worth 1 / routed_scaling_factor.
TEST(Router, SharedSlotOfTheRecordedTable) {
  const auto table = testing::read_safetensors(std::string(MOESAIC_TEST_DATA) + "/tables/routing.safetensors");
  RouterCase c;
  c.config.num_experts = 32, c.config.top_k = 6, c.config.shared_slots = 1, c.config.shared_weight = 1 / 2.5f;
  c.config.routing.method = RoutingMethod::kHash;
  c.config.routing.vocabulary = 50;
  c.tokens = 15;
  c.logits = table.at("hash_shared.logits").values<float>();
  c.token_ids = table.at("hash_shared.input_ids").values<std::int64_t>();
  c.token_experts = table.at("hash_shared.tid2eid").values<std::int32_t>();
  Buffers b(c);
  Router::create(c.config).run(b.run);
  EXPECT_EQ(b.result.ids, table.at("hash_shared.ids").values<std::int32_t>());
  const std::vector<float> wanted = table.at("hash_shared.weights").values<float>();
  ASSERT_EQ(wanted.size(), b.result.weights.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(b.result.weights[i], wanted[i], 1e-6 * wanted[i]);
  testing::expect_sorted_rows(c, b.result);
}

TEST(Router, GivenIdsAreSortedAlone) {
  std::mt19937 rng(testing::fresh_seed());
  RouterConfig config;
  config.num_experts = 12, config.top_k = 3, config.experts.first = 4, config.experts.count = 5;
  RouterCase c = testing::random_router_case(rng, config, 40);
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
  for (int i = 0; i < 120; ++i) {
    ids.push_back(static_cast<int>(rng() % 16) - 2);
    weights.push_back(static_cast<float>(i));
  }
  Buffers b(c);
  b.run.logits = {};
  b.run.given_ids = TensorView(ids.data(), DType::kI32, {40, 3});
  b.run.given_weights = TensorView(weights.data(), DType::kF32, {40, 3});
  Router::create(config).run(b.run);
  EXPECT_EQ(b.result.ids, ids);
  EXPECT_EQ(b.result.weights, weights);
  testing::expect_sorted_rows(c, b.result);
}

TEST(Router, RefusesDevicesThatAreNone) {
  RouterConfig c;
  c.num_experts = 8, c.top_k = 2, c.max_tokens = 4;
  c.device = {DeviceType::kCuda, -1};
  testing::expect_error(ErrorKind::kInvalidArgument, {"router: device", "wanted the CPU"}, [&] { Router::create(c); });
}

TEST(Router, RefusesByName) {
  std::mt19937 rng(3);
  RouterConfig config;
  config.num_experts = 8, config.top_k = 2, config.max_tokens = 10;
  const RouterCase c = testing::random_router_case(rng, config, 4);
  const Router router = Router::create(config);
  const auto refused = [&](auto change, const char* word) {
    Buffers b(c);
    change(b.run);
    testing::expect_error(ErrorKind::kInvalidArgument, {"router: ", word}, [&] { router.run(b.run); });
    EXPECT_EQ(b.result.ids, std::vector<std::int32_t>(8, -7)) << "nothing is written";
  };
  refused([](RouteRun& r) { r.logits = {}; }, "logits");
  refused([](RouteRun& r) { r.logits.shape[1] = 9; }, "logits");
  refused([](RouteRun& r) { r.logits.shape[0] = 11; }, "max_tokens 10");
  refused([](RouteRun& r) { r.logits.dtype = DType::kBF16; }, "logits");
  refused([](RouteRun& r) { r.given_ids = r.ids; }, "given_ids");
  refused([](RouteRun& r) { r.given_weights = r.weights; }, "given_weights");
  refused([](RouteRun& r) { r.selection_bias = r.logits; }, "selection_bias");
  refused([](RouteRun& r) { r.token_ids = r.ids; }, "token_ids");
  refused([](RouteRun& r) { r.ids.dtype = DType::kI64; }, "ids");
  refused([](RouteRun& r) { r.weights.data = nullptr; }, "weights");
  refused([](RouteRun& r) { r.row_offsets.shape[0] = 8; }, "row_offsets");
  refused([](RouteRun& r) { r.row_token = {}; }, "row_token");
  refused([](RouteRun& r) { r.row_offsets = {}; }, "row_token");
  refused([](RouteRun& r) { r.slot_row.shape[1] = 3; }, "slot_row");
  refused([](RouteRun& r) { r.logits.rank = 100; }, "rank 100");
  refused([](RouteRun& r) { r.row_weight.data = static_cast<char*>(r.row_weight.data) + 1; }, "a multiple of 4 bytes");
  testing::expect_error(ErrorKind::kInvalidArgument, {"router: ", "workspace for 11"},
                        [&] { router.workspace_bytes(11); });
  config.top_k = 9;
  testing::expect_error(ErrorKind::kInvalidArgument, {"router: top_k is 9"}, [&] { Router::create(config); });
  config.top_k = 2, config.shared_slots = -1;
  testing::expect_error(ErrorKind::kInvalidArgument, {"shared_slots"}, [&] { Router::create(config); });
}

}  // namespace
}  // namespace moesaic
