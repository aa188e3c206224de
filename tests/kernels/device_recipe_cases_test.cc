// SPDX-License-Identifier: Apache-2.0
// Every recipe's layer on a GPU: the pairwise design of support/recipe_cases.h, and every row of the grouped GEMMs for
// quantised weights.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "kernels/abi/params.h"
#include "support/device_layer.h"
#include "support/recipe_cases.h"
#include "tables/kernel_table.h"

namespace moesaic {
namespace testing {

void PrintTo(const RecipeCase& c, std::ostream* out) { *out << c.name(); }

}  // namespace testing
namespace {

using testing::CaseInput;
using testing::DeviceLayer;
using testing::DeviceOutput;
using testing::RecipeCase;

constexpr Device kGpu{DeviceType::kCuda, 0};

/// Runs a case twice, in fresh poisoned memory each, and holds the result against both references.
void expect_case(const RecipeCase& c, const cpu::RandomLayer& layer, const DeviceLayer& device) {
  const CaseInput input = testing::make_input(c);
  const DeviceOutput first = device.run_into(c.out_type(), {input.x, input.logits, {}, {}}),
                     second = device.run_into(c.out_type(), {input.x, input.logits, {}, {}});
  EXPECT_TRUE(first.guard_intact && second.guard_intact) << "wrote behind a buffer";
  EXPECT_EQ(first.y.bytes, second.y.bytes) << "differs from run to run";
  EXPECT_EQ(first.ids, second.ids);
  testing::expect_right(c, layer.config, layer.weights, input, {first.y, first.ids, first.weights});
}

cpu::RandomLayer layer_on_gpu(const RecipeCase& c) {
  cpu::RandomLayer layer = testing::make_layer(c);
  layer.config.device = kGpu;
  return layer;
}

class DeviceRecipeCase : public ::testing::TestWithParam<RecipeCase> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(DeviceRecipeCase, IsRight) {
  const cpu::RandomLayer layer = layer_on_gpu(GetParam());
  expect_case(GetParam(), layer, DeviceLayer(layer.weights, layer.config));
}

INSTANTIATE_TEST_SUITE_P(Pairwise, DeviceRecipeCase, ::testing::ValuesIn(testing::recipe_cases()),
                         [](const auto& info) { return info.param.name(); });

/// A configuration of a GEMM row for quantised weights, under one of its recipes.
struct RowCase {
  const tables::KernelRow* row;
  const abi::KernelConfig* config;
  const tables::RecipeRow* recipe;

  /// As FusedMoe::kernels says it.
  std::string kernel() const { return std::string(row->name) + "/" + tables::config_name(*row, *config); }
};
void PrintTo(const RowCase& c, std::ostream* out) { *out << c.kernel() << " " << c.recipe->name; }

std::vector<RowCase> quantised_rows() {
  std::vector<RowCase> cases;
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (row.op != tables::Op::kGemm) continue;
    for (const abi::KernelConfig& config : row.configs) {
      if (config.weights == abi::kWeights16) continue;
      for (int recipe = 0; recipe < tables::kNumRecipes; ++recipe) {
        if ((row.recipes >> recipe & 1u) == 0) continue;
        cases.push_back({&row, &config, &tables::kRecipeTable[static_cast<std::size_t>(recipe)]});
      }
    }
  }
  return cases;
}

// Small enough for compute-sanitizer: --gtest_filter='*EveryQuantisedRow*'.
class EveryQuantisedRow : public ::testing::TestWithParam<RowCase> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
  }

  RecipeCase small_case(const Int4Groups& int4) const {
    RecipeCase c;
    c.seed = 1;
    c.recipe = GetParam().recipe;
    c.int4 = int4;
    c.tokens = GetParam().config->tile_tokens + 3;  // tiles that are full, and tiles that are not
    c.experts = 2;
    c.biases = true;
    const int multiple = std::max(8, testing::depth_multiple(c.recipe->name, c.int4));
    // More than one unit of K and one tile of rows, and neither whole.
    c.hidden = (136 + multiple - 1) / multiple * multiple;
    c.intermediate = (72 + multiple - 1) / multiple * multiple;
    return c;
  }

  void check(const Int4Groups& int4) const {
    ModuleOptions modules;
    modules.force_kernel = GetParam().kernel();
    const RecipeCase c = small_case(int4);
    SCOPED_TRACE(c.name());
    const cpu::RandomLayer layer = layer_on_gpu(c);
    const DeviceLayer device(layer.weights, layer.config, modules);
    const std::vector<std::string> names = device.layer().kernels(c.tokens);
    ASSERT_EQ(std::count(names.begin(), names.end(), GetParam().kernel()), 2) << "GEMM 1 and 2";
    expect_case(c, layer, device);
  }
};

TEST_P(EveryQuantisedRow, IsRight) { check({32, true}); }

class EveryInt4RowOfFloatScales : public EveryQuantisedRow {};

TEST_P(EveryInt4RowOfFloatScales, IsRight) {
  check({32, true, true});
  check({64, false, true});
}

std::vector<RowCase> float_group_rows() {
  std::vector<RowCase> rows = quantised_rows();
  rows.erase(
      std::remove_if(rows.begin(), rows.end(), [](const RowCase& c) { return !abi::keeps_float_groups(*c.config); }),
      rows.end());
  return rows;
}

class EveryRowOfStaticScales : public EveryQuantisedRow {
 protected:
  /// Routed and shared experts with static scales, of which `share` of what fits all values: the smaller, the more
  /// saturate. Its last tiles have no whole number of columns, where the recipe's blocks allow it.
  cpu::RandomLayer layer_of(RecipeCase c, ActivationKind kind, float share) const {
    c.activation.kind = kind;
    c.static_scales = true;
    c.weights_on_input = kind == ActivationKind::kRelu2;
    c.shared.intermediate = c.intermediate;
    cpu::RandomLayer layer = layer_on_gpu(c);
    for (ExpertWeights& expert : layer.weights.experts) expert.down_input_scale *= share;
    layer.weights.shared.down_input_scale *= share;
    return layer;
  }
};

// GEMM 1 that quantises its result gives the bits of a launch that does, whatever h is.
TEST_P(EveryRowOfStaticScales, GivesTheBitsOfALaunch) {
  ModuleOptions modules;
  modules.force_kernel = GetParam().kernel();
  RecipeCase c = small_case({32, true});
  c.intermediate += c.recipe->activation.number == tables::Number::kE2m1 ? 0 : 3;
  for (const ActivationKind kind : {ActivationKind::kSwiglu, ActivationKind::kRelu2}) {
    for (const float share : {1.0f, 0x1p-8f, 0x1p20f}) {
      SCOPED_TRACE(share);
      cpu::RandomLayer layer = layer_of(c, kind, share);
      const DeviceLayer launches(layer.weights, layer.config, modules);
      layer.config.static_scales = true;
      const DeviceLayer itself(layer.weights, layer.config, modules);
      CaseInput input = testing::make_input(c);
      const DeviceOutput own = itself.run_into(DType::kF32, {input.x, input.logits, {}, {}});
      EXPECT_TRUE(own.guard_intact);
      EXPECT_EQ(own.y.bytes, launches.run_into(DType::kF32, {input.x, input.logits, {}, {}}).y.bytes);
      if (share == 1.0f) {
        RecipeCase like = c;
        like.f32_out = true;
        testing::expect_right(like, layer.config, layer.weights, input, {own.y, own.ids, own.weights});
      }
      // A NaN, an infinity, and numbers so small that h is of FP32's subnormal ones.
      std::vector<float> values = testing::to_floats(input.x);
      values[5] = std::numeric_limits<float>::quiet_NaN();
      values[static_cast<std::size_t>(c.hidden) + 7] = -std::numeric_limits<float>::infinity();
      for (int i = 2 * c.hidden; i < 3 * c.hidden; ++i) values[static_cast<std::size_t>(i)] *= 0x1p-65f;
      const testing::HostArray x = testing::to_array(values, input.x.dtype);
      EXPECT_EQ(itself.run_into(DType::kF32, {x, input.logits, {}, {}}).y.bytes,
                launches.run_into(DType::kF32, {x, input.logits, {}, {}}).y.bytes);
    }
  }
}

std::vector<RowCase> static_scale_rows() {
  std::vector<RowCase> rows = quantised_rows();
  rows.erase(std::remove_if(rows.begin(), rows.end(),
                            [](const RowCase& c) {
                              return !tables::takes_static_scales(*c.recipe) || !abi::quantises_hidden(*c.config, true);
                            }),
             rows.end());
  return rows;
}

std::string row_case_name(const ::testing::TestParamInfo<RowCase>& info) {
  return std::string(info.param.row->name) + "_" + tables::config_name(*info.param.row, *info.param.config) + "_" +
         info.param.recipe->name;
}
INSTANTIATE_TEST_SUITE_P(Gemm, EveryQuantisedRow, ::testing::ValuesIn(quantised_rows()), row_case_name);
INSTANTIATE_TEST_SUITE_P(Gemm, EveryRowOfStaticScales, ::testing::ValuesIn(static_scale_rows()), row_case_name);
INSTANTIATE_TEST_SUITE_P(Gemm, EveryInt4RowOfFloatScales, ::testing::ValuesIn(float_group_rows()), row_case_name);

}  // namespace
}  // namespace moesaic
