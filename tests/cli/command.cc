// SPDX-License-Identifier: Apache-2.0
// Runs the built `moesaic` executable and keeps what it printed.
#include "command.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace moesaic::testing {

CommandResult run_cli(const std::string& arguments, const std::string& environment) {
  std::string error_file = (std::filesystem::temp_directory_path() / "moesaic_cli_XXXXXX").string();
  const int fd = mkstemp(error_file.data());
  if (fd < 0) throw std::runtime_error("cannot make " + error_file);
  close(fd);
  const std::string command = environment + " '" MOESAIC_CLI "' " + arguments + " 2>" + error_file + " </dev/null";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run " + command);
  CommandResult result;
  std::array<char, 4096> buffer{};
  while (const std::size_t count = fread(buffer.data(), 1, buffer.size(), pipe))
    result.out.append(buffer.data(), count);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::ostringstream errors;
  errors << std::ifstream(error_file).rdbuf();
  result.err = errors.str();
  std::filesystem::remove(error_file);
  return result;
}

}  // namespace moesaic::testing
