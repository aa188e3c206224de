// SPDX-License-Identifier: Apache-2.0
// Names to table rows; a wrong name is wrong use.
#include "cli/kernel_masks.h"

#include <fmt/format.h>

#include "backend_cuda/device.h"
#include "cli/cli.h"
#include "moesaic/error.h"
#include "tables/kernel_table.h"

namespace moesaic::cli {

std::vector<std::string> words_of(const std::vector<std::string>& arguments) {
  std::vector<std::string> words(1);
  for (const std::string& argument : arguments) {
    for (const char c : argument + " ") {
      if (c != ',' && c != ' ' && c != '\t') {
        words.back().push_back(c);
      } else if (!words.back().empty()) {
        words.emplace_back();
      }
    }
  }
  words.pop_back();
  return words;
}

tables::ArchList arch_list(const std::vector<std::string>& arguments) {
  return as_usage(
      [&] { return tables::parse_arch_list(fmt::format("{}", fmt::join(arguments, " ")), cuda::list_sms); });
}

std::uint32_t recipe_mask(const std::vector<std::string>& arguments) {
  std::uint32_t mask = 0;
  for (const std::string& word : words_of(arguments)) {
    try {
      tables::get_recipe(word);
    } catch (const Error& error) {
      throw UsageError(error.what());
    }
    mask |= tables::recipe_bit(word);
  }
  return mask == 0 ? ~0u : mask;
}

std::uint32_t op_mask(const std::vector<std::string>& arguments) {
  std::uint32_t mask = 0;
  for (const std::string& word : words_of(arguments)) {
    std::uint32_t bit = 0;
    std::string names;
    for (const tables::Op op : tables::kAllOps) {
      names += fmt::format("{}{}", names.empty() ? "" : ", ", tables::op_name(op));
      if (word == tables::op_name(op)) bit = 1u << static_cast<unsigned>(op);
    }
    if (bit == 0) throw UsageError(fmt::format("op '{}' is not known; known: {}", word, names));
    mask |= bit;
  }
  return mask == 0 ? ~0u : mask;
}

}  // namespace moesaic::cli
