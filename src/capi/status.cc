// SPDX-License-Identifier: Apache-2.0
// Status, error text per thread, versions and the log callback of the C interface.
#include "capi/status.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <string_view>

#include "moesaic/error.h"
#include "moesaic/log.h"

namespace moesaic::capi {
namespace {

constexpr moesaic_status status_of(ErrorKind kind) { return static_cast<moesaic_status>(static_cast<int>(kind) + 1); }
static_assert(status_of(ErrorKind::kInvalidArgument) == MOESAIC_INVALID_ARGUMENT &&
              status_of(ErrorKind::kUnsupported) == MOESAIC_UNSUPPORTED &&
              status_of(ErrorKind::kCompile) == MOESAIC_COMPILE && status_of(ErrorKind::kCuda) == MOESAIC_CUDA &&
              status_of(ErrorKind::kIo) == MOESAIC_IO && status_of(ErrorKind::kInternal) == MOESAIC_INTERNAL);
static_assert(static_cast<int>(LogLevel::kDebug) == MOESAIC_LOG_DEBUG &&
              static_cast<int>(LogLevel::kNotice) == MOESAIC_LOG_NOTICE &&
              static_cast<int>(LogLevel::kWarning) == MOESAIC_LOG_WARNING);

// A buffer, not a string: keeping the text of a std::bad_alloc must not need memory.
constexpr std::size_t kErrorBytes = 4096;
thread_local char last_error[kErrorBytes] = "";

void keep(std::initializer_list<const char*> parts) noexcept {
  std::size_t used = 0;
  for (const char* part : parts) {
    const std::size_t size = std::min(std::strlen(part), kErrorBytes - 1 - used);
    std::memcpy(last_error + used, part, size);
    used += size;
  }
  last_error[used] = '\0';
}

}  // namespace

moesaic_status report_failure(const char* operation) noexcept {
  try {
    throw;
  } catch (const Error& error) {
    keep({error.what()});
    return status_of(error.kind());
  } catch (const std::exception& error) {
    keep({operation, ": ", error.what()});
  } catch (...) {
    keep({operation, ": an exception that is no std::exception"});
  }
  return MOESAIC_INTERNAL;
}

void refuse(const char* operation, const std::string& argument, const std::string& got, const std::string& wanted) {
  throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: {} is {}, wanted {}", operation, argument, got, wanted));
}

void check_given(const char* operation, const char* argument, const void* pointer, const char* wanted) {
  if (pointer == nullptr) refuse(operation, argument, "NULL", wanted);
}

void write_text(const char* operation, const std::string& text, char* buffer, std::size_t capacity,
                std::size_t* needed) {
  check_given(operation, "needed", needed, "where the size of the text goes");
  *needed = text.size() + 1;
  if (buffer == nullptr) return;
  if (capacity < *needed) refuse(operation, "capacity", fmt::format("{}", capacity), fmt::format("{}", *needed));
  std::memcpy(buffer, text.c_str(), *needed);
}

}  // namespace moesaic::capi

using namespace moesaic;  // NOLINT(google-build-using-namespace): C names outside of every namespace

uint32_t moesaic_abi_version(void) { return MOESAIC_ABI_VERSION; }

const char* moesaic_version(void) { return MOESAIC_VERSION; }

const char* moesaic_status_name(int32_t status) {
  if (status == MOESAIC_OK) return "ok";
  if (status < MOESAIC_INVALID_ARGUMENT || status > MOESAIC_INTERNAL) return "unknown status";
  return error_kind_name(static_cast<ErrorKind>(status - 1));
}

const char* moesaic_last_error(void) { return capi::last_error; }

moesaic_status moesaic_set_log_callback(moesaic_log_callback callback, void* user) {
  return capi::guarded("set_log_callback", [&] {
    if (callback == nullptr) return set_log_callback({});
    set_log_callback([callback, user](LogLevel level, std::string_view message) {
      callback(static_cast<moesaic_log_level>(level), std::string(message).c_str(), user);
    });
  });
}
