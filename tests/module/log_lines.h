// SPDX-License-Identifier: Apache-2.0
// What the library warns of while a test looks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "moesaic/log.h"

namespace moesaic::testing {

/// Collects warnings for its lifetime. No notices: those tell of compiling that takes longer than a second, and on a
/// busy machine anything may.
struct LogLines {
  std::vector<std::string> lines;
  LogLines() {
    set_log_callback([this](LogLevel level, std::string_view line) {
      if (level == LogLevel::kWarning) lines.emplace_back(line);
    });
  }
  ~LogLines() { set_log_callback({}); }
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;

  /// True where one warning was logged and has all these words.
  bool one_with(const std::vector<std::string>& words) const {
    if (lines.size() != 1) return false;
    for (const std::string& word : words) {
      if (lines[0].find(word) == std::string::npos) return false;
    }
    return true;
  }
};

}  // namespace moesaic::testing
