// SPDX-License-Identifier: Apache-2.0
// Layouts of the prepared buffer and the workspace, and what configurations are refused.
#include <gtest/gtest.h>

#include <algorithm>

#include "plan/moe_plan.h"
#include "tables/recipe_table.h"

namespace moesaic::plan {
namespace {

MoeConfig small_config() {
  MoeConfig c;
  c.hidden = 200, c.intermediate = 37, c.num_experts = 5, c.top_k = 2, c.max_tokens = 4096;
  c.shared.intermediate = 24;
  c.shared.gated = true;
  return c;
}

std::vector<Part> parts_of(const MatrixParts& m) {
  return {m.weights, m.scales, m.zeros, m.multipliers, m.bias, m.biased};
}

std::vector<Part> in_order(std::vector<Part> parts) {
  std::erase_if(parts, [](const Part& part) { return part.bytes == 0; });
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.at < b.at; });
  return parts;
}

/// What preparing small_config(), or that without shared experts, writes.
std::vector<Part> written_parts(const PreparedLayout& p, bool shared) {
  std::vector<Part> parts = {{p.router, 5 * 200 * 4}, {p.router_bias, 5 * 4}, {p.selection_bias, 5 * 4}};
  if (shared) {
    parts.insert(parts.end(), {{p.shared_gate, 200 * 4}, p.expert_scales, p.common_scales});
  } else if (p.expert_scales.bytes > 0) {
    parts.insert(parts.end(), {{p.expert_scales.at, 5 * 2 * 4}, {p.common_scales.at, 2 * 4}});
  }
  for (const MatrixParts& matrix : {p.w13, p.w2, p.shared_w13, p.shared_w2}) {
    for (const Part& part : parts_of(matrix)) parts.push_back(part);
  }
  return in_order(parts);
}

TEST(Layout, PartsAreAlignedAndDoNotOverlap) {
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    MoeConfig c = small_config();
    c.recipe = recipe.name;
    c.int4.zero_points = true;
    const PreparedLayout p = prepared_layout(c);
    const std::vector<Part> parts = written_parts(p, true);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      EXPECT_EQ(parts[i].at % 256, 0u);
      EXPECT_LE(parts[i].at + parts[i].bytes, i + 1 < parts.size() ? parts[i + 1].at : p.total) << recipe.name;
    }
  }
}

TEST(Layout, WhatIsWrittenAndGapsAreAllOfTheBuffer) {
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    for (const bool shared : {true, false}) {
      SCOPED_TRACE(std::string(recipe.name) + (shared ? ", shared experts" : ""));
      MoeConfig c = small_config();
      c.recipe = recipe.name;
      c.int4.zero_points = true;
      if (!shared) c.shared = {};
      const PreparedLayout p = prepared_layout(c);
      std::vector<Part> all = written_parts(p, shared);
      all.insert(all.end(), p.gaps.begin(), p.gaps.end());
      std::size_t end = 0;
      for (const Part& part : in_order(all)) {
        EXPECT_EQ(part.at, end);
        end = part.at + part.bytes;
      }
      EXPECT_EQ(end, p.total);
    }
  }
}

// By the text of kernels/abi/params.h: 5 gate rows of 8 -> 5 blocks of 16 rows; 13 blocks of H = 200.
TEST(Layout, BytesOfEveryKindOfWeights) {
  struct Wanted {
    const char* recipe;
    std::size_t w13, w13_scales, w13_zeros, w2, w2_scales;  // of one expert; K is 200, then 37
  };
  for (const Wanted& wanted : {
           Wanted{"bf16", 5 * 7 * 1024, 0, 0, 13 * 2 * 1024, 0},
           Wanted{"fp8_channel", 5 * 7 * 512, 0, 0, 13 * 2 * 512, 0},
           Wanted{"fp8_block", 5 * 7 * 512, 5 * 2 * 8, 0, 13 * 2 * 512, 13 * 8},
           Wanted{"mxfp8", 5 * 7 * 512, 5 * 7 * 16, 0, 13 * 2 * 512, 13 * 2 * 16},
           Wanted{"bf16_mxfp4", 5 * 4 * 512, 5 * 4 * 32, 0, 13 * 512, 13 * 32},
           Wanted{"nvfp4", 5 * 4 * 512, 5 * 4 * 64, 0, 13 * 512, 13 * 64},
           Wanted{"bf16_int4", 5 * 4 * 512, 5 * 7 * 32, 5 * 7 * 16, 13 * 512, 13 * 2 * 32},
       }) {
    MoeConfig c = small_config();
    c.recipe = wanted.recipe;
    c.int4 = {32, true};
    const PreparedLayout p = prepared_layout(c);
    const MatrixParts w13 = p.w13.share(4, 5), w2 = p.w2.share(4, 5);
    EXPECT_EQ(w13.weights.bytes, wanted.w13) << wanted.recipe;
    EXPECT_EQ(w13.scales.bytes, wanted.w13_scales) << wanted.recipe;
    EXPECT_EQ(w13.zeros.bytes, wanted.w13_zeros) << wanted.recipe;
    EXPECT_EQ(w2.weights.bytes, wanted.w2) << wanted.recipe;
    EXPECT_EQ(w2.scales.bytes, wanted.w2_scales) << wanted.recipe;
    EXPECT_EQ(w13.weights.at, p.w13.weights.at + 4 * wanted.w13);
    EXPECT_EQ(w13.bias.bytes, 5u * 16 * 4);
    EXPECT_EQ(w13.multipliers.bytes, p.form.multipliers ? 5u * 16 * 4 : 0u);
  }
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

TEST(Layout, DepthsThatHoldNoWholeBlocksAreRefusedByName) {
  const auto refused = [](const char* recipe, const char* shared, int hidden, int intermediate) {
    MoeConfig c = small_config();
    c.recipe = recipe;
    c.shared.recipe = shared;
    c.hidden = hidden, c.intermediate = intermediate;
    check_config(c);
    try {
      check_depths(c);
      return std::string();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidArgument);
      return std::string(e.what());
    }
  };
  EXPECT_EQ(refused("bf16", "bf16", 200, 37), "");
  EXPECT_EQ(refused("fp8_block", "bf16", 200, 37), "") << "FP32 scales may be ragged";
  EXPECT_EQ(refused("nvfp4", "bf16", 208, 48), "");
  EXPECT_NE(refused("nvfp4", "bf16", 200, 48).find("hidden is 200, wanted a multiple of 16: nvfp4"), std::string::npos);
  EXPECT_NE(refused("mxfp8", "bf16", 224, 48).find("intermediate is 48, wanted a multiple of 32"), std::string::npos);
  EXPECT_NE(refused("bf16", "bf16_int4", 200, 37).find("hidden is 200, wanted a multiple of 32"), std::string::npos);
  EXPECT_NE(refused("bf16", "mxfp8", 224, 37).find("shared.intermediate is 24"), std::string::npos);
}

}  // namespace
}  // namespace moesaic::plan
