// SPDX-License-Identifier: Apache-2.0
// Traits of a format -> the fields of a view.
#include "tables/stored_matrix.h"

namespace moesaic::tables {

Quantization stored_quantization(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  const QuantTraits traits = quant_traits(spec);
  Quantization q;
  q.codes = traits.codes;
  q.scale_format = traits.scales;
  q.block_rows = traits.block_rows == 0 ? rows : traits.block_rows;
  q.block_cols = traits.block_cols == 0 ? cols : traits.block_cols;
  q.scale_row_stride = quant_sizes(spec, rows, cols).scale_cols;
  q.scale_col_stride = 1;
  return q;
}

}  // namespace moesaic::tables
