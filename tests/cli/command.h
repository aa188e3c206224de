// SPDX-License-Identifier: Apache-2.0
// Runs the built `moesaic` executable and keeps what it printed.
#pragma once

#include <string>

namespace moesaic::testing {

struct CommandResult {
  int exit_code = -1;  // 128 + signal when it was killed
  std::string out, err;
};

/// Runs `moesaic ARGUMENTS` through the shell (quote accordingly); `environment` is put before it: "A=1 B=2".
CommandResult run_cli(const std::string& arguments, const std::string& environment = "");

}  // namespace moesaic::testing
