// SPDX-License-Identifier: Apache-2.0
// Recipe and model rows.
#include <gtest/gtest.h>

#include "tables/model_table.h"
#include "tables/recipe_table.h"
#include "tests/support/expect_error.h"

namespace moesaic::tables {
namespace {

using testing::expect_error;

// Names are an interface: callers, checkpoints' converters and prepared files name recipes.
TEST(RecipeTable, PublishedNamesStay) {
  for (const char* name : {"bf16", "fp16", "fp8_tensor", "fp8_channel", "fp8_block", "mxfp8", "mxfp8_mxfp4",
                           "fp8_mxfp4", "bf16_mxfp4", "nvfp4", "bf16_nvfp4", "bf16_int4", "fp8_int4"}) {
    EXPECT_STREQ(get_recipe(name).name, name);
  }
  for (int i = 0; i < kNumRecipes; ++i) EXPECT_EQ(recipe_index(kRecipeTable[i].name), i) << "a name stands twice";
  expect_error(ErrorKind::kInvalidArgument, {"'bf17'", "fp8_int4"}, [] { get_recipe("bf17"); });
}

TEST(RecipeTable, NamesEveryFormat) {
  for (const RecipeRow& row : kRecipeTable) {
    for (const Operand& operand : {row.activation, row.weight}) {
      EXPECT_STRNE(number_name(operand.number), "unknown");
      EXPECT_STRNE(scale_name(operand.scale), "unknown");
    }
  }
}

TEST(ModelTable, ConfigsCarryWhatTheFamilyNeeds) {
  const MoeConfig deepseek = model_config(get_model("deepseek-v3"));
  EXPECT_EQ(deepseek.hidden, 7168);
  EXPECT_EQ(deepseek.num_experts, 256);
  EXPECT_EQ(deepseek.routing.method, RoutingMethod::kDeepSeekV3);
  EXPECT_EQ(deepseek.routing.n_group, 8);
  EXPECT_EQ(deepseek.routing.topk_group, 4);
  EXPECT_FLOAT_EQ(deepseek.routing.scaling, 2.5f);
  EXPECT_EQ(deepseek.shared.intermediate, 2048);

  const MoeConfig gpt_oss = model_config(get_model("gpt-oss-20b"));
  EXPECT_EQ(gpt_oss.activation.kind, ActivationKind::kSwigluBias);
  EXPECT_FLOAT_EQ(gpt_oss.activation.alpha.value(), 1.702f);
  EXPECT_FLOAT_EQ(gpt_oss.activation.limit.value(), 7.0f);
  EXPECT_EQ(gpt_oss.routing.method, RoutingMethod::kTopKSoftmax);

  const MoeConfig llama = model_config(get_model("llama-4-scout"));
  EXPECT_TRUE(llama.weights_on_input);
  EXPECT_EQ(llama.top_k, 1);

  const MoeConfig mixtral = model_config(get_model("mixtral-8x7b"));
  EXPECT_FALSE(mixtral.activation.alpha.has_value());
  EXPECT_EQ(mixtral.intermediate, 14336);
}

TEST(ModelTable, UnknownNameListsAll) {
  expect_error(ErrorKind::kInvalidArgument, {"'mixtral'", "mixtral-8x7b", "llama-4-maverick"},
               [] { get_model("mixtral"); });
}

}  // namespace
}  // namespace moesaic::tables
