// SPDX-License-Identifier: Apache-2.0
// What ptxas says of a kernel, and which of it means that the kernel must not ship.
#pragma once

#include <string_view>

#include "module/record.h"

namespace moesaic::module {

/// Reads the log of a compilation with --ptxas-options=-v. `complaints` holds one line for each of: spills, a stack
/// frame other than 0, a C75xx message (but for those allowed with a reason), a line with the words "serialized" or
/// "ignored". compile_seconds and code_bytes are left alone.
KernelFacts read_ptxas_log(std::string_view log);

}  // namespace moesaic::module
