// SPDX-License-Identifier: Apache-2.0
// How the library's own code writes a log line; moesaic/log.h says where it goes.
#pragma once

#include <string_view>

#include "moesaic/log.h"

namespace moesaic::base {

/// Hands one line to the log callback. Never throws; an exception from the callback is swallowed.
void log(LogLevel level, std::string_view message) noexcept;
inline void log_debug(std::string_view message) noexcept { log(LogLevel::kDebug, message); }
inline void log_notice(std::string_view message) noexcept { log(LogLevel::kNotice, message); }
inline void log_warning(std::string_view message) noexcept { log(LogLevel::kWarning, message); }

}  // namespace moesaic::base
