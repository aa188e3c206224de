// SPDX-License-Identifier: Apache-2.0
// Inputs and buffers of quantiser tests.
#include "support/quant_case.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend_cpu/backend_cpu.h"
#include "tables/quant_table.h"

namespace moesaic::testing {
namespace {

constexpr unsigned char kPoison = 0xFF;

float random_sign(std::mt19937& rng, float value) { return rng() % 2 == 0 ? value : -value; }

float number_of_kind(std::mt19937& rng, DataKind kind, DType dtype, std::int64_t col) {
  std::normal_distribution<float> normal;
  const bool half = dtype == DType::kF16;
  switch (kind) {
    case DataKind::kWide:  // magnitudes over the type's whole range
      return random_sign(rng, std::ldexp(1.0f + static_cast<float>(rng() % 256) / 256.0f,
                                         static_cast<int>(rng() % (half ? 30 : 250)) - (half ? 15 : 126)));
    case DataKind::kZeroBlocks:
      return col / 16 % 2 == 0 ? random_sign(rng, 0.0f) : normal(rng);
    case DataKind::kTiny:  // subnormal numbers too
      return normal(rng) * (half ? 0x1p-20f : 0x1p-130f);
    case DataKind::kHuge:
      return normal(rng) * (half ? 0x1p14f : 0x1p125f);
    case DataKind::kSpecials: {
      const auto which = rng() % 64;
      if (which == 0) return std::numeric_limits<float>::quiet_NaN();
      if (which == 1) return -std::numeric_limits<float>::quiet_NaN();
      if (which < 4) return random_sign(rng, std::numeric_limits<float>::infinity());
      return normal(rng);
    }
    case DataKind::kTies:  // small multiples of a quarter: many exact halves between codes
      return random_sign(rng, static_cast<float>(rng() % 29) * 0.25f);
    default:
      return normal(rng);
  }
}

/// Which kind the element has: elements that share a scale share it.
DataKind kind_at(const QuantCase& c, std::int64_t row, std::int64_t col, int first) {
  constexpr int kKinds = static_cast<int>(DataKind::kCount);
  std::int64_t number = first;
  if (c.spec.format == QuantFormat::kFp8Block128x128) {
    number += row / 128 + col / 128;
  } else if (c.spec.format != QuantFormat::kFp8Tensor) {
    number += row;
  }
  return static_cast<DataKind>(number % kKinds);
}

}  // namespace

std::string QuantCase::name() const {
  return std::string(quant_format_name(spec.format)) + " " + scale_layout_name(spec.layout) + " " + dtype_name(dtype) +
         " [" + std::to_string(rows) + ", " + std::to_string(cols) + "]" + (activation ? " gated" : "") +
         (group_offsets.empty() ? "" : " in " + std::to_string(group_offsets.size() - 1) + " groups") +
         (spec.e8m0 == E8m0Rounding::kFloor ? " floor" : "") +
         (spec.format == QuantFormat::kInt4 ? " group " + std::to_string(spec.int4.size) : "") +
         (spec.int4.zero_points ? " zero points" : "") + (misalign > 0 ? " misaligned" : "");
}

HostArray quant_input(std::mt19937& rng, const QuantCase& c, int first) {
  const std::int64_t stored = c.cols * (c.activation ? 2 : 1);
  std::vector<float> values;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    for (std::int64_t k = 0; k < stored; ++k) {
      values.push_back(number_of_kind(rng, kind_at(c, r, k % c.cols, first), c.dtype, k % c.cols));
    }
  }
  return to_array(values, c.dtype);
}

QuantBuffers quant_buffers(const QuantCase& c, float global_scale) {
  const QuantSizes sizes = quant_sizes(c.spec, c.rows, c.cols);
  std::int64_t scale_bytes = sizes.scale_bytes;
  if (!c.group_offsets.empty()) {
    const auto groups = static_cast<std::int64_t>(c.group_offsets.size()) - 1;
    scale_bytes = scale_layout_bytes(c.spec.layout, grouped_scale_row(c.rows, groups) + 128, sizes.scale_cols);
  }
  QuantBuffers b;
  b.codes.assign(static_cast<std::size_t>(sizes.code_bytes), kPoison);
  b.scales.assign(static_cast<std::size_t>(scale_bytes), kPoison);
  b.zeros.assign(static_cast<std::size_t>(sizes.zero_bytes), kPoison);
  if (tables::quant_row(c.spec.format).global_scale) b.global_scale = {global_scale};
  if (c.spec.format == QuantFormat::kNvfp4Row) {
    b.row_scales.assign(static_cast<std::size_t>(c.rows), std::bit_cast<float>(0xFFFFFFFFu));
  }
  return b;
}

QuantizeRun quant_run(const QuantCase& c, const QuantAddresses& at) {
  const QuantSizes sizes = quant_sizes(c.spec, c.rows, c.cols);
  const QuantTraits traits = quant_traits(c.spec);
  const DType scale_type = tables::scale_size(traits.scales) == 1 ? DType::kU8
                           : traits.scales == ScaleFormat::kF32   ? DType::kF32
                                                                  : DType::kBF16;
  QuantizeRun run;
  run.x = TensorView(at.x, c.dtype, {c.rows, c.cols * (c.activation ? 2 : 1)});
  run.codes = TensorView(at.codes, DType::kU8, {c.rows, c.cols * tables::code_bits(traits.codes) / 8});
  if (!c.group_offsets.empty()) {
    const auto groups = static_cast<std::int64_t>(c.group_offsets.size()) - 1;
    run.group_offsets = TensorView(at.group_offsets, DType::kI32, {groups + 1});
    run.scales =
        TensorView(at.scales, scale_type,
                   {scale_layout_bytes(c.spec.layout, grouped_scale_row(c.rows, groups) + 128, sizes.scale_cols)});
  } else if (c.spec.layout != ScaleLayout::kLinear) {
    run.scales = TensorView(at.scales, scale_type, {sizes.scale_bytes});
  } else {
    run.scales = TensorView(at.scales, scale_type, {sizes.scale_rows, sizes.scale_cols});
  }
  if (c.spec.format == QuantFormat::kInt4 && c.spec.int4.zero_points) {
    run.zeros = TensorView(at.zeros, DType::kU8, {c.rows, sizes.scale_cols});
  }
  if (tables::quant_row(c.spec.format).global_scale) run.global_scale = TensorView(at.global_scale, DType::kF32, {1});
  if (c.spec.format == QuantFormat::kNvfp4Row) run.row_scales = TensorView(at.row_scales, DType::kF32, {c.rows});
  return run;
}

QuantizeRun quant_run(const QuantCase& c, const HostArray& x, QuantBuffers& b) {
  return quant_run(
      c, QuantAddresses{const_cast<unsigned char*>(x.bytes.data()), b.codes.data(), b.scales.data(), b.zeros.data(),
                        b.global_scale.data(), b.row_scales.data(), const_cast<std::int32_t*>(c.group_offsets.data())});
}

QuantBuffers oracle_buffers(const QuantCase& c, const HostArray& x, float global_scale, const Activation* activation) {
  QuantBuffers b = quant_buffers(c, global_scale);
  cpu::oracle_quantize(c.spec, quant_run(c, x, b), activation);
  if (c.group_offsets.empty()) return b;
  const std::int64_t cols = quant_sizes(c.spec, c.rows, c.cols).scale_cols;
  for (std::size_t g = 0; g + 1 < c.group_offsets.size(); ++g) {
    const std::int64_t first = c.group_offsets[g], begin = grouped_scale_row(first, static_cast<std::int64_t>(g));
    for (std::int64_t r = 0; r < c.group_offsets[g + 1] - first; ++r) {
      for (std::int64_t k = cols; k < (cols + 3) / 4 * 4; ++k) {
        b.scales[static_cast<std::size_t>(cpu::oracle_scale_index(c.spec.layout, begin + r, k, cols))] = 0;
      }
    }
  }
  return b;
}

std::vector<unsigned char> linear_scales(const QuantCase& c, const QuantBuffers& b) {
  const std::int64_t cols = quant_sizes(c.spec, c.rows, c.cols).scale_cols;
  std::vector<unsigned char> linear;
  for (std::size_t g = 0; g + 1 < c.group_offsets.size(); ++g) {
    const std::int64_t first = c.group_offsets[g], begin = grouped_scale_row(first, static_cast<std::int64_t>(g));
    for (std::int64_t r = 0; r < c.group_offsets[g + 1] - first; ++r) {
      for (std::int64_t k = 0; k < cols; ++k) {
        linear.push_back(
            b.scales[static_cast<std::size_t>(cpu::oracle_scale_index(c.spec.layout, begin + r, k, cols))]);
      }
    }
  }
  return linear;
}

bool same_floats(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i])) return false;
  }
  return true;
}

}  // namespace moesaic::testing
