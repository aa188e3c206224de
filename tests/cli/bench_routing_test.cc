// SPDX-License-Identifier: Apache-2.0
// Routings of `moesaic bench`: how often experts are chosen, what is touched, and the same numbers everywhere.
#include "cli/bench_routing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "cli/bench.h"
#include "tests/support/expect_error.h"

namespace moesaic::cli {
namespace {

MoeConfig layer(int experts, int top_k) {
  MoeConfig config;
  config.num_experts = experts;
  config.top_k = top_k;
  return config;
}

/// Share of tokens that have an expert among the k with the largest logits, the most popular first.
std::vector<double> shares(const BenchRouting& routing, int tokens, int experts, int top_k, int seed) {
  const std::vector<float> logits = bench_logits(routing, tokens, experts, seed);
  std::vector<double> share(static_cast<std::size_t>(experts));
  for (int t = 0; t < tokens; ++t) {
    const float* row = &logits[static_cast<std::size_t>(t) * share.size()];
    std::vector<std::size_t> order(share.size());
    for (std::size_t e = 0; e < order.size(); ++e) order[e] = e;
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                      [row](std::size_t a, std::size_t b) { return row[a] > row[b]; });
    for (int i = 0; i < top_k; ++i) share[order[static_cast<std::size_t>(i)]] += 1.0 / tokens;
  }
  std::sort(share.rbegin(), share.rend());
  return share;
}

TEST(BenchRouting, NamesAreReadAsTheyAreWritten) {
  EXPECT_EQ(parse_routing("uniform"), BenchRouting{});
  EXPECT_EQ(parse_routing("zipf").zipf, 1.0);
  EXPECT_EQ(parse_routing("zipf").name(), "zipf:1");
  for (const char* name : {"uniform", "zipf:1", "zipf:0.75", "zipf:1.2"}) EXPECT_EQ(parse_routing(name).name(), name);
  for (const char* name : {"", "zipf:", "zipf:0", "zipf:-1", "zipf:nan", "zipf:11", "zipf:1x", "zipfy", "Uniform"}) {
    SCOPED_TRACE(name);
    testing::expect_error(ErrorKind::kInvalidArgument, {"routing", "uniform, zipf"}, [&] { parse_routing(name); });
  }
}

TEST(BenchRouting, ZipfDrawsWithoutReplacementByPopularity) {
  constexpr int kExperts = 6, kTokens = 20000;
  std::vector<double> p;
  for (int e = 0; e < kExperts; ++e) p.push_back(1.0 / (e + 1));
  double sum = 0;
  for (const double one : p) sum += one;
  for (double& one : p) one /= sum;
  const std::vector<double> one = shares({1.0}, kTokens, kExperts, 1, 0), two = shares({1.0}, kTokens, kExperts, 2, 0);
  for (std::size_t e = 0; e < p.size(); ++e) {
    double both = p[e];  // first, or second after any other
    for (std::size_t other = 0; other < p.size(); ++other) both += other == e ? 0 : p[other] * p[e] / (1 - p[other]);
    const double sigmas = 5 / std::sqrt(static_cast<double>(kTokens));
    EXPECT_NEAR(one[e], p[e], sigmas * std::sqrt(p[e])) << e;
    EXPECT_NEAR(two[e], both, sigmas * std::sqrt(both)) << e;
  }
}

TEST(BenchRouting, EveryRoutingHasPopularExpertsOfItsOwn) {
  std::set<std::size_t> popular;
  for (int seed = 0; seed < kBenchRoutings; ++seed) {
    const std::vector<float> logits = bench_logits({3.0}, 1, 64, seed);
    popular.insert(static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    EXPECT_EQ(logits, bench_logits({3.0}, 1, 64, seed));
  }
  EXPECT_GT(popular.size(), 8u);
}

TEST(BenchRouting, LogitsStayWhereSigmoidsTellThemApart) {
  for (const float logit : bench_logits({1.0}, 512, 256, 1)) {
    ASSERT_GT(logit, -4.0f);
    ASSERT_LT(logit, 4.0f);
  }
}

TEST(BenchRouting, LoadsOfUniformRoutings) {
  const RoutingLoad one = routing_load({}, layer(64, 8), 1);
  EXPECT_EQ(one.touched_experts, 8);
  EXPECT_EQ(one.largest_load, 1);
  const RoutingLoad some = routing_load({}, layer(64, 8), 8);
  EXPECT_NEAR(some.touched_experts, 64 * (1 - std::pow(1 - 8.0 / 64, 8)), 1.5);
  const RoutingLoad all = routing_load({}, layer(4, 4), 32);
  EXPECT_EQ(all.touched_experts, 4);
  EXPECT_EQ(all.largest_load, 32);
}

TEST(BenchRouting, ZipfTouchesFewerExpertsAndLoadsOneMore) {
  const RoutingLoad uniform = routing_load({}, layer(128, 8), 32), zipf = routing_load({1.0}, layer(128, 8), 32);
  EXPECT_LT(zipf.touched_experts, 0.9 * uniform.touched_experts);
  EXPECT_GT(zipf.largest_load, 2 * uniform.largest_load);
}

TEST(BenchFloor, PredictionIsUniformTimeInProportionToTheFloors) {
  std::vector<BenchPoint> points(4);
  for (BenchPoint& p : points) p.tokens = 8;
  points[0].time.us = 200, points[0].floor_us = 100;
  points[1].routing.zipf = 1, points[1].time.us = 165, points[1].floor_us = 75;  // 150 predicted
  points[2].routing.zipf = 2, points[2].time.us = 60, points[2].floor_us = 30;
  points[3].tokens = 16, points[3].routing.zipf = 1, points[3].time.us = 10, points[3].floor_us = 10;
  fill_predictions(points);
  EXPECT_EQ(points[0].of_prediction, 0);
  EXPECT_DOUBLE_EQ(points[1].of_prediction, 1.1);
  EXPECT_DOUBLE_EQ(points[2].of_prediction, 1.0);
  EXPECT_EQ(points[3].of_prediction, 0);
}

TEST(BenchFloor, CountsTheWeightsThatItsRoutingsTouch) {
  MoeConfig config = layer(64, 2);
  config.hidden = 128;
  config.intermediate = 64;
  config.recipe = "bf16";
  Ceilings ceilings;
  ceilings.read_bytes_per_us = 1000;
  BenchPoint p;
  p.tokens = 16;
  p.routing.zipf = 1;
  fill_floor(config, ceilings, p);
  EXPECT_EQ(p.load.touched_experts, routing_load(p.routing, config, 16).touched_experts);
  EXPECT_DOUBLE_EQ(p.weight_bytes, p.load.touched_experts * 3 * 128 * 64 * 2);
  EXPECT_DOUBLE_EQ(p.floor_us, p.weight_bytes / 1000);
  ceilings.matrix_flops_per_us = 1;
  fill_floor(config, ceilings, p);
  EXPECT_DOUBLE_EQ(p.floor_us, 2.0 * 16 * 2 * 3 * 128 * 64);
}

}  // namespace
}  // namespace moesaic::cli
