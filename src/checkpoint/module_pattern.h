// SPDX-License-Identifier: Apache-2.0
// Patterns of module names as published quantisation configs write them, matched in time pattern x name, whatever the
// pattern: it comes from a file that nobody vouches for, and backtracking matchers take exponential time.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::checkpoint {

/// A compiled pattern. The constructors throw Error(kUnsupported) "<where>: pattern ..." for what is not read.
class ModulePattern {
 public:
  /// A regular expression as Python's re.match takes it: anchored at the beginning, free at the end. Read are
  /// characters, escapes of punctuation, \d \w, ., [...], (...), (?:...), |, *, +, ?, ^ and $.
  static ModulePattern from_regex(std::string_view text, const std::string& where);
  /// * is any run of characters and ? any one; the match is a run of whole components ("mlp.g*" names "a.mlp.gate").
  static ModulePattern from_glob(std::string_view text, const std::string& where);

  bool matches(std::string_view name) const;
  /// Work of one match, per character of the name.
  std::size_t size() const noexcept { return steps_.size(); }

  using Set = std::bitset<256>;  // of characters

  /// One node of the automaton; `next` and `other` are indices of steps.
  struct Step {
    enum class Kind : std::uint8_t { kSet, kSplit, kBegin, kEnd, kMatch } kind = Kind::kMatch;
    int next = -1, other = -1;
    Set set;
  };

 private:
  std::vector<Step> steps_;
  int start_ = 0;
};

}  // namespace moesaic::checkpoint
