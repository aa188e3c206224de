// SPDX-License-Identifier: Apache-2.0
// Test cases that cover every pair of levels of every two factors: few where all combinations would be millions.
#pragma once

#include <functional>
#include <vector>

namespace moesaic::testing {

/// True for two levels that cannot occur together; factors ascending. Every level must go with some level of each
/// other factor, whatever the rest is.
using Forbidden = std::function<bool(int factor, int level, int other_factor, int other_level)>;

/// Rows of one level a factor, the same in every run: for any two factors, every pair that is not forbidden occurs.
std::vector<std::vector<int>> pairwise_design(const std::vector<int>& levels, const Forbidden& forbidden);

}  // namespace moesaic::testing
