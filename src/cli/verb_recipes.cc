// SPDX-License-Identifier: Apache-2.0
// `moesaic recipes`: the recipe table, and which recipes have kernels.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/cli.h"
#include "cli/text_table.h"
#include "tables/kernel_table.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

std::string operand_name(const tables::Operand& operand) {
  std::string number = tables::number_name(operand.number);
  if (operand.scale == tables::Scale::kNone) return number;
  return number + ", " + tables::scale_name(operand.scale);
}

bool has_kernel(int recipe) {
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (row.op == tables::Op::kGemm && (row.recipes >> recipe & 1u) != 0) return true;
  }
  return false;
}

nlohmann::json to_json(const tables::RecipeRow& row, int index) {
  const auto operand = [](const tables::Operand& o) {
    return nlohmann::json{{"number", tables::number_name(o.number)}, {"scale", tables::scale_name(o.scale)}};
  };
  return {{"name", row.name},
          {"io", dtype_name(row.io)},
          {"activation", operand(row.activation)},
          {"weight", operand(row.weight)},
          {"global_scale", row.global_scale},
          {"tolerance",
           {{"exact_row_l2", row.tolerance.exact_row_l2},
            {"converted_row_l2", row.tolerance.converted_row_l2},
            {"oracle_row_l2", row.tolerance.oracle_row_l2},
            {"element_rel", row.tolerance.element_rel},
            {"element_rms", row.tolerance.element_rms}}},
          {"checkpoints", row.checkpoints},
          {"gpu_kernels", has_kernel(index)}};
}

int print_recipes(bool json) {
  nlohmann::json rows = nlohmann::json::array();
  TextTable table({"recipe", "activations", "weights", "tolerance", "GPU kernels", "checkpoints"});
  for (int i = 0; i < tables::kNumRecipes; ++i) {
    const tables::RecipeRow& row = tables::kRecipeTable[static_cast<std::size_t>(i)];
    rows.push_back(to_json(row, i));
    table.add({row.name, operand_name(row.activation), operand_name(row.weight),
               fmt::format("{:g}", row.tolerance.exact_row_l2), has_kernel(i) ? "yes" : "no", row.checkpoints});
  }
  fmt::print("{}", json ? rows.dump(2) + "\n" : table.aligned());
  return 0;
}

}  // namespace

void add_recipes(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("recipes", "Number formats and scales of activations and weights, tolerances");
  const auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "Print JSON");
  verb->callback([&action, json] { action = [json] { return print_recipes(*json); }; });
}

}  // namespace moesaic::cli
