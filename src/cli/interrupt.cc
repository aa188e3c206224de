// SPDX-License-Identifier: Apache-2.0
// Signal handlers that set one flag.
#include "cli/interrupt.h"

#include <atomic>
#include <csignal>

namespace moesaic::cli {
namespace {
std::atomic<bool> flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "used in a signal handler");

extern "C" void set_flag(int signal) {
  flag = true;
  std::signal(signal, SIG_DFL);
}
}  // namespace

InterruptGuard::InterruptGuard() {
  flag = false;
  std::signal(SIGINT, set_flag);
  std::signal(SIGTERM, set_flag);
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool InterruptGuard::interrupted() noexcept { return flag; }

}  // namespace moesaic::cli
