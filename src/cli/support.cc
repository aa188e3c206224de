// SPDX-License-Identifier: Apache-2.0
// What serves (architecture, recipe, op): the candidates of the kernel table, and what has been recorded of them.
#include "cli/support.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/text_table.h"
#include "moesaic/error.h"
#include "tables/arch_table.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {

extern const char kRecordedResultsText[];  // generated from docs/recorded_results.json

namespace {

std::vector<RecordedResult> parse_recorded_results() {
  std::vector<RecordedResult> results;
  try {
    for (const nlohmann::json& entry : nlohmann::json::parse(kRecordedResultsText)) {
      results.push_back({entry.at("sm"), entry.at("recipe"), entry.at("op"), entry.at("row"), entry.at("status"),
                         entry.at("date"), entry.at("by")});
      const std::string& status = results.back().status;
      if (status != "run" && status != "compiled") throw std::runtime_error("unknown status '" + status + "'");
    }
  } catch (const std::exception& error) {
    throw Error(ErrorKind::kInternal, std::string("docs/recorded_results.json of this build: ") + error.what());
  }
  return results;
}

bool names_recipe(const tables::KernelRow& row, int recipe) { return (row.recipes >> recipe & 1u) != 0; }

bool has_kernel(int recipe, tables::Op op) {
  const auto rows = tables::kernel_table();
  return std::any_of(rows.begin(), rows.end(),
                     [&](const tables::KernelRow& row) { return row.op == op && names_recipe(row, recipe); });
}

}  // namespace

const std::vector<RecordedResult>& recorded_results() {
  static const std::vector<RecordedResult> results = parse_recorded_results();
  return results;
}

std::vector<Candidate> candidates(const tables::ArchRow& arch, int recipe, tables::Op op) {
  std::vector<Candidate> found;
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (row.op == op) found.push_back({&row, tables::why_not(row, arch, recipe)});
  }
  return found;
}

const char* mark_name(Mark mark) noexcept {
  switch (mark) {
    case Mark::kRun:
      return "run";
    case Mark::kCompiled:
      return "compiled";
    case Mark::kListed:
      return "listed";
    case Mark::kNone:
      break;
  }
  return "-";
}

Mark mark_of(const tables::ArchRow& arch, int recipe, tables::Op op) {
  // The least of the rows that serve: which of them does depends on the shape, and a new row has not run.
  std::optional<Mark> mark;
  const std::string recipe_name = tables::kRecipeTable[static_cast<std::size_t>(recipe)].name;
  for (const Candidate& candidate : candidates(arch, recipe, op)) {
    if (!candidate.why_not.empty()) continue;
    Mark of_row = Mark::kListed;
    for (const RecordedResult& result : recorded_results()) {
      if (result.sm != arch.sm || result.recipe != recipe_name || result.row != candidate.row->name) continue;
      if (result.op == tables::op_name(op))
        of_row = std::max(of_row, result.status == "run" ? Mark::kRun : Mark::kCompiled);
    }
    mark = mark ? std::min(*mark, of_row) : of_row;
  }
  return mark.value_or(Mark::kNone);
}

bool recipe_has_kernels(int recipe) { return has_kernel(recipe, tables::Op::kGemm); }

std::string support_matrix() {
  std::vector<std::string> header = {"recipe", "op"};
  for (const tables::ArchRow& arch : tables::kArchTable) header.push_back("SM" + std::to_string(arch.sm));
  TextTable table(header);
  for (int recipe = 0; recipe < tables::kNumRecipes; ++recipe) {
    const char* name = tables::kRecipeTable[static_cast<std::size_t>(recipe)].name;
    if (!recipe_has_kernels(recipe)) {
      std::vector<std::string> cells(header.size(), "-");
      cells[0] = name;
      cells[1] = "layer: no kernel";
      table.add(cells);
    }
    for (const tables::Op op : tables::kAllOps) {
      // 16-bit operands need no quantiser; a layer without its products has no other steps worth a line.
      if (tables::is_quantizer_op(op) ? !has_kernel(recipe, op) : !recipe_has_kernels(recipe)) continue;
      std::vector<std::string> cells = {name, tables::op_name(op)};
      for (const tables::ArchRow& arch : tables::kArchTable) cells.emplace_back(mark_name(mark_of(arch, recipe, op)));
      table.add(cells);
    }
  }
  return table.markdown() +
         "\n`run`: right results on a GPU of that SM; `compiled`: compiled for it, not run; `listed`: a kernel row "
         "serves it,\nnothing recorded; `-`: no kernel. Of several rows that serve, the least counts. Written by "
         "`moesaic explain`\nfrom docs/recorded_results.json.\n";
}

}  // namespace moesaic::cli
