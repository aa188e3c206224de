// SPDX-License-Identifier: Apache-2.0
// Which kernels serve a product, and where its memory lies.
#include "plan/gemm_plan.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace moesaic::plan {
namespace {

using testing::expect_error;

const tables::ArchRow& sm90() { return *tables::find_arch(90); }

GemmConfig config_of(const std::string& recipe) {
  GemmConfig c;
  c.recipe = recipe;
  c.n = 2879, c.k = 2880;
  c.groups = 4;
  c.max_rows = 65536;
  c.int4.size = 64;
  c.device = {DeviceType::kCuda, 0};
  return c;
}

TEST(GemmPlan, EveryRecipeIsServedOnEveryArchitecture) {
  for (const tables::ArchRow& arch : tables::kArchTable) {
    for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
      const GemmConfig c = config_of(recipe.name);
      for (const std::int64_t rows : {1, 100, 65536}) {
        const GemmSteps steps = plan_gemm(c, rows, arch, {}, "");
        EXPECT_EQ(steps.dispatch.config().role, 3);
        EXPECT_EQ(steps.operand.row != nullptr, tables::quantises_activations(recipe)) << recipe.name;
        EXPECT_EQ(steps.gemm.config().weights, weight_form(c.recipe, c.int4).weights) << recipe.name;
        EXPECT_EQ(steps.all().size(), tables::quantises_activations(recipe) ? 3u : 2u);
      }
      const GemmPreparation preparation = plan_gemm_preparation(c, arch);
      EXPECT_NE(preparation.matrix.row, nullptr);
      EXPECT_STREQ(preparation.vector.row->name, "warp_prepare_vector");
    }
  }
}

TEST(GemmPlan, FewRowsStreamAndManyAreTiled) {
  const GemmConfig c = config_of("mxfp8_mxfp4");
  EXPECT_EQ(plan_gemm(c, 1, sm90(), {}, "").gemm.config().stages, 0);
  const abi::KernelConfig many = plan_gemm(c, 65536, sm90(), {}, "").gemm.config();
  EXPECT_GT(many.stages, 0);
  EXPECT_GE(many.tile_tokens, 64);
}

TEST(GemmPlan, RangesAreWhatTheirRowsGet) {
  for (const char* recipe : {"bf16", "mxfp8_mxfp4"}) {
    const GemmConfig c = config_of(recipe);
    const std::vector<GemmRange> ranges = gemm_ranges(c, sm90(), {}, "");
    std::int64_t before = 0;
    for (const GemmRange& range : ranges) {
      EXPECT_EQ(range.steps, plan_gemm(c, before + 1, sm90(), {}, ""));
      EXPECT_GT(range.last_rows, before);
      before = range.last_rows;
    }
    EXPECT_EQ(before, c.max_rows);
  }
}

TEST(GemmPlan, ForcedRowsAreTakenOrRefusedWithTheReason) {
  const GemmConfig c = config_of("mxfp8_mxfp4");
  EXPECT_STREQ(plan_gemm(c, 1, sm90(), {}, "warp_tiled_e2m1").gemm.row->name, "warp_tiled_e2m1");
  expect_error(ErrorKind::kUnsupported, {"gemm(mxfp8_mxfp4)", "SM90", "MOESAIC_FORCE_KERNEL asks for warp_tiled_bf16"},
               [&] { plan_gemm(c, 1, sm90(), {}, "warp_tiled_bf16"); });
}

TEST(GemmPlan, RefusesWhatNoKernelServes) {
  GemmConfig c = config_of("bf16");
  c.k = 100;
  expect_error(ErrorKind::kUnsupported, {"gemm(bf16)", "k is 100", "multiple of 8", "zeros"},
               [&] { plan_gemm(c, 1, sm90(), {}, ""); });
  c.recipe = "fp8_channel";  // its operand is made here, in rows of any length
  EXPECT_NE(plan_gemm(c, 1, sm90(), {}, "").gemm.row, nullptr);
  c.groups = 1025;
  expect_error(ErrorKind::kUnsupported, {"at most 1024"}, [&] { plan_gemm(c, 1, sm90(), {}, ""); });
  c.groups = 1;
  c.max_rows = 1 << 30;
  c.n = 1 << 20;
  expect_error(ErrorKind::kInvalidArgument, {"max_rows", "2^31"}, [&] { plan_gemm(c, 1, sm90(), {}, ""); });
}

TEST(GemmPlan, PartsOfWeightsAreEveryGroupsEqualShare) {
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    const GemmConfig c = config_of(recipe.name);
    const GemmLayout layout = gemm_layout(c);
    const std::size_t blocks = 180;  // of 16 of the 2879 rows
    EXPECT_EQ(layout.matrix.bias.bytes, 4 * blocks * 16 * 4);
    EXPECT_EQ(layout.matrix.multipliers.bytes, layout.form.multipliers ? 4 * blocks * 16 * 4 : 0);
    EXPECT_EQ(layout.matrix.weights.bytes % (4 * blocks), 0u);
    EXPECT_EQ(layout.matrix.weights.bytes,
              4 * blocks * 16 * 2880 * static_cast<std::size_t>(abi::weight_bits(layout.form.weights)) / 8);
    EXPECT_GE(layout.total, layout.matrix.weights.bytes + layout.matrix.scales.bytes + layout.matrix.bias.bytes);
    EXPECT_EQ(layout.matrix.share(3, 4).weights.at, layout.matrix.weights.at + layout.matrix.weights.bytes / 4 * 3);
  }
}

TEST(GemmPlan, WorkspaceHoldsEveryPlanOfItsRows) {
  for (const char* recipe : {"bf16", "fp8_block", "nvfp4"}) {
    const GemmConfig c = config_of(recipe);
    for (const std::int64_t rows : {1, 7, 129, 4096}) {
      for (const int tile : {8, 16, 64, 128}) {
        const GemmSpace space = gemm_space(c, rows, tile);
        EXPECT_LE(space.total, gemm_workspace_bytes(c, rows));
        // The worst case: every group's last tile has one row.
        std::int64_t tiles = 0, left = rows;
        for (int g = 0; g < c.groups && left > 0; ++g) {
          const std::int64_t mine = g + 1 == c.groups ? left : std::min<std::int64_t>(left, 1);
          tiles += (mine + tile - 1) / tile;
          left -= mine;
        }
        EXPECT_GE(space.max_tiles, tiles);
        EXPECT_GE(space.num_tiles, space.tiles + static_cast<std::size_t>(space.max_tiles) * sizeof(abi::Tile));
        EXPECT_EQ(space.total % 256, 0u);
      }
    }
    const bool quantised = tables::quantises_activations(tables::get_recipe(recipe));
    EXPECT_EQ(gemm_workspace_bytes(c, 4096) > 4096u * 2880 * 2, quantised);
  }
}

TEST(GemmPlan, E5m2ChangesTheFormatOfMxActivationsAlone) {
  GemmConfig c = config_of("mxfp8_mxfp4");
  EXPECT_EQ(gemm_activation(c, false)->format, QuantFormat::kMxfp8);
  c.e5m2 = true;
  check_gemm_config(c);
  EXPECT_EQ(gemm_activation(c, false)->format, QuantFormat::kMxfp8E5m2);
  c.recipe = "fp8_mxfp4";
  expect_error(ErrorKind::kInvalidArgument, {"gemm(fp8_mxfp4)", "e5m2"}, [&] { check_gemm_config(c); });
}

}  // namespace
}  // namespace moesaic::plan
