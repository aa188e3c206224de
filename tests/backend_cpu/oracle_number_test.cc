// SPDX-License-Identifier: Apache-2.0
// 16-bit numbers of the oracle and of the fast path, over their whole domain and against each other.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_kernels.h"
#include "backend_cpu/fast_number.h"

namespace moesaic::cpu {
namespace {

double oracle_value(std::uint16_t bits, DType type) { return load_element(&bits, type, 0); }

TEST(OracleNumber, DecodesKnownValues) {
  EXPECT_EQ(oracle_value(0x3f80, DType::kBF16), 1.0);
  EXPECT_EQ(oracle_value(0xc049, DType::kBF16), -3.140625);
  EXPECT_EQ(oracle_value(0x0001, DType::kBF16), 0x1p-133);
  EXPECT_EQ(oracle_value(0x3c00, DType::kF16), 1.0);
  EXPECT_EQ(oracle_value(0x7bff, DType::kF16), 65504.0);
  EXPECT_EQ(oracle_value(0x8001, DType::kF16), -0x1p-24);
  EXPECT_EQ(oracle_value(0x7c00, DType::kF16), HUGE_VAL);
  EXPECT_TRUE(std::isnan(oracle_value(0x7e00, DType::kF16)));
  EXPECT_TRUE(std::signbit(oracle_value(0x8000, DType::kF16)));
}

TEST(OracleNumber, RoundsTiesToEvenInOneStep) {
  EXPECT_EQ(round_to(1.0 + 0x1p-8, DType::kBF16), 1.0);                     // tie, even below
  EXPECT_EQ(round_to(1.0 + 3 * 0x1p-8, DType::kBF16), 1.0 + 0x1p-6);        // tie, even above
  EXPECT_EQ(round_to(1.0 + 0x1p-8 + 0x1p-40, DType::kBF16), 1.0 + 0x1p-7);  // through FP32 it would be a tie
  EXPECT_EQ(round_to(65519.999, DType::kF16), 65504.0);
  EXPECT_EQ(round_to(65520.0, DType::kF16), HUGE_VAL);
  EXPECT_EQ(round_to(0x1p-25, DType::kF16), 0.0);
  EXPECT_EQ(round_to(-3 * 0x1p-25, DType::kF16), -0x1p-23);
  EXPECT_EQ(round_to(0x1p-134, DType::kBF16), 0.0);
  EXPECT_EQ(round_to(0.1, DType::kF32), static_cast<double>(0.1f));
  EXPECT_TRUE(std::isnan(round_to(NAN, DType::kF16)));
  EXPECT_THROW(round_to(1.0, DType::kI32), Error);
}

class FastNumber : public ::testing::TestWithParam<Io> {
 protected:
  DType type() const { return GetParam() == Io::kBf16 ? DType::kBF16 : DType::kF16; }
};

TEST_P(FastNumber, DecodesEveryCodeAsTheOracle) {
  for (int code = 0; code < 0x10000; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const double wanted = oracle_value(bits, type());
    const float got = to_float(bits, GetParam());
    ASSERT_TRUE(got == wanted || (std::isnan(got) && std::isnan(wanted))) << code;
    ASSERT_EQ(std::signbit(got), std::signbit(wanted) != 0 || (std::isnan(wanted) && std::signbit(got))) << code;
  }
}

TEST_P(FastNumber, EncodesAsTheOracleRounds) {
  // All exponents and signs with fractions around every rounding boundary of both types.
  for (std::uint64_t high = 0; high < 0x10000; ++high) {
    for (std::uint32_t low : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x2fffu, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float value = std::bit_cast<float>(static_cast<std::uint32_t>(high << 16) | low);
      const double wanted = round_to(value, type());
      const double got = oracle_value(from_float(value, GetParam()), type());
      ASSERT_TRUE(got == wanted || (std::isnan(got) && std::isnan(wanted))) << value;
      if (!std::isnan(wanted)) {
        ASSERT_EQ(std::signbit(got), std::signbit(wanted)) << value;
      }
    }
  }
}

TEST_P(FastNumber, VectorCodeEqualsScalarCode) {
  std::vector<std::uint16_t> codes(0x10000);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint16_t>(i);
  for (const FastKernels* kernels : available_kernels()) {
    SCOPED_TRACE(kernels->name);
    std::vector<float> wide(codes.size());
    std::vector<std::uint16_t> narrow(codes.size());
    kernels->widen(codes.data(), static_cast<std::int64_t>(codes.size()) - 3, GetParam(), wide.data());
    kernels->narrow(wide.data(), static_cast<std::int64_t>(codes.size()) - 3, GetParam(), narrow.data());
    for (std::size_t i = 0; i + 3 < codes.size(); ++i) {
      const float wanted = to_float(codes[i], GetParam());
      ASSERT_TRUE(wide[i] == wanted || (std::isnan(wide[i]) && std::isnan(wanted))) << i;
      if (!std::isnan(wanted)) {
        ASSERT_EQ(narrow[i], codes[i]);
      }
    }
    EXPECT_EQ(wide.back(), 0.0f) << "written past the count";
  }
}

INSTANTIATE_TEST_SUITE_P(All, FastNumber, ::testing::Values(Io::kBf16, Io::kFp16),
                         [](const auto& param) { return param.param == Io::kBf16 ? "bf16" : "fp16"; });

}  // namespace
}  // namespace moesaic::cpu
