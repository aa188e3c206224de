// SPDX-License-Identifier: Apache-2.0
// Errors at the C boundary: exceptions become a status and the text of the thread's last failure.
#pragma once

#include <cstddef>
#include <string>

#include "moesaic/moesaic.h"

namespace moesaic::capi {

/// Keeps the text of the exception in flight for this thread and names its status. `operation` stands before texts that
/// do not come from this library.
moesaic_status report_failure(const char* operation) noexcept;

/// Runs `call`; nothing that it throws gets out.
template <typename Call>
moesaic_status guarded(const char* operation, const Call& call) noexcept {
  try {
    call();
    return MOESAIC_OK;
  } catch (...) {
    return report_failure(operation);
  }
}

/// Throws Error(kInvalidArgument): "operation: argument is got, wanted wanted".
[[noreturn]] void refuse(const char* operation, const std::string& argument, const std::string& got,
                         const std::string& wanted);

/// Refuses a null pointer.
void check_given(const char* operation, const char* argument, const void* pointer, const char* wanted);

/// Hands a text to a caller's buffer as moesaic_moe_kernels says.
void write_text(const char* operation, const std::string& text, char* buffer, std::size_t capacity,
                std::size_t* needed);

}  // namespace moesaic::capi
