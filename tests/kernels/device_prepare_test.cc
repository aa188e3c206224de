// SPDX-License-Identifier: Apache-2.0
// Prepared quantised weights, read back by the text of kernels/abi/params.h: every element is the oracle's, whatever
// order the codes, scales and zero points came in.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/quantized_layer.h"
#include "backend_cuda/device_weights.h"
#include "kernels/abi/params.h"
#include "plan/prepared_layout.h"
#include "support/device_layer.h"
#include "tables/kernel_table.h"

namespace moesaic {
namespace {

constexpr Device kGpu{DeviceType::kCuda, 0};

/// Numbers of small formats, by their definition.
double small_float(unsigned magnitude, int fraction_bits, int bias) {
  const int exponent = static_cast<int>(magnitude >> fraction_bits);
  const int fraction = static_cast<int>(magnitude & ((1u << fraction_bits) - 1));
  const int significand = exponent == 0 ? fraction : fraction + (1 << fraction_bits);
  return std::ldexp(significand, std::max(exponent, 1) - bias - fraction_bits);
}
double power_of_field(int field, int base) { return field == 0 ? 0.0 : std::ldexp(1.0, field - base); }

/// One prepared matrix of one expert on the host.
class Prepared {
 public:
  Prepared(const plan::WeightForm& form, const plan::MatrixParts& parts, const std::vector<unsigned char>& bytes, int k)
      : form_(form), parts_(parts), bytes_(bytes), k_(k), units_(abi::div_up(k, abi::unit_k(form.weights))) {}

  double element(int block, int row, int k) const {
    const int blocks_before = block * abi::kBlockRows;
    return code(block, row, k) * scale(block, row, k) *
           value<float>(parts_.multipliers, static_cast<std::size_t>(blocks_before + row));
  }

 private:
  template <typename T>
  T value(const plan::Part& part, std::size_t index) const {
    T number;
    std::memcpy(&number, bytes_.data() + part.at + index * sizeof(T), sizeof(T));
    return number;
  }
  template <typename T>
  T value(const plan::Part& part, int index) const {
    return value<T>(part, static_cast<std::size_t>(index));
  }

  /// Word of lane 4 g + t: for row g + 8 r, half (or step) s of the unit.
  unsigned word(int block, int unit, int g, int t, int s, int r) const {
    return value<unsigned>(parts_.weights, ((block * units_ + unit) * 32 + 4 * g + t) * 4 + 2 * s + r);
  }

  double code(int block, int row, int k) const {
    const int g = row % 8, r = row / 8;
    if (form_.weights == abi::kWeightsE4m3 || form_.weights == abi::kWeightsE4m3Block) {
      const int t = k % 32 / 8, s = k % 8 / 4;
      static constexpr int kByte[4] = {1, 3, 0, 2};  // W[c+2], W[c], W[c+3], W[c+1] from the lowest
      const unsigned byte = word(block, k / 32, g, t, s, r) >> 8 * kByte[k % 4] & 0xffu;
      return (byte & 0x80u ? -1.0 : 1.0) * small_float(byte & 0x7fu, 3, 7);
    }
    const int t = k % 32 / 8, h = k % 64 / 32, j = k % 8 / 2;
    const unsigned half = word(block, k / 64, g, t, h, r) >> 16 * (k % 2) & 0xffffu;
    if (form_.weights == abi::kWeightsInt4) return static_cast<int>(half >> 4 * j & 15u) - zero_point(block, row, k);
    static constexpr unsigned kSign[4] = {15, 12, 9, 14};
    const unsigned magnitude = j < 3 ? half >> (6 - 3 * j) & 7u : (half >> 13 & 1u) << 2 | (half >> 10 & 3u);
    return (half >> kSign[j] & 1u ? -1.0 : 1.0) * small_float(magnitude, 1, 1);
  }

  int group_index(int block, int row, int k) const {
    const int groups = abi::div_up(k_, form_.group);
    return ((block * groups + k / form_.group) * 8 + row % 8) * 2 + row / 8;
  }
  int zero_point(int block, int row, int k) const {
    return parts_.zeros.bytes == 0 ? 8 : value<unsigned char>(parts_.zeros, group_index(block, row, k));
  }

  double scale(int block, int row, int k) const {
    const int g = row % 8, r = row / 8, unit = block * units_ + k / abi::unit_k(form_.weights);
    switch (form_.block_scale) {
      case abi::kScaleE8m0:
        if (form_.weights == abi::kWeightsE4m3) {
          return power_of_field(value<unsigned char>(parts_.scales, (unit * 8 + g) * 2 + r), abi::kE4m3Exponent);
        }
        return power_of_field(value<unsigned char>(parts_.scales, ((unit * 8 + g) * 2 + k % 64 / 32) * 2 + r),
                              abi::kMxfp4Exponent);
      case abi::kScaleE4m3: {
        const int q = k % 32 / 16, h = k % 64 / 32;
        const int byte = value<unsigned char>(parts_.scales, (((unit * 8 + g) * 2 + q) * 2 + h) * 2 + r);
        return (1.0 + byte % 8 / 8.0) * std::ldexp(1.0, byte / 8 - 10 - abi::kNvfp4Shift);
      }
      case abi::kScaleFloat:
        return value<float>(parts_.scales, (block * abi::div_up(k_, 128) + k / 128) * 2 + r);
      case abi::kScaleGroup: {
        const unsigned bits = value<unsigned short>(parts_.scales, group_index(block, row, k));
        return (bits >> 15 ? -1.0 : 1.0) * small_float(bits & 0x7fffu, 10, 15);
      }
      case abi::kScaleGroupFloat:
        return value<float>(parts_.scales, group_index(block, row, k));
      default:
        return 1.0;
    }
  }

  const plan::WeightForm& form_;
  plan::MatrixParts parts_;
  const std::vector<unsigned char>& bytes_;
  int k_, units_;
};

class DevicePrepareTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
  }
};

/// FP32 multipliers, and scales that are a rounded product of two numbers, differ from FP64 by a few last bits.
constexpr double kRounding = 0x1p-22;

void expect_matrix(const Prepared& prepared, const MatrixView& gate, const MatrixView& up, const std::string& what) {
  const int per_block = up.empty() ? abi::kBlockRows : 8;
  int wrong = 0;
  for (int row = 0; row < gate.rows; ++row) {
    for (int k = 0; k < gate.cols && wrong < 5; ++k) {
      for (int half = 0; half < (up.empty() ? 1 : 2); ++half) {
        const double wanted = cpu::matrix_element(half == 0 ? gate : up, row, k);
        const double got = prepared.element(row / per_block, row % per_block + 8 * half, k);
        if (std::fabs(got - wanted) <= kRounding * std::fabs(wanted)) continue;
        ADD_FAILURE() << what << (half ? " up" : "") << " [" << row << ", " << k << "]: " << got << ", wanted "
                      << wanted;
        ++wrong;
      }
    }
  }
}

TEST_P(DevicePrepareTest, EveryElementIsTheOracles) {
  const tables::RecipeRow& recipe = tables::kRecipeTable[static_cast<std::size_t>(GetParam())];
  if (tables::prepared_weights(recipe) == abi::kWeights16) GTEST_SKIP() << "16-bit weights have no codes";
  std::mt19937 random(testing::fresh_seed());
  const int rounds = recipe.weight.number == tables::Number::kInt4 ? 12 : 6;
  for (int round = 0; round < rounds; ++round) {
    cpu::LayerShape shape;
    shape.recipe = recipe.name;
    shape.hidden = 128 + 128 * (round % 3), shape.intermediate = round % 2 == 0 ? 128 : 384;
    shape.num_experts = 3, shape.top_k = 1;
    shape.stored = DType::kF32;
    shape.activation.kind = round % 6 < 4 ? ActivationKind::kSwiglu : ActivationKind::kRelu2;
    const Int4Groups int4{32 << round % 3, round % 2 == 1, round >= 6};
    cpu::RandomLayer host = cpu::quantized_layer(shape, int4, random, false);
    host.config.device = kGpu;
    host.config.max_tokens = 8;
    const FusedMoe layer = FusedMoe::create(host.config);
    const cuda::DeviceWeights weights(kGpu, host.weights);
    cuda::DeviceBuffer memory(kGpu, layer.prepared_bytes());
    memory.fill(0xff);
    const cuda::Stream stream(kGpu);
    layer.prepare(weights.views(), memory.data(), stream.get());
    stream.synchronize();
    std::vector<unsigned char> bytes(memory.size());
    memory.download(bytes.data(), bytes.size());
    const plan::PreparedLayout layout = plan::prepared_layout(host.config);
    for (std::size_t e = 0; e < host.weights.experts.size(); ++e) {
      const ExpertWeights& expert = host.weights.experts[e];
      const Prepared w13(layout.form, layout.w13.share(e, 3), bytes, shape.hidden);
      expect_matrix(w13, expert.gate, expert.up, fmt::format("{} round {} expert {} w13", recipe.name, round, e));
      const Prepared w2(layout.form, layout.w2.share(e, 3), bytes, shape.intermediate);
      expect_matrix(w2, expert.down, {}, fmt::format("{} round {} expert {} w2", recipe.name, round, e));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, DevicePrepareTest, ::testing::Range(0, tables::kNumRecipes), [](const auto& info) {
  return std::string(tables::kRecipeTable[static_cast<std::size_t>(info.param)].name);
});

}  // namespace
}  // namespace moesaic
