// SPDX-License-Identifier: Apache-2.0
// The layer on a GPU against the CPU oracle: small and odd shapes, every activation, routing method and weight layout.
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "support/device_layer.h"
#include "tables/kernel_table.h"

namespace moesaic {
namespace {

using testing::compare;
using testing::DeviceLayer;
using testing::DeviceResult;
using testing::Distance;
using testing::HostArray;
using testing::HostLayer;
using testing::LayerOptions;

struct DeviceLayerTest : testing::DeviceTest {};

MoeConfig base_config(int hidden, int intermediate, int experts, int top_k) {
  MoeConfig c;
  c.hidden = hidden;
  c.intermediate = intermediate;
  c.num_experts = experts;
  c.top_k = top_k;
  c.max_tokens = 4096;
  c.device = {DeviceType::kCuda, 0};
  return c;
}

/// With numbers that matter to these inputs.
Activation activation_of(ActivationKind kind) {
  Activation a;
  a.kind = kind;
  if (kind == ActivationKind::kSwigluBias) a.alpha = 1.702f, a.beta = 1.0f, a.limit = 1.5f;
  if (kind == ActivationKind::kSwigluStep) a.limit = 0.7f;
  return a;
}

/// Runs `tokens` random tokens on the GPU and compares with the oracle under the logits that the GPU used.
void check_layer(std::mt19937& rng, const HostLayer& host, const DeviceLayer& device, int tokens,
                 const std::string& what) {
  SCOPED_TRACE(what + " T=" + std::to_string(tokens));
  const tables::RecipeRow& recipe = tables::get_recipe(host.config.recipe);
  const HostArray x =
      testing::random_array(rng, static_cast<std::int64_t>(tokens) * host.config.hidden, recipe.io, 1.0);
  std::vector<float> logits;
  if (!host.config.router) {
    logits = testing::to_floats(
        testing::random_array(rng, static_cast<std::int64_t>(tokens) * host.config.num_experts, DType::kF32, 1.5));
  }
  const DeviceResult result = device.run(x, logits);
  if (host.config.router) logits = result.logits;
  ASSERT_TRUE(result.guard_intact);
  if (tokens == 0) return;
  const std::vector<double> wanted = testing::oracle_output(host, x, logits);
  const Distance f32 = compare(result.out, wanted, host.config.hidden, recipe.tolerance);
  const Distance io = compare(result.rounded, wanted, host.config.hidden, recipe.tolerance);
  EXPECT_TRUE(f32.finite && io.finite);
  // h is rounded; next to a tie the other way than the oracle's, which an I of few does not average away.
  const double flip = host.config.intermediate < 8 ? recipe.io == DType::kBF16 ? 0x1p-7 : 0x1p-10 : 0.0;
  EXPECT_LE(f32.row_l2, recipe.tolerance.oracle_row_l2 + flip) << "row " << f32.row;
  EXPECT_LE(io.row_l2, recipe.tolerance.oracle_row_l2 + flip) << "row " << io.row;
  EXPECT_LE(f32.element, 1.0);
  EXPECT_LE(io.element, 1.0);
}

void check_config(std::mt19937& rng, const MoeConfig& config, const LayerOptions& options, std::vector<int> tokens,
                  const std::string& what, const ModuleOptions& modules = {}) {
  const HostLayer host = testing::random_layer(rng, config, options);
  const DeviceLayer device(host, config, modules);
  for (const int t : tokens) check_layer(rng, host, device, t, what);
}

TEST_F(DeviceLayerTest, OddShapesMatchTheOracle) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* recipe : {"bf16", "fp16"}) {
    for (const auto& [h, i, e, k] : std::vector<std::array<int, 4>>{
             {160, 96, 1, 1}, {96, 160, 8, 2}, {8, 1, 3, 2}, {200, 37, 5, 5}, {264, 129, 8, 8}, {64, 64, 128, 8}}) {
      MoeConfig c = base_config(h, i, e, k);
      c.recipe = recipe;
      check_config(
          rng, c, {}, {0, 1, 2, 7, 63, 64, 65, 257},
          std::string(recipe) + " H=" + std::to_string(h) + " I=" + std::to_string(i) + " E=" + std::to_string(e));
    }
  }
}

TEST_F(DeviceLayerTest, EveryActivationWithBiasesAndLayouts) {
  std::mt19937 rng(testing::fresh_seed());
  for (int kind = 0; kind <= 10; ++kind) {
    MoeConfig c = base_config(96, 72, 4, 2);
    c.activation = activation_of(static_cast<ActivationKind>(kind));
    LayerOptions o;
    o.biases = kind % 3 != 0;
    o.fused_interleaved = kind % 2 == 1;
    o.transposed = kind % 4 >= 2;
    check_config(rng, c, o, {3, 40, 300}, std::string("activation ") + activation_name(c.activation.kind));
  }
}

TEST_F(DeviceLayerTest, SharedExpertsAndWeightsOnInput) {
  std::mt19937 rng(testing::fresh_seed());
  for (int variant = 0; variant < 6; ++variant) {
    MoeConfig c = base_config(160, 64, 6, variant == 3 ? 1 : 2);
    c.shared.intermediate = variant == 0 ? 128 : variant < 4 ? 40 : 64;
    c.shared.gated = variant % 2 == 0;
    c.weights_on_input = variant >= 2;
    if (variant == 3) c.routing.method = RoutingMethod::kLlama4;
    LayerOptions o;
    o.biases = variant % 2 == 1;
    check_config(rng, c, o, {0, 1, 5, 70, 513}, "shared variant " + std::to_string(variant));
  }
}

TEST_F(DeviceLayerTest, EveryRoutingMethod) {
  std::mt19937 rng(testing::fresh_seed());
  for (int method = 0; method <= static_cast<int>(RoutingMethod::kMiniMax2); ++method) {
    MoeConfig c = base_config(64, 32, 16, 4);
    c.routing.method = static_cast<RoutingMethod>(method);
    const bool grouped =
        c.routing.method == RoutingMethod::kDeepSeekV2 || c.routing.method == RoutingMethod::kDeepSeekV3;
    if (grouped) c.routing.n_group = 4, c.routing.topk_group = 2, c.routing.scaling = 2.5f;
    c.routing.renormalize = c.routing.method != RoutingMethod::kDeepSeekV2;
    LayerOptions o;
    o.biases = true;
    check_config(rng, c, o, {1, 33, 200}, std::string("routing ") + routing_method_name(c.routing.method));
  }
}

/// Each configuration of each row of `op` that can run here with a recipe, and how to ask for it alone.
std::vector<ModuleOptions> rows_of(const char* recipe, tables::Op op = tables::Op::kGemm) {
  std::vector<ModuleOptions> all;
  for (const tables::KernelRow& row : tables::kernel_table()) {
    const auto served = testing::modules_that_serve(row, tables::recipe_index(recipe));
    if (!served || row.op != op) continue;
    for (const abi::KernelConfig& config : row.configs) {
      all.push_back(*served);
      all.back().force_kernel = std::string(row.name) + "/" + tables::config_name(row, config);
    }
  }
  return all;
}

/// A small layer by each configuration of each row of `op` in turn, at few and at many tokens. What ran.
std::set<std::string> run_every(tables::Op op, std::mt19937& rng, const char* recipe) {
  std::set<std::string> ran;
  MoeConfig c = base_config(64, 40, 4, 2);
  c.recipe = recipe;
  const HostLayer host = testing::random_layer(rng, c, {.biases = true});
  for (const ModuleOptions& modules : rows_of(recipe, op)) {
    const DeviceLayer device(host, c, modules);
    for (const int tokens : {3, 150}) {
      for (const std::string& name : device.layer().kernels(tokens)) ran.insert(name);
      check_layer(rng, host, device, tokens, *modules.force_kernel);
    }
  }
  return ran;
}

// Small enough for compute-sanitizer: every config of every row runs once (under memcheck, racecheck,
// initcheck and synccheck).
TEST_F(DeviceLayerTest, EveryConfigOfEveryRowRunsOnce) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* recipe : {"bf16", "fp16"}) {
    std::set<std::string> ran;
    for (const int experts : {4, 32}) {
      MoeConfig c = base_config(64, 40, experts, 2);
      c.recipe = recipe;
      c.shared.intermediate = 24;
      c.shared.gated = true;
      const HostLayer host = testing::random_layer(rng, c, {.biases = true});
      const DeviceLayer device(host, c);
      for (const int tokens : {1, 12, 130, 600}) {
        for (const std::string& name : device.layer().kernels(tokens)) ran.insert(name);
        check_layer(rng, host, device, tokens, recipe);
      }
    }
    for (const tables::Op op : {tables::Op::kGemm, tables::Op::kGather}) {
      for (const std::string& name : run_every(op, rng, recipe)) ran.insert(name);
    }
    for (const tables::KernelRow& row : tables::kernel_table()) {
      if (!testing::modules_that_serve(row, tables::recipe_index(recipe)) || row.op == tables::Op::kPrepare) continue;
      if (row.op == tables::Op::kActivation) continue;  // an op of its own: device_activation_test
      for (const abi::KernelConfig& config : row.configs) {
        const bool dispatched = row.op == tables::Op::kRouting && config.role == 3;
        if (dispatched) continue;  // runs without routing: device_dispatched_test
        const std::string name = std::string(row.name) + "/" + tables::config_name(row, config);
        EXPECT_EQ(ran.count(name), 1u) << name << " did not run";
      }
    }
  }
}

/// A layer of two experts, which both get all tokens, by one kernel: against the oracle, and the first tokens alone.
void check_full_tiles(std::mt19937& rng, const HostLayer& host, const DeviceLayer& device, int all_tokens,
                      const ModuleOptions& modules) {
  const MoeConfig& c = host.config;
  check_layer(rng, host, device, all_tokens, *modules.force_kernel);
  const HostArray x = testing::random_array(rng, all_tokens * c.hidden, DType::kBF16, 1.0);
  const std::vector<float> logits =
      testing::to_floats(testing::random_array(rng, all_tokens * c.num_experts, DType::kF32, 1.5));
  const DeviceResult all = device.run(x, logits);
  for (const int tokens : {1, 40, 90}) {
    HostArray few = x;
    few.bytes.resize(static_cast<std::size_t>(tokens * c.hidden) * dtype_size(DType::kBF16));
    const DeviceResult alone = device.run(few, {logits.begin(), logits.begin() + tokens * c.num_experts});
    EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.end(), all.out.begin()) &&
                std::equal(alone.rounded.begin(), alone.rounded.end(), all.rounded.begin()))
        << *modules.force_kernel << " " << activation_name(c.activation.kind) << ": " << tokens << " tokens of "
        << all_tokens;
  }
}

// Kernels may multiply and store tiles of many tokens otherwise than those of few: nobody must see it. By clusters of
// two 150 are a tile of each block alone, 232 and 300 are shared, as 120 and 112, and 152 and 148.
TEST_F(DeviceLayerTest, FullAndOtherTilesGiveTheSameBits) {
  std::mt19937 rng(testing::fresh_seed());
  for (const ActivationKind kind : {ActivationKind::kSwiglu, ActivationKind::kSwigluBias, ActivationKind::kGeglu}) {
    MoeConfig c = base_config(168, 200, 2, 2);
    c.activation = activation_of(kind);
    const HostLayer host = testing::random_layer(rng, c, {.biases = true});
    for (const ModuleOptions& modules : rows_of("bf16")) {
      const DeviceLayer device(host, c, modules);
      for (const int tokens : {150, 232, 300}) check_full_tiles(rng, host, device, tokens, modules);
    }
  }
}

TEST_F(DeviceLayerTest, PortablePtxGivesTheSameResults) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* target : {"compute_80", "compute_89"}) {
    ModuleOptions modules;
    modules.force_target = target;
    for (const char* recipe : {"bf16", "fp16"}) {
      MoeConfig c = base_config(160, 96, 8, 2);
      c.recipe = recipe;
      c.shared.intermediate = 64;
      c.shared.gated = true;
      check_config(rng, c, {.biases = true}, {1, 7, 64, 257, 1024}, std::string(target) + " " + recipe, modules);
    }
  }
}

TEST_F(DeviceLayerTest, GivenIdsSkipRoutingAndCountAsListed) {
  std::mt19937 rng(testing::fresh_seed());
  MoeConfig c = base_config(64, 48, 6, 3);
  const HostLayer host = testing::random_layer(rng, c, {});
  const DeviceLayer device(host, c);
  for (const int tokens : {1, 9, 300}) {
    const HostArray x = testing::random_array(rng, static_cast<std::int64_t>(tokens) * c.hidden, DType::kBF16, 1.0);
    std::vector<int> ids(static_cast<std::size_t>(tokens * c.top_k));
    std::vector<float> weights(ids.size());
    std::uniform_int_distribution<int> id(-2, 7);  // -2, -1, 6, 7 are nobody's; duplicates happen
    for (std::size_t i = 0; i < ids.size(); ++i)
      ids[i] = id(rng), weights[i] = 0.1f + 0.01f * static_cast<float>(i % 17);
    const DeviceResult result = device.run(x, {}, ids, weights);
    std::vector<double> wanted(static_cast<std::size_t>(x.size()));
    MoeRun run;
    run.x = TensorView(x.bytes.data(), x.dtype, {tokens, c.hidden});
    run.topk_ids = TensorView(ids.data(), DType::kI32, {tokens, c.top_k});
    run.topk_weights = TensorView(weights.data(), DType::kF32, {tokens, c.top_k});
    run.out = TensorView(wanted.data(), DType::kF64, {tokens, c.hidden});
    reference_moe(c, host.weights, ReferenceMode::kOracle, run);
    const Distance d = compare(result.out, wanted, c.hidden, tables::kTolBf16);
    EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2) << tokens;
    EXPECT_LE(d.element, 1.0);
    EXPECT_EQ(result.ids, ids);
  }
}

TEST_F(DeviceLayerTest, SkewedLogitsAndEmptyExperts) {
  std::mt19937 rng(testing::fresh_seed());
  MoeConfig c = base_config(128, 64, 32, 2);
  c.router = false;
  const HostLayer host = testing::random_layer(rng, c, {});
  const DeviceLayer device(host, c);
  for (const int tokens : {1, 65, 700}) {
    const HostArray x = testing::random_array(rng, static_cast<std::int64_t>(tokens) * c.hidden, DType::kBF16, 1.0);
    std::vector<float> logits(static_cast<std::size_t>(tokens * c.num_experts), 0.0f);
    for (int t = 0; t < tokens; ++t) {
      logits[static_cast<std::size_t>(t * c.num_experts + 31)] = 9.0f;  // everything to the last expert
      logits[static_cast<std::size_t>(t * c.num_experts + t % 3)] = 5.0f;
    }
    const DeviceResult result = device.run(x, logits);
    const std::vector<double> wanted = testing::oracle_output(host, x, logits);
    const Distance d = compare(result.out, wanted, c.hidden, tables::kTolBf16);
    EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2);
    EXPECT_LE(d.element, 1.0);
    for (std::size_t i = 0; i < result.ids.size(); i += 2) EXPECT_EQ(result.ids[i], 31);
  }
}

TEST_F(DeviceLayerTest, NanStaysInItsToken) {
  std::mt19937 rng(testing::fresh_seed());
  MoeConfig c = base_config(64, 48, 4, 2);
  const HostLayer host = testing::random_layer(rng, c, {});
  const DeviceLayer device(host, c);
  HostArray x = testing::random_array(rng, 40 * c.hidden, DType::kBF16, 1.0);
  const DeviceResult clean = device.run(x, {});
  std::vector<float> values = testing::to_floats(x);
  values[static_cast<std::size_t>(7 * c.hidden + 3)] = std::numeric_limits<float>::quiet_NaN();
  const DeviceResult dirty = device.run(testing::to_array(values, DType::kBF16), {});
  for (int t = 0; t < 40; ++t) {
    for (int h = 0; h < c.hidden; ++h) {
      const auto i = static_cast<std::size_t>(t * c.hidden + h);
      if (t == 7) {
        EXPECT_TRUE(std::isnan(dirty.out[i]));
      } else {
        EXPECT_EQ(dirty.out[i], clean.out[i]) << "token " << t;
      }
    }
  }
}

TEST_F(DeviceLayerTest, RefusesWhatItCannotServe) {
  MoeConfig c = base_config(100, 64, 4, 2);  // 200-byte rows
  try {
    FusedMoe::create(c);
    FAIL() << "H = 100 was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(e.what()).find("multiple of 8"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace moesaic
