// SPDX-License-Identifier: Apache-2.0
// A list of modules in a quantisation config: exact names, globs with * and ?, and "re:" regular expressions.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/module_pattern.h"

namespace moesaic::checkpoint {

/// Names and globs name a module when they are its name, something that it lies in, or a run of whole components of
/// either ("mlp.gate" names "model.layers.0.mlp.gate" and nothing in "model.layers.0.mlp.gate_proj"): model wrappers
/// prepend to names, and configs list blocks for all that is in them.
class ModuleList {
 public:
  /// Throws Error(kIo) "<where>: ..." when `list` is not an array of strings, kUnsupported for patterns not read.
  void add_all(const nlohmann::json& list, const std::string& where);
  void add(const std::string& entry, const std::string& where);

  bool empty() const noexcept { return names_.empty() && patterns_.empty(); }
  /// The entry that names `module`, or nullptr.
  const std::string* find(std::string_view module) const;

 private:
  std::set<std::string, std::less<>> names_;
  std::vector<std::pair<std::string, ModulePattern>> patterns_;
  std::size_t pattern_steps_ = 0;
};

}  // namespace moesaic::checkpoint
