// SPDX-License-Identifier: Apache-2.0
// Numbers from codes and scales: one fp32 operation on the exact product of code and block scale.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_kernels.h"
#include "backend_cpu/fast_read.h"
#include "backend_cpu/fast_round.h"
#include "backend_cpu/fast_threads.h"
#include "tables/quant_table.h"

namespace moesaic::cpu {
namespace {

constexpr std::int64_t kElementsPerTask = 1 << 16;

struct DequantizeTask {
  const QuantSpec& spec;
  const QuantizeRun& run;
  const FastKernels& kernels;
  const QuantTraits traits;
  const std::int64_t cols;
  const QuantSizes sizes;

  std::int64_t scale_row(std::int64_t row) const {
    if (traits.block_rows == 0) return 0;
    if (run.group_offsets.empty()) return row / traits.block_rows;
    return scale_row_in_group(run.group_offsets, row);
  }

  float scale_at(std::int64_t index) const {
    switch (traits.scales) {
      case ScaleFormat::kF32:
        return static_cast<const float*>(run.scales.data)[index];
      case ScaleFormat::kBF16:
        return bf16_to_float(static_cast<const std::uint16_t*>(run.scales.data)[index]);
      case ScaleFormat::kF16:
        return half_to_float(static_cast<const std::uint16_t*>(run.scales.data)[index]);
      case ScaleFormat::kE4M3:
        return e4m3_to_float(static_cast<const std::uint8_t*>(run.scales.data)[index]);
      case ScaleFormat::kE8M0:
        break;
    }
    return e8m0_to_float(static_cast<const std::uint8_t*>(run.scales.data)[index]);
  }

  // `begin` is even where codes have 4 bits.
  void block(std::int64_t row, std::int64_t begin, std::int64_t end, std::int64_t index, float* to) const {
    const float scale = scale_at(index);
    const std::int64_t first = row * cols;
    const auto* codes = static_cast<const std::uint8_t*>(run.codes.data);
    if (traits.codes == CodeFormat::kInt4) {
      const int zero = spec.int4.zero_points ? static_cast<const std::uint8_t*>(run.zeros.data)[index] : 8;
      float values[16];
      for (int code = 0; code < 16; ++code) values[code] = static_cast<float>(code - zero) * scale;
      for (std::int64_t c = begin; c < end; ++c) to[c] = values[codes[(first + c) / 2] >> (4 * (c & 1)) & 15];
    } else if (traits.codes == CodeFormat::kE2M1) {
      const float* decoded = code_values(traits.codes);
      float values[16];
      for (int code = 0; code < 16; ++code) values[code] = with_global(row, decoded[code] * scale);
      for (std::int64_t c = begin; c < end; ++c) to[c] = values[codes[(first + c) / 2] >> (4 * (c & 1)) & 15];
    } else {
      const float* decoded = code_values(traits.codes);
      for (std::int64_t c = begin; c < end; ++c) to[c] = decoded[codes[first + c]] * scale;
    }
  }

  float with_global(std::int64_t row, float value) const {
    if (spec.format == QuantFormat::kNvfp4) return value / *static_cast<const float*>(run.global_scale.data);
    if (spec.format == QuantFormat::kNvfp4Row) return value * static_cast<const float*>(run.row_scales.data)[row];
    return value;
  }

  void convert_row(std::int64_t row, std::vector<float>& values) const {
    const bool direct = run.x.dtype == DType::kF32;
    float* to = direct ? static_cast<float*>(run.x.data) + row * cols : values.data();
    const std::int64_t width = traits.block_cols == 0 ? cols : traits.block_cols, first = scale_row(row);
    for (std::int64_t begin = 0; begin < cols; begin += width) {
      const std::int64_t index = scale_index(spec.layout, first, begin / width, sizes.scale_cols);
      if (first >= 0) block(row, begin, std::min(cols, begin + width), index, to);
    }
    if (first < 0) std::fill_n(to, cols, std::numeric_limits<float>::quiet_NaN());
    if (direct) return;
    kernels.narrow(to, cols, run.x.dtype == DType::kBF16 ? Io::kBf16 : Io::kFp16,
                   static_cast<std::uint16_t*>(run.x.data) + row * cols);
  }
};

}  // namespace

void fast_dequantize(const QuantSpec& spec, const QuantizeRun& run) {
  const std::int64_t rows = run.x.shape[0], cols = run.x.shape[1];
  const DequantizeTask task{spec, run, fast_kernels(), quant_traits(spec), cols, quant_sizes(spec, rows, cols)};
  const std::int64_t rows_per_task = std::max<std::int64_t>(1, kElementsPerTask / cols);
  parallel_for((rows + rows_per_task - 1) / rows_per_task, [&](std::int64_t index, int) {
    std::vector<float> values(static_cast<std::size_t>(cols));
    const std::int64_t end = std::min(rows, (index + 1) * rows_per_task);
    for (std::int64_t row = index * rows_per_task; row < end; ++row) task.convert_row(row, values);
  });
}

}  // namespace moesaic::cpu
