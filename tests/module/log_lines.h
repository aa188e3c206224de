// SPDX-License-Identifier: Apache-2.0
// What the library logs while a test looks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "moesaic/log.h"

namespace moesaic::testing {

/// Collects log lines for its lifetime.
struct LogLines {
  std::vector<std::string> lines;
  LogLines() {
    set_log_callback([this](LogLevel, std::string_view line) { lines.emplace_back(line); });
  }
  ~LogLines() { set_log_callback({}); }
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;

  /// True where one line was logged and has all these words.
  bool one_with(const std::vector<std::string>& words) const {
    if (lines.size() != 1) return false;
    for (const std::string& word : words) {
      if (lines[0].find(word) == std::string::npos) return false;
    }
    return true;
  }
};

}  // namespace moesaic::testing
