// SPDX-License-Identifier: Apache-2.0
// Whole layers of published sizes in the recipes that their checkpoints have, on a GPU: sampled tokens against both
// references.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

#include "backend_cpu/backend_cpu.h"
#include "module/jobs.h"
#include "support/device_layer.h"
#include "support/published_layer.h"
#include "support/recipe_cases.h"
#include "tables/kernel_table.h"

namespace moesaic {
namespace {

using testing::CaseInput;
using testing::DeviceLayer;
using testing::DeviceOutput;
using testing::PublishedFormat;
using testing::PublishedLayer;
using testing::RecipeCase;

constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr std::size_t kGigabyte = 1'000'000'000;

struct PublishedCase {
  const char* name;
  const char* model;
  PublishedFormat format;
  double x_scale;  // with 3 the limit of gpt-oss, 7, is reached
};
void PrintTo(const PublishedCase& c, std::ostream* out) { *out << c.model << " " << c.format.recipe; }

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Why there is too little memory for weights of `bytes` bytes, or empty. The GPU holds them as they are and prepared.
std::string why_no_room(std::size_t bytes) {
  const long long host = module::free_memory_bytes();
  const std::size_t wanted_host = bytes + 4 * kGigabyte, wanted_gpu = 2 * bytes + 2 * kGigabyte;
  if (host >= 0 && static_cast<std::size_t>(host) < wanted_host) {
    return fmt::format("the host has {} bytes of free memory, wanted {}", host, wanted_host);
  }
  try {
    const cuda::DeviceBuffer room(kGpu, wanted_gpu);
  } catch (const Error& error) {
    std::string why = error.what();
    if (why.find("not enough device memory") == std::string::npos) throw;
    return why;
  }
  return "";
}

/// Launches of grouped GEMMs whose rows serve a recipe.
std::ptrdiff_t gemms_of_recipe(const std::vector<std::string>& kernels, const std::string& recipe) {
  return std::count_if(kernels.begin(), kernels.end(), [&](const std::string& kernel) {
    const std::string name = kernel.substr(0, kernel.find('/'));
    return std::any_of(tables::kernel_table().begin(), tables::kernel_table().end(), [&](const tables::KernelRow& row) {
      return row.op == tables::Op::kGemm && name == row.name && (row.recipes & tables::recipe_bit(recipe)) != 0;
    });
  });
}

/// The case of a layer and a number of tokens, as the comparison takes it.
RecipeCase case_of(const MoeConfig& config, int tokens) {
  RecipeCase c;
  c.seed = static_cast<unsigned>(tokens);
  c.recipe = &tables::get_recipe(config.recipe);
  c.tokens = tokens;
  c.hidden = config.hidden;
  c.intermediate = config.intermediate;
  c.experts = config.num_experts;
  c.top_k = config.top_k;
  c.shared = config.shared;
  c.most_sampled = 16;  // each takes the oracle seconds of a core
  return c;
}

/// Logits are about 1 to 3: FP32 sums of `hidden` products.
void expect_logits(const PublishedLayer& layer, const testing::HostArray& x, const std::vector<float>& got) {
  std::vector<float> wanted(got.size());
  const std::int64_t tokens = x.size() / layer.config.hidden;
  ASSERT_EQ(static_cast<std::int64_t>(wanted.size()), tokens * layer.config.num_experts);
  cpu::project(x.bytes.data(), x.dtype, tokens, layer.weights.router, layer.weights.router_bias, wanted.data());
  for (std::size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(got[i], wanted[i], 3e-5f) << "logit " << i;
}

class DevicePublished : public ::testing::TestWithParam<PublishedCase> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
    const std::string why = why_no_room(PublishedLayer::weight_bytes(model(), GetParam().format.recipe));
    if (!why.empty()) GTEST_SKIP() << why;
  }

  static const tables::ModelRow& model() { return tables::get_model(GetParam().model); }

  /// By the layer's own router, twice, in fresh poisoned memory each.
  void expect_run(const PublishedLayer& layer, const DeviceLayer& device, int tokens) const {
    SCOPED_TRACE(fmt::format("{} tokens", tokens));
    const auto start = std::chrono::steady_clock::now();
    const RecipeCase c = case_of(layer.config, tokens);
    std::mt19937 random(c.seed);
    const testing::HostArray x =
        testing::random_array(random, std::int64_t{tokens} * c.hidden, c.recipe->io, GetParam().x_scale);
    const std::ptrdiff_t sets = c.shared.intermediate > 0 ? 2 : 1;
    EXPECT_GE(gemms_of_recipe(device.layer().kernels(tokens), c.recipe->name), 2 * sets);
    const DeviceOutput first = device.run_into(DType::kF32, {x, {}, {}, {}}),
                       second = device.run_into(DType::kF32, {x, {}, {}, {}});
    EXPECT_TRUE(first.guard_intact && second.guard_intact) << "wrote behind a buffer";
    EXPECT_EQ(first.y.bytes, second.y.bytes) << "differs from run to run";
    EXPECT_EQ(first.ids, second.ids);
    const double ran = seconds_since(start);
    ASSERT_NO_FATAL_FAILURE(expect_logits(layer, x, first.logits));
    testing::expect_right(c, layer.config, layer.weights, CaseInput{x, first.logits},
                          {first.y, first.ids, first.weights});
    std::printf("%d tokens: runs %.1f s, references %.1f s\n", tokens, ran, seconds_since(start) - ran);
  }
};

TEST_P(DevicePublished, SampledTokensAreRight) {
  const auto start = std::chrono::steady_clock::now();
  PublishedLayer layer(model(), GetParam().format, 1);
  layer.config.device = kGpu;
  layer.config.max_tokens = 1024;
  const double made = seconds_since(start);
  const DeviceLayer device(layer.weights, layer.config);
  std::printf("weights %.1f s, copied and prepared %.1f s\n", made, seconds_since(start) - made);
  // Decode and a small batch by streamed weights, prefill by tiles.
  for (const int tokens : {2, 512, 1024}) expect_run(layer, device, tokens);
}

INSTANTIATE_TEST_SUITE_P(Models, DevicePublished,
                         ::testing::Values(PublishedCase{"DeepSeekV3", "deepseek-v3", {"fp8_block", false}, 1.0},
                                           PublishedCase{"GptOss120b", "gpt-oss-120b", {"bf16_mxfp4", true}, 3.0}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace moesaic
