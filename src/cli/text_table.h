// SPDX-License-Identifier: Apache-2.0
// Tables of text for people: aligned columns, or Markdown.
#pragma once

#include <string>
#include <vector>

namespace moesaic::cli {

/// Rows of cells below a header. Columns are as wide as their widest cell.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) : rows_{std::move(header)} {}
  /// Requires: as many cells as the header has.
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  /// Columns two blanks apart, no trailing blanks, each line ended.
  std::string aligned() const;
  /// A Markdown table; bars in cells are escaped.
  std::string markdown() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace moesaic::cli
