// SPDX-License-Identifier: Apache-2.0
// Quantisers on a GPU, byte for byte against the CPU oracle: every format, layout, source type and odd shape; the first
// run of each is a graph capture; outputs are poisoned before and guarded behind.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "backend_cpu/backend_cpu.h"
#include "support/device_layer.h"
#include "support/device_quantizer.h"
#include "support/quant_case.h"
#include "tables/quant_table.h"

namespace moesaic {
namespace {

using testing::DeviceQuantizer;
using testing::HostArray;
using testing::QuantBuffers;
using testing::QuantCase;

constexpr std::int64_t kManyElements = 300000;

struct FormatCase {
  const char* name;
  QuantFormat format;
  ScaleLayout layout = ScaleLayout::kLinear;
  bool floor = false;
  int group = 0;
  bool zero_points = false;
  bool grouped = false;

  QuantSpec spec() const {
    QuantSpec s{.format = format, .layout = layout};
    s.e8m0 = floor ? E8m0Rounding::kFloor : E8m0Rounding::kUp;
    if (group > 0) s.int4.size = group;
    s.int4.zero_points = zero_points;
    return s;
  }
  int multiple() const { return group > 0 ? group : tables::quant_row(format).cols_multiple; }
};

void PrintTo(const FormatCase& c, std::ostream* out) { *out << c.name; }

using enum QuantFormat;
const FormatCase kFormats[] = {
    {"nvfp4", kNvfp4},
    {"nvfp4_128x4", kNvfp4, ScaleLayout::k128x4},
    {"nvfp4_8x4", kNvfp4, ScaleLayout::k8x4},
    {"nvfp4_grouped", kNvfp4, ScaleLayout::k128x4, false, 0, false, true},
    {"nvfp4_row", kNvfp4Row},
    {"nvfp4_row_128x4", kNvfp4Row, ScaleLayout::k128x4},
    {"nvfp4_row_8x4", kNvfp4Row, ScaleLayout::k8x4},
    {"nvfp4_row_grouped", kNvfp4Row, ScaleLayout::k128x4, false, 0, false, true},
    {"mxfp4", kMxfp4},
    {"mxfp4_floor", kMxfp4, ScaleLayout::kLinear, true},
    {"mxfp4_128x4", kMxfp4, ScaleLayout::k128x4},
    {"mxfp4_8x4", kMxfp4, ScaleLayout::k8x4},
    {"mxfp8", kMxfp8},
    {"mxfp8_128x4", kMxfp8, ScaleLayout::k128x4},
    {"mxfp8_8x4", kMxfp8, ScaleLayout::k8x4},
    {"mxfp8_grouped", kMxfp8, ScaleLayout::k128x4, true, 0, false, true},
    {"mxfp8_e5m2", kMxfp8E5m2},
    {"mxfp8_e5m2_floor_128x4", kMxfp8E5m2, ScaleLayout::k128x4, true},
    {"fp8_static", kFp8Static},
    {"fp8_tensor", kFp8Tensor},
    {"fp8_row", kFp8Row},
    {"fp8_1x128", kFp8Block1x128},
    {"fp8_128x128", kFp8Block128x128},
    {"int4_32", kInt4, ScaleLayout::kLinear, false, 32},
    {"int4_64_zeros", kInt4, ScaleLayout::kLinear, false, 64, true},
    {"int4_128", kInt4, ScaleLayout::kLinear, false, 128},
    {"int4_32_zeros", kInt4, ScaleLayout::kLinear, false, 32, true},
};

/// Uneven groups, empty ones among them.
std::vector<std::int32_t> offsets_of(std::int64_t rows) {
  const auto at = [rows](int percent) { return static_cast<std::int32_t>(rows * percent / 100); };
  return {0, at(10), at(10), at(55), at(56), at(56), static_cast<std::int32_t>(rows)};
}

void expect_same(const QuantBuffers& got, const QuantBuffers& wanted, const QuantCase& c) {
  const auto first_difference = [](const auto& a, const auto& b) {
    std::size_t i = 0;
    while (i < a.size() && a[i] == b[i]) ++i;
    return i;
  };
  // Scales first: a wrong one makes all codes of its block wrong.
  EXPECT_EQ(got.scales.size(), wanted.scales.size());
  if (got.scales != wanted.scales) {
    const std::size_t i = first_difference(got.scales, wanted.scales);
    ADD_FAILURE() << c.name() << ": byte " << i << " of scales is " << int{got.scales[i]} << ", wanted "
                  << int{wanted.scales[i]};
  }
  EXPECT_TRUE(testing::same_floats(got.row_scales, wanted.row_scales)) << c.name();
  EXPECT_EQ(got.zeros, wanted.zeros) << c.name();
  if (got.codes != wanted.codes) {
    const std::size_t i = first_difference(got.codes, wanted.codes);
    ADD_FAILURE() << c.name() << ": byte " << i << " of codes is " << int{got.codes[i]} << ", wanted "
                  << int{wanted.codes[i]};
  }
}

/// Global scales that a format takes: of values about 1, and one that makes block scales 0 or saturated.
std::vector<float> global_scales(QuantFormat format) {
  if (format == kNvfp4) return {2688.0f / 4.0f, 1.0f, 0x1p40f};
  if (format == kFp8Static) return {4.0f / 448.0f, 0x1p-20f};
  return {1.0f};
}

class DeviceQuantizeTest : public ::testing::TestWithParam<FormatCase> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
  }

  /// All columns that the format takes.
  static std::vector<std::int64_t> columns() {
    std::vector<std::int64_t> list;
    for (const std::int64_t cols : {16, 32, 48, 160, 288, 1280, 4096, 8448, 1, 7, 129, 1003}) {
      if (cols % GetParam().multiple() == 0) list.push_back(cols);
    }
    return list;
  }
};

TEST_P(DeviceQuantizeTest, GivesTheOraclesBytes) {
  std::mt19937 rng(testing::fresh_seed());
  const DeviceQuantizer quantizer(GetParam().spec(), nullptr);
  int turn = 0;
  for (const std::int64_t rows : {0, 1, 7, 63, 128, 150, 257}) {
    for (const std::int64_t cols : columns()) {
      for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
        ++turn;
        if (rows * cols > kManyElements && turn % 3 != 0) continue;  // the oracle takes its time
        QuantCase c{GetParam().spec(), dtype, rows, cols};
        if (GetParam().grouped) c.group_offsets = offsets_of(rows);
        const HostArray x = testing::quant_input(rng, c, turn);
        const auto globals = global_scales(GetParam().format);
        const float global = globals[static_cast<std::size_t>(turn) % globals.size()];
        const QuantBuffers got = quantizer.quantize(c, x, global);
        expect_same(got, testing::oracle_buffers(c, x, global, nullptr), c);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(DeviceQuantizeTest, AddressesNeedNoAlignment) {
  std::mt19937 rng(testing::fresh_seed());
  const DeviceQuantizer quantizer(GetParam().spec(), nullptr);
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    QuantCase c{GetParam().spec(), dtype, 67, 384};
    if (GetParam().grouped) c.group_offsets = offsets_of(c.rows);
    c.misalign = 1;
    const HostArray x = testing::quant_input(rng, c, static_cast<int>(dtype));
    const float global = global_scales(GetParam().format)[0];
    expect_same(quantizer.quantize(c, x, global), testing::oracle_buffers(c, x, global, nullptr), c);
  }
}

TEST_P(DeviceQuantizeTest, DequantizesAsTheOracle) {
  std::mt19937 rng(testing::fresh_seed());
  const DeviceQuantizer quantizer(GetParam().spec(), nullptr);
  int turn = 0;
  for (const std::int64_t rows : {1, 63, 150, 257}) {
    for (const std::int64_t cols : columns()) {
      if (rows * cols > kManyElements) continue;
      for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
        QuantCase c{GetParam().spec(), dtype, rows, cols};
        c.misalign = static_cast<std::size_t>(turn % 2);
        if (GetParam().grouped) c.group_offsets = offsets_of(rows);
        const HostArray x = testing::quant_input(rng, c, ++turn);
        const float global = global_scales(GetParam().format)[0];
        QuantBuffers b = testing::oracle_buffers(c, x, global, nullptr);
        HostArray wanted{dtype, std::vector<unsigned char>(x.bytes.size())};
        const HostArray got = quantizer.dequantize(c, b);
        QuantCase plain = c;
        if (GetParam().grouped) {  // the oracle knows scales without groups
          b.scales = testing::linear_scales(c, b);
          plain.spec.layout = ScaleLayout::kLinear;
          plain.group_offsets.clear();
        }
        cpu::oracle_dequantize(plain.spec, testing::quant_run(plain, wanted, b));
        ASSERT_TRUE(testing::same_floats(testing::to_floats(got), testing::to_floats(wanted))) << c.name();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DeviceQuantizeTest, ::testing::ValuesIn(kFormats),
                         [](const auto& info) { return std::string(info.param.name); });

class DeviceSwizzleTest : public ::testing::TestWithParam<ScaleLayout> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(DeviceSwizzleTest, MovesEveryByteToItsPlaceAndBack) {
  std::mt19937 rng(testing::fresh_seed());
  const DeviceQuantizer quantizer({.format = kMxfp8, .layout = GetParam()}, nullptr);
  for (const std::int64_t rows : {1, 7, 8, 127, 128, 129, 300}) {
    for (const std::int64_t cols : {1, 3, 4, 5, 9, 64}) {
      std::vector<unsigned char> linear(static_cast<std::size_t>(rows * cols));
      for (unsigned char& byte : linear) byte = static_cast<unsigned char>(rng() % 255);
      std::vector<unsigned char> wanted(static_cast<std::size_t>(scale_layout_bytes(GetParam(), rows, cols)), 0);
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t k = 0; k < cols; ++k) {
          wanted[static_cast<std::size_t>(cpu::oracle_scale_index(GetParam(), r, k, cols))] =
              linear[static_cast<std::size_t>(r * cols + k)];
        }
      }
      const std::vector<unsigned char> tiles = quantizer.swizzle(linear, rows, cols);
      EXPECT_EQ(tiles, wanted) << rows << " " << cols;
      EXPECT_EQ(quantizer.unswizzle(tiles, rows, cols), linear) << rows << " " << cols;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, DeviceSwizzleTest,
                         ::testing::Values(ScaleLayout::kLinear, ScaleLayout::k128x4, ScaleLayout::k8x4),
                         [](const auto& info) { return "layout_" + std::string(scale_layout_name(info.param)); });

}  // namespace
}  // namespace moesaic
