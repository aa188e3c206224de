// SPDX-License-Identifier: Apache-2.0
// Architectures as users write them: "90", "9.0", "sm_90", "sm_90a", "9.0a", "12.0f", "all", "native", and lists.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tables/arch_table.h"

namespace moesaic::tables {

/// The architectures that a list names.
struct ArchList {
  std::vector<const ArchRow*> rows;   // ascending, each once
  std::vector<const ArchRow*> named;  // those not just part of "all": that the compiler cannot serve one is an error
};

/// Tells the SMs of the GPUs of this machine (10 * major + minor), for "native".
using NativeQuery = std::function<std::vector<int>()>;

/// Parses a list separated by commas or blanks. Throws Error(kInvalidArgument) that lists what is accepted on anything
/// unknown and on an empty list; Error(kUnsupported) where "native" finds no GPU or one that the table does not list.
ArchList parse_arch_list(const std::string& text, const NativeQuery& native);

/// One architecture; neither "all" nor "native" nor a list. Throws as above.
const ArchRow& parse_arch(const std::string& text);

/// "80 86 ... 121": what messages list.
std::string known_archs();

}  // namespace moesaic::tables
