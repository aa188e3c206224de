// SPDX-License-Identifier: Apache-2.0
// Tells the log callback about compiling that takes longer than a second: nobody should wonder what a first call does.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace moesaic::module {

/// Lives as long as a batch of just-in-time kernels is made. Quiet when that takes less than a second.
class Announcer {
 public:
  /// `what`: "kernel X for sm_90" or "32 kernels for sm_90".
  explicit Announcer(std::string what);
  ~Announcer();
  Announcer(const Announcer&) = delete;
  Announcer& operator=(const Announcer&) = delete;

  /// Logs a kernel that took longer than a second. Thread-safe.
  static void compiled(const std::string& kernel, double seconds);

 private:
  void wait_and_tell();

  std::string what_;
  std::chrono::steady_clock::time_point start_;
  std::mutex mutex_;
  std::condition_variable done_changed_;
  bool done_ = false, told_ = false;
  std::thread thread_;
};

}  // namespace moesaic::module
