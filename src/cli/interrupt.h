// SPDX-License-Identifier: Apache-2.0
// Ctrl-C while a verb works: it ends at the next safe place instead of right there.
#pragma once

namespace moesaic::cli {

/// For its lifetime the first SIGINT or SIGTERM sets a flag; a second one ends the process as usual.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  /// Whether a signal has come.
  static bool interrupted() noexcept;
};

}  // namespace moesaic::cli
