// SPDX-License-Identifier: Apache-2.0
// Operands of quantised activations on a GPU: operand times scale is what the oracle makes of each row by itself, NaN
// and infinities included, from numbers and from given codes; by conversion instructions and by software. Outputs are
// poisoned before and guarded behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "backend_cpu/backend_cpu.h"
#include "backend_cuda/device.h"
#include "backend_cuda/device_memory.h"
#include "backend_cuda/kernel.h"
#include "kernels/abi/quant_params.h"
#include "module/kernel_instance.h"
#include "support/device_layer.h"
#include "support/quant_case.h"
#include "tables/kernel_table.h"
#include "tables/quant_table.h"

namespace moesaic {
namespace {

using testing::HostArray;

constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr unsigned char kPoison = 0xEE;
constexpr std::size_t kGuard = 256;

/// Output memory of the device with a guard behind it.
class Output {
 public:
  explicit Output(std::size_t bytes) : buffer_(kGpu, bytes + kGuard) { buffer_.fill(kPoison); }
  template <typename T>
  T* at() const {
    return static_cast<T*>(buffer_.data());
  }
  template <typename T>
  std::vector<T> fetch() const {
    std::vector<unsigned char> bytes(buffer_.size());
    buffer_.download(bytes.data(), bytes.size());
    EXPECT_EQ(std::count(bytes.end() - kGuard, bytes.end(), kPoison), static_cast<std::ptrdiff_t>(kGuard))
        << "bytes behind an output were touched";
    std::vector<T> values((bytes.size() - kGuard) / sizeof(T));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
  }

 private:
  cuda::DeviceBuffer buffer_;
};

cuda::DeviceBuffer to_device(const void* data, std::size_t bytes) {
  cuda::DeviceBuffer buffer(kGpu, std::max<std::size_t>(bytes, 1));
  buffer.upload(data, bytes);
  return buffer;
}
template <typename T>
cuda::DeviceBuffer to_device(const std::vector<T>& values) {
  return to_device(values.data(), values.size() * sizeof(T));
}

/// What the kernel wrote.
struct Operands {
  int rows, cols, stride;
  std::vector<std::uint16_t> values;            // [rows][stride] bf16
  std::vector<float> token_scale, block_scale;  // [rows], [rows][blocks]
  bool by_block;

  bool untouched(int row) const {
    const auto poisoned = [](std::uint16_t bits) { return bits == (kPoison << 8 | kPoison); };
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(row) * stride;
    std::uint32_t scale;
    std::memcpy(&scale, by_block ? &block_scale[row * abi::div_up(cols, 128)] : &token_scale[row], 4);
    return std::all_of(begin, begin + stride, poisoned) && scale == 0xEEEEEEEEu;
  }
  double scale(int row, int col) const {
    return by_block ? block_scale[row * abi::div_up(cols, 128) + col / 128] : token_scale[row];
  }
  double value(int row, int col) const {
    return cpu::load_element(values.data(), DType::kBF16, std::int64_t{row} * stride + col) * scale(row, col);
  }
};

/// The kernel for the device's own target, or for the portable one, whose conversions are software.
class OperandKernel {
 public:
  explicit OperandKernel(bool portable) {
    const tables::KernelRow* row = tables::find_kernel("operand");
    const tables::ArchRow* arch = tables::find_arch(cuda::device_info(0).sm);
    if (row == nullptr || arch == nullptr) throw std::runtime_error("no such kernel, or the SM is not in the table");
    module::Store store;
    const module::Target target = portable ? module::portable_ptx_target() : module::target_for(*row, *arch);
    kernel_ = cuda::Kernel::load(*store.get({row, 0, target}), 0, 0);
    threads_ = abi::threads(row->configs[0]);
  }

  /// `p` has all but the results.
  Operands run(abi::OperandParams p, int stride) const {
    Operands result{p.rows, p.cols, stride, {}, {}, {}, p.format == abi::kQuantFp8Block1x128};
    const auto rows = static_cast<std::size_t>(p.rows);
    const Output values(rows * static_cast<std::size_t>(stride) * 2), scales(rows * 4),
        blocks(rows * static_cast<std::size_t>(abi::div_up(p.cols, 128)) * 4);
    p.operand = values.at<void>();
    p.stride = stride;
    if (result.by_block) {
      p.token_block_scale = blocks.at<float>();
    } else {
      p.token_scale = scales.at<float>();
    }
    const cuda::DeviceGuard guard(0);
    kernel_.launch({static_cast<unsigned>(p.rows)}, threads_, &p, nullptr);
    result.values = values.fetch<std::uint16_t>();
    result.token_scale = scales.fetch<float>();
    result.block_scale = blocks.fetch<float>();
    return result;
  }

 private:
  cuda::Kernel kernel_;
  int threads_ = 0;
};

/// MX operands vanish far below the row's largest, by less than bf16's smallest number.
void expect_row(const Operands& got, int row, const std::vector<double>& wanted, bool mx) {
  const double slack = mx ? std::ldexp(got.token_scale[row], -133) : 0.0;
  for (int c = 0; c < got.cols; ++c) {
    const double value = got.value(row, c);
    if (std::isnan(wanted[c]) && std::isnan(value)) continue;
    if (value == wanted[c] || std::fabs(value - wanted[c]) <= slack) continue;
    FAIL() << "row " << row << " column " << c << " is " << value << ", wanted " << wanted[c];
  }
  for (int c = got.cols; c < got.stride; ++c) {
    ASSERT_EQ(got.values[static_cast<std::size_t>(row) * got.stride + c], 0)
        << "padding, row " << row << " column " << c;
  }
}

struct FormatCase {
  const char* name;
  QuantFormat format;         // of the kernel
  float static_scale = 0.0f;  // 0: none
  bool pointer = false;       // a static scale of 0 is given

  bool mx() const { return format == QuantFormat::kMxfp8 || format == QuantFormat::kMxfp8E5m2; }
  QuantSpec spec() const {
    if (static_scale == 0.0f) return {.format = format};
    return {.format = format == QuantFormat::kFp8Row ? QuantFormat::kFp8Static : QuantFormat::kNvfp4};
  }
  std::vector<int> columns() const {
    const int multiple = tables::quant_row(format).cols_multiple;
    if (multiple == 1) return {1, 7, 8, 16, 33, 128, 130, 257, 1000, 4096, 4104, 8200};
    return {multiple, 3 * multiple, 4096, 4096 + multiple, 7168};  // from 4097 on, threads have two units
  }
};
void PrintTo(const FormatCase& c, std::ostream* out) { *out << c.name; }

using enum QuantFormat;
const FormatCase kFormats[] = {
    {"fp8_row", kFp8Row},
    {"fp8_row_zero_static", kFp8Row, 0.0f, true},
    {"fp8_static", kFp8Row, 0.37f},
    {"fp8_static_tiny", kFp8Row, 0x1p-140f},
    {"fp8_1x128", kFp8Block1x128},
    {"mxfp8", kMxfp8},
    {"mxfp8_e5m2", kMxfp8E5m2},
    {"nvfp4_row", kNvfp4Row},
    {"nvfp4_static", kNvfp4Row, 0.003f},
};

int source_of(DType type) {
  return type == DType::kF32 ? abi::kSourceF32 : type == DType::kBF16 ? abi::kSourceBf16 : abi::kSourceFp16;
}

class DeviceOperandTest : public ::testing::TestWithParam<std::tuple<FormatCase, bool>> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
    kernel_.emplace(std::get<bool>(GetParam()));
  }
  const FormatCase& format() const { return std::get<FormatCase>(GetParam()); }

  std::mt19937 rng_{testing::fresh_seed()};
  std::optional<OperandKernel> kernel_;
};

/// Rows of x `stride` elements apart, the first `skip` elements behind a 16-byte boundary.
std::vector<unsigned char> spread(const HostArray& x, int rows, int cols, int stride, int skip) {
  const std::size_t size = dtype_size(x.dtype), row = static_cast<std::size_t>(cols) * size;
  std::vector<unsigned char> bytes((static_cast<std::size_t>(rows) * stride + skip) * size, 0xFF);
  for (int r = 0; r < rows; ++r) {
    std::memcpy(&bytes[(static_cast<std::size_t>(r) * stride + skip) * size], &x.bytes[r * row], row);
  }
  return bytes;
}

TEST_P(DeviceOperandTest, IsWhatTheOracleMakesOfEveryRow) {
  const int rows = 2 * static_cast<int>(testing::DataKind::kCount) + 1;  // all kinds of numbers, NaN and infinities too
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const int cols : format().columns()) {
      for (const int extra : {0, 8, 3}) {
        SCOPED_TRACE(std::string(dtype_name(type)) + " [" + std::to_string(rows) + ", " + std::to_string(cols) +
                     "] + " + std::to_string(extra));
        const testing::QuantCase c{.spec = {.format = format().format}, .dtype = type, .rows = rows, .cols = cols};
        const HostArray x = testing::quant_input(rng_, c, cols);
        const int skip = extra == 3 ? 1 : 0, x_stride = cols + extra;
        const auto bytes = spread(x, rows, cols, x_stride, skip);
        const cuda::DeviceBuffer from = to_device(bytes), scale = to_device(&format().static_scale, 4);
        abi::OperandParams p{};
        p.x = static_cast<const char*>(from.data()) + skip * dtype_size(type);
        p.source = source_of(type);
        p.format = static_cast<int>(format().format);
        if (format().static_scale != 0.0f || format().pointer) p.static_scale = static_cast<float*>(scale.data());
        p.x_stride = x_stride;
        p.rows = rows;
        p.cols = cols;
        const Operands got = kernel_->run(p, abi::round_up(cols, 8) + extra / 8 * 24);
        const std::vector<float> values = testing::to_floats(x);
        std::vector<double> wanted(static_cast<std::size_t>(cols));
        for (int r = 0; r < rows; ++r) {
          cpu::oracle_round_row(format().spec(), format().static_scale, &values[static_cast<std::size_t>(r) * cols],
                                cols, wanted.data());
          expect_row(got, r, wanted, format().mx());
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(DeviceOperandTest, RowsEndWithTheLastTile) {
  constexpr int kRows = 12, kEnd = 5, kCols = 256;
  const HostArray x = testing::random_array(rng_, kRows * kCols, DType::kF32, 1.0);
  const cuda::DeviceBuffer from = to_device(x.bytes);
  const std::vector<abi::Tile> tiles = {{0, 0, 3, 0}, {2, 3, kEnd, 0}, {3, kEnd, 9, 0}};
  const cuda::DeviceBuffer list = to_device(tiles), scale = to_device(&format().static_scale, 4);
  for (const int count : {0, 2}) {
    const cuda::DeviceBuffer number = to_device(&count, 4);
    abi::OperandParams p{};
    p.x = from.data();
    p.source = abi::kSourceF32;
    p.format = static_cast<int>(format().format);
    if (format().static_scale != 0.0f) p.static_scale = static_cast<float*>(scale.data());
    p.tiles = static_cast<const abi::Tile*>(list.data());
    p.num_tiles = static_cast<const int*>(number.data());
    p.x_stride = p.cols = kCols;
    p.rows = kRows;
    const Operands got = kernel_->run(p, kCols);
    for (int r = 0; r < kRows; ++r) EXPECT_EQ(got.untouched(r), r >= (count == 0 ? 0 : kEnd)) << r << " of " << count;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DeviceOperandTest,
                         ::testing::Combine(::testing::ValuesIn(kFormats), ::testing::Bool()), [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) +
                                  (std::get<1>(info.param) ? "_portable" : "");
                         });

// --- given codes ----------------------------------------------------------------------------------------------------

/// Codes of all values and scales of all bytes. Strides in scales.
struct GivenRows {
  QuantFormat format;
  int rows, cols;
  std::vector<unsigned char> codes, byte_scales;
  std::vector<float> scales, row_scales;
  std::int64_t row_stride = 0, col_stride = 0;
  int rows_stride = 0;

  QuantTraits traits() const { return quant_traits({.format = format}); }
  bool has_bytes() const { return tables::scale_size(traits().scales) == 1; }
  double number(int row, int col) const {
    const std::size_t at = static_cast<std::size_t>(row) * cols + col;
    const bool nibbles = tables::code_bits(traits().codes) == 4;
    const int code = nibbles ? codes[at / 2] >> at % 2 * 4 & 15 : codes[at];
    const int width = traits().block_cols;
    const std::int64_t scale_at = row * row_stride + (width == 0 ? 0 : col / width) * col_stride;
    const void* from = has_bytes() ? static_cast<const void*>(byte_scales.data()) : scales.data();
    const double row_scale = row_scales.empty() ? 1.0 : row_scales[row * rows_stride];
    return cpu::decode_code(traits().codes, static_cast<std::uint8_t>(code)) *
           cpu::decode_scale(traits().scales, from, scale_at) * row_scale;
  }
};

/// `mn`: scales of neighbouring rows are neighbours; `common`: one scale of rows for all.
GivenRows random_codes(std::mt19937& rng, QuantFormat format, int rows, int cols, bool mn, bool common) {
  GivenRows given{format, rows, cols, {}, {}, {}, {}};
  const QuantTraits traits = given.traits();
  const int blocks = traits.block_cols == 0 ? 1 : abi::div_up(cols, traits.block_cols);
  const auto count = static_cast<std::size_t>(rows) * blocks;
  given.codes.resize(static_cast<std::size_t>(rows) * cols * tables::code_bits(traits.codes) / 8);
  for (unsigned char& code : given.codes) code = static_cast<unsigned char>(rng());
  for (std::size_t i = 0; i < count; ++i) {
    // Half of the rows' bytes are near each other, the others anything.
    const bool near = i / static_cast<std::size_t>(blocks) % 2 == 0;
    given.byte_scales.push_back(static_cast<unsigned char>(near ? 100 + rng() % 60 : rng()));
    given.scales.push_back(
        std::ldexp(1.0f + static_cast<float>(rng() % 1024) / 1024.0f, static_cast<int>(rng() % 40) - 20));
  }
  if (format == kNvfp4Row) given.row_scales.assign(given.scales.begin(), given.scales.begin() + rows);
  given.rows_stride = common ? 0 : 1;
  given.row_stride = traits.block_cols == 0 ? given.rows_stride : mn ? 1 : blocks;
  given.col_stride = mn ? rows : 1;
  return given;
}

class DeviceGivenOperandTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
    kernel_.emplace(GetParam());
  }
  Operands run(const GivenRows& given, int skip) const {
    std::vector<unsigned char> bytes(static_cast<std::size_t>(skip), 0);
    bytes.insert(bytes.end(), given.codes.begin(), given.codes.end());
    const cuda::DeviceBuffer codes = to_device(bytes), byte_scales = to_device(given.byte_scales),
                             scales = to_device(given.scales), row_scales = to_device(given.row_scales);
    abi::OperandParams p{};
    p.codes = static_cast<const unsigned char*>(codes.data()) + skip;
    p.given_scales = given.has_bytes() ? byte_scales.data() : scales.data();
    if (!given.row_scales.empty()) p.given_rows = static_cast<const float*>(row_scales.data());
    p.given_row_stride = given.row_stride;
    p.given_col_stride = given.col_stride;
    p.given_rows_stride = given.rows_stride;
    p.format = static_cast<int>(given.format);
    p.rows = given.rows;
    p.cols = given.cols;
    return kernel_->run(p, abi::round_up(given.cols, 8));
  }
  void expect_numbers(const GivenRows& given, int skip) const {
    const Operands got = run(given, skip);
    const bool mx = given.format == kMxfp8 || given.format == kMxfp8E5m2;
    std::vector<double> wanted(static_cast<std::size_t>(given.cols));
    for (int r = 0; r < given.rows; ++r) {
      for (int c = 0; c < given.cols; ++c) wanted[c] = given.number(r, c);
      expect_row(got, r, wanted, mx);
    }
  }

  std::mt19937 rng_{testing::fresh_seed()};
  std::optional<OperandKernel> kernel_;
};

TEST_P(DeviceGivenOperandTest, DecodesEveryFormat) {
  for (const QuantFormat format : {kFp8Row, kFp8Block1x128, kMxfp8, kMxfp8E5m2, kNvfp4Row}) {
    const int multiple = tables::quant_row(format).cols_multiple;
    for (const int cols : {multiple, 130 / multiple * multiple, 4096, 8192 + multiple}) {
      for (const bool mn : {false, true}) {
        for (const bool common : {false, true}) {
          for (const int skip : {0, 1, 8}) {
            SCOPED_TRACE(std::string(quant_format_name(format)) + " " + std::to_string(cols) + (mn ? " mn" : "") +
                         (common ? " common" : "") + " + " + std::to_string(skip));
            expect_numbers(random_codes(rng_, format, 11, cols, mn, common), skip);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

// The scale of a block of zeros must not push the others out of bf16's range.
TEST_P(DeviceGivenOperandTest, ZerosWithALargeScaleHideNothing) {
  GivenRows given = random_codes(rng_, kMxfp8, 2, 64, false, false);
  std::fill(given.codes.begin(), given.codes.begin() + 32, static_cast<unsigned char>(0x80));  // -0
  std::fill(given.codes.begin() + 32, given.codes.end(), static_cast<unsigned char>(0x01));
  given.byte_scales = {254, 3, 255, 0};
  const Operands got = run(given, 0);
  for (int c = 32; c < 64; ++c) EXPECT_EQ(got.value(0, c), given.number(0, c));
  for (int c = 0; c < 32; ++c) EXPECT_EQ(got.value(0, c), 0.0);
  for (int c = 0; c < 32; ++c) EXPECT_TRUE(std::isnan(got.value(1, c)));
  for (int c = 32; c < 64; ++c) EXPECT_EQ(got.value(1, c), given.number(1, c)) << "a NaN scale is its block's";
}

INSTANTIATE_TEST_SUITE_P(Targets, DeviceGivenOperandTest, ::testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "portable" : "own"); });

}  // namespace
}  // namespace moesaic
