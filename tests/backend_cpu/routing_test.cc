// SPDX-License-Identifier: Apache-2.0
// Routing of the oracle and of the fast path: recorded tables, ties, NaN, refusals, and each against the other.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "backend_cpu/arguments.h"
#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_routing.h"
#include "tests/support/safetensors_reader.h"

namespace moesaic::cpu {
namespace {

using Route = std::function<void(const Routing&, const RouteTask&)>;

void oracle_route(const Routing& routing, const RouteTask& task) { route(routing, task); }

void fast_route(const Routing& routing, const RouteTask& task) {
  const int experts = task.num_experts, k = task.top_k;
  std::vector<std::uint64_t> scratch(route_scratch_bytes(experts) / sizeof(std::uint64_t) + 1);
  const std::vector<float> no_bias(experts, 0.0f);
  for (std::int64_t t = 0; t < task.tokens; ++t) {
    const float* logits = task.logits + t * experts;
    if (routing.method == RoutingMethod::kHash) {
      const bool known = task.token_ids[t] >= 0 && task.token_ids[t] < routing.vocabulary;
      fast_route_listed(routing, logits, known ? task.token_experts + task.token_ids[t] * k : nullptr, experts, k,
                        task.ids + t * k, task.weights + t * k);
      continue;
    }
    fast_route_token(routing, logits, task.selection_bias != nullptr ? task.selection_bias : no_bias.data(), experts, k,
                     scratch.data(), task.ids + t * k, task.weights + t * k);
  }
}

Routing case_routing(const nlohmann::json& facts) {
  static const std::map<std::string, RoutingMethod> kMethods = {
      {"default", RoutingMethod::kSoftmaxTopK},
      {"renormalize", RoutingMethod::kTopKSoftmax},
      {"renormalize_naive", RoutingMethod::kTopKSoftmax},
      {"softmax_renorm", RoutingMethod::kSoftmaxTopKRenorm},
      {"deepseek_v3", RoutingMethod::kDeepSeekV3},
      {"minimax2", RoutingMethod::kMiniMax2},
      {"deepseek_v2", RoutingMethod::kDeepSeekV2},
      {"llama4", RoutingMethod::kLlama4},
      {"topk_sigmoid", RoutingMethod::kLlama4},
      {"topk", RoutingMethod::kTopK},
      {"sigmoid", RoutingMethod::kSigmoid},
      {"sigmoid_renorm", RoutingMethod::kSigmoid},
      {"hash_topk", RoutingMethod::kHash},
  };
  const std::string method = facts.at("method");
  Routing routing;
  routing.method = kMethods.at(method);
  // The table's hash router leaves the scaling to the caller, who divides the shared expert by it instead.
  if (routing.method == RoutingMethod::kHash) return routing;
  routing.n_group = facts.at("n_group");
  routing.topk_group = facts.at("topk_group");
  routing.scaling = facts.at("routed_scaling_factor");
  // "sigmoid" is the method that never renormalises. The router behind the V2 cases does not read norm_topk_prob: it
  // multiplies probabilities by the scaling.
  const bool reads_flag = method != "sigmoid" && method != "deepseek_v2";
  routing.renormalize = reads_flag && facts.at("norm_topk_prob").get<bool>();
  return routing;
}

// The first `top_k` of every row's slots: the hash table's rows can have one more for a shared expert, which is no
// choice of the router (tests/ops/router_test.cc has it).
template <typename T>
std::vector<T> chosen_slots(const moesaic::testing::StoredArray& array, int top_k) {
  std::vector<T> slots;
  const std::vector<T> values = array.values<T>();
  for (std::int64_t t = 0; t < array.shape[0]; ++t) {
    const auto row = values.begin() + t * array.shape[1];
    slots.insert(slots.end(), row, row + top_k);
  }
  return slots;
}

// ids exactly, weights to 1e-6: both sides are FP32 values of sums over at most 64 experts, computed in FP64 here and
// in FP32 there, a few units of 2^-24 apart.
void compare_with_table(const Route& route_under_test) {
  const auto table = moesaic::testing::read_safetensors(std::string(MOESAIC_TEST_DATA) + "/tables/routing.safetensors");
  const auto cases = nlohmann::json::parse(table.metadata.at("cases"));
  std::size_t run = 0;
  for (const auto& [name, facts] : cases.items()) {
    SCOPED_TRACE(name);
    const auto& logits = table.at(name + ".logits");
    const auto values = logits.values<float>();
    const bool has_bias = table.arrays.count(name + ".bias") != 0;
    const auto bias = has_bias ? table.at(name + ".bias").values<float>() : std::vector<float>{};
    Routing routing = case_routing(facts);
    RouteTask task;
    task.tokens = logits.shape[0];
    task.num_experts = static_cast<int>(logits.shape[1]);
    task.top_k = facts.at("top_k");
    task.logits = values.data();
    task.selection_bias = has_bias ? bias.data() : nullptr;
    std::vector<std::int64_t> token_ids;
    std::vector<std::int32_t> token_experts;
    if (routing.method == RoutingMethod::kHash) {
      token_ids = table.at(name + ".input_ids").values<std::int64_t>();
      token_experts = table.at(name + ".tid2eid").values<std::int32_t>();
      routing.vocabulary = static_cast<int>(table.at(name + ".tid2eid").shape[0]);
      task.token_ids = token_ids.data();
      task.token_experts = token_experts.data();
    }
    const auto wanted_ids = chosen_slots<std::int32_t>(table.at(name + ".ids"), task.top_k);
    const auto wanted_weights = chosen_slots<float>(table.at(name + ".weights"), task.top_k);
    std::vector<std::int32_t> ids(wanted_ids.size(), -7);
    std::vector<float> weights(wanted_ids.size(), NAN);
    task.ids = ids.data();
    task.weights = weights.data();
    route_under_test(routing, task);
    EXPECT_EQ(ids, wanted_ids);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      EXPECT_NEAR(weights[i], wanted_weights[i], 1e-6 * std::fabs(wanted_weights[i])) << "at " << i;
    }
    ++run;
  }
  EXPECT_EQ(run, cases.size());
  EXPECT_EQ(run, 77u);
}

TEST(OracleRouting, MatchesTable) { compare_with_table(oracle_route); }
TEST(FastRouting, MatchesTable) { compare_with_table(fast_route); }

const std::vector<Routing> kRoutings = {
    {RoutingMethod::kSoftmaxTopK, 1, 1, 1.0f, false}, {RoutingMethod::kSoftmaxTopKRenorm, 1, 1, 1.0f, true},
    {RoutingMethod::kTopKSoftmax, 1, 1, 1.0f, true},  {RoutingMethod::kDeepSeekV3, 4, 2, 2.5f, true},
    {RoutingMethod::kDeepSeekV3, 1, 1, 1.5f, false},  {RoutingMethod::kDeepSeekV2, 4, 3, 16.0f, false},
    {RoutingMethod::kDeepSeekV2, 8, 4, 16.0f, true},  {RoutingMethod::kLlama4, 1, 1, 1.0f, true},
    {RoutingMethod::kTopK, 1, 1, 1.0f, true},         {RoutingMethod::kSigmoid, 1, 1, 1.0f, true},
    {RoutingMethod::kSigmoid, 1, 1, 1.0f, false},     {RoutingMethod::kMiniMax2, 1, 1, 1.5f, true},
    {RoutingMethod::kHash, 1, 1, 2.5f, true, 23},
};

// Few distinct values make ties frequent; infinities and NaN are mixed in on request.
std::vector<float> random_logits(std::mt19937& random, std::size_t size, bool hostile) {
  std::vector<float> logits(size);
  for (float& logit : logits) {
    logit = static_cast<float>(static_cast<int>(random() % 17) - 8) / 4.0f;
    if (!hostile || random() % 4 != 0) continue;
    const float values[] = {NAN, HUGE_VALF, -HUGE_VALF, 1e30f, -1e30f, -0.0f};
    logit = values[random() % 6];
  }
  return logits;
}

TEST(FastRouting, EqualsOracleOnTiesInfinitiesAndNan) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  constexpr int kExperts = 16, kTokens = 60;
  for (const Routing& routing : kRoutings) {
    for (const bool hostile : {false, true}) {
      for (const int top_k : {1, 2, 5, 8}) {
        const auto logits = random_logits(random, kTokens * kExperts, hostile);
        const auto bias = random_logits(random, kExperts, false);
        // Token ids on both sides of the table; experts on both sides of [0, E) on request.
        std::vector<std::int64_t> token_ids(kTokens);
        for (auto& id : token_ids) id = static_cast<std::int64_t>(random() % 27) - 2;
        std::vector<std::int32_t> token_experts(static_cast<std::size_t>(23 * top_k));
        for (auto& id : token_experts) id = static_cast<int>(random() % (hostile ? 20 : kExperts)) - (hostile ? 2 : 0);
        std::vector<std::int32_t> ids(kTokens * top_k), fast_ids(ids);
        std::vector<float> weights(ids.size()), fast_weights(ids.size());
        RouteTask task{kTokens, kExperts, top_k, logits.data(), nullptr, nullptr, nullptr, nullptr, nullptr};
        task.selection_bias = has_selection_bias(routing.method) ? bias.data() : nullptr;
        task.token_ids = token_ids.data();
        task.token_experts = token_experts.data();
        task.ids = ids.data();
        task.weights = weights.data();
        route(routing, task);
        task.ids = fast_ids.data();
        task.weights = fast_weights.data();
        fast_route(routing, task);
        ASSERT_EQ(ids, fast_ids) << routing_method_name(routing.method);
        for (std::size_t i = 0; i < weights.size(); ++i) {
          const bool same = weights[i] == fast_weights[i] || (std::isnan(weights[i]) && std::isnan(fast_weights[i]));
          ASSERT_TRUE(same || std::fabs(weights[i] - fast_weights[i]) <= 1e-6 * std::fabs(weights[i]))
              << routing_method_name(routing.method) << " " << weights[i] << " " << fast_weights[i];
        }
        for (int t = 0; t < kTokens && routing.method != RoutingMethod::kHash; ++t) {
          const std::set<std::int32_t> distinct(ids.begin() + t * top_k, ids.begin() + (t + 1) * top_k);
          ASSERT_EQ(distinct.size(), static_cast<std::size_t>(top_k));
          ASSERT_TRUE(*distinct.begin() >= 0 && *distinct.rbegin() < kExperts);
        }
      }
    }
  }
}

TEST(OracleRouting, TakesNanLast) {
  const float logits[] = {NAN, -3.0f, NAN, -HUGE_VALF};
  std::int32_t ids[3];
  float weights[3];
  route({RoutingMethod::kTopK, 1, 1, 1.0f, true}, logits, nullptr, 1, 4, 3, ids, weights);
  EXPECT_EQ(ids[0], 1);
  EXPECT_EQ(ids[1], 3);
  EXPECT_EQ(ids[2], 0);
}

// sig(0) = 0.5, sig(ln 3) = 0.75. Biased: group 0 {0.5, 1.75}, group 1 {1.25, 0.875}: sums 2.25 and 2.125. The
// weights are made of the unbiased scores.
TEST(OracleRouting, DeepSeekV3ByHand) {
  const float ln3 = std::log(3.0f);
  const float logits[] = {0.0f, ln3, ln3, 0.0f};
  const float bias[] = {0.0f, 1.0f, 0.5f, 0.375f};
  std::int32_t ids[2];
  float weights[2];
  route({RoutingMethod::kDeepSeekV3, 2, 1, 2.0f, true}, logits, bias, 1, 4, 2, ids, weights);
  EXPECT_EQ(ids[0], 1);
  EXPECT_EQ(ids[1], 0);
  EXPECT_NEAR(weights[0], 2.0 * 0.75 / 1.25, 1e-6);
  EXPECT_NEAR(weights[1], 2.0 * 0.5 / 1.25, 1e-6);
}

// sqrt(log(1 + exp(0))) = sqrt(ln 2) each; the third slot's expert does not exist, the last token is not in the table.
TEST(OracleRouting, HashByHand) {
  const float logits[] = {0.0f, 0.0f, 5.0f, 1.0f, 2.0f, 3.0f};
  const std::int64_t token_ids[] = {1, 2};
  const std::int32_t token_experts[] = {0, 0, 0, 1, 0, 9};
  std::int32_t ids[6];
  float weights[6];
  RouteTask task{2, 3, 3, logits};
  task.token_ids = token_ids;
  task.token_experts = token_experts;
  task.ids = ids;
  task.weights = weights;
  route({RoutingMethod::kHash, 1, 1, 3.0f, true, 2}, task);
  EXPECT_EQ(std::vector<std::int32_t>(ids, ids + 6), (std::vector<std::int32_t>{1, 0, 9, -1, -1, -1}));
  EXPECT_EQ(std::vector<float>(weights, weights + 6), (std::vector<float>{1.5f, 1.5f, 0, 0, 0, 0}));
}

// kMiniMax2 has the formulas of kDeepSeekV3 with one group, but reads neither its groups nor its flag.
TEST(OracleRouting, MiniMaxAlwaysRenormalises) {
  const float logits[] = {0.0f, std::log(3.0f), 0.0f, 0.0f};
  const float bias[] = {0.0f, -1.0f, 0.5f, 0.25f};
  std::int32_t ids[2];
  float weights[2];
  route({RoutingMethod::kMiniMax2, 1, 1, 4.0f, false}, logits, bias, 1, 4, 2, ids, weights);
  EXPECT_EQ(ids[0], 2);
  EXPECT_EQ(ids[1], 3);
  EXPECT_NEAR(weights[0], 2.0, 1e-6);
  EXPECT_NEAR(weights[1], 2.0, 1e-6);
}

std::string refusal(const Routing& routing, int experts, int top_k) {
  try {
    check_routing("route", routing, experts, top_k);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(CheckRouting, RefusesWithTheReason) {
  const auto names = [](const char* word, const std::string& message) {
    EXPECT_NE(message.find(word), std::string::npos) << message;
  };
  names("top_k is 9", refusal({}, 8, 9));
  names("top_k is 0", refusal({}, 8, 0));
  names("vocabulary is 0", refusal({RoutingMethod::kHash, 1, 1, 1.0f, true, 0}, 8, 2));
  names("num_experts is 0", refusal({}, 0, 1));
  names("n_group is 3", refusal({RoutingMethod::kDeepSeekV3, 3, 1, 1.0f, true}, 8, 2));
  names("n_group is 0", refusal({RoutingMethod::kDeepSeekV2, 0, 1, 1.0f, true}, 8, 2));
  names("topk_group is 5", refusal({RoutingMethod::kDeepSeekV2, 4, 5, 1.0f, true}, 8, 2));
  names("groups of 1 expert", refusal({RoutingMethod::kDeepSeekV3, 8, 4, 1.0f, true}, 8, 2));
  names("hold 4", refusal({RoutingMethod::kDeepSeekV3, 4, 2, 1.0f, true}, 8, 5));
  EXPECT_EQ(refusal({RoutingMethod::kDeepSeekV3, 4, 2, 1.0f, true}, 8, 4), "");
}

}  // namespace
}  // namespace moesaic::cpu
