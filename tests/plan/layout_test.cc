// SPDX-License-Identifier: Apache-2.0
// Layouts of the prepared buffer and the workspace, and what configurations are refused.
#include <gtest/gtest.h>

#include <algorithm>

#include "plan/moe_plan.h"

namespace moesaic::plan {
namespace {

MoeConfig small_config() {
  MoeConfig c;
  c.hidden = 200, c.intermediate = 37, c.num_experts = 5, c.top_k = 2, c.max_tokens = 4096;
  c.shared.intermediate = 24;
  c.shared.gated = true;
  return c;
}

TEST(Layout, PartsAreAlignedAndDoNotOverlap) {
  const PreparedLayout p = prepared_layout(small_config());
  std::vector<std::size_t> offsets = {
      p.w13,        p.w2,        p.b13,        p.b2,        p.router,     p.router_bias, p.selection_bias,
      p.shared_w13, p.shared_w2, p.shared_b13, p.shared_b2, p.shared_gate};
  EXPECT_TRUE(std::is_sorted(offsets.begin(), offsets.end()));
  EXPECT_EQ(std::adjacent_find(offsets.begin(), offsets.end()), offsets.end()) << "two parts at one place";
  for (const std::size_t o : offsets) EXPECT_EQ(o % 256, 0u);
  // 5 gate rows of 8 -> 5 blocks of 16 rows; 200 of K -> 7 blocks of 32.
  EXPECT_EQ(p.w13_expert_bytes, 5u * 7 * 1024);
  EXPECT_EQ(p.w2_expert_bytes, 13u * 2 * 1024);
  EXPECT_GE(p.w2 - p.w13, 5 * p.w13_expert_bytes);
}

TEST(Layout, TileBoundHoldsForTheWorstRouting) {
  const MoeConfig c = small_config();
  for (const int tile : {8, 16, 64, 128}) {
    for (const int tokens : {1, 2, 7, 64, 300, 4096}) {
      const int rows = tokens * c.top_k;
      // Worst: all experts but one have one row more than a multiple of the tile.
      int left = rows, tiles = 0;
      for (int e = 0; e < c.num_experts && left > 0; ++e) {
        const int mine = e + 1 == c.num_experts ? left : std::min(left, 1);
        tiles += (mine + tile - 1) / tile;
        left -= mine;
      }
      EXPECT_GE(workspace_layout(c, tokens, tile).max_tiles, tiles) << tokens << " " << tile;
    }
  }
}

TEST(Layout, WorkspaceGrowsWithTokensAndServesEveryTile) {
  const MoeConfig c = small_config();
  std::size_t before = 0;
  for (int tokens = 0; tokens <= 4096; tokens += 37) {
    const std::size_t bytes = workspace_bytes(c, tokens);
    EXPECT_GE(bytes, before);
    for (const int tile : {8, 16, 32, 64, 128}) EXPECT_LE(workspace_layout(c, tokens, tile).total, bytes);
    before = bytes;
  }
}

TEST(Layout, SegmentsCoverAllTokens) {
  const MoeConfig c = small_config();
  for (const int tokens : {129, 4096, 65536, 1 << 20}) {
    const WorkspaceLayout w = workspace_layout(c, tokens, 128);
    EXPECT_GE(static_cast<std::int64_t>(w.segments) * w.segment_tokens, tokens);
    EXPECT_LE(w.segment_tokens * c.top_k, 65535) << "counted in 16 bits";
  }
}

// The largest layer that is promised fits; more tokens than any grid are refused, with a number that is not.
TEST(Layout, GridsAreBounded) {
  MoeConfig c = small_config();
  c.hidden = 7168, c.intermediate = 14336, c.num_experts = 1024, c.top_k = 32, c.max_tokens = 65536;
  check_grids(c);
  c.max_tokens = 1 << 25;
  try {
    check_grids(c);
    ADD_FAILURE() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidArgument);
    const std::string message = e.what();
    const auto at = message.find("at most ");
    ASSERT_NE(at, std::string::npos) << message;
    c.max_tokens = std::stoi(message.substr(at + 8));
    EXPECT_GE(c.max_tokens, 65536);
    check_grids(c);
  }
}

void expect_refused(void (*change)(MoeConfig&), const char* word) {
  MoeConfig c = small_config();
  change(c);
  try {
    check_config(c);
    ADD_FAILURE() << word << " was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidArgument);
    EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
  }
}

TEST(Layout, IllegalConfigurationsAreRefusedByName) {
  check_config(small_config());
  expect_refused([](MoeConfig& c) { c.hidden = 0; }, "hidden");
  expect_refused([](MoeConfig& c) { c.intermediate = -4; }, "intermediate");
  expect_refused([](MoeConfig& c) { c.top_k = 6; }, "top_k");
  expect_refused([](MoeConfig& c) { c.recipe = "int3"; }, "int3");
  expect_refused([](MoeConfig& c) { c.routing.n_group = 2; }, "n_group");
  expect_refused([](MoeConfig& c) { c.routing.method = RoutingMethod::kDeepSeekV3, c.routing.n_group = 5; }, "n_group");
  expect_refused([](MoeConfig& c) { c.routing.method = RoutingMethod::kDeepSeekV2, c.routing.topk_group = 2; },
                 "topk_group");
  expect_refused([](MoeConfig& c) { c.shared.intermediate = 0; }, "shared");
  expect_refused([](MoeConfig& c) { c.max_tokens = 0; }, "max_tokens");
  expect_refused([](MoeConfig& c) { c.max_tokens = 1 << 29, c.top_k = 4; }, "max_tokens");
  expect_refused([](MoeConfig& c) { c.routing.method = RoutingMethod::kHash; }, "vocabulary");
  expect_refused([](MoeConfig& c) { c.experts.first = 1; }, "experts.first");
  expect_refused([](MoeConfig& c) { c.tp = {2, 2}; }, "tp.rank");
}

}  // namespace
}  // namespace moesaic::plan
