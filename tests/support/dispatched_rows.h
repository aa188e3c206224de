// SPDX-License-Identifier: Apache-2.0
// Rows that were dispatched to experts before the layer sees them, and what each must become.
#pragma once

#include <vector>

#include "support/random_layer.h"

namespace moesaic::testing {

struct DispatchedRows {
  HostArray x;                        // [R, H], or [L, max, H]
  std::vector<std::int32_t> numbers;  // offsets [L + 1], or counts [L]
  std::vector<int> experts;           // [R]: local expert of a row, -1: none
  int hidden = 0, max = 0;            // max 0: contiguous
  std::int64_t count() const { return static_cast<std::int64_t>(experts.size()); }
  /// A run on host memory. The views point into this.
  MoeRun run(void* out, DType out_type) const;
};

/// counts[e] rows for local expert e; then, or up to `max` rows each when `masked`, rows of NaN that are nobody's.
DispatchedRows random_rows(std::mt19937& rng, const MoeConfig& config, const std::vector<int>& counts, bool masked);

/// The oracle's output of a layer without shared experts on every row as a token of its expert alone; 0: nobody's.
std::vector<double> routed_one_by_one(const HostLayer& layer, const DispatchedRows& rows);

}  // namespace moesaic::testing
