// SPDX-License-Identifier: Apache-2.0
// What serves (architecture, recipe, op): the candidates of the kernel table, and what has been recorded of them.
#pragma once

#include <string>
#include <vector>

#include "tables/kernel_table.h"

namespace moesaic::cli {

/// One line of docs/recorded_results.json, which is part of the executable.
struct RecordedResult {
  int sm = 0;
  std::string recipe, op, row;
  std::string status;  // "run": right results on a GPU of this SM; "compiled": compiled for it, not run
  std::string date;
  std::string by;  // the GPU, or the compiler
};

/// All recorded results. Throws Error(kInternal) when the embedded text is damaged.
const std::vector<RecordedResult>& recorded_results();

/// A row of the op that names the recipe, or serves every recipe.
struct Candidate {
  const tables::KernelRow* row = nullptr;
  std::string why_not;  // empty: it can serve
};

/// Candidates in table order; rows of other ops are not candidates.
std::vector<Candidate> candidates(const tables::ArchRow& arch, int recipe, tables::Op op);

/// How far a cell of the support matrix has come, best last.
enum class Mark { kNone, kListed, kCompiled, kRun };
/// "-", "listed", "compiled", "run".
const char* mark_name(Mark mark) noexcept;
/// Recorded results count only for rows that can serve today.
Mark mark_of(const tables::ArchRow& arch, int recipe, tables::Op op);

/// True when some row has a kernel for both matrix products of the recipe, on any architecture.
bool recipe_has_kernels(int recipe);

/// Rows recipe x op, columns SM, as Markdown with a legend; the README holds this text.
std::string support_matrix();

}  // namespace moesaic::cli
