// SPDX-License-Identifier: Apache-2.0
// The oracle's codecs and quantisers against tables that other libraries made, and scale layouts against worked
// offsets.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "tests/support/safetensors_reader.h"

namespace moesaic::cpu {
namespace {

using testing::read_safetensors;
using testing::StoredArray;
using testing::StoredFile;

const StoredFile& codecs() {
  static const StoredFile file = read_safetensors(MOESAIC_TEST_DATA "/tables/codecs.safetensors");
  return file;
}

const StoredFile& quantizers() {
  static const StoredFile file = read_safetensors(MOESAIC_TEST_DATA "/tables/quantizers.safetensors");
  return file;
}

bool same_number(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b && std::signbit(a) == std::signbit(b);
}

struct CodecCase {
  const char* name;
  CodeFormat format;
  int codes;
};

class OracleCodec : public ::testing::TestWithParam<CodecCase> {};

TEST_P(OracleCodec, DecodesEveryCode) {
  const auto wanted = codecs().at(std::string("decode.") + GetParam().name).values<float>();
  ASSERT_EQ(wanted.size(), static_cast<std::size_t>(GetParam().codes));
  for (int code = 0; code < GetParam().codes; ++code) {
    EXPECT_TRUE(same_number(decode_code(GetParam().format, static_cast<std::uint8_t>(code)), wanted[code])) << code;
  }
}

TEST_P(OracleCodec, EncodesEvery16BitNumber) {
  for (const auto& [name, dtype] : {std::pair{"bf16", DType::kBF16}, std::pair{"fp16", DType::kF16}}) {
    const auto wanted = codecs().at(std::string("encode.") + name + "." + GetParam().name).values<std::uint8_t>();
    ASSERT_EQ(wanted.size(), 0x10000u);
    for (int bits = 0; bits < 0x10000; ++bits) {
      const auto input = static_cast<std::uint16_t>(bits);
      ASSERT_EQ(encode_code(GetParam().format, load_element(&input, dtype, 0)), wanted[bits]) << name << " " << bits;
    }
  }
}

TEST_P(OracleCodec, EncodesFp32) {
  const auto inputs = codecs().at("input.fp32").values<float>();
  const auto wanted = codecs().at(std::string("encode.fp32.") + GetParam().name).values<std::uint8_t>();
  ASSERT_EQ(inputs.size(), wanted.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_EQ(encode_code(GetParam().format, inputs[i]), wanted[i]) << inputs[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, OracleCodec,
                         ::testing::Values(CodecCase{"e2m1", CodeFormat::kE2M1, 16},
                                           CodecCase{"e4m3fn", CodeFormat::kE4M3, 256},
                                           CodecCase{"e5m2", CodeFormat::kE5M2, 256}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(OracleCodec, DecodesE8m0) {
  const auto wanted = codecs().at("decode.e8m0").values<float>();
  for (int byte = 0; byte < 256; ++byte) {
    const auto scale = static_cast<std::uint8_t>(byte);
    EXPECT_TRUE(same_number(decode_scale(ScaleFormat::kE8M0, &scale, 0), wanted[byte])) << byte;
  }
}

struct FormatCase {
  const char* name;  // in the table
  QuantFormat format;
};

const FormatCase kFormats[] = {{"nvfp4", QuantFormat::kNvfp4},
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

struct Quantized {
  std::vector<std::uint8_t> codes, scales;
  std::vector<float> row_scales;
};

using QuantizeFunction = void (*)(const QuantSpec&, const QuantizeRun&, const Activation*);

Quantized quantize_table_input(const std::string& which, const FormatCase& format, QuantizeFunction function) {
  const StoredArray& input = quantizers().at(which + ".input");
  const std::int64_t rows = input.shape[0], cols = input.shape[1];
  const QuantSpec spec{.format = format.format};
  const QuantSizes sizes = quant_sizes(spec, rows, cols);
  Quantized result{std::vector<std::uint8_t>(sizes.code_bytes, 0xAA),
                   std::vector<std::uint8_t>(sizes.scale_bytes, 0xAA), std::vector<float>(rows, NAN)};
  QuantizeRun run;
  run.x = TensorView(input.bytes.data(), DType::kBF16, {rows, cols});
  run.codes = TensorView(result.codes.data(), DType::kU8, {rows, sizes.code_bytes / rows});
  run.scales = TensorView(result.scales.data(), DType::kU8, {sizes.scale_bytes});
  run.row_scales = TensorView(result.row_scales.data(), DType::kF32, {rows});
  std::vector<float> global;
  if (format.format == QuantFormat::kNvfp4) {
    global = quantizers().at(which + "." + format.name + ".global_scale").values<float>();
    run.global_scale = TensorView(global.data(), DType::kF32, {1});
  }
  function(spec, run, nullptr);
  return result;
}

// Codes of a block whose scale is NaN mean nothing, nor do those of an NVFP4 block whose scale is 0.
bool codes_count(QuantFormat format, const std::uint8_t* scales, std::int64_t at) {
  const QuantTraits traits = quant_traits({.format = format});
  const double scale = decode_scale(traits.scales, scales, at);
  if (std::isnan(scale)) return false;
  return traits.scales != ScaleFormat::kE4M3 || scale != 0.0;
}

class OracleQuantizer : public ::testing::TestWithParam<FormatCase> {};

TEST_P(OracleQuantizer, GivesTheBytesOfTheTable) {
  const FormatCase format = GetParam();
  const QuantTraits traits = quant_traits({.format = format.format});
  int cases = 0;
  for (const auto& [name, input] : quantizers().arrays) {
    const std::size_t end = name.rfind(".input");
    if (end == std::string::npos) continue;
    const std::string which = name.substr(0, end), key = which + "." + format.name;
    if (!quantizers().arrays.contains(key + ".codes")) {
      EXPECT_EQ(which, "specials") << "only there some formats have no entry";
      continue;
    }
    ++cases;
    const Quantized got = quantize_table_input(which, format, oracle_quantize);
    const auto codes = quantizers().at(key + ".codes").values<std::uint8_t>();
    const auto scales = quantizers().at(key + ".scales").values<std::uint8_t>();
    ASSERT_EQ(got.scales, scales) << key;
    if (format.format == QuantFormat::kNvfp4Row) {
      EXPECT_EQ(got.row_scales, quantizers().at(key + ".row_scale").values<float>()) << key;
    }
    ASSERT_EQ(got.codes.size(), codes.size());
    const std::int64_t rows = input.shape[0], cols = input.shape[1];
    const std::int64_t scale_cols = quant_sizes({.format = format.format}, rows, cols).scale_cols;
    const std::int64_t byte_cols = static_cast<std::int64_t>(codes.size()) / rows;
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(codes.size()); ++i) {
      const std::int64_t row = i / byte_cols, col = i % byte_cols * cols / byte_cols;
      const std::int64_t scale_row = traits.block_rows == 0 ? 0 : row / traits.block_rows;
      const std::int64_t scale_col = traits.block_cols == 0 ? 0 : col / traits.block_cols;
      if (!codes_count(format.format, scales.data(), scale_row * scale_cols + scale_col)) continue;
      ASSERT_EQ(got.codes[i], codes[i]) << key << " row " << row << " column " << col;
    }
  }
  EXPECT_GE(cases, 10);
}

INSTANTIATE_TEST_SUITE_P(Formats, OracleQuantizer, ::testing::ValuesIn(kFormats),
                         [](const auto& info) { return std::string(info.param.name); });

// Semantics A.4 and A.5: offsets worked out by hand.
TEST(ScaleLayouts, OffsetsAreTheWorkedOnes) {
  const auto both = [](ScaleLayout layout, std::int64_t row, std::int64_t col) {
    EXPECT_EQ(scale_index(layout, row, col, 8), oracle_scale_index(layout, row, col, 8));
    return scale_index(layout, row, col, 8);
  };
  EXPECT_EQ(both(ScaleLayout::k128x4, 0, 0), 0);
  EXPECT_EQ(both(ScaleLayout::k128x4, 0, 3), 3);
  EXPECT_EQ(both(ScaleLayout::k128x4, 0, 4), 512);
  EXPECT_EQ(both(ScaleLayout::k128x4, 1, 0), 16);
  EXPECT_EQ(both(ScaleLayout::k128x4, 32, 0), 4);
  EXPECT_EQ(both(ScaleLayout::k128x4, 33, 5), 533);
  EXPECT_EQ(both(ScaleLayout::k128x4, 128, 0), 1024);
  EXPECT_EQ(both(ScaleLayout::k8x4, 0, 4), 32);
  EXPECT_EQ(both(ScaleLayout::k8x4, 1, 0), 4);
  EXPECT_EQ(both(ScaleLayout::k8x4, 8, 0), 64);
  EXPECT_EQ(both(ScaleLayout::kLinear, 3, 5), 29);
}

TEST(ScaleLayouts, TwoFormulasAgreeAndEveryOffsetIsTakenOnce) {
  for (const ScaleLayout layout : {ScaleLayout::kLinear, ScaleLayout::k128x4, ScaleLayout::k8x4}) {
    for (const std::int64_t cols : {1, 4, 5, 9}) {
      const std::int64_t rows = 261;
      std::vector<int> taken(scale_layout_bytes(layout, rows, cols), 0);
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < cols; ++c) {
          const std::int64_t at = scale_index(layout, r, c, cols);
          ASSERT_EQ(at, oracle_scale_index(layout, r, c, cols));
          ASSERT_LT(at, static_cast<std::int64_t>(taken.size()));
          ASSERT_EQ(taken[at]++, 0);
        }
      }
    }
  }
}

// Semantics A.12.
TEST(ScaleLayouts, GroupsBeginOn128RowBoundaries) {
  EXPECT_EQ(grouped_scale_row(0, 0), 0);
  EXPECT_EQ(grouped_scale_row(4, 1), 128);
  EXPECT_EQ(grouped_scale_row(132, 2), 384);
}

TEST(OracleQuantizer, Mxfp4FloorRuleMaySaturate) {
  std::vector<float> x(32, 0.0f);
  x[0] = 7.0f;
  std::uint8_t codes[16], scale = 0;
  QuantizeRun run;
  run.x = TensorView(x.data(), DType::kF32, {1, 32});
  run.codes = TensorView(codes, DType::kU8, {1, 16});
  run.scales = TensorView(&scale, DType::kU8, {1, 1});
  QuantSpec spec{.format = QuantFormat::kMxfp4};
  oracle_quantize(spec, run, nullptr);
  EXPECT_EQ(scale, 128);      // 7 / 2 = 3.5, a tie
  EXPECT_EQ(codes[0], 0x06);  // to the even code: 4
  spec.e8m0 = E8m0Rounding::kFloor;
  oracle_quantize(spec, run, nullptr);
  EXPECT_EQ(scale, 127);      // floor(log2 7) - 2 = 0
  EXPECT_EQ(codes[0], 0x07);  // 7 saturates at 6
}

TEST(OracleQuantizer, Int4GroupsByHand) {
  std::vector<float> x(32, 0.0f);
  x[0] = 7.5f;
  x[1] = -7.5f;
  x[2] = 2.5f;  // a tie: to 2
  std::uint8_t codes[16], zero = 99;
  std::uint16_t scale = 0;
  QuantizeRun run;
  run.x = TensorView(x.data(), DType::kF32, {1, 32});
  run.codes = TensorView(codes, DType::kU8, {1, 16});
  run.scales = TensorView(&scale, DType::kBF16, {1, 1});
  run.zeros = TensorView(&zero, DType::kU8, {1, 1});
  QuantSpec spec{.format = QuantFormat::kInt4};
  oracle_quantize(spec, run, nullptr);
  EXPECT_EQ(scale, 0x3f80);   // 1.0
  EXPECT_EQ(codes[0], 0x0F);  // 7.5 -> 8, at most 7: code 15; -7.5 -> -8: code 0
  EXPECT_EQ(codes[1], 0x8A);  // 2: code 10; 0: code 8
  spec.int4.zero_points = true;
  x[0] = 14.0f;
  x[1] = -1.0f;
  oracle_quantize(spec, run, nullptr);
  EXPECT_EQ(scale, 0x3f80);
  EXPECT_EQ(zero, 1);
  EXPECT_EQ(codes[0], 0x0F);  // 14 + 1; -1 + 1
  EXPECT_EQ(codes[1], 0x13);  // 2 + 1; 0 + 1
}

}  // namespace
}  // namespace moesaic::cpu
