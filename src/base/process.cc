// SPDX-License-Identifier: Apache-2.0
// posix_spawn, which is sound in processes with threads; output goes to a file in memory.
#include "base/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "base/fs.h"
#include "moesaic/error.h"

namespace moesaic::base {
namespace {

constexpr std::uint64_t kMaxOutput = 64 << 20;

std::vector<char*> pointers_to(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// A process of a group of its own, so that what it starts can be ended with it. Returns an error number.
int start(const std::vector<std::string>& words, const std::string& folder, int output, char* const* settings,
          pid_t& pid) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  const auto arguments = pointers_to(words);
  const int error = ::posix_spawnp(&pid, arguments[0], &actions, &attributes, arguments.data(), settings);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

// The status of waitpid; -1: still running at the limit.
int wait_for(pid_t pid, std::chrono::seconds limit) {
  const auto begin = std::chrono::steady_clock::now();
  for (std::chrono::milliseconds sleep{1};; sleep = std::min(2 * sleep, std::chrono::milliseconds(20))) {
    int status = 0;
    const pid_t ended = ::waitpid(pid, &status, WNOHANG);
    if (ended == pid) return status;
    if (ended < 0 && errno != EINTR) return 127 << 8;  // somebody else has waited for it
    if (limit.count() > 0 && std::chrono::steady_clock::now() - begin >= limit) return -1;
    std::this_thread::sleep_for(sleep);
  }
}

}  // namespace

CommandOutcome run_command(const std::vector<std::string>& words, const std::string& folder, std::chrono::seconds limit,
                           const std::optional<std::vector<std::string>>& environment) {
  const int output = ::memfd_create("output", MFD_CLOEXEC);
  const auto fail = [&](int error) {
    if (output >= 0) ::close(output);
    throw Error(ErrorKind::kIo, fmt::format("run {}: {}", words.front(), std::strerror(error)));
  };
  if (output < 0) fail(errno);
  pid_t pid = -1;
  const std::vector<char*> settings = environment ? pointers_to(*environment) : std::vector<char*>();
  const int error = start(words, folder, output, environment ? settings.data() : environ, pid);
  if (error != 0) fail(error);
  int status = wait_for(pid, limit);
  CommandOutcome outcome;
  if (status == -1) {
    outcome.in_time = false;
    ::kill(-pid, SIGKILL);
    ::waitpid(pid, &status, 0);
  }
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  try {
    outcome.output = read_file(fmt::format("/proc/self/fd/{}", output), kMaxOutput);
  } catch (const Error& error) {
    outcome.output = error.what();
  }
  ::close(output);
  return outcome;
}

}  // namespace moesaic::base
