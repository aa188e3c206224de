// SPDX-License-Identifier: Apache-2.0
// x of a run quantised by the caller: by Quantizer, in the format that a recipe's activations have.
#pragma once

#include <string>
#include <vector>

#include "moesaic/moe.h"
#include "support/random_layer.h"

namespace moesaic::testing {

/// Codes and scales in host memory.
struct CodedRows {
  std::int64_t rows = 0;
  std::vector<unsigned char> codes, scales;
  std::vector<float> row_scales;  // NVFP4's
  std::string recipe;
  std::int64_t cols = 0;

  /// Sets x, x_scale and x_row_scale of a run to this; the views point into it.
  void give(MoeRun& run) const;
};

/// x [rows, cols] (bf16) quantised as the recipe's activations; `static_scale` 0: row by row.
CodedRows coded_rows(const std::string& recipe, const HostArray& x, std::int64_t rows, std::int64_t cols,
                     float static_scale);

}  // namespace moesaic::testing
