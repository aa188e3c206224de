// SPDX-License-Identifier: Apache-2.0
// The oracle's quantisers: plain loops over rows and blocks, every step one fp32 operation in the order that
// docs/numerics.md gives. `volatile` keeps the compiler from fusing or reassociating what must be rounded apart.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "tables/quant_table.h"

namespace moesaic::cpu {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

float times(float a, float b) {
  volatile float product = a * b;
  return product;
}
float over(float a, float b) {
  volatile float quotient = a / b;
  return quotient;
}

// NaN when any element is NaN, else the largest magnitude.
float amax_of(const float* values, std::int64_t size) {
  float largest = 0.0f;
  for (std::int64_t i = 0; i < size; ++i) {
    if (std::isnan(values[i])) return values[i];
    largest = std::max(largest, std::fabs(values[i]));
  }
  return largest;
}

// --- one block: scale from the maximum, codes from the values -------------------------------------------------------

std::uint8_t nvfp4_scale(float amax, float gs) {
  if (std::isnan(amax)) return 0x7F;
  const float scaled = times(amax, times(gs, over(1.0f, 6.0f)));
  return encode_code(CodeFormat::kE4M3, std::min(scaled, 448.0f));
}

void nvfp4_codes(const float* x, std::int64_t size, std::uint8_t scale, float gs, std::uint8_t* codes) {
  if (scale == 0 || scale == 0x7F) {
    std::fill_n(codes, size, 0);
    return;
  }
  const auto decoded = static_cast<float>(decode_code(CodeFormat::kE4M3, scale));
  const float reciprocal = std::min(over(1.0f, times(decoded, over(1.0f, gs))), kLargest);
  for (std::int64_t i = 0; i < size; ++i) {
    codes[i] = encode_code(CodeFormat::kE2M1, std::clamp(times(x[i], reciprocal), -6.0f, 6.0f));
  }
}

struct MxFormat {
  CodeFormat codes;
  double top;    // largest number of the format
  int exponent;  // floor(log2 top)
};

MxFormat mx_format(QuantFormat format) {
  if (format == QuantFormat::kMxfp4) return {CodeFormat::kE2M1, 6.0, 2};
  if (format == QuantFormat::kMxfp8) return {CodeFormat::kE4M3, 448.0, 8};
  return {CodeFormat::kE5M2, 57344.0, 15};
}

std::uint8_t mx_scale(const MxFormat& mx, E8m0Rounding rounding, float amax) {
  if (std::isnan(amax)) return 255;
  if (amax == 0.0f) return 0;
  if (std::isinf(amax)) return 254;
  if (rounding == E8m0Rounding::kFloor)
    return static_cast<std::uint8_t>(std::clamp(std::ilogb(amax) - mx.exponent + 127, 0, 254));
  int byte = 0;
  while (byte < 254 && amax > mx.top * std::ldexp(1.0, byte - 127)) ++byte;
  return static_cast<std::uint8_t>(byte);
}

void mx_codes(const MxFormat& mx, const float* x, std::int64_t size, std::uint8_t scale, std::uint8_t* codes) {
  for (std::int64_t i = 0; i < size; ++i) {
    // Scaling by a power of two is exact in FP64.
    codes[i] = scale == 255 ? 0 : encode_code(mx.codes, std::ldexp(static_cast<double>(x[i]), 127 - scale));
  }
}

struct Fp8Scale {
  float multiplier, stored;
};

Fp8Scale fp8_scale(float amax) {
  if (std::isnan(amax)) return {0.0f, std::numeric_limits<float>::quiet_NaN()};
  // An infinite maximum would leave no scale; infinities saturate at the largest code instead.
  const float bounded = std::min(amax, kLargest);
  const float multiplier = bounded == 0.0f ? 1.0f : std::min(over(448.0f, bounded), kLargest);
  return {multiplier, over(1.0f, multiplier)};
}

void fp8_codes(const float* x, std::int64_t size, const Fp8Scale& scale, std::uint8_t* codes) {
  const bool valid = !std::isnan(scale.stored);
  for (std::int64_t i = 0; i < size; ++i) {
    codes[i] = valid ? encode_code(CodeFormat::kE4M3, times(x[i], scale.multiplier)) : 0;
  }
}

struct Int4Scale {
  float step;
  int zero;
};

Int4Scale int4_scale(const float* x, std::int64_t size, bool zero_points) {
  const float amax = amax_of(x, size);
  if (std::isnan(amax)) return {std::numeric_limits<float>::quiet_NaN(), 8};
  if (!zero_points) return {static_cast<float>(round_to(over(amax, 7.5f), DType::kBF16)), 8};
  const float low = std::min(0.0f, *std::min_element(x, x + size));
  const float high = std::max(0.0f, *std::max_element(x, x + size));
  volatile float range = high - low;
  const auto step = static_cast<float>(round_to(over(range, 15.0f), DType::kBF16));
  if (step == 0.0f) return {step, 8};
  const float zero = std::nearbyint(over(-low, step));
  // Infinity over infinity has no value: zero point 0.
  return {step, std::isnan(zero) ? 0 : static_cast<int>(std::clamp(zero, 0.0f, 15.0f))};
}

void int4_codes(const float* x, std::int64_t size, const Int4Scale& scale, std::uint8_t* codes) {
  for (std::int64_t i = 0; i < size; ++i) {
    int code = 8;
    if (std::isnan(scale.step)) {
      code = 0;
    } else if (scale.step != 0.0f) {
      const float quotient = std::nearbyint(over(x[i], scale.step));
      const float shifted = std::isnan(quotient) ? 0.0f : quotient + static_cast<float>(scale.zero);
      code = static_cast<int>(std::clamp(shifted, 0.0f, 15.0f));
    }
    codes[i] = static_cast<std::uint8_t>(code);
  }
}

// --- a whole matrix -------------------------------------------------------------------------------------------------

// Rows of x in fp32, after the activation where there is one.
std::vector<float> read_rows(const QuantizeRun& run, const Activation* activation) {
  const std::int64_t rows = run.x.shape[0], stored = run.x.shape[1];
  const std::int64_t cols = activation == nullptr ? stored : stored / 2;
  std::vector<float> values(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      double value = load_element(run.x.data, run.x.dtype, r * stored + c);
      if (activation != nullptr) {
        value = round_to(activate(*activation, value, load_element(run.x.data, run.x.dtype, r * stored + cols + c)),
                         DType::kF32);
      }
      values[r * cols + c] = static_cast<float>(value);
    }
  }
  return values;
}

class MatrixQuantizer {
 public:
  MatrixQuantizer(const QuantSpec& spec, const QuantizeRun& run, std::int64_t rows, std::int64_t cols)
      : spec_(spec),
        run_(run),
        rows_(rows),
        cols_(cols),
        traits_(quant_traits(spec)),
        sizes_(quant_sizes(spec, rows, cols)) {}

  void quantize(const std::vector<float>& x) {
    if (run_.group_offsets.empty() && traits_.scales != ScaleFormat::kF32 && spec_.format != QuantFormat::kInt4) {
      std::memset(run_.scales.data, 0, static_cast<std::size_t>(sizes_.scale_bytes));  // padding
    }
    const std::int64_t block_rows = traits_.block_rows == 0 ? std::max<std::int64_t>(rows_, 1) : traits_.block_rows;
    const std::int64_t block_cols = traits_.block_cols == 0 ? cols_ : traits_.block_cols;
    if (spec_.format == QuantFormat::kNvfp4Row) find_row_scales(x);
    // A tensor without rows still has a scale.
    if (traits_.block_rows == 0 && rows_ == 0 && spec_.format == QuantFormat::kFp8Tensor)
      quantize_block(x, 0, 0, 0, cols_);
    for (std::int64_t r = 0; r < rows_; r += block_rows) {
      for (std::int64_t c = 0; c < cols_; c += block_cols) {
        quantize_block(x, r, std::min(block_rows, rows_ - r), c, std::min(block_cols, cols_ - c));
      }
    }
  }

 private:
  void find_row_scales(const std::vector<float>& x) {
    auto* row_scales = static_cast<float*>(run_.row_scales.data);
    for (std::int64_t r = 0; r < rows_; ++r) {
      const float amax = amax_of(&x[r * cols_], cols_);
      row_scales[r] = over(std::isinf(amax) ? kLargest : amax, 2688.0f);
    }
  }

  float global_scale(std::int64_t row) const {
    if (spec_.format == QuantFormat::kNvfp4) return *static_cast<const float*>(run_.global_scale.data);
    const float row_scale = static_cast<const float*>(run_.row_scales.data)[row];
    return std::isnan(row_scale) ? row_scale : std::min(over(1.0f, row_scale), kLargest);
  }

  // The block's values one row after the other, its codes likewise.
  void quantize_block(const std::vector<float>& x, std::int64_t row, std::int64_t rows, std::int64_t col,
                      std::int64_t cols) {
    std::vector<float> values;
    for (std::int64_t r = row; r < row + rows; ++r) {
      values.insert(values.end(), x.begin() + r * cols_ + col, x.begin() + r * cols_ + col + cols);
    }
    const auto size = static_cast<std::int64_t>(values.size());
    std::vector<std::uint8_t> codes(values.size());
    const float amax = amax_of(values.data(), size);
    switch (spec_.format) {
      case QuantFormat::kNvfp4:
      case QuantFormat::kNvfp4Row: {
        const float gs = global_scale(row);
        const std::uint8_t scale = nvfp4_scale(amax, gs);
        nvfp4_codes(values.data(), size, scale, gs, codes.data());
        store_byte_scale(row, col, scale);
        break;
      }
      case QuantFormat::kMxfp4:
      case QuantFormat::kMxfp8:
      case QuantFormat::kMxfp8E5m2: {
        const MxFormat mx = mx_format(spec_.format);
        const std::uint8_t scale = mx_scale(mx, spec_.e8m0, amax);
        mx_codes(mx, values.data(), size, scale, codes.data());
        store_byte_scale(row, col, scale);
        break;
      }
      case QuantFormat::kFp8Static: {
        const float given = *static_cast<const float*>(run_.global_scale.data);
        fp8_codes(values.data(), size, {over(1.0f, given), given}, codes.data());
        static_cast<float*>(run_.scales.data)[0] = given;
        break;
      }
      case QuantFormat::kFp8Tensor:
      case QuantFormat::kFp8Row:
      case QuantFormat::kFp8Block1x128:
      case QuantFormat::kFp8Block128x128: {
        const Fp8Scale scale = fp8_scale(amax);
        fp8_codes(values.data(), size, scale, codes.data());
        static_cast<float*>(run_.scales.data)[scale_number(row, col)] = scale.stored;
        break;
      }
      case QuantFormat::kInt4:
        quantize_group(values, row, col, codes);
        break;
    }
    for (std::int64_t i = 0; i < size; ++i) store_code(row + i / cols, col + i % cols, codes[i]);
  }

  void quantize_group(const std::vector<float>& values, std::int64_t row, std::int64_t col,
                      std::vector<std::uint8_t>& codes) {
    const auto size = static_cast<std::int64_t>(values.size());
    const Int4Scale scale = int4_scale(values.data(), size, spec_.int4.zero_points);
    int4_codes(values.data(), size, scale, codes.data());
    const std::int64_t at = scale_number(row, col);
    std::uint32_t bits;
    std::memcpy(&bits, &scale.step, sizeof(bits));  // a bf16 number: the upper half
    static_cast<std::uint16_t*>(run_.scales.data)[at] = static_cast<std::uint16_t>(bits >> 16);
    if (spec_.int4.zero_points) static_cast<std::uint8_t*>(run_.zeros.data)[at] = static_cast<std::uint8_t>(scale.zero);
  }

  std::int64_t scale_number(std::int64_t row, std::int64_t col) const {
    const std::int64_t r = traits_.block_rows == 0 ? 0 : row / traits_.block_rows;
    const std::int64_t c = traits_.block_cols == 0 ? 0 : col / traits_.block_cols;
    return r * sizes_.scale_cols + c;
  }

  void store_byte_scale(std::int64_t row, std::int64_t col, std::uint8_t scale) {
    std::int64_t scale_row = row;
    if (!run_.group_offsets.empty()) {
      const auto* offsets = static_cast<const std::int32_t*>(run_.group_offsets.data);
      const std::int64_t groups = run_.group_offsets.shape[0] - 1;
      std::int64_t group = 0;
      while (group < groups && offsets[group + 1] <= row) ++group;
      if (group == groups) return;  // in no group
      // Every group's tile rows begin at a multiple of 128: floor((first + 127 g) / 128) tiles of 128 rows.
      scale_row = (offsets[group] + 127 * group) / 128 * 128 + row - offsets[group];
    }
    auto* scales = static_cast<std::uint8_t*>(run_.scales.data);
    const std::int64_t scale_col = col / traits_.block_cols;
    scales[oracle_scale_index(spec_.layout, scale_row, scale_col, sizes_.scale_cols)] = scale;
    // Padding columns; without groups everything was set to 0 before.
    for (std::int64_t pad = sizes_.scale_cols; spec_.layout != ScaleLayout::kLinear && pad % 4 != 0; ++pad) {
      scales[oracle_scale_index(spec_.layout, scale_row, pad, sizes_.scale_cols)] = 0;
    }
  }

  void store_code(std::int64_t row, std::int64_t col, std::uint8_t code) {
    auto* codes = static_cast<std::uint8_t*>(run_.codes.data);
    const std::int64_t at = row * cols_ + col;
    if (tables::code_bits(traits_.codes) == 8) {
      codes[at] = code;
    } else if (at % 2 == 0) {
      codes[at / 2] = code;  // its odd neighbour follows
    } else {
      codes[at / 2] = static_cast<std::uint8_t>(codes[at / 2] | code << 4);
    }
  }

  const QuantSpec& spec_;
  const QuantizeRun& run_;
  const std::int64_t rows_, cols_;
  const QuantTraits traits_;
  const QuantSizes sizes_;
};

}  // namespace

std::int64_t oracle_scale_index(ScaleLayout layout, std::int64_t row, std::int64_t col, std::int64_t cols) {
  if (layout == ScaleLayout::kLinear) return row * cols + col;
  const std::int64_t padded = cols + (4 - cols % 4) % 4;
  if (layout == ScaleLayout::k8x4) {
    // [rows / 8][cols / 4][8][4]
    return ((row / 8 * (padded / 4) + col / 4) * 8 + row % 8) * 4 + col % 4;
  }
  // [rows / 128][cols / 4][32][4][4]: the second of the inner indices is the quarter of the 128 rows.
  const std::int64_t tile = row / 128 * (padded / 4) + col / 4;
  return ((tile * 32 + row % 32) * 4 + row / 32 % 4) * 4 + col % 4;
}

namespace {

// Adapts a run's tensors to a quantised matrix view; NVFP4's global scale is left to the caller.
MatrixView view_of(const QuantSpec& spec, const QuantizeRun& run, std::int64_t rows, std::int64_t cols) {
  const QuantTraits traits = quant_traits(spec);
  const QuantSizes sizes = quant_sizes(spec, rows, cols);
  MatrixView view{run.codes.data, DType::kU8, rows, cols, cols, 1};
  view.quantization.codes = traits.codes;
  view.quantization.scale_format = traits.scales;
  view.quantization.scales = run.scales.data;
  view.quantization.block_rows = traits.block_rows == 0 ? std::max<std::int64_t>(rows, 1) : traits.block_rows;
  view.quantization.block_cols = traits.block_cols == 0 ? cols : traits.block_cols;
  view.quantization.scale_row_stride = sizes.scale_cols;
  view.quantization.scale_col_stride = 1;
  return view;
}

void store_number(const TensorView& tensor, std::int64_t index, double value) {
  if (tensor.dtype == DType::kF32) {
    static_cast<float*>(tensor.data)[index] = static_cast<float>(value);
  } else {
    static_cast<std::uint16_t*>(tensor.data)[index] = encode_16bit(value, tensor.dtype);
  }
}

}  // namespace

void oracle_dequantize(const QuantSpec& spec, const QuantizeRun& run) {
  const std::int64_t rows = run.x.shape[0], cols = run.x.shape[1];
  const QuantTraits traits = quant_traits(spec);
  const QuantSizes sizes = quant_sizes(spec, rows, cols);
  QuantizeRun linear = run;
  std::vector<std::uint8_t> scales;
  if (spec.layout != ScaleLayout::kLinear) {
    for (std::int64_t r = 0; r < sizes.scale_rows; ++r) {
      for (std::int64_t c = 0; c < sizes.scale_cols; ++c) {
        const std::int64_t at = oracle_scale_index(spec.layout, r, c, sizes.scale_cols);
        scales.push_back(static_cast<const std::uint8_t*>(run.scales.data)[at]);
      }
    }
    linear.scales.data = scales.data();
  }
  const MatrixView view = view_of(spec, linear, rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      double value = matrix_element(view, r, c);
      if (spec.format == QuantFormat::kInt4 && spec.int4.zero_points) {
        const std::int64_t group = r * sizes.scale_cols + c / traits.block_cols;
        const double scale = decode_scale(traits.scales, linear.scales.data, group);
        value += (8.0 - static_cast<const std::uint8_t*>(run.zeros.data)[group]) * scale;
      }
      if (spec.format == QuantFormat::kNvfp4) value /= *static_cast<const float*>(run.global_scale.data);
      if (spec.format == QuantFormat::kNvfp4Row) value *= static_cast<const float*>(run.row_scales.data)[r];
      store_number(run.x, r * cols + c, round_to(value, DType::kF32));
    }
  }
}

void oracle_round_row(const QuantSpec& spec, float static_scale, const float* row, std::int64_t size, double* rounded) {
  const QuantSizes sizes = quant_sizes(spec, 1, size);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(sizes.code_bytes));
  std::vector<float> scales(static_cast<std::size_t>(sizes.scale_bytes + 3) / 4);
  float global = spec.format == QuantFormat::kNvfp4 ? over(1.0f, static_scale) : static_scale;
  float row_scale = 0.0f;
  QuantizeRun run;
  run.x = TensorView(row, DType::kF32, {1, size});
  run.codes = TensorView(codes.data(), DType::kU8, {1, sizes.code_bytes});
  run.scales = TensorView(scales.data(), DType::kU8, {1, sizes.scale_bytes});
  run.global_scale = TensorView(&global, DType::kF32, {1});
  run.row_scales = TensorView(&row_scale, DType::kF32, {1});
  oracle_quantize(spec, run, nullptr);
  MatrixView view = view_of(spec, run, 1, size);
  if (spec.format == QuantFormat::kNvfp4) view.quantization.multiplier = static_scale;
  if (spec.format == QuantFormat::kNvfp4Row) view.quantization.multiplier = row_scale;
  for (std::int64_t c = 0; c < size; ++c) rounded[c] = matrix_element(view, 0, c);
}

void oracle_quantize(const QuantSpec& spec, const QuantizeRun& run, const Activation* activation) {
  const std::vector<float> x = read_rows(run, activation);
  const std::int64_t rows = run.x.shape[0], cols = run.x.shape[1] / (activation == nullptr ? 1 : 2);
  MatrixQuantizer(spec, run, rows, cols).quantize(x);
}

}  // namespace moesaic::cpu
