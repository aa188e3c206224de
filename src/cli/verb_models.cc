// SPDX-License-Identifier: Apache-2.0
// `moesaic models`: published layer shapes, for `compile --model` and `bench`.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/cli.h"
#include "cli/text_table.h"
#include "tables/model_table.h"

namespace moesaic::cli {
namespace {

nlohmann::json to_json(const tables::ModelRow& row) {
  return {{"name", row.name},
          {"hidden", row.hidden},
          {"intermediate", row.intermediate},
          {"num_experts", row.num_experts},
          {"top_k", row.top_k},
          {"shared_intermediate", row.shared_intermediate},
          {"shared_gated", row.shared_gated},
          {"moe_layers", row.moe_layers},
          {"routing", routing_method_name(row.routing)},
          {"n_group", row.n_group},
          {"topk_group", row.topk_group},
          {"scaling", row.scaling},
          {"renormalize", row.renormalize},
          {"activation", activation_name(row.activation)},
          {"biases", row.biases},
          {"weights_on_input", row.weights_on_input}};
}

int print_models(bool json) {
  nlohmann::json rows = nlohmann::json::array();
  TextTable table(
      {"model", "hidden", "intermediate", "experts", "top-k", "shared", "MoE layers", "routing", "activation"});
  for (const tables::ModelRow& row : tables::model_table()) {
    rows.push_back(to_json(row));
    table.add({row.name, std::to_string(row.hidden), std::to_string(row.intermediate), std::to_string(row.num_experts),
               std::to_string(row.top_k), row.shared_intermediate == 0 ? "-" : std::to_string(row.shared_intermediate),
               std::to_string(row.moe_layers), routing_method_name(row.routing), activation_name(row.activation)});
  }
  fmt::print("{}", json ? rows.dump(2) + "\n" : table.aligned());
  return 0;
}

}  // namespace

void add_models(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("models", "Published layer shapes by model name");
  const auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "Print JSON");
  verb->callback([&action, json] { action = [json] { return print_models(*json); }; });
}

}  // namespace moesaic::cli
