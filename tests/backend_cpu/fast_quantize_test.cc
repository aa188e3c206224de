// SPDX-License-Identifier: Apache-2.0
// The fast codecs and quantisers, on every instruction set: against the recorded tables and, byte for byte, against the
// oracle on inputs that hold every kind of number.
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_kernels.h"
#include "backend_cpu/fast_round.h"
#include "tests/support/safetensors_reader.h"

namespace moesaic::cpu {
namespace {

using testing::read_safetensors;
using testing::StoredFile;

const StoredFile& codecs() {
  static const StoredFile file = read_safetensors(MOESAIC_TEST_DATA "/tables/codecs.safetensors");
  return file;
}

const StoredFile& quantizers() {
  static const StoredFile file = read_safetensors(MOESAIC_TEST_DATA "/tables/quantizers.safetensors");
  return file;
}

bool same_number(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

struct FastCodec {
  const char* name;
  std::uint8_t (*encode)(float);
  float (*decode)(std::uint8_t);
  CodeKernels::Encode CodeKernels::*encode_many;
};
constexpr FastCodec kCodecs[] = {{"e4m3fn", float_to_e4m3, e4m3_to_float, &CodeKernels::e4m3},
                                 {"e5m2", float_to_e5m2, e5m2_to_float, &CodeKernels::e5m2},
                                 {"e2m1", float_to_e2m1, e2m1_to_float, &CodeKernels::e2m1}};

class FastQuantize : public ::testing::Test {
 protected:
  ~FastQuantize() override { use_kernels(nullptr); }
};

TEST_F(FastQuantize, CodecsMatchTheTables) {
  const auto inputs = codecs().at("input.fp32").values<float>();
  for (const FastCodec& codec : kCodecs) {
    SCOPED_TRACE(codec.name);
    const auto decoded = codecs().at(std::string("decode.") + codec.name).values<float>();
    for (std::size_t code = 0; code < decoded.size(); ++code) {
      EXPECT_TRUE(same_number(codec.decode(static_cast<std::uint8_t>(code)), decoded[code])) << code;
    }
    const auto wanted = codecs().at(std::string("encode.fp32.") + codec.name).values<std::uint8_t>();
    for (std::size_t i = 0; i < inputs.size(); ++i) ASSERT_EQ(codec.encode(inputs[i]), wanted[i]) << inputs[i];
    for (const FastKernels* kernels : available_kernels()) {
      std::vector<std::uint8_t> codes(inputs.size() - 3);  // with a tail
      (kernels->codes->*codec.encode_many)(inputs.data(), static_cast<std::int64_t>(codes.size()), 1.0f, codes.data());
      for (std::size_t i = 0; i < codes.size(); ++i)
        ASSERT_EQ(codes[i], wanted[i]) << kernels->name << " " << inputs[i];
    }
    for (const auto& [type, io] : {std::pair{"bf16", Io::kBf16}, std::pair{"fp16", Io::kFp16}}) {
      const auto table = codecs().at(std::string("encode.") + type + "." + codec.name).values<std::uint8_t>();
      for (int bits = 0; bits < 0x10000; ++bits) {
        ASSERT_EQ(codec.encode(to_float(static_cast<std::uint16_t>(bits), io)), table[bits]) << type << " " << bits;
      }
    }
  }
  const auto powers = codecs().at("decode.e8m0").values<float>();
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_TRUE(same_number(e8m0_to_float(static_cast<std::uint8_t>(byte)), powers[byte])) << byte;
  }
}

// Everything that a quantiser writes.
struct Written {
  std::vector<std::uint8_t> codes, scales, zeros;
  std::vector<float> row_scales;
};

struct Source {
  const void* data;
  DType dtype;
  std::int64_t rows, cols;  // of the result
  std::vector<std::int32_t> offsets;
  float global_scale = 1.0f;
};

using Quantize = void (*)(const QuantSpec&, const QuantizeRun&, const Activation*);

Written quantize(Quantize function, const QuantSpec& spec, const Source& source,
                 const Activation* activation = nullptr) {
  const QuantSizes sizes = quant_sizes(spec, source.rows, source.cols);
  const auto groups = static_cast<std::int64_t>(source.offsets.size()) - 1;
  std::int64_t scale_bytes = sizes.scale_bytes;
  if (groups > 0) {
    scale_bytes = scale_layout_bytes(spec.layout, grouped_scale_row(source.rows, groups) + 128, sizes.scale_cols);
  }
  Written w{std::vector<std::uint8_t>(sizes.code_bytes, 0xaa), std::vector<std::uint8_t>(scale_bytes, 0xaa),
            std::vector<std::uint8_t>(sizes.zero_bytes, 0xaa), std::vector<float>(source.rows, 99.0f)};
  QuantizeRun run;
  run.x = TensorView(source.data, source.dtype, {source.rows, source.cols * (activation == nullptr ? 1 : 2)});
  run.codes = TensorView(w.codes.data(), DType::kU8, {sizes.code_bytes});
  run.scales = TensorView(w.scales.data(), DType::kU8, {scale_bytes});
  run.zeros = TensorView(w.zeros.data(), DType::kU8, {sizes.zero_bytes});
  run.row_scales = TensorView(w.row_scales.data(), DType::kF32, {source.rows});
  run.global_scale = TensorView(&source.global_scale, DType::kF32, {1});
  if (groups > 0) run.group_offsets = TensorView(source.offsets.data(), DType::kI32, {groups + 1});
  function(spec, run, activation);
  return w;
}

void expect_same(const Written& got, const Written& wanted) {
  EXPECT_EQ(got.codes, wanted.codes);
  EXPECT_EQ(got.zeros, wanted.zeros);
  ASSERT_EQ(got.scales.size(), wanted.scales.size());
  EXPECT_EQ(got.scales, wanted.scales);
  for (std::size_t i = 0; i < wanted.row_scales.size(); ++i) {
    EXPECT_TRUE(same_number(got.row_scales[i], wanted.row_scales[i])) << i;
  }
}

std::string describe(const QuantSpec& spec, const char* kernels) {
  return std::string(kernels) + " " + quant_format_name(spec.format) + " " + scale_layout_name(spec.layout) +
         " group " + std::to_string(spec.int4.size) + (spec.int4.zero_points ? " zeros" : "") +
         (spec.e8m0 == E8m0Rounding::kFloor ? " floor" : "");
}

// Every format with every option that it has.
std::vector<QuantSpec> all_specs() {
  std::vector<QuantSpec> specs;
  for (int i = 0; i <= static_cast<int>(QuantFormat::kInt4); ++i) {
    QuantSpec spec;
    spec.format = static_cast<QuantFormat>(i);
    const ScaleFormat scales = quant_traits(spec).scales;
    specs.push_back(spec);
    if (spec.format == QuantFormat::kInt4) {
      specs.pop_back();
      for (const int size : {32, 64, 128}) {
        for (const bool zeros : {false, true}) specs.push_back({.format = spec.format, .int4 = {size, zeros}});
      }
    }
    if (scales != ScaleFormat::kE4M3 && scales != ScaleFormat::kE8M0) continue;
    for (const ScaleLayout layout : {ScaleLayout::k128x4, ScaleLayout::k8x4}) {
      specs.push_back({.format = spec.format, .layout = layout});
    }
    if (scales == ScaleFormat::kE8M0) specs.push_back({.format = spec.format, .e8m0 = E8m0Rounding::kFloor});
  }
  return specs;
}

// Numbers over many orders of magnitude, rows of zeros, subnormals, largest numbers; with `special` infinities, NaN.
std::vector<float> mixed_numbers(std::int64_t rows, std::int64_t cols, bool special, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> pick(0, 999), exponent(-130, 120);
  std::vector<float> x(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows; ++r) {
    const float size = r % 4 == 3 ? std::ldexp(1.0f, exponent(random)) : 1.0f;
    for (std::int64_t c = 0; c < cols; ++c) {
      float& value = x[r * cols + c];
      value = r % 9 == 8 ? (r % 2 ? 0.0f : -0.0f) : normal(random) * size * (c / 16 % 5 == 4 ? 0.0f : 1.0f);
      if (!special) continue;
      const int kind = pick(random);
      if (kind == 0) value = NAN;
      if (kind == 1) value = INFINITY;
      if (kind == 2) value = -INFINITY;
      if (kind == 3) value = 1e-40f;
      if (kind == 4) value = 3.4e38f;
    }
  }
  return x;
}

// The same bytes on every instruction set, which the last call leaves in use.
void expect_oracle_bytes(const QuantSpec& spec, const Source& source) {
  const Written wanted = quantize(oracle_quantize, spec, source);
  for (const FastKernels* kernels : available_kernels()) {
    SCOPED_TRACE(describe(spec, kernels->name) + " " + dtype_name(source.dtype));
    use_kernels(kernels);
    expect_same(quantize(fast_quantize, spec, source), wanted);
  }
}

TEST_F(FastQuantize, GivesTheBytesOfTheOracle) {
  std::mt19937 random(11);
  for (const QuantSpec& spec : all_specs()) {
    for (const bool special : {false, true}) {
      // Zero points of groups with infinities have no meaning; fp16 has no room for the largest numbers.
      if (special && spec.int4.zero_points) continue;
      const std::int64_t cols = special ? 128 : 384;
      const std::vector<float> x = mixed_numbers(141, cols, special, random);
      expect_oracle_bytes(spec, {x.data(), DType::kF32, 141, cols, {}, 3.7f});
      std::vector<std::uint16_t> narrow(x.size());
      for (const DType type : {DType::kBF16, DType::kF16}) {
        if (type == DType::kF16 && spec.int4.zero_points) continue;
        for (std::size_t i = 0; i < x.size(); ++i) {
          narrow[i] = from_float(x[i], type == DType::kBF16 ? Io::kBf16 : Io::kFp16);
        }
        expect_oracle_bytes(spec, {narrow.data(), type, 141, cols, {}, 3.7f});
      }
      if (HasFailure()) return;
    }
  }
}

TEST_F(FastQuantize, RaggedBlocksAndFewRows) {
  std::mt19937 random(12);
  for (const QuantSpec& spec : all_specs()) {
    if (quant_traits(spec).scales != ScaleFormat::kF32) continue;
    for (const auto& [rows, cols] : {std::pair{1, 1}, std::pair{3, 130}, std::pair{129, 77}, std::pair{260, 257}}) {
      SCOPED_TRACE(describe(spec, "") + " " + std::to_string(rows) + " x " + std::to_string(cols));
      const std::vector<float> x = mixed_numbers(rows, cols, false, random);
      const Source source{x.data(), DType::kF32, rows, cols, {}, 0.25f};
      expect_same(quantize(fast_quantize, spec, source), quantize(oracle_quantize, spec, source));
    }
  }
}

TEST_F(FastQuantize, GroupsBeginOn128RowBoundaries) {
  std::mt19937 random(13);
  for (const QuantFormat format : {QuantFormat::kNvfp4, QuantFormat::kNvfp4Row, QuantFormat::kMxfp4,
                                   QuantFormat::kMxfp8, QuantFormat::kMxfp8E5m2}) {
    const QuantSpec spec{.format = format, .layout = ScaleLayout::k128x4};
    const std::vector<float> x = mixed_numbers(300, 96, false, random);
    const Source source{x.data(), DType::kF32, 300, 96, {0, 0, 5, 133, 133, 262, 300}, 2.0f};
    SCOPED_TRACE(describe(spec, "grouped"));
    expect_same(quantize(fast_quantize, spec, source), quantize(oracle_quantize, spec, source));
  }
}

// The activation is FP32 on one side and FP64 on the other: nearly all codes are the same.
TEST_F(FastQuantize, ActivationOnTheWay) {
  std::mt19937 random(14);
  std::normal_distribution<float> normal;
  const std::int64_t rows = 33, cols = 160;
  std::vector<float> x(rows * cols * 2);
  for (float& value : x) value = 3.0f * normal(random);
  const Source source{x.data(), DType::kF32, rows, cols, {}, 40.0f};
  for (const ActivationKind kind : {ActivationKind::kSwiglu, ActivationKind::kGeglu, ActivationKind::kSwigluBias,
                                    ActivationKind::kSwigluStep, ActivationKind::kGegluTanh, ActivationKind::kSitu}) {
    const Activation activation{kind, {}, {}, {}};
    for (const QuantFormat format : {QuantFormat::kNvfp4, QuantFormat::kMxfp8, QuantFormat::kFp8Block1x128}) {
      const QuantSpec spec{.format = format};
      const Written got = quantize(fast_quantize, spec, source, &activation);
      const Written wanted = quantize(oracle_quantize, spec, source, &activation);
      std::size_t different = 0;
      for (std::size_t i = 0; i < got.codes.size(); ++i) different += got.codes[i] != wanted.codes[i] ? 1 : 0;
      EXPECT_LT(different, got.codes.size() / 500) << activation_name(kind) << " " << quant_format_name(format);
    }
  }
}

TEST_F(FastQuantize, DequantizesAsTheOracle) {
  std::mt19937 random(15);
  for (const QuantSpec& spec : all_specs()) {
    SCOPED_TRACE(describe(spec, ""));
    const std::int64_t rows = 141, cols = 256;
    const std::vector<float> x = mixed_numbers(rows, cols, !spec.int4.zero_points, random);
    const Source source{x.data(), DType::kF32, rows, cols, {}, 1.3f};
    Written w = quantize(oracle_quantize, spec, source);
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
      std::vector<std::uint8_t> got(rows * cols * dtype_size(type), 0xaa), wanted = got;
      QuantizeRun run;
      run.codes = TensorView(w.codes.data(), DType::kU8, {static_cast<std::int64_t>(w.codes.size())});
      run.scales = TensorView(w.scales.data(), DType::kU8, {static_cast<std::int64_t>(w.scales.size())});
      run.zeros = TensorView(w.zeros.data(), DType::kU8, {static_cast<std::int64_t>(w.zeros.size())});
      run.row_scales = TensorView(w.row_scales.data(), DType::kF32, {rows});
      run.global_scale = TensorView(&source.global_scale, DType::kF32, {1});
      run.x = TensorView(got.data(), type, {rows, cols});
      fast_dequantize(spec, run);
      run.x = TensorView(wanted.data(), type, {rows, cols});
      oracle_dequantize(spec, run);
      for (std::int64_t i = 0; i < rows * cols; ++i) {
        const double a = load_element(got.data(), type, i), b = load_element(wanted.data(), type, i);
        ASSERT_TRUE(same_number(static_cast<float>(a), static_cast<float>(b))) << dtype_name(type) << " " << i;
      }
    }
  }
}

// What a GEMM reads of an activation: the oracle keeps it in FP64.
TEST_F(FastQuantize, RoundsRowsAsTheOracle) {
  std::mt19937 random(16);
  const std::int64_t size = 160;
  for (const FastKernels* kernels : available_kernels()) {
    for (const QuantFormat format : {QuantFormat::kFp8Static, QuantFormat::kFp8Row, QuantFormat::kFp8Block1x128,
                                     QuantFormat::kMxfp8, QuantFormat::kNvfp4, QuantFormat::kNvfp4Row}) {
      const QuantSpec spec{.format = format};
      for (int round = 0; round < 20; ++round) {
        SCOPED_TRACE(describe(spec, kernels->name));
        std::vector<float> row = mixed_numbers(1, size, round >= 18, random);
        std::vector<double> wanted(size);
        std::vector<std::uint8_t> codes(size);
        oracle_round_row(spec, 0.011f, row.data(), size, wanted.data());
        round_row(*kernels, spec, 0.011f, row.data(), size, codes.data());
        for (std::int64_t i = 0; i < size; ++i) {
          if (std::isnan(wanted[i])) {
            ASSERT_TRUE(std::isnan(row[i]));
          } else if (std::fabs(wanted[i]) > FLT_MAX) {  // an infinity that saturated beyond fp32
            ASSERT_TRUE(std::isinf(row[i]));
          } else {
            ASSERT_NEAR(row[i], wanted[i], 2.5e-7 * std::fabs(wanted[i])) << i;
          }
        }
      }
    }
  }
}

// Inputs of other libraries' quantisers; NaN blocks' codes and those of NVFP4 blocks whose scale is 0 mean nothing.
TEST_F(FastQuantize, GivesTheBytesOfTheTable) {
  const struct {
    const char* name;
    QuantFormat format;
  } kFormats[] = {{"nvfp4", QuantFormat::kNvfp4},
                  {"nvfp4_static", QuantFormat::kNvfp4},
                  {"nvfp4_one", QuantFormat::kNvfp4},
                  {"nvfp4_row", QuantFormat::kNvfp4Row},
                  {"mxfp4", QuantFormat::kMxfp4},
                  {"mxfp8", QuantFormat::kMxfp8},
                  {"mxfp8_e5m2", QuantFormat::kMxfp8E5m2},
                  {"fp8_tensor", QuantFormat::kFp8Tensor},
                  {"fp8_token", QuantFormat::kFp8Row},
                  {"fp8_1x128", QuantFormat::kFp8Block1x128},
                  {"fp8_128x128", QuantFormat::kFp8Block128x128}};
  int cases = 0;
  for (const FastKernels* kernels : available_kernels()) {
    use_kernels(kernels);
    for (const auto& [name, input] : quantizers().arrays) {
      const std::size_t end = name.rfind(".input");
      if (end == std::string::npos) continue;
      for (const auto& [format_name, format] : kFormats) {
        const std::string key = name.substr(0, end) + "." + format_name;
        if (!quantizers().arrays.contains(key + ".codes")) continue;
        SCOPED_TRACE(std::string(kernels->name) + " " + key);
        ++cases;
        Source source{input.bytes.data(), DType::kBF16, input.shape[0], input.shape[1], {}, 1.0f};
        if (format == QuantFormat::kNvfp4) {
          source.global_scale = quantizers().at(key + ".global_scale").values<float>()[0];
        }
        const QuantSpec spec{.format = format};
        const Written got = quantize(fast_quantize, spec, source);
        const auto codes = quantizers().at(key + ".codes").values<std::uint8_t>();
        EXPECT_EQ(got.scales, quantizers().at(key + ".scales").values<std::uint8_t>());
        const QuantTraits traits = quant_traits(spec);
        if (traits.scales == ScaleFormat::kF32) {
          EXPECT_EQ(got.codes, codes);
          continue;
        }
        const auto block_bytes =
            static_cast<std::int64_t>(codes.size()) * traits.block_cols / source.rows / source.cols;
        for (std::size_t i = 0; i < codes.size(); ++i) {
          const std::uint8_t scale = got.scales[i / block_bytes];
          const bool counts = traits.scales == ScaleFormat::kE8M0 ? scale != 255 : scale != 0 && scale != 0x7f;
          ASSERT_TRUE(!counts || got.codes[i] == codes[i]) << i;
        }
      }
    }
  }
  EXPECT_GE(cases, 100);
}

}  // namespace
}  // namespace moesaic::cpu
