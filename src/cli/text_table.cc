// SPDX-License-Identifier: Apache-2.0
// Tables of text for people: aligned columns, or Markdown.
#include "cli/text_table.h"

#include <algorithm>

namespace moesaic::cli {
namespace {

std::string escaped(const std::string& cell) {
  std::string out;
  for (const char c : cell) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string markdown_row(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line.append(" ").append(escaped(cell)).append(" |");
  return line.append("\n");
}

}  // namespace

std::string TextTable::aligned() const {
  std::vector<std::size_t> widths(rows_.front().size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      line += row[i];
      line.append(widths[i] - row[i].size() + 2, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text.append(line).append("\n");
  }
  return text;
}

std::string TextTable::markdown() const {
  std::string text = markdown_row(rows_.front());
  text += markdown_row(std::vector<std::string>(rows_.front().size(), "---"));
  for (std::size_t i = 1; i < rows_.size(); ++i) text += markdown_row(rows_[i]);
  return text;
}

}  // namespace moesaic::cli
