// SPDX-License-Identifier: Apache-2.0
// The log callback and its default: notices and warnings to stderr.
#include "base/log.h"

#include <cstdio>
#include <mutex>
#include <string>
#include <utility>

namespace moesaic {
namespace {

// Never destroyed: threads may log while static objects are being torn down.
std::mutex& log_mutex() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}
LogCallback& log_callback() {
  static LogCallback& callback = *new LogCallback;
  return callback;
}

void log_to_stderr(LogLevel level, std::string_view message) {
  if (level == LogLevel::kDebug) return;
  // One write per line, so that lines of several processes do not mix.
  std::string line = level == LogLevel::kWarning ? "moesaic: warning: " : "moesaic: ";
  line.append(message).push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

void set_log_callback(LogCallback callback) {
  const std::lock_guard lock(log_mutex());
  log_callback() = std::move(callback);
}

namespace base {

void log(LogLevel level, std::string_view message) noexcept {
  try {
    const std::lock_guard lock(log_mutex());
    if (log_callback()) {
      log_callback()(level, message);
    } else {
      log_to_stderr(level, message);
    }
  } catch (...) {
    // A caller's callback must not turn a log line into a failure.
  }
}

}  // namespace base
}  // namespace moesaic
