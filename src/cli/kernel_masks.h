// SPDX-License-Identifier: Apache-2.0
// Lists on the command line: architectures, recipes and ops by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tables/arch_list.h"

namespace moesaic::cli {

/// Words of several arguments, split at commas and blanks.
std::vector<std::string> words_of(const std::vector<std::string>& arguments);
/// Architectures, "all" and "native" included. Throws UsageError on unknown names.
tables::ArchList arch_list(const std::vector<std::string>& arguments);
/// Bits of recipes; none named: all. Throws UsageError on unknown names.
std::uint32_t recipe_mask(const std::vector<std::string>& arguments);
/// Bits of ops; none named: all. Throws UsageError on unknown names.
std::uint32_t op_mask(const std::vector<std::string>& arguments);

}  // namespace moesaic::cli
