// SPDX-License-Identifier: Apache-2.0
// Parsing of architecture names.
#include "tables/arch_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "moesaic/error.h"

namespace moesaic::tables {
namespace {

bool ends_with(std::string_view text, char last) { return !text.empty() && text.back() == last; }

// "90" or "9.0" for SM 90, "120" or "12.0" for SM 120: never "0090" or "9.00".
bool names_sm(std::string_view number, int sm) {
  return number == std::to_string(sm) || number == fmt::format("{}.{}", sm / 10, sm % 10);
}

// The suffix a or f is accepted where the architecture has such a target.
bool suffix_exists(const ArchRow& row, char suffix) {
  return suffix == 'a' ? ends_with(row.exact_target, 'a') : ends_with(row.family_target, 'f');
}

const ArchRow* match(std::string_view name) {
  if (name.substr(0, 3) == "sm_") {
    name.remove_prefix(3);
    if (name.find('.') != std::string_view::npos) return nullptr;
  }
  const char suffix = ends_with(name, 'a') || ends_with(name, 'f') ? name.back() : '\0';
  if (suffix != '\0') name.remove_suffix(1);
  for (const ArchRow& row : kArchTable) {
    if (names_sm(name, row.sm)) return suffix == '\0' || suffix_exists(row, suffix) ? &row : nullptr;
  }
  return nullptr;
}

// "90a 100a 100f ...": the architectures that a suffix can be written with.
std::string suffixed_archs() {
  std::string names;
  for (const ArchRow& row : kArchTable) {
    for (const char suffix : {'a', 'f'}) {
      if (suffix_exists(row, suffix)) names += fmt::format("{}{}{}", names.empty() ? "" : " ", row.sm, suffix);
    }
  }
  return names;
}

[[noreturn]] void throw_unknown(const std::string& name) {
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("architecture '{}' is not known; accepted: {} and {}, each also written as 9.0, sm_90, 9.0a, "
                          "sm_90a; all; native; and lists of these separated by commas or blanks",
                          name, known_archs(), suffixed_archs()));
}

void add_native(ArchList& list, const NativeQuery& native) {
  const std::vector<int> sms = native ? native() : std::vector<int>{};
  if (sms.empty()) {
    throw Error(ErrorKind::kUnsupported, fmt::format("architecture 'native': no GPU was found on this machine; name "
                                                     "architectures instead: {}",
                                                     known_archs()));
  }
  for (const int sm : sms) {
    const ArchRow* row = find_arch(sm);
    if (row == nullptr) {
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("architecture 'native': a GPU of this machine has SM {}, which is not one of {}", sm,
                              known_archs()));
    }
    list.named.push_back(row);
  }
}

void sort_once(std::vector<const ArchRow*>& rows) {
  std::sort(rows.begin(), rows.end(), [](const ArchRow* a, const ArchRow* b) { return a->sm < b->sm; });
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words(1);
  for (const char c : text) {
    if (c == ',' || std::isspace(static_cast<unsigned char>(c)) != 0) {
      if (!words.back().empty()) words.emplace_back();
    } else {
      words.back().push_back(c);
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

}  // namespace

std::string known_archs() {
  std::string names;
  for (const ArchRow& row : kArchTable) names += fmt::format("{}{}", names.empty() ? "" : " ", row.sm);
  return names;
}

const ArchRow& parse_arch(const std::string& text) {
  const ArchRow* row = match(text);
  if (row == nullptr) throw_unknown(text);
  return *row;
}

ArchList parse_arch_list(const std::string& text, const NativeQuery& native) {
  ArchList list;
  const std::vector<std::string> words = split(text);
  if (words.empty()) throw_unknown(text);
  for (const std::string& word : words) {
    if (word == "all") {
      for (const ArchRow& row : kArchTable) list.rows.push_back(&row);
    } else if (word == "native") {
      add_native(list, native);
    } else {
      list.named.push_back(&parse_arch(word));
    }
  }
  sort_once(list.named);
  list.rows.insert(list.rows.end(), list.named.begin(), list.named.end());
  sort_once(list.rows);
  return list;
}

}  // namespace moesaic::tables
