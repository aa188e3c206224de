// SPDX-License-Identifier: Apache-2.0
// Processes of their own for tests of what several share and of what a killed one leaves.
#pragma once

#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace moesaic::testing {

/// Runs `body` in a process of its own and gives its exit code; 128 + signal when killed.
struct Child {
  pid_t pid = -1;
  explicit Child(const std::function<int()>& body) : pid(begin()) {
    if (pid != 0) return;
    int code = 99;
    try {
      code = body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    std::fflush(nullptr);
    _exit(code);
  }
  int wait() const {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int end_by_kill() const {
    kill(pid, SIGKILL);
    return wait();
  }

 private:
  static pid_t begin() {
    std::fflush(nullptr);  // else the child prints it again
    return fork();
  }
};

/// Processes wait at it, and all go on once the one on its other side opens it.
class StartingGate {
 public:
  StartingGate() {
    if (pipe(ends_) != 0) throw std::runtime_error("no pipe");
  }
  StartingGate(const StartingGate&) = delete;
  StartingGate& operator=(const StartingGate&) = delete;
  ~StartingGate() { close(ends_[0]); }
  /// Returns when the other side has opened (or died).
  void wait() const {
    close(ends_[1]);
    char unused = 0;
    while (read(ends_[0], &unused, 1) > 0) {
    }
  }
  /// Once.
  void open() const { close(ends_[1]); }

 private:
  int ends_[2] = {-1, -1};
};

inline bool nvrtc_is_loaded() {
  std::ifstream maps("/proc/self/maps");
  std::stringstream text;
  text << maps.rdbuf();
  return text.str().find("libnvrtc") != std::string::npos;
}

/// The exit code of one test of this executable in a process that starts anew, without what others loaded.
inline int run_alone(const std::string& test) {
  const Child alone([&] {
    const std::string filter = "--gtest_filter=" + test;
    execl("/proc/self/exe", "test", filter.c_str(), nullptr);
    return 99;
  });
  return alone.wait();
}

}  // namespace moesaic::testing
