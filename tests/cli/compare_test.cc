// SPDX-License-Identifier: Apache-2.0
// The error measures of `moesaic run`: known answers, and every way in which a wrong output must not pass.
#include "cli/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace moesaic::cli {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

Comparison compare(const std::vector<float>& got, const std::vector<float>& want, std::int64_t cols) {
  return compare_rows(got, want, static_cast<std::int64_t>(want.size()) / cols, cols);
}

TEST(Compare, KnownAnswers) {
  // Row 0: |d| = 1 of 5; row 1: exact. All: 1 of sqrt(50).
  Comparison c = compare({3, 5, 4, 3}, {3, 4, 4, 3}, 2);
  EXPECT_DOUBLE_EQ(c.worst_row_l2, 0.2);
  EXPECT_EQ(c.worst_row, 0);
  EXPECT_DOUBLE_EQ(c.relative_l2, 1 / std::sqrt(50.0));
  EXPECT_DOUBLE_EQ(c.max_abs, 1);
  EXPECT_EQ(c.max_row, 0);
  EXPECT_EQ(c.max_col, 1);
  EXPECT_TRUE(c.within(0.2));
  EXPECT_FALSE(c.within(0.19));
}

TEST(Compare, EqualIsZero) {
  Comparison c = compare({1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}, 3);
  EXPECT_EQ(c.worst_row_l2, 0);
  EXPECT_EQ(c.relative_l2, 0);
  EXPECT_EQ(c.max_abs, 0);
}

TEST(Compare, ASmallRowIsNotHiddenByLargeOnes) {
  std::vector<float> want(200, 1000.0f), got = want;
  for (std::size_t i = 100; i < 110; ++i) want[i] = 1e-3f, got[i] = 2e-3f;
  Comparison c = compare(got, want, 10);
  EXPECT_LT(c.relative_l2, 1e-6);
  EXPECT_NEAR(c.worst_row_l2, 1.0, 1e-6);
  EXPECT_EQ(c.worst_row, 10);
}

TEST(Compare, NothingThatIsNotFinitePasses) {
  EXPECT_FALSE(compare({1, kNan}, {1, 2}, 2).within(1e30));
  EXPECT_FALSE(compare({1, 2}, {1, kNan}, 2).within(1e30));
  EXPECT_FALSE(compare({kInf, 2}, {1, 2}, 2).within(1e30));
  EXPECT_FALSE(compare({kInf, 2}, {-kInf, 2}, 2).within(1e30));
  EXPECT_FALSE(compare({kNan, 2}, {kInf, 2}, 2).within(1e30));
  EXPECT_TRUE(compare({kInf, kNan, 2}, {kInf, kNan, 2}, 3).within(0));
}

TEST(Compare, ZeroRowsAreMetByZerosOnly) {
  EXPECT_TRUE(compare({0, -0.0f}, {0, 0}, 2).within(0));
  EXPECT_FALSE(compare({0, 1e-30f}, {0, 0}, 2).within(1e30));
}

TEST(Compare, NoRowsPass) { EXPECT_TRUE(compare_rows({}, {}, 0, 4).within(0)); }

TEST(Compare, CountsRowsWithOtherIds) {
  std::vector<std::int32_t> want = {1, 2, 3, 4, 5, 6}, got = {1, 2, 4, 3, 5, 6};
  EXPECT_EQ(rows_that_differ(got, want, 3, 2), 1);
  EXPECT_EQ(rows_that_differ(want, want, 3, 2), 0);
}

}  // namespace
}  // namespace moesaic::cli
