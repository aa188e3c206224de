// SPDX-License-Identifier: Apache-2.0
// Where the library's few log lines go. Default: warnings and notices to stderr, one line each.
#pragma once

#include <functional>
#include <string_view>

#pragma GCC visibility push(default)
namespace moesaic {

/// How much a line matters; the default callback does not print kDebug.
enum class LogLevel { kDebug, kNotice, kWarning };

/// Gets one line, without a line break.
using LogCallback = std::function<void(LogLevel level, std::string_view message)>;

/// Replaces the log callback; an empty function restores the default. Thread-safe; the callback may be called from
/// any thread, one call at a time. Never called from `FusedMoe::run`.
void set_log_callback(LogCallback callback);

}  // namespace moesaic
#pragma GCC visibility pop
