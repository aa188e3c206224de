// SPDX-License-Identifier: Apache-2.0
// Which prepare kernels a layer or a matrix needs.
#include "plan/prepare_plan.h"

#include <string_view>

#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic::plan {
namespace {

/// The prepare kernel that takes these parameters.
Choice pick_with_params(int recipe, const tables::ArchRow& arch, std::string_view params) {
  return pick(tables::Op::kPrepare, arch, recipe, {}, {}, "",
              [params](const Choice& c) { return params == c.row->params; });
}

}  // namespace

std::vector<Choice> PreparePlan::all() const {
  std::vector<Choice> set;
  for (const Choice& c : {matrix, vector, shared_matrix, static_scales}) {
    if (c.row != nullptr) set.push_back(c);
  }
  return set;
}

Choice plan_matrix_preparation(int recipe, const tables::ArchRow& arch) {
  const tables::RecipeRow& row = tables::kRecipeTable[static_cast<std::size_t>(recipe)];
  const bool numbers = tables::prepared_weights(row) == abi::kWeights16;
  return pick_with_params(recipe, arch, numbers ? "PrepareParams" : "PrepareCodesParams");
}

Choice plan_vector_preparation(const tables::ArchRow& arch) {
  // Types are run-time fields: one row serves every recipe.
  return pick_with_params(tables::recipe_index("bf16"), arch, "PrepareVectorParams");
}

PreparePlan plan_preparation(const MoeConfig& config, const tables::ArchRow& arch) {
  const tables::RecipeRow& recipe = tables::get_recipe(config.recipe);
  const tables::RecipeRow& shared = tables::get_recipe(tables::shared_recipe(config));
  PreparePlan plan;
  plan.matrix = plan_matrix_preparation(tables::recipe_index(recipe.name), arch);
  plan.vector = plan_vector_preparation(arch);
  plan.shared_matrix = plan_matrix_preparation(tables::recipe_index(shared.name), arch);
  for (const tables::RecipeRow* row : {&recipe, &shared}) {
    if (!tables::takes_static_scales(*row) || plan.static_scales.row != nullptr) continue;
    plan.static_scales = pick_with_params(tables::recipe_index(row->name), arch, "StaticScalesParams");
  }
  return plan;
}

}  // namespace moesaic::plan
