// SPDX-License-Identifier: Apache-2.0
// `moesaic explain`: which kernel row serves a step and why the others do not; without arguments the support matrix.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/cli.h"
#include "cli/kernel_masks.h"
#include "cli/support.h"
#include "module/kernel_instance.h"
#include "moesaic/error.h"
#include "plan/moe_plan.h"
#include "tables/model_table.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

struct Question {
  std::vector<std::string> archs, recipes, ops;  // empty: all
  std::string model;                             // empty: no shape, no scores
  std::int64_t tokens = 1;
  bool json = false;

  bool about_everything() const { return archs.empty() && recipes.empty() && ops.empty() && model.empty(); }
};

struct Scope {
  std::vector<const tables::ArchRow*> archs;
  std::vector<int> recipes;
  std::vector<tables::Op> ops;
  std::optional<plan::GemmShape> shape;
};

plan::GemmShape shape_of(const Question& question) {
  try {
    return plan::routed_shape(tables::model_config(tables::get_model(question.model)), question.tokens);
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
}

Scope scope_of(const Question& question) {
  Scope scope;
  scope.archs = arch_list(question.archs.empty() ? std::vector<std::string>{"all"} : question.archs).rows;
  const std::uint32_t recipes = recipe_mask(question.recipes), ops = op_mask(question.ops);
  for (int i = 0; i < tables::kNumRecipes; ++i) {
    if ((recipes >> i & 1u) != 0) scope.recipes.push_back(i);
  }
  for (const tables::Op op : tables::kAllOps) {
    if ((ops >> static_cast<unsigned>(op) & 1u) != 0) scope.ops.push_back(op);
  }
  if (!question.model.empty()) scope.shape = shape_of(question);
  return scope;
}

/// The kernels of one row that an ahead-of-time build for (arch, recipe, op) holds.
std::vector<module::KernelInstance> kernels_of(const tables::KernelRow& row, const tables::ArchRow& arch, int recipe) {
  std::vector<module::KernelInstance> kernels;
  for (module::KernelInstance& instance :
       module::instances_for(arch, 1u << recipe, 1u << static_cast<unsigned>(row.op))) {
    if (instance.row == &row) kernels.push_back(std::move(instance));
  }
  return kernels;
}

nlohmann::json to_json(const Candidate& candidate, const tables::ArchRow& arch, int recipe) {
  nlohmann::json entry = {{"row", candidate.row->name}, {"serves", candidate.why_not.empty()}};
  if (!candidate.why_not.empty()) {
    entry["why_not"] = candidate.why_not;
    return entry;
  }
  entry["target"] = module::target_for(*candidate.row, arch).name;
  entry["identities"] = nlohmann::json::array();
  for (const module::KernelInstance& kernel : kernels_of(*candidate.row, arch, recipe)) {
    entry["identities"].push_back(module::identity(kernel));
  }
  return entry;
}

const Candidate* first_that_serves(const std::vector<Candidate>& found) {
  for (const Candidate& candidate : found) {
    if (candidate.why_not.empty()) return &candidate;
  }
  return nullptr;
}

nlohmann::json to_json(const tables::ArchRow& arch, int recipe, tables::Op op) {
  const std::vector<Candidate> found = candidates(arch, recipe, op);
  const Candidate* first = first_that_serves(found);
  nlohmann::json entry = {{"sm", arch.sm},
                          {"recipe", tables::kRecipeTable[static_cast<std::size_t>(recipe)].name},
                          {"op", tables::op_name(op)},
                          {"mark", mark_name(mark_of(arch, recipe, op))},
                          {"served_by", first == nullptr ? nlohmann::json() : nlohmann::json(first->row->name)},
                          {"candidates", nlohmann::json::array()}};
  for (const Candidate& candidate : found) entry["candidates"].push_back(to_json(candidate, arch, recipe));
  return entry;
}

/// Every configuration with the plan's predicted time for a shape, or the reason that it is out.
std::string scores(const tables::ArchRow& arch, int recipe, tables::Op op, const plan::GemmShape& shape) {
  const std::vector<plan::Candidate> found = plan::candidates(op, arch, recipe, shape, {}, "");
  const plan::Candidate* best = nullptr;
  for (const plan::Candidate& candidate : found) {
    if (candidate.why_not.empty() && (best == nullptr || candidate.score_us < best->score_us)) best = &candidate;
  }
  std::string text;
  for (const plan::Candidate& candidate : found) {
    const std::string config = tables::config_name(*candidate.choice.row, candidate.choice.config());
    text += fmt::format("    {} {}: {}\n", candidate.choice.row->name, config,
                        candidate.why_not.empty() ? fmt::format("{:.1f} us predicted{}", candidate.score_us,
                                                                &candidate == best ? ", chosen" : "")
                                                  : "out: " + candidate.why_not);
  }
  return text;
}

std::string to_text(const tables::ArchRow& arch, int recipe, tables::Op op) {
  const std::vector<Candidate> found = candidates(arch, recipe, op);
  const Candidate* first = first_that_serves(found);
  std::string text = fmt::format("SM{} {} {}: ", arch.sm, tables::kRecipeTable[static_cast<std::size_t>(recipe)].name,
                                 tables::op_name(op));
  text += first == nullptr ? "no kernel\n"
                           : fmt::format("{} [{}]\n", first->row->name, mark_name(mark_of(arch, recipe, op)));
  for (const Candidate& candidate : found) {
    if (candidate.why_not.empty()) {
      text +=
          fmt::format("  {}: serves, {} kernels for {}\n", candidate.row->name,
                      kernels_of(*candidate.row, arch, recipe).size(), module::target_for(*candidate.row, arch).name);
    } else {
      text += fmt::format("  {}: out: {}\n", candidate.row->name, candidate.why_not);
    }
  }
  return text;
}

std::string to_text(const Scope& scope, int recipe) {
  std::string text;
  const bool has_layer = recipe_has_kernels(recipe);
  if (!has_layer) {
    text = fmt::format("{}: no kernel for the layer on any architecture\n",
                       tables::kRecipeTable[static_cast<std::size_t>(recipe)].name);
  }
  for (const tables::ArchRow* arch : scope.archs) {
    for (const tables::Op op : scope.ops) {
      if (!has_layer && !tables::is_quantizer_op(op)) continue;
      text += to_text(*arch, recipe, op);
      if (scope.shape && !tables::is_quantizer_op(op)) text += scores(*arch, recipe, op, *scope.shape);
    }
  }
  return text;
}

int explain(const Question& question) {
  if (!question.json && question.about_everything()) {
    fmt::print("{}", support_matrix());
    return 0;
  }
  const Scope scope = scope_of(question);
  nlohmann::json entries = nlohmann::json::array();
  for (const int recipe : scope.recipes) {
    if (!question.json) {
      fmt::print("{}", to_text(scope, recipe));
      continue;
    }
    for (const tables::ArchRow* arch : scope.archs) {
      for (const tables::Op op : scope.ops) entries.push_back(to_json(*arch, recipe, op));
    }
  }
  if (question.json) fmt::print("{}\n", entries.dump(1));
  return 0;
}

}  // namespace

void add_explain(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand(
      "explain", "Which kernel serves a step, and why the others do not; without arguments the support matrix");
  const auto question = std::make_shared<Question>();
  verb->add_option("--arch", question->archs, "Architectures of `moesaic archs`, by comma or blank; all: every one");
  verb->add_option("--recipe", question->recipes, "Recipes of `moesaic recipes` by comma or blank; default: all");
  verb->add_option("--op", question->ops,
                   "Steps of the layer, or quantize, dequantize, swizzle, by comma or blank; default: all");
  verb->add_option("--model", question->model, "A model of `moesaic models`: also print what the plan predicts");
  verb->add_option("--tokens", question->tokens, "Tokens of that prediction")->check(CLI::PositiveNumber);
  verb->add_flag("--json", question->json, "Print JSON");
  verb->callback([&action, question] { action = [question] { return explain(*question); }; });
}

}  // namespace moesaic::cli
