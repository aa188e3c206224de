// SPDX-License-Identifier: Apache-2.0
// The planner: every T has a plan, ranges agree with it, the AOT set holds whatever dispatch can ask for.
#include "plan/moe_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "module/kernel_instance.h"
#include "plan/prepare_plan.h"
#include "plan/quant_plan.h"
#include "tables/model_table.h"
#include "tables/quant_table.h"

namespace moesaic::plan {
namespace {

MoeConfig config_of(const tables::ModelRow& model, const char* recipe, int max_tokens) {
  MoeConfig c = tables::model_config(model);
  c.recipe = recipe;
  c.max_tokens = max_tokens;
  return c;
}

TEST(MoePlan, RangesServeEveryTokenCountWithTheSamePlan) {
  const tables::ArchRow& arch = *tables::find_arch(90);
  const MoeConfig c = config_of(tables::get_model("qwen3-30b-a3b"), "bf16", 3000);
  const std::vector<PlanRange> ranges = plan_ranges(c, arch, {}, "");
  ASSERT_EQ(ranges.back().last_tokens, 3000);
  std::int64_t first = 1;
  for (const PlanRange& range : ranges) {
    ASSERT_GE(range.last_tokens, first);
    EXPECT_EQ(plan_moe(c, first, arch, {}, ""), range.steps) << "T=" << first;
    // What depends on T exactly must hold over the whole range.
    EXPECT_EQ(routing_is_fused(first, c.top_k), routing_is_fused(range.last_tokens, c.top_k));
    first = range.last_tokens + 1;
  }
}

TEST(MoePlan, NoTileIsSmallerThanTheSmallest) {
  int smallest = 1 << 30;
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (row.op != tables::Op::kGemm) continue;
    for (const abi::KernelConfig& config : row.configs) smallest = std::min(smallest, config.tile_tokens);
  }
  EXPECT_EQ(smallest, kSmallestTile);
}

// Shared slots count against what the kernels hold.
TEST(MoePlan, RoutersThatNoKernelHoldsAreRefused) {
  const auto refused = [](int experts, int top_k, int shared) {
    RouterConfig c;
    c.num_experts = experts, c.top_k = top_k, c.shared_slots = shared;
    try {
      plan_route(c, tables::kArchTable.front(), "");
      return std::string();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
      return std::string(e.what());
    }
  };
  EXPECT_EQ(refused(1022, 30, 2), "");
  EXPECT_NE(refused(1023, 30, 2).find("1024 experts"), std::string::npos);
  EXPECT_NE(refused(64, 31, 2).find("32 experts per token"), std::string::npos);
}

// For each bundle of one architecture, everything that dispatch asks for must be in it.
TEST(MoePlan, WhateverDispatchPicksIsInTheAotSet) {
  for (const tables::ArchRow& arch : tables::kArchTable) {
    std::set<std::string> bundle;
    for (const module::KernelInstance& i : module::instances_for(arch, ~0u, ~0u)) bundle.insert(module::identity(i));
    EXPECT_LE(bundle.size(), 64u) << "SM" << arch.sm;
    std::set<std::string> asked;
    const auto ask = [&](const Choice& c) {
      asked.insert(module::identity({c.row, c.config_index, module::target_for(*c.row, arch)}));
    };
    for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
      for (const tables::ModelRow& model : tables::model_table()) {
        const MoeConfig c = config_of(model, recipe.name, 65536);
        for (const PlanRange& range : plan_ranges(c, arch, {}, "")) {
          for (const Choice& choice : range.steps.all()) ask(choice);
        }
        for (const Choice& choice : plan_preparation(c, arch).all()) ask(choice);
        ask(plan_dispatched(c, arch, ""));
      }
    }
    RouterConfig router;
    router.num_experts = 1000, router.top_k = 30, router.shared_slots = 2;
    const RouteSteps route = plan_route(router, arch, "");
    for (const Choice& choice : {route.fused, route.select, route.scatter, plan_activation(arch, "")}) ask(choice);
    for (const tables::QuantRow& format : tables::kQuantTable) {
      using Kind = std::optional<ActivationKind>;
      for (const Kind activation : {Kind(), Kind(ActivationKind::kSwiglu), Kind(ActivationKind::kSitu)}) {
        QuantSpec spec{.format = format.format};
        spec.int4.size = 32;
        for (const Choice& choice : plan_quantize(spec, activation, arch, "").all()) ask(choice);
      }
    }
    for (const std::string& id : asked) EXPECT_EQ(bundle.count(id), 1u) << "SM" << arch.sm << " lacks " << id;
    // And the other way round: nothing is built that no layer of the table and no other op ever asks for.
    EXPECT_EQ(asked.size(), bundle.size()) << "SM" << arch.sm;
  }
}

TEST(MoePlan, ConfigsFitEveryArchitecture) {
  for (const tables::ArchRow& arch : tables::kArchTable) {
    for (const tables::KernelRow& row : tables::kernel_table()) {
      if (!tables::why_not(row, arch, tables::recipe_index("bf16")).empty()) continue;
      for (const abi::KernelConfig& c : row.configs)
        EXPECT_LE(abi::smem_bytes(c), arch.smem_per_block) << row.name << arch.sm;
    }
  }
}

TEST(MoePlan, SmallBatchesStreamAndLargeOnesTile) {
  const MoeConfig c = config_of(tables::get_model("mixtral-8x7b"), "bf16", 8192);
  for (const auto& [sm, most] : {std::pair{80, 128}, std::pair{90, 256}, std::pair{120, 128}}) {
    const tables::ArchRow& arch = *tables::find_arch(sm);
    EXPECT_EQ(plan_moe(c, 1, arch, {}, "").gemm1.config().tile_tokens, 8) << sm;
    EXPECT_EQ(plan_moe(c, 8192, arch, {}, "").gemm1.config().tile_tokens, most) << sm;
    const MoeSteps steps = plan_moe(c, 300, arch, {}, "");
    EXPECT_EQ(steps.gemm1.config().tile_tokens, steps.gemm2.config().tile_tokens) << "they share one tile list";
  }
}

// Up to four tokens an expert stream; 12 of them get two blocks an SM; on Hopper alone, of every memory rate.
TEST(MoePlan, SomeTokensAnExpertGetTwoBlocksAnSm) {
  DeviceRates h200;
  h200.dram_bytes_per_us = 4.28e6;
  for (const char* model : {"qwen3-30b-a3b", "qwen3-235b-a22b", "gpt-oss-120b"}) {
    const MoeConfig c = config_of(tables::get_model(model), "bf16", 8192);
    const int some = 12 * c.num_experts / c.top_k;
    for (const DeviceRates& rates : {DeviceRates(), h200}) {
      const auto shares = [&](int sm, std::int64_t tokens) {
        const MoeSteps steps = plan_moe(c, tokens, *tables::find_arch(sm), rates, "");
        return abi::is_persistent(steps.gemm1.config()) && steps.gemm1.config().min_blocks == 2;
      };
      EXPECT_TRUE(shares(90, some)) << model << " at " << rates.dram_bytes_per_us;
      for (const std::int64_t tokens : {1, 8, 64, 8192}) {
        EXPECT_FALSE(shares(90, tokens)) << model << " T=" << tokens << " at " << rates.dram_bytes_per_us;
      }
      EXPECT_FALSE(shares(80, some)) << model;
    }
  }
}

// Where rows are many and GEMM 1 takes long beside writing them; whoever asks gets it anywhere.
TEST(MoePlan, RowsArePutInOrderWhereItPays) {
  const tables::ArchRow& hopper = *tables::find_arch(90);
  const MoeConfig mixtral = config_of(tables::get_model("mixtral-8x7b"), "bf16", 8192);
  const MoeConfig fine = config_of(tables::get_model("qwen3-30b-a3b"), "bf16", 8192);
  const auto gathers = [](const MoeConfig& c, std::int64_t tokens, const tables::ArchRow& arch, const char* force) {
    return plan_moe(c, tokens, arch, {}, force).gather.row != nullptr;
  };
  EXPECT_TRUE(gathers(mixtral, 8192, hopper, ""));
  EXPECT_FALSE(gathers(mixtral, 1, hopper, ""));
  EXPECT_FALSE(gathers(fine, 1024, hopper, ""));
  EXPECT_FALSE(gathers(mixtral, 8192, *tables::find_arch(80), ""));
  EXPECT_TRUE(gathers(fine, 1, hopper, "gather_rows"));
}

TEST(MoePlan, EveryGemmConfigHasACost) {
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (row.op != tables::Op::kGemm) continue;
    for (const abi::KernelConfig& config : row.configs) {
      EXPECT_GT(weights_cost(config), 0.0) << row.name << "/" << tables::config_name(row, config);
    }
  }
}

// Rows per expert from 8 to 16,384: probabilities of so many must not underflow.
TEST(MoePlan, MoreTokensNeverGetSmallerTiles) {
  const tables::ArchRow& arch = *tables::find_arch(90);
  for (const char* recipe : {"bf16", "fp8_channel", "nvfp4", "bf16_int4"}) {
    const MoeConfig c = config_of(tables::get_model("mixtral-8x7b"), recipe, 65536);
    int last = 0;
    for (std::int64_t tokens = 32; tokens <= 65536; tokens *= 2) {
      const int tile = plan_moe(c, tokens, arch, {}, "").gemm1.config().tile_tokens;
      EXPECT_GE(tile, last) << recipe << " T=" << tokens;
      last = tile;
    }
  }
}

TEST(MoePlan, ForcedRowsAreTakenAndUnknownNamesRefused) {
  const tables::ArchRow& arch = *tables::find_arch(80);
  const MoeConfig c = config_of(tables::get_model("mixtral-8x7b"), "bf16", 8192);
  EXPECT_STREQ(plan_moe(c, 1, arch, {}, "warp_tiled_bf16").gemm1.row->name, "warp_tiled_bf16");
  EXPECT_THROW(plan_moe(c, 1, arch, {}, "warp_gemm9"), Error);
}

TEST(MoePlan, BatchInvariantLayersHaveOneConfigurationOfWhateverSums) {
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    for (const char* model : {"deepseek-v3", "mixtral-8x7b"}) {
      MoeConfig c = config_of(tables::get_model(model), recipe.name, 8192);
      c.batch_invariant = true;
      const std::vector<PlanRange> ranges = plan_ranges(c, *tables::find_arch(90), {}, "");
      for (const PlanRange& range : ranges) {
        MoeSteps steps = range.steps;
        steps.route = ranges.front().steps.route;  // chooses and sorts, one token by itself in either form
        steps.scatter = ranges.front().steps.scatter;
        steps.gather = ranges.front().steps.gather;  // copies rows
        EXPECT_EQ(steps, ranges.front().steps) << model << " " << recipe.name << " T to " << range.last_tokens;
      }
    }
  }
}

TEST(MoePlan, ForcedConfigsAreTakenAndUnknownOnesRefused) {
  const tables::ArchRow& arch = *tables::find_arch(90);
  const MoeConfig c = config_of(tables::get_model("mixtral-8x7b"), "bf16_int4", 8192);
  for (const abi::KernelConfig& config : tables::find_kernel("warp_stream_int4")->configs) {
    const std::string name =
        "warp_stream_int4/" + tables::config_name(*tables::find_kernel("warp_stream_int4"), config);
    const MoeSteps steps = plan_moe(c, 300, arch, {}, name);
    EXPECT_EQ(steps.gemm1.config().tile_rows, config.tile_rows);
    EXPECT_EQ(steps.gemm2.config().tile_tokens, config.tile_tokens);
  }
  EXPECT_THROW(plan_moe(c, 1, arch, {}, "warp_stream_int4/t9x9x9_k9"), Error);
}

// Not where their scales of activations are not the routed ones', nor in another format or size.
TEST(MoePlan, SharedExpertsOfTheRoutedOnesSizeHaveNoLaunchesOfTheirOwn) {
  const tables::ArchRow& hopper = *tables::find_arch(90);
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    MoeConfig c = config_of(tables::get_model("deepseek-v3"), recipe.name, 8192);
    const bool wanted = !tables::takes_static_scales(recipe);
    EXPECT_EQ(slots_of(c), wanted ? 9 : 8) << recipe.name;
    EXPECT_EQ(prepared_layout(c).experts, wanted ? 257u : 256u) << recipe.name;
    for (const std::int64_t tokens : {1, 64, 8192}) {
      EXPECT_EQ(plan_moe(c, tokens, hopper, {}, "").shared_gemm1.row == nullptr, wanted) << recipe.name;
    }
  }
  MoeConfig c = config_of(tables::get_model("deepseek-v3"), "bf16", 8192);
  const std::size_t bytes = prepared_layout(c).total;
  EXPECT_EQ(routed_shape(c, 8).shared_experts, 1);
  c.shared.intermediate += 128;
  EXPECT_NE(plan_moe(c, 64, hopper, {}, "").shared_gemm1.row, nullptr);
  EXPECT_GT(prepared_layout(c).total, bytes);
  c.shared.intermediate -= 128;
  c.shared.recipe = "mxfp8";
  EXPECT_NE(plan_moe(c, 64, hopper, {}, "").shared_gemm1.row, nullptr);
  EXPECT_EQ(slots_of(dispatched_config(c)), 1);
}

// All scales but static ones need more of a row of h than a block of GEMM 1 has.
TEST(MoePlan, Gemm1QuantisesItsResultByStaticScalesAlone) {
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    for (const char* model : {"deepseek-v3", "mixtral-8x7b"}) {
      MoeConfig c = config_of(tables::get_model(model), recipe.name, 8192);
      const bool has_shared = c.shared.intermediate > 0;
      for (const bool promised : {false, true}) {
        c.static_scales = promised;
        const bool wanted = promised && tables::takes_static_scales(recipe);
        for (const PlanRange& range : plan_ranges(c, *tables::find_arch(90), {}, "")) {
          EXPECT_EQ(range.steps.hidden_is_operand, wanted) << model << " " << recipe.name;
          EXPECT_EQ(range.steps.shared_hidden_is_operand, wanted && has_shared) << model << " " << recipe.name;
        }
      }
      c.shared = {c.intermediate, false, "fp8_tensor"};
      c.recipe = "mxfp8";  // each set of experts by its own recipe
      const MoeSteps steps = plan_moe(c, 8, *tables::find_arch(90), {}, "");
      EXPECT_TRUE(!steps.hidden_is_operand && steps.shared_hidden_is_operand);
    }
  }
}

// The largest tiles have no registers left for them.
TEST(MoePlan, Int4ScalesInFp32GoToConfigurationsThatReadThem) {
  for (const char* recipe : {"bf16_int4", "fp8_int4"}) {
    MoeConfig c = config_of(tables::get_model("mixtral-8x7b"), recipe, 8192);
    const auto largest = [&] { return plan_moe(c, 8192, *tables::find_arch(90), {}, "").gemm1.config(); };
    EXPECT_FALSE(abi::keeps_float_groups(largest()));
    c.int4.f32_scales = true;
    for (const PlanRange& range : plan_ranges(c, *tables::find_arch(90), {}, "")) {
      EXPECT_TRUE(abi::keeps_float_groups(range.steps.gemm1.config())) << recipe << " T to " << range.last_tokens;
      EXPECT_TRUE(abi::keeps_float_groups(range.steps.gemm2.config())) << recipe << " T to " << range.last_tokens;
    }
    try {
      plan_moe(c, 8192, *tables::find_arch(90), {}, "warp_tiled_int4/t64x128x64_s3_w1x4");
      FAIL() << "tiles of 64 tokens were planned";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("reads no int4 scales in FP32"), std::string::npos) << e.what();
    }
  }
}

TEST(MoePlan, RefusalsNameRecipeAndReason) {
  MoeConfig c = config_of(tables::get_model("mixtral-8x7b"), "nvfp4", 16);
  c.hidden = 4100;
  try {
    plan_moe(c, 1, *tables::find_arch(90), {}, "");
    FAIL() << "a hidden size of 4100 was planned";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(e.what()).find("nvfp4"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("multiple of 8"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace moesaic::plan
