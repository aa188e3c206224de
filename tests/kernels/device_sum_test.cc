// SPDX-License-Identifier: Apache-2.0
// The weighted sum on a GPU, bit by bit: of FP32 rows for FP32 outputs and in fp16 recipes, of bf16 rows for bf16
// outputs, in slot order, shared experts last. Rows come from runs in which every other slot's expert is nobody.
#include <gtest/gtest.h>

#include <cmath>

#include "support/device_layer.h"

namespace moesaic {
namespace {

using testing::DeviceLayer;
using testing::DeviceResult;
using testing::HostArray;
using testing::HostLayer;

struct DeviceSumTest : testing::DeviceTest {};

MoeConfig layer_config(int hidden, int experts, int top_k, const char* recipe) {
  MoeConfig c;
  c.hidden = hidden;
  c.intermediate = 16;
  c.num_experts = experts;
  c.top_k = top_k;
  c.router = false;
  c.recipe = recipe;
  c.max_tokens = 256;
  c.device = {DeviceType::kCuda, 0};
  return c;
}

std::vector<float> rounded(const std::vector<float>& values, DType type) {
  return testing::to_floats(testing::to_array(values, type));
}

/// Tokens and their experts, slot by slot; -1 and others that are none happen.
struct Routing {
  HostArray x;                 // [T][H]
  std::vector<int> ids;        // [T][k]
  std::vector<float> weights;  // [T][k]
};

Routing random_routing(std::mt19937& rng, const MoeConfig& c, int tokens) {
  Routing r{testing::random_array(rng, std::int64_t{tokens} * c.hidden, tables::get_recipe(c.recipe).io, 1.0), {}, {}};
  std::uniform_int_distribution<int> id(-1, c.num_experts);
  std::uniform_real_distribution<float> weight(0.05f, 0.9f);
  for (int i = 0; i < tokens * c.top_k; ++i) r.ids.push_back(id(rng)), r.weights.push_back(weight(rng));
  return r;
}

/// [T][H] FP32 rows of slot `slot` alone, zero where it has none.
std::vector<float> rows_of(const DeviceLayer& device, const Routing& r, int slot) {
  const int top_k = device.layer().config().top_k;
  std::vector<int> ids(r.ids.size(), -1);
  for (std::size_t i = static_cast<std::size_t>(slot); i < ids.size(); i += static_cast<std::size_t>(top_k)) {
    ids[i] = r.ids[i];
  }
  return testing::to_floats(device.run_into(DType::kF32, {r.x, {}, ids, std::vector<float>(ids.size(), 1.0f)}).y);
}

/// What a token's sum is made of: a row a slot, then the shared experts' with weight 1 where there are any.
struct Terms {
  std::vector<std::vector<float>> rows;  // [k or k + 1][T][H]
  int hidden, top_k;

  /// In FP32 and in order, of rows in `type`.
  std::vector<float> sum(const Routing& r, DType type) const {
    std::vector<float> sums(rows[0].size(), 0.0f);
    for (std::size_t s = 0; s < rows.size(); ++s) {
      const std::vector<float> row = rounded(rows[s], type);
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const bool shared = s == static_cast<std::size_t>(top_k);
        const std::size_t slot = i / static_cast<std::size_t>(hidden) * static_cast<std::size_t>(top_k) + s;
        sums[i] = std::fma(shared ? 1.0f : r.weights[slot], row[i], sums[i]);
      }
    }
    return sums;
  }
};

/// To run GEMMs by the kernel that GEMM 1 of `tokens` tokens is run by.
ModuleOptions by_gemm_of(const DeviceLayer& device, int tokens) {
  ModuleOptions options;
  for (const std::string& name : device.layer().kernels(tokens)) {
    const tables::KernelRow* row = tables::find_kernel(name.substr(0, name.find('/')));
    if (row->op == tables::Op::kGemm && !options.force_kernel) options.force_kernel = name;
  }
  return options;
}

void check_sum(const HostLayer& host, const Routing& r) {
  const MoeConfig& c = host.config;
  SCOPED_TRACE(c.recipe + " H=" + std::to_string(c.hidden) + " k=" + std::to_string(c.top_k));
  HostLayer routed{c, host.weights, {}};  // the same without shared experts
  routed.config.shared = {};
  routed.weights.shared = {};
  // Rows by the same kernel: it may add products in another order.
  const ModuleOptions same = by_gemm_of(DeviceLayer(host, c), static_cast<int>(r.x.size()) / c.hidden);
  const DeviceLayer device(host, c, same), alone(routed, routed.config, same);
  Terms terms{{}, c.hidden, c.top_k};
  for (int slot = 0; slot < c.top_k; ++slot) terms.rows.push_back(rows_of(alone, r, slot));
  if (c.shared.intermediate > 0) {
    const std::vector<int> nobody(r.ids.size(), -1);
    terms.rows.push_back(testing::to_floats(device.run_into(DType::kF32, {r.x, {}, nobody, r.weights}).y));
  }
  const DType io = tables::get_recipe(c.recipe).io;
  const std::vector<float> wide = terms.sum(r, DType::kF32), narrow = terms.sum(r, DType::kBF16);
  const DeviceResult result = device.run(r.x, {}, r.ids, r.weights);
  EXPECT_EQ(result.out, wide);
  EXPECT_EQ(result.rounded, rounded(io == DType::kBF16 ? narrow : wide, io));
  // Where both kinds of rows give one result, the above shows nothing.
  EXPECT_NE(wide, narrow);
  EXPECT_NE(rounded(wide, io), rounded(narrow, io));
}

// Slots in groups of eight and four, columns of one block and of several, a last block that is not full.
TEST_F(DeviceSumTest, RowsHaveTheOutputsTypeAndAreAddedInOrder) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* recipe : {"bf16", "fp16"}) {
    // Shared experts of launches of their own, and as one more of the routed ones.
    for (const auto& [hidden, top_k, tokens, shared] :
         {std::array{40, 2, 24, 24}, std::array{40, 2, 24, 16}, std::array{2056, 13, 2, 0}}) {
      MoeConfig c = layer_config(hidden, top_k + 3, top_k, recipe);
      c.shared.intermediate = shared;
      HostLayer host = testing::random_layer(rng, c, {.biases = true});
      host.weights.router_bias = {};
      check_sum(host, random_routing(rng, c, tokens));
    }
  }
}

}  // namespace
}  // namespace moesaic
