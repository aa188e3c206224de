// SPDX-License-Identifier: Apache-2.0
// Products in C against the C++ interface: the same bytes.
#include "moesaic/gemm.h"

#include <cmath>
#include <cstring>

#include "fixture.h"
#include "moesaic/quantize.h"

namespace moesaic {
namespace {

constexpr float kUntouched = 77.0f;
constexpr float kInputScale = 0.011f;

/// w13's numbers as matrices of a recipe: the gates of a layer that is converted to it.
OwnedWeights matrices(capi_data& data, const std::string& recipe, int groups) {
  MoeConfig c;
  c.hidden = kGemmK, c.intermediate = kGemmN, c.num_experts = groups, c.top_k = 1;
  c.recipe = recipe;
  c.activation.kind = ActivationKind::kRelu;
  c.router = false;
  MoeWeights w;
  for (int g = 0; g < groups; ++g) {
    ExpertWeights expert;
    expert.gate = {&data.w13[0][0][0] + g * kMostCodes, DType::kBF16, kGemmN, kGemmK, kGemmK, 1};
    expert.down = {data.w2, DType::kBF16, kGemmK, kGemmN, kGemmN, 1};
    w.experts.push_back(expert);
  }
  return convert_weights(c, w);
}

std::vector<float> multiply(capi_data& data, const capi_product& p) {
  GemmConfig c;
  c.n = kGemmN, c.k = kGemmK, c.max_rows = 16;
  c.groups = p.numbers == nullptr ? 1 : kGroups;
  c.recipe = p.recipe;
  c.e5m2 = p.x_format == MOESAIC_MXFP8_E5M2;
  const OwnedWeights owned = matrices(data, c.recipe, c.groups);
  std::vector<GemmWeights> weights;
  for (int g = 0; g < c.groups; ++g) {
    weights.push_back({owned.weights.experts[static_cast<std::size_t>(g)].gate, {data.b13[g], DType::kF32, kGemmN, 1}});
  }
  std::vector<float> y(static_cast<std::size_t>(p.rows * kGemmN), kUntouched);
  GemmRun r;
  r.x = TensorView(data.w2, DType::kBF16, {p.rows, kGemmK});
  r.out = TensorView(y.data(), DType::kF32, {p.rows, kGemmN});
  if (p.max > 0) {
    r.x = TensorView(data.w2, DType::kBF16, {kGroups, p.max, kGemmK});
    r.out = TensorView(y.data(), DType::kF32, {kGroups, p.max, kGemmN});
    r.group_counts = TensorView(p.numbers, DType::kI32, {kGroups});
  } else if (p.numbers != nullptr) {
    r.group_offsets = TensorView(p.numbers, DType::kI32, {kGroups + 1});
  }
  if (p.x_format == MOESAIC_FP8_STATIC) r.input_scale = TensorView(&p.input_scale, DType::kF32, {1});
  r.alpha = p.alpha;
  const Gemm gemm = Gemm::create(c);
  std::vector<std::uint64_t> memory(gemm.prepared_bytes() / 8 + 64);
  r.prepared = r.workspace =
      reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 255) / 256 * 256);
  gemm.prepare(weights, r.workspace);
  gemm.run(r);  // on the CPU a workspace has no bytes
  return y;
}

class CapiGemmTest : public CapiTest {
 protected:
  /// In C, numbers and codes, against C++; the rows of no group are untouched.
  void expect_same(const capi_product& p, const std::vector<std::int64_t>& untouched) {
    const std::vector<float> wanted = multiply(data, p);
    std::vector<float> own(wanted.size(), kUntouched), given = own;
    capi_gemm(&data, &p, own.data(), given.data());
    EXPECT_EQ(own, wanted);
    if (p.x_format >= 0) {
      EXPECT_EQ(given, wanted) << "of codes";
    }
    std::vector<std::int64_t> kept;
    for (std::int64_t row = 0; row < p.rows; ++row) {
      if (wanted[static_cast<std::size_t>(row * kGemmN)] == kUntouched) kept.push_back(row);
    }
    EXPECT_EQ(kept, untouched);
  }
};

constexpr capi_product kProducts[] = {
    {"bf16", -1, -1, 0, 1.0f, 0.0f, 0, 0, nullptr},
    {"fp8_tensor", MOESAIC_FP8_STATIC, MOESAIC_FP8_TENSOR, 0, -0.75f, kInputScale, 0, 0, nullptr},
    {"fp8_channel", MOESAIC_FP8_ROW, MOESAIC_FP8_ROW, 1, 1.0f, 0.0f, 0, 0, nullptr},
    {"fp8_block", MOESAIC_FP8_BLOCK_1X128, MOESAIC_FP8_BLOCK_128X128, 1, 2.5f, 0.0f, 0, 0, nullptr},
    {"mxfp8", MOESAIC_MXFP8, MOESAIC_MXFP8, 0, 1.0f, 0.0f, 0, 0, nullptr},
    {"mxfp8_mxfp4", MOESAIC_MXFP8_E5M2, MOESAIC_MXFP4, 1, 1.0f, 0.0f, 0, 0, nullptr},
    {"nvfp4", MOESAIC_NVFP4_ROW, MOESAIC_NVFP4, 1, -1.5f, 0.0f, 0, 0, nullptr},
};

TEST_F(CapiGemmTest, OneGroupOffsetsAndCounts) {
  std::int32_t offsets[] = {0, 4, 4, 9}, counts[] = {3, 0, 2};
  for (capi_product p : kProducts) {
    SCOPED_TRACE(p.recipe);
    p.rows = 5;
    expect_same(p, {});
    p.rows = 10;
    p.numbers = offsets;
    expect_same(p, {9});
    p.rows = 9;
    p.max = 3;
    p.numbers = counts;
    expect_same(p, {3, 4, 5, 8});
  }
}

TEST_F(CapiGemmTest, AlphaAndInputScaleMatter) {
  capi_product p = kProducts[1];
  p.rows = 5;
  const std::vector<float> scaled = multiply(data, p);
  std::vector<float> own(scaled.size()), given = own;
  p.alpha = 1.0f;
  capi_gemm(&data, &p, own.data(), given.data());
  EXPECT_NE(own, scaled);
  p.input_scale = 3 * kInputScale;  // not a power of two, which would change no bit
  capi_gemm(&data, &p, given.data(), given.data());
  EXPECT_NE(own, given);
}

}  // namespace
}  // namespace moesaic
