// SPDX-License-Identifier: Apache-2.0
// Quantizer on the CPU: every argument is checked by name, scales go round every layout, x comes back near enough.
#include "moesaic/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/quant_case.h"
#include "tables/quant_table.h"
#include "tests/support/expect_error.h"

namespace moesaic {
namespace {

using testing::expect_error;
using testing::HostArray;
using testing::QuantBuffers;
using testing::QuantCase;

constexpr Device kCpu{};

QuantSpec spec_of(QuantFormat format, ScaleLayout layout = ScaleLayout::kLinear) {
  QuantSpec spec{.format = format, .layout = layout};
  spec.int4.size = 32;
  return spec;
}

/// A right run of nvfp4, of which a test spoils one argument.
struct GoodRun {
  QuantCase c{spec_of(QuantFormat::kNvfp4), DType::kBF16, 3, 64};
  HostArray x;
  QuantBuffers buffers;
  QuantizeRun run;

  explicit GoodRun(QuantFormat format = QuantFormat::kNvfp4, ScaleLayout layout = ScaleLayout::kLinear) {
    c.spec = spec_of(format, layout);
    std::mt19937 rng(1);
    x = testing::random_array(rng, c.rows * c.cols, c.dtype, 1.0);
    buffers = testing::quant_buffers(c, 600.0f);
    run = testing::quant_run(c, x, buffers);
  }
};

template <typename Spoil>
void expect_refused(GoodRun good, const std::vector<std::string>& words, Spoil spoil) {
  const Quantizer quantizer = Quantizer::create(good.c.spec, kCpu);
  QuantizeRun run = testing::quant_run(good.c, good.x, good.buffers);
  quantizer.quantize(run);  // right before
  spoil(run);
  expect_error(ErrorKind::kInvalidArgument, words, [&] { quantizer.quantize(run); });
}

TEST(Quantizer, RefusesWrongTensorsByName) {
  expect_refused(GoodRun(), {"quantizer: x", "i32", "bf16, f16 or f32"},
                 [](QuantizeRun& r) { r.x.dtype = DType::kI32; });
  expect_refused(GoodRun(), {"shape [3, 63]", "multiple of 16"}, [](QuantizeRun& r) { r.x.shape[1] = 63; });
  expect_refused(GoodRun(), {"codes", "u8 [3, 31]", "u8 [3, 32]"}, [](QuantizeRun& r) { r.codes.shape[1] = 31; });
  expect_refused(GoodRun(), {"codes", "null"}, [](QuantizeRun& r) { r.codes.data = nullptr; });
  expect_refused(GoodRun(), {"scales", "f32", "u8 [3, 4]"}, [](QuantizeRun& r) { r.scales.dtype = DType::kF32; });
  expect_refused(GoodRun(QuantFormat::kMxfp8, ScaleLayout::k128x4), {"scales", "u8 [512]"},
                 [](QuantizeRun& r) { r.scales.shape[0] = 6; });
  expect_refused(GoodRun(), {"global_scale", "empty", "f32 [1]"}, [](QuantizeRun& r) { r.global_scale = {}; });
  expect_refused(GoodRun(QuantFormat::kMxfp4), {"global_scale", "no given scale"},
                 [](QuantizeRun& r) { r.global_scale = TensorView(r.x.data, DType::kF32, {1}); });
  expect_refused(GoodRun(QuantFormat::kNvfp4Row), {"row_scales", "f32 [3]"}, [](QuantizeRun& r) { r.row_scales = {}; });
  expect_refused(GoodRun(), {"zeros", "int4 with zero points"}, [](QuantizeRun& r) {
    r.zeros = TensorView(r.x.data, DType::kU8, {3, 4});
  });
  expect_refused(GoodRun(), {"group_offsets", "linear", "128x4"},
                 [](QuantizeRun& r) { r.group_offsets = TensorView(r.x.data, DType::kI32, {3}); });
  expect_refused(GoodRun(QuantFormat::kNvfp4, ScaleLayout::k128x4), {"group_offsets", "[1]", "G >= 1"},
                 [](QuantizeRun& r) { r.group_offsets = TensorView(r.x.data, DType::kI32, {1}); });
  expect_refused(GoodRun(QuantFormat::kFp8Row), {"scales", "multiple of 4 bytes"},
                 [](QuantizeRun& r) { r.scales.data = static_cast<char*>(r.scales.data) + 1; });
}

TEST(Quantizer, RefusesSpecsAndActivationsThatCannotBe) {
  expect_error(ErrorKind::kInvalidArgument, {"128x4", "fp8_row", "linear"},
               [] { Quantizer::create(spec_of(QuantFormat::kFp8Row, ScaleLayout::k128x4), kCpu); });
  QuantSpec odd = spec_of(QuantFormat::kInt4);
  odd.int4.size = 48;
  expect_error(ErrorKind::kInvalidArgument, {"48", "32, 64 or 128"}, [&] { Quantizer::create(odd, kCpu); });
  Activation relu;
  relu.kind = ActivationKind::kRelu2;
  expect_error(ErrorKind::kInvalidArgument, {"activation", "relu2", "gated"},
               [&] { Quantizer::create(spec_of(QuantFormat::kMxfp8), kCpu, {}, &relu); });
}

TEST(Quantizer, RefusesGroupOffsetsThatLeaveTheRows) {
  const QuantSpec spec = spec_of(QuantFormat::kMxfp8, ScaleLayout::k128x4);
  const Quantizer quantizer = Quantizer::create(spec, kCpu);
  std::vector<float> x(6 * 32);
  std::vector<std::uint8_t> codes(6 * 32),
      scales(static_cast<std::size_t>(scale_layout_bytes(spec.layout, grouped_scale_row(6, 2) + 128, 1)));
  std::int32_t offsets[3] = {0, 2, 6};
  QuantizeRun run;
  run.x = TensorView(x.data(), DType::kF32, {6, 32});
  run.codes = TensorView(codes.data(), DType::kU8, {6, 32});
  run.scales = TensorView(scales.data(), DType::kU8, {static_cast<std::int64_t>(scales.size())});
  run.group_offsets = TensorView(offsets, DType::kI32, {3});
  quantizer.quantize(run);
  const auto expect = [&](int index, std::int32_t value, const std::vector<std::string>& words) {
    const std::int32_t before = offsets[index];
    offsets[index] = value;
    expect_error(ErrorKind::kInvalidArgument, words, [&] { quantizer.quantize(run); });
    expect_error(ErrorKind::kInvalidArgument, words, [&] { quantizer.dequantize(run); });
    offsets[index] = before;
  };
  expect(0, 1, {"group_offsets[0] is 1", "wanted 0"});
  expect(0, -1, {"group_offsets[0] is -1"});
  expect(1, 7, {"group_offsets[1] is 7", "0 (the one before) to 6 rows"});
  expect(2, 1, {"group_offsets[2] is 1", "2 (the one before)"});
  expect(2, 1 << 30, {"group_offsets[2]"});
}

TEST(Quantizer, RowsBehindTheLastGroupHaveNoScales) {
  const QuantSpec spec = spec_of(QuantFormat::kMxfp8, ScaleLayout::k128x4);
  const Quantizer quantizer = Quantizer::create(spec, kCpu);
  std::vector<float> x(6 * 32, 3.0f), back(6 * 32);
  const std::int64_t bytes = scale_layout_bytes(spec.layout, grouped_scale_row(6, 2) + 128, 1);
  std::vector<std::uint8_t> codes(6 * 32), scales(static_cast<std::size_t>(bytes), 0xEE);
  const std::int32_t offsets[3] = {0, 1, 4};
  QuantizeRun run;
  run.x = TensorView(x.data(), DType::kF32, {6, 32});
  run.codes = TensorView(codes.data(), DType::kU8, {6, 32});
  run.scales = TensorView(scales.data(), DType::kU8, {bytes});
  run.group_offsets = TensorView(offsets, DType::kI32, {3});
  quantizer.quantize(run);
  EXPECT_EQ(std::count(scales.begin(), scales.end(), 0xEE), bytes - 4 * 4);  // four rows of one scale, padded to four
  run.x.data = back.data();
  quantizer.dequantize(run);
  for (std::size_t i = 0; i < back.size(); ++i) {
    if (i / 32 < 4) {
      EXPECT_EQ(back[i], 3.0f) << i;
    } else {
      EXPECT_TRUE(std::isnan(back[i])) << i;  // as on a GPU
    }
  }
}

TEST(Quantizer, RefusesWhatIsNoEnumeratorShapeOrDevice) {
  expect_error(ErrorKind::kInvalidArgument, {"format", "99"},
               [] { Quantizer::create(spec_of(static_cast<QuantFormat>(99)), kCpu); });
  expect_error(ErrorKind::kInvalidArgument, {"layout", "99"},
               [] { Quantizer::create(spec_of(QuantFormat::kNvfp4, static_cast<ScaleLayout>(99)), kCpu); });
  QuantSpec spec = spec_of(QuantFormat::kMxfp4);
  spec.e8m0 = static_cast<E8m0Rounding>(99);
  expect_error(ErrorKind::kInvalidArgument, {"e8m0", "99"}, [&] { Quantizer::create(spec, kCpu); });
  expect_error(ErrorKind::kInvalidArgument, {"device", "type 9"}, [] {
    Quantizer::create(spec_of(QuantFormat::kMxfp4), {static_cast<DeviceType>(9), 0});
  });
  Activation bad;
  bad.limit = -1.0f;
  expect_error(ErrorKind::kInvalidArgument, {"activation.limit", "-1"},
               [&] { Quantizer::create(spec_of(QuantFormat::kMxfp4), kCpu, {}, &bad); });
  expect_refused(GoodRun(), {"x is a view of rank 99"}, [](QuantizeRun& r) { r.x.rank = 99; });
  expect_refused(GoodRun(), {"codes is a view of rank -7"}, [](QuantizeRun& r) { r.codes.rank = -7; });
  expect_refused(GoodRun(), {"x", "[-3, "}, [](QuantizeRun& r) { r.x.shape[0] = -3; });
  const Quantizer quantizer = Quantizer::create(spec_of(QuantFormat::kMxfp4, ScaleLayout::k128x4), kCpu);
  TensorView linear;
  linear.dtype = DType::kU8, linear.rank = 2, linear.shape = {-128, -4};
  expect_error(ErrorKind::kInvalidArgument, {"linear scales", "[-128, -4]"},
               [&] { quantizer.swizzle_scales(linear, linear); });
}

TEST(Quantizer, GatedInputHasTwiceTheColumns) {
  const Activation swiglu;
  QuantCase c{spec_of(QuantFormat::kMxfp8), DType::kF32, 2, 32, true};
  std::mt19937 rng(3);
  const HostArray x = testing::random_array(rng, 2 * 64, DType::kF32, 1.0);
  QuantBuffers b = testing::quant_buffers(c, 1.0f);
  const Quantizer quantizer = Quantizer::create(c.spec, kCpu, {}, &swiglu);
  QuantizeRun run = testing::quant_run(c, x, b);
  quantizer.quantize(run);
  const std::vector<float> gates = testing::to_floats(x);
  c.activation = false;
  HostArray back{DType::kF32, std::vector<unsigned char>(2 * 32 * 4)};
  quantizer.dequantize(testing::quant_run(c, back, b));
  const std::vector<float> values = testing::to_floats(back);
  for (std::size_t r = 0; r < 2; ++r) {
    for (std::size_t k = 0; k < 32; ++k) {
      const float g = gates[r * 64 + k], u = gates[r * 64 + 32 + k];
      EXPECT_NEAR(values[r * 32 + k], g / (1.0f + std::exp(-g)) * u, 0.07f * std::fabs(values[r * 32 + k]) + 0.01f);
    }
  }
  run.x.shape[1] = 63;
  expect_error(ErrorKind::kInvalidArgument, {"x", "even number"}, [&] { quantizer.quantize(run); });
}

TEST(Quantizer, EveryFormatComesBackWithinItsStep) {
  std::mt19937 rng(5);
  for (const tables::QuantRow& row : tables::kQuantTable) {
    const QuantCase c{spec_of(row.format), DType::kBF16, 5, 160};
    const HostArray x = testing::random_array(rng, c.rows * c.cols, c.dtype, 1.0);
    const float global = row.format == QuantFormat::kNvfp4 ? 2688.0f / 4.0f : 4.0f / 448.0f;
    QuantBuffers b = testing::quant_buffers(c, global);
    const Quantizer quantizer = Quantizer::create(c.spec, kCpu);
    quantizer.quantize(testing::quant_run(c, x, b));
    HostArray back{DType::kBF16, std::vector<unsigned char>(x.bytes.size())};
    quantizer.dequantize(testing::quant_run(c, back, b));
    const std::vector<float> wanted = testing::to_floats(x), got = testing::to_floats(back);
    double error = 0, size = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      error += std::pow(double{got[i]} - wanted[i], 2);
      size += std::pow(double{wanted[i]}, 2);
    }
    const bool four_bits = tables::code_bits(row.traits.codes) == 4;
    EXPECT_LT(std::sqrt(error / size), four_bits                               ? 0.15
                                       : row.format == QuantFormat::kMxfp8E5m2 ? 0.07
                                                                               : 0.04)
        << row.name;
    EXPECT_GT(error, 0) << row.name;
  }
}

TEST(Quantizer, ScalesGoRoundEveryLayout) {
  std::mt19937 rng(9);
  for (const ScaleLayout layout : {ScaleLayout::kLinear, ScaleLayout::k128x4, ScaleLayout::k8x4}) {
    const Quantizer quantizer = Quantizer::create(spec_of(QuantFormat::kMxfp4, layout), kCpu);
    const std::int64_t rows = 131, cols = 7, bytes = scale_layout_bytes(layout, rows, cols);
    std::vector<std::uint8_t> linear(rows * cols), back(rows * cols, 0xEE), tiles(bytes, 0xEE);
    for (std::uint8_t& byte : linear) byte = static_cast<std::uint8_t>(1 + rng() % 200);
    const TensorView tile_view(tiles.data(), DType::kU8, {bytes});
    quantizer.swizzle_scales(TensorView(linear.data(), DType::kU8, {rows, cols}), tile_view);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t k = 0; k < cols; ++k) {
        ASSERT_EQ(tiles[scale_index(layout, r, k, cols)], linear[r * cols + k]);
      }
    }
    EXPECT_EQ(std::count(tiles.begin(), tiles.end(), 0), bytes - rows * cols) << "padding is 0";
    quantizer.unswizzle_scales(tile_view, TensorView(back.data(), DType::kU8, {rows, cols}));
    EXPECT_EQ(back, linear);
    expect_error(ErrorKind::kInvalidArgument, {"layout scales", std::to_string(bytes)}, [&] {
      quantizer.swizzle_scales(TensorView(linear.data(), DType::kU8, {rows, cols}),
                               TensorView(tiles.data(), DType::kU8, {bytes - 1}));
    });
  }
  const Quantizer fp8 = Quantizer::create(spec_of(QuantFormat::kFp8Row), kCpu);
  expect_error(ErrorKind::kInvalidArgument, {"fp8_row", "NVFP4, MXFP4 or MXFP8"},
               [&] { fp8.swizzle_scales(TensorView(), TensorView()); });
}

}  // namespace
}  // namespace moesaic
