// SPDX-License-Identifier: Apache-2.0
// Which kernels serve a quantiser, and which recipes its rows name.
#include "plan/quant_plan.h"

#include <gtest/gtest.h>

#include "tables/quant_table.h"
#include "tests/support/expect_error.h"

namespace moesaic::plan {
namespace {

using testing::expect_error;

QuantSpec spec_of(QuantFormat format) {
  QuantSpec spec{.format = format};
  spec.int4.size = 64;
  return spec;
}

const std::optional<ActivationKind> kActivations[] = {std::nullopt, ActivationKind::kSwiglu, ActivationKind::kGeglu};

int role_of(std::optional<ActivationKind> activation) { return activation ? abi::kRoleGated : 0; }

TEST(QuantPlan, EveryFormatHasItsStepsOnEveryArchitecture) {
  for (const tables::ArchRow& arch : tables::kArchTable) {
    for (const tables::QuantRow& row : tables::kQuantTable) {
      for (const std::optional<ActivationKind> activation : kActivations) {
        const QuantSteps steps = plan_quantize(spec_of(row.format), activation, arch, "");
        EXPECT_EQ(steps.quantize.config().role, role_of(activation)) << row.name << " SM" << arch.sm;
        EXPECT_EQ(steps.amax.row != nullptr, row.format == QuantFormat::kFp8Tensor);
        EXPECT_EQ(steps.swizzle.row != nullptr, row.padded_layouts);
        EXPECT_STREQ(steps.dequantize.row->name, "quant_decode");
      }
    }
  }
}

TEST(QuantPlan, E2m1ConversionWhereItIsTrustedAlone) {
  const auto row_on = [](int sm, QuantFormat format) {
    return std::string(plan_quantize(spec_of(format), {}, *tables::find_arch(sm), "").quantize.row->name);
  };
  for (const int sm : {100, 103, 110}) {
    EXPECT_EQ(row_on(sm, QuantFormat::kNvfp4), "quant_fp4_cvt");
    EXPECT_EQ(row_on(sm, QuantFormat::kNvfp4Row), "quant_row_cvt");
  }
  for (const int sm : {80, 90, 120, 121}) {
    EXPECT_EQ(row_on(sm, QuantFormat::kMxfp4), "quant_fp4");
    EXPECT_EQ(row_on(sm, QuantFormat::kFp8Row), "quant_row");
  }
}

TEST(QuantPlan, ForcedRowsAreTakenOrRefusedWithTheReason) {
  const tables::ArchRow& arch = *tables::find_arch(90);
  EXPECT_STREQ(plan_quantize(spec_of(QuantFormat::kNvfp4), {}, arch, "quant_fp4").quantize.row->name, "quant_fp4");
  EXPECT_STREQ(plan_quantize(spec_of(QuantFormat::kFp8Tensor), {}, arch, "quant_amax").quantize.row->name, "quant_fp8")
      << "a forced row of another step changes nothing";
  expect_error(ErrorKind::kUnsupported, {"quantize(nvfp4)", "SM90", "MOESAIC_FORCE_KERNEL asks for quant_tile"},
               [&] { plan_quantize(spec_of(QuantFormat::kNvfp4), {}, arch, "quant_tile"); });
  expect_error(ErrorKind::kInvalidArgument, {"'quant_fp3'"},
               [&] { plan_quantize(spec_of(QuantFormat::kNvfp4), {}, arch, "quant_fp3"); });
}

// Rows carry the recipes of their formats, by a function of its own in kernel_table.cc.
TEST(QuantPlan, RowsNameTheRecipesWhoseOperandsHaveTheFormat) {
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (!tables::is_quantizer_op(row.op)) continue;
    for (int i = 0; i < tables::kNumRecipes; ++i) {
      const std::string recipe = tables::kRecipeTable[static_cast<std::size_t>(i)].name;
      bool uses = false;
      for (const auto& spec :
           {weight_spec(recipe, {}), activation_spec(recipe, true), activation_spec(recipe, false)}) {
        uses = uses || (spec && (row.formats >> static_cast<unsigned>(spec->format) & 1u) != 0);
      }
      EXPECT_EQ((row.recipes >> i & 1u) != 0, uses) << row.name << " " << recipe;
    }
  }
}

}  // namespace
}  // namespace moesaic::plan
