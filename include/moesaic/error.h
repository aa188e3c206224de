// SPDX-License-Identifier: Apache-2.0
// The one exception type of the library, and the answer type of questions that never throw.
#pragma once

#include <stdexcept>
#include <string>

#pragma GCC visibility push(default)
namespace moesaic {

/// Whose mistake it was, and so what may help.
enum class ErrorKind {
  kInvalidArgument,  // the caller's input is wrong; the message says what, got, wanted
  kUnsupported,      // legal input that nothing here can serve; the message says what would work
  kCompile,          // a kernel did not compile, or compiled to something that must not ship
  kCuda,             // the CUDA driver refused a call
  kIo,               // a file or folder could not be read or written, or its content is damaged
  kInternal,         // a defect of this library
};

/// The name of a kind as it stands in messages and JSON, for example "invalid argument".
const char* error_kind_name(ErrorKind kind) noexcept;

/// Thrown by every command of this library. `what()` says: operation, argument, got, wanted, what would work.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  /// The kind, for callers that map errors to exit codes or exception classes.
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

/// The answer to "can this run?". `why` is empty when `ok`.
struct Verdict {
  bool ok = true;
  std::string why;
};

}  // namespace moesaic
#pragma GCC visibility pop
