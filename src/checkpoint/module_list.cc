// SPDX-License-Identifier: Apache-2.0
// Lists of modules.
#include "checkpoint/module_list.h"

#include <fmt/format.h>

#include "checkpoint/printable.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {
namespace {

// Bounds the work of one look-up. The longest published lists have some hundred entries, nearly all exact names.
constexpr std::size_t kMaxPatternSteps = 16384;

// Positions at which a component of a dotted name begins.
std::vector<std::size_t> component_starts(std::string_view name) {
  std::vector<std::size_t> starts = {0};
  for (std::size_t at = 0; at < name.size(); ++at) {
    if (name[at] == '.') starts.push_back(at + 1);
  }
  return starts;
}

}  // namespace

void ModuleList::add_all(const nlohmann::json& list, const std::string& where) {
  if (!list.is_array()) throw Error(ErrorKind::kIo, where + " is no array; wanted an array of module names");
  for (const nlohmann::json& entry : list) {
    if (!entry.is_string()) {
      throw Error(ErrorKind::kIo, fmt::format("{} holds {}; wanted module names", where, one_line(entry.dump(), 60)));
    }
    add(entry.get_ref<const std::string&>(), where);
  }
}

void ModuleList::add(const std::string& entry, const std::string& where) {
  bool is_regex = entry.starts_with("re:");
  if (!is_regex && entry.find_first_of("*?") == std::string::npos) {
    names_.insert(entry);
    return;
  }
  ModulePattern pattern = is_regex ? ModulePattern::from_regex(std::string_view(entry).substr(3), where)
                                   : ModulePattern::from_glob(entry, where);
  pattern_steps_ += pattern.size();
  if (pattern_steps_ > kMaxPatternSteps) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: more patterns than this version reads (at {})", where, in_quotes(entry)));
  }
  patterns_.emplace_back(entry, std::move(pattern));
}

const std::string* ModuleList::find(std::string_view module) const {
  if (!names_.empty()) {
    std::vector<std::size_t> starts = component_starts(module);
    for (std::size_t first = 0; first < starts.size(); ++first) {
      for (std::size_t last = first; last < starts.size(); ++last) {
        std::size_t end = last + 1 < starts.size() ? starts[last + 1] - 1 : module.size();
        auto at = names_.find(module.substr(starts[first], end - starts[first]));
        if (at != names_.end()) return &*at;
      }
    }
  }
  for (const auto& [entry, pattern] : patterns_) {
    if (pattern.matches(module)) return &entry;
  }
  return nullptr;
}

}  // namespace moesaic::checkpoint
