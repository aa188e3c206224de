// SPDX-License-Identifier: Apache-2.0
// Scales of blocks; every step is one fp32 operation in the order that docs/numerics.md gives.
#include "backend_cpu/fast_round.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "tables/given_codes.h"

namespace moesaic::cpu {
namespace {

constexpr std::uint32_t kInfinityBits = 0x7f800000u;
constexpr float kLargest = std::numeric_limits<float>::max();

bool is_nan(std::uint32_t amax_bits) { return amax_bits > kInfinityBits; }

// The largest magnitude, an infinite one counting as the largest finite number; not NaN.
float bounded(std::uint32_t amax_bits) { return std::min(std::bit_cast<float>(amax_bits), kLargest); }

// Scale number `index` of given codes.
float given_scale(ScaleFormat format, const void* scales, std::int64_t index) {
  if (format == ScaleFormat::kF32) return static_cast<const float*>(scales)[index];
  const std::uint8_t byte = static_cast<const std::uint8_t*>(scales)[index];
  return format == ScaleFormat::kE4M3 ? e4m3_to_float(byte) : e8m0_to_float(byte);
}

struct CodeValues {
  std::array<float, 256> e4m3, e5m2, e2m1;
  CodeValues() {
    for (int code = 0; code < 256; ++code) {
      e4m3[code] = e4m3_to_float(static_cast<std::uint8_t>(code));
      e5m2[code] = e5m2_to_float(static_cast<std::uint8_t>(code));
      e2m1[code] = e2m1_to_float(static_cast<std::uint8_t>(code & 15));
    }
  }
};

}  // namespace

BlockCode fp8_block(std::uint32_t amax_bits) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (is_nan(amax_bits)) return {0.0f, nan, std::bit_cast<std::uint32_t>(nan), true};
  const float amax = bounded(amax_bits);
  const float factor = amax == 0.0f ? 1.0f : std::min(448.0f / amax, kLargest);
  const float step = 1.0f / factor;
  return {factor, step, std::bit_cast<std::uint32_t>(step), false};
}

BlockCode fp8_static_block(float scale) {
  return {1.0f / scale, scale, std::bit_cast<std::uint32_t>(scale), scale != scale};
}

BlockCode mx_block(QuantFormat format, E8m0Rounding rounding, std::uint32_t amax_bits) {
  // Largest numbers: 6 = 1.5 * 2^2, 448 = 1.75 * 2^8, 57344 = 1.75 * 2^15.
  const bool four_bits = format == QuantFormat::kMxfp4;
  const int exponent = four_bits ? 2 : format == QuantFormat::kMxfp8 ? 8 : 15;
  const std::uint8_t byte = e8m0_of_amax(std::bit_cast<float>(amax_bits), exponent, four_bits ? 0x400000u : 0x600000u,
                                         rounding == E8m0Rounding::kFloor);
  if (byte == 255) return {0.0f, e8m0_to_float(byte), byte, true};
  return {e8m0_to_float(static_cast<std::uint8_t>(254 - byte)), e8m0_to_float(byte), byte, false};
}

BlockCode nvfp4_block(float encode_scale, std::uint32_t amax_bits) {
  BlockCode block;
  if (is_nan(amax_bits)) {
    block.stored = 0x7f;
  } else {
    const float sixth = 1.0f / 6.0f;
    const float per_amax = encode_scale * sixth;
    const float scaled = std::bit_cast<float>(amax_bits) * per_amax;
    block.stored = float_to_e4m3(std::min(scaled, 448.0f));
  }
  block.step = e4m3_to_float(static_cast<std::uint8_t>(block.stored));
  block.empty = block.stored == 0 || block.stored == 0x7f;
  if (block.empty) return block;
  const float decode_scale = 1.0f / encode_scale;
  const float value = block.step * decode_scale;
  block.factor = std::min(1.0f / value, kLargest);
  return block;
}

float nvfp4_row_scale(std::uint32_t amax_bits) {
  if (is_nan(amax_bits)) return std::numeric_limits<float>::quiet_NaN();
  return bounded(amax_bits) / 2688.0f;  // 448 * 6
}

float nvfp4_row_encode_scale(float row_scale) {
  return row_scale != row_scale ? row_scale : std::min(1.0f / row_scale, kLargest);
}

CodeKernels::Encode encoder(const CodeKernels& kernels, CodeFormat codes) {
  return codes == CodeFormat::kE2M1 ? kernels.e2m1 : codes == CodeFormat::kE5M2 ? kernels.e5m2 : kernels.e4m3;
}

const float* code_values(CodeFormat codes) {
  static const CodeValues values;
  const auto& table = codes == CodeFormat::kE2M1 ? values.e2m1 : codes == CodeFormat::kE5M2 ? values.e5m2 : values.e4m3;
  return table.data();
}

void round_row(const FastKernels& kernels, const QuantSpec& spec, float static_scale, float* row, std::int64_t size,
               std::uint8_t* codes) {
  const QuantTraits traits = quant_traits(spec);
  const CodeKernels::Encode encode = encoder(*kernels.codes, traits.codes);
  const float* values = code_values(traits.codes);
  const bool nvfp4 = traits.scales == ScaleFormat::kE4M3;
  float global = static_scale, encode_scale = 1.0f;
  if (spec.format == QuantFormat::kNvfp4) encode_scale = 1.0f / static_scale;
  if (spec.format == QuantFormat::kNvfp4Row) {
    global = nvfp4_row_scale(kernels.codes->amax_bits(row, size));
    encode_scale = nvfp4_row_encode_scale(global);
  }
  const std::int64_t width = traits.block_cols == 0 ? size : traits.block_cols;
  for (std::int64_t begin = 0; begin < size; begin += width) {
    float* x = row + begin;
    const std::int64_t count = std::min(width, size - begin);
    BlockCode block;
    if (spec.format == QuantFormat::kFp8Static) {
      block = fp8_static_block(static_scale);
    } else {
      const std::uint32_t amax = kernels.codes->amax_bits(x, count);
      block = nvfp4                                 ? nvfp4_block(encode_scale, amax)
              : traits.scales == ScaleFormat::kE8M0 ? mx_block(spec.format, spec.e8m0, amax)
                                                    : fp8_block(amax);
    }
    encode(x, count, block.factor, codes);
    const float outer = nvfp4 ? global : 1.0f;
    if (block.empty) std::fill_n(codes, count, 0);
    for (std::int64_t i = 0; i < count; ++i) x[i] = values[codes[i]] * block.step * outer;
  }
}

void decode_given_row(const std::string& recipe, const MoeRun& run, std::int64_t row, std::int64_t size, float* to) {
  const tables::GivenCodes form = tables::given_codes(recipe, row + 1, size).value();
  const QuantTraits traits = quant_traits({form.format});
  const float* values = code_values(traits.codes);
  const bool four_bits = traits.codes == CodeFormat::kE2M1;
  const auto* codes = static_cast<const std::uint8_t*>(run.x.data) + row * form.codes.shape[1];
  const auto own = [row](const TensorView& numbers) { return numbers.num_elements() == 1 ? 0 : row; };
  const float outer = form.row_scale ? static_cast<const float*>(run.x_row_scale.data)[own(run.x_row_scale)] : 1.0f;
  const std::int64_t width = traits.block_cols == 0 ? size : traits.block_cols;
  const std::int64_t first = traits.block_cols == 0 ? own(run.x_scale) : row * form.scale.shape[1];
  for (std::int64_t begin = 0; begin < size; begin += width) {
    const float step = given_scale(traits.scales, run.x_scale.data, first + begin / width);
    for (std::int64_t i = begin; i < std::min(size, begin + width); ++i) {
      const int code = four_bits ? codes[i / 2] >> (4 * (i & 1)) & 15 : codes[i];
      to[i] = values[code] * step * outer;
    }
  }
}

}  // namespace moesaic::cpu
