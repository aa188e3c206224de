// SPDX-License-Identifier: Apache-2.0
// What `explain` says is what the plan does, for every architecture and recipe.
#include "moesaic/explain.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "plan/moe_plan.h"
#include "support/expect_error.h"
#include "tables/arch_table.h"
#include "tables/kernel_table.h"
#include "tables/recipe_table.h"

namespace moesaic {
namespace {

MoeConfig config_of(const char* recipe) {
  MoeConfig c;
  c.recipe = recipe;
  c.hidden = 256, c.intermediate = 128, c.num_experts = 8, c.top_k = 2, c.max_tokens = 64;
  return c;
}

/// The lines of one architecture.
std::string paragraph(const std::string& text, int sm) {
  const std::string head = fmt::format("SM{}:\n", sm);
  const std::size_t begin = text.find(head);
  if (begin == std::string::npos) return "";
  return text.substr(begin + head.size(), text.find("SM", begin + 2) - begin - head.size());
}

TEST(Explain, StepsOfThePlanOrItsReason) {
  int served = 0;
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    const MoeConfig c = config_of(recipe.name);
    const std::string text = explain(c, 16);
    EXPECT_NE(text.find("CPU:\n  every step: cpu_fast_"), std::string::npos) << text;
    for (const tables::ArchRow& arch : tables::kArchTable) {
      std::string wanted;
      try {
        for (const plan::Choice& step : plan::plan_moe(c, 16, arch, {}, "").all()) {
          wanted += fmt::format("  {}: {}/{}\n", tables::op_name(step.row->op), step.row->name,
                                tables::config_name(*step.row, step.config()));
        }
        if (tables::quantises_activations(recipe)) wanted += "  h: quantised by a launch of operand\n";
        ++served;
        EXPECT_EQ(paragraph(text, arch.sm), wanted);
      } catch (const Error& error) {
        EXPECT_NE(text.find(error.what()), std::string::npos) << recipe.name << " on " << arch.sm;
      }
    }
  }
  EXPECT_GE(served, 2 * static_cast<int>(tables::kArchTable.size()));  // bf16 and fp16 everywhere
}

TEST(Explain, SaysWhoQuantisesGemm1sResult) {
  MoeConfig c = config_of("nvfp4");
  c.static_scales = true;
  c.shared.intermediate = 64;
  EXPECT_NE(paragraph(explain(c, 16), 90).find("  h: quantised by GEMM 1\n  shared h: quantised by GEMM 1\n"),
            std::string::npos);
  c.shared.recipe = "mxfp8";
  EXPECT_NE(
      paragraph(explain(c, 16), 90).find("  h: quantised by GEMM 1\n  shared h: quantised by a launch of operand"),
      std::string::npos);
  c.shared.recipe = "bf16";
  EXPECT_EQ(explain(c, 16).find("shared h: "), std::string::npos);
  ::setenv("MOESAIC_QUANTISE_HIDDEN", "off", 1);
  EXPECT_EQ(explain(c, 16).find("quantised by GEMM 1"), std::string::npos);
  ::unsetenv("MOESAIC_QUANTISE_HIDDEN");
}

TEST(Explain, SaysThatSharedExpertsAreOneOfTheOthers) {
  MoeConfig c = config_of("bf16");
  c.shared.intermediate = c.intermediate;
  EXPECT_NE(paragraph(explain(c, 16), 90).find("  shared experts: one more expert of the routed GEMMs\n"),
            std::string::npos);
  c.shared.intermediate += 8;
  EXPECT_EQ(explain(c, 16).find("one more expert"), std::string::npos);
}

TEST(Explain, WhatIsNoLayerIsRefused) {
  MoeConfig c = config_of("bf16");
  testing::expect_error(ErrorKind::kInvalidArgument, {"explain: tokens is 65", "max_tokens 64"},
                        [&] { explain(c, 65); });
  testing::expect_error(ErrorKind::kInvalidArgument, {"explain: tokens is 0"}, [&] { explain(c, 0); });
  c.top_k = 9;
  testing::expect_error(ErrorKind::kInvalidArgument, {"top_k is 9"}, [&] { explain(c, 1); });
  // What cannot be served is said, not thrown.
  c = config_of("nvfp4");
  c.hidden = 40;
  EXPECT_NE(explain(c, 1).find("CPU:\n  not served: "), std::string::npos);
  EXPECT_NE(explain(c, 1).find("SM90:\n  not served: fused_moe: hidden is 40, wanted a multiple of 16"),
            std::string::npos);
}

}  // namespace
}  // namespace moesaic
