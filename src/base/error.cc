// SPDX-License-Identifier: Apache-2.0
// Names of error kinds.
#include "moesaic/error.h"

namespace moesaic {

const char* error_kind_name(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return "invalid argument";
    case ErrorKind::kUnsupported:
      return "unsupported";
    case ErrorKind::kCompile:
      return "compile error";
    case ErrorKind::kCuda:
      return "CUDA error";
    case ErrorKind::kIo:
      return "input/output error";
    case ErrorKind::kInternal:
      return "internal error";
  }
  return "unknown error";
}

}  // namespace moesaic
