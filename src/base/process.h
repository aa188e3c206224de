// SPDX-License-Identifier: Apache-2.0
// Another program, run to its end or to a time limit.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::base {

struct CommandOutcome {
  int exit_code = -1;   // 128 + signal when it was killed
  bool in_time = true;  // false: it was ended at the limit, and all that it had started
  std::string output;   // of stdout and stderr
};

/// Runs `words` (the program first: its path, or a name that PATH leads to) in `folder` with this process' environment,
/// or with these settings ("NAME=value") and no others, and no input. `limit` 0: none. Throws Error(kIo): it cannot be
/// started.
CommandOutcome run_command(const std::vector<std::string>& words, const std::string& folder, std::chrono::seconds limit,
                           const std::optional<std::vector<std::string>>& environment = {});

}  // namespace moesaic::base
