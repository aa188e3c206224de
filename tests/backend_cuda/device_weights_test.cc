// SPDX-License-Identifier: Apache-2.0
// Byte ranges of views, held against the oracle's decoding: a copy of the range alone decodes to the same numbers, and
// its first and last byte matter.
#include "backend_cuda/device_weights.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "backend_cpu/backend_cpu.h"

namespace moesaic::cuda {
namespace {

using Bytes = std::vector<std::byte>;

std::vector<double> decoded(const MatrixView& m) {
  std::vector<double> values;
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) values.push_back(cpu::matrix_element(m, r, c));
  }
  return values;
}

/// Which memory of a matrix is looked at.
struct Memory {
  const char* name;
  ByteRange (*range_of)(const MatrixView&);
  const void*& (*pointer_of)(MatrixView&);
};
constexpr Memory kCodes{"elements", [](const MatrixView& m) { return element_range(m); },
                        [](MatrixView& m) -> const void*& { return m.data; }};
constexpr Memory kScales{"scales", scale_range, [](MatrixView& m) -> const void*& { return m.quantization.scales; }};
constexpr Memory kZeros{"zeros", zero_range, [](MatrixView& m) -> const void*& { return m.quantization.zeros; }};

/// A copy of the range alone, in memory of its size (a sanitizer sees a byte too few), decodes to the same numbers; to
/// others when its first or its last byte changes.
void expect_exact(const MatrixView& view, const Memory& memory, const std::string& what) {
  SCOPED_TRACE(what + " " + memory.name);
  const ByteRange range = memory.range_of(view);
  ASSERT_GT(range.size(), 0u);
  const std::vector<double> wanted = decoded(view);
  Bytes copy(range.begin, range.end);
  MatrixView moved = view;
  const void*& pointer = memory.pointer_of(moved);
  pointer = copy.data() + (static_cast<const std::byte*>(pointer) - range.begin);
  EXPECT_EQ(decoded(moved), wanted);
  for (std::byte* end : {&copy.front(), &copy.back()}) {
    const std::byte before = *end;
    *end ^= std::byte{0xff};
    EXPECT_NE(decoded(moved), wanted);
    *end = before;
  }
}

class Ranges : public ::testing::Test {
 protected:
  int pick(int first, int last) { return std::uniform_int_distribution<int>(first, last)(random_); }

  /// Bytes whose halves are in [first, last].
  Bytes random_nibbles(int first, int last) {
    Bytes bytes(4096);
    for (std::byte& b : bytes) b = static_cast<std::byte>(pick(first, last) | pick(first, last) << 4);
    return bytes;
  }

  /// Strides of a dense or padded matrix, either way round.
  static void set_linear(std::int64_t rows, std::int64_t cols, int padding, bool transposed, std::int64_t* row_stride,
                         std::int64_t* col_stride) {
    *row_stride = transposed ? 1 : cols + padding;
    *col_stride = transposed ? rows + padding : 1;
  }
  void set_strides(NibbleOrder order, std::int64_t rows, std::int64_t cols, std::int64_t* row_stride,
                   std::int64_t* col_stride) {
    if (order == NibbleOrder::kLinear) {
      return set_linear(rows, cols, pick(0, 3), pick(0, 1) == 1, row_stride, col_stride);
    }
    *row_stride = order == NibbleOrder::kWordsAlongC ? rows : cols;
    *col_stride = order == NibbleOrder::kAwq ? (rows + 7) / 8 * 8 : 1;
  }

  std::mt19937 random_{5};
};

constexpr NibbleOrder kOrders[] = {NibbleOrder::kLinear, NibbleOrder::kWordsAlongC, NibbleOrder::kWordsAlongR,
                                   NibbleOrder::kAwq};

TEST_F(Ranges, FourBitCodesScalesAndZeroPointsOfEveryOrder) {
  for (int round = 0; round < 200; ++round) {
    MatrixView m;
    m.dtype = DType::kU8;
    m.rows = pick(1, 40);
    m.cols = pick(1, 40);
    Quantization& q = m.quantization;
    q.codes = round % 2 == 0 ? CodeFormat::kInt4 : CodeFormat::kE2M1;
    q.order = kOrders[round / 2 % 4];
    q.block_rows = pick(1, 3);
    q.block_cols = pick(1, 20);
    const std::int64_t scale_rows = (m.rows + q.block_rows - 1) / q.block_rows,
                       scale_cols = (m.cols + q.block_cols - 1) / q.block_cols;
    set_strides(q.order, m.rows, m.cols, &m.row_stride, &m.col_stride);
    set_linear(scale_rows, scale_cols, pick(0, 2), pick(0, 1) == 1, &q.scale_row_stride, &q.scale_col_stride);
    // No number is 0, so that every bit of codes, scales and zero points shows.
    const Bytes codes = random_nibbles(1, 7), scales = random_nibbles(3, 6), zeros = random_nibbles(8, 15);
    m.data = codes.data();
    q.scale_format = ScaleFormat::kE4M3;
    q.scales = scales.data();
    const std::string what = "round " + std::to_string(round);
    EXPECT_EQ(zero_range(m).size(), 0u);
    if (q.codes == CodeFormat::kInt4) {
      q.zeros = zeros.data();
      q.zero_order = kOrders[pick(0, 3)];
      set_strides(q.zero_order, scale_rows, scale_cols, &q.zero_row_stride, &q.zero_col_stride);
      expect_exact(m, kZeros, what);
    }
    expect_exact(m, kCodes, what);
    expect_exact(m, kScales, what);
  }
}

TEST_F(Ranges, NumbersAndEightBitCodesOfAnyStrides) {
  for (int round = 0; round < 100; ++round) {
    MatrixView m;
    m.dtype = round % 2 == 0 ? DType::kBF16 : DType::kU8;
    if (m.dtype == DType::kU8) m.quantization.codes = CodeFormat::kE4M3;
    m.rows = pick(1, 20);
    m.cols = pick(1, 20);
    set_linear(m.rows, m.cols, pick(0, 3), pick(0, 1) == 1, &m.row_stride, &m.col_stride);
    const Bytes numbers = random_nibbles(3, 6);
    m.data = numbers.data() + 2048;
    if (round % 4 >= 2) m.row_stride = -m.row_stride;
    expect_exact(m, kCodes, "round " + std::to_string(round));
    EXPECT_EQ(scale_range(m).size(), 0u);
  }
}

TEST(HostRanges, TouchingAndOverlappingViewsAreOne) {
  const std::vector<float> memory(100);
  const auto at = [&](std::size_t i) { return reinterpret_cast<const std::byte*>(&memory[i]); };
  MoeWeights weights;
  weights.experts.resize(2);
  weights.experts[0].gate = {at(0), DType::kF32, 4, 3, 6, 1};  // 0 .. 20, every second run of three
  weights.experts[0].up = {at(3), DType::kF32, 4, 3, 6, 1};    // 3 .. 23, the runs between
  weights.experts[1].down = {at(24), DType::kF32, 2, 3, 3, 1};
  weights.experts[1].down_bias = {at(40), DType::kF32, 5, 2};  // 40 .. 48
  weights.router = {at(60), DType::kF32, 1, 10, 10, 1};
  weights.token_experts = TensorView(at(70), DType::kI32, {5, 2});
  const std::vector<ByteRange> wanted = {{at(0), at(30)}, {at(40), at(49)}, {at(60), at(80)}};
  EXPECT_EQ(host_ranges(weights), wanted);
  EXPECT_TRUE(host_ranges(MoeWeights{}).empty());
}

}  // namespace
}  // namespace moesaic::cuda
