// SPDX-License-Identifier: Apache-2.0
// The whole layer: oracle against exact, fast against oracle, over shapes, routings, activations and storage layouts;
// then what must not matter (batch, threads, memory content) and what must (order of gate and up, clamp, weights).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_kernels.h"
#include "backend_cpu/fast_layout.h"
#include "backend_cpu/fast_threads.h"
#include "random_layer.h"
#include "tables/recipe_table.h"

namespace moesaic::cpu {
namespace {

class Layers : public ::testing::Test {
 protected:
  Layers()
      : seed_(std::random_device{}()), random_(seed_), trace_(__FILE__, __LINE__, "seed " + std::to_string(seed_)) {}
  ~Layers() override {
    use_kernels(nullptr);
    limit_threads(0);
  }

  int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  template <typename T, std::size_t N>
  T pick(const T (&values)[N]) {
    return values[static_cast<std::size_t>(uniform(0, static_cast<int>(N) - 1))];
  }

  unsigned seed_;
  std::mt19937 random_;
  ::testing::ScopedTrace trace_;
};

std::string describe(const LayerShape& shape, std::int64_t tokens) {
  return "T " + std::to_string(tokens) + " H " + std::to_string(shape.hidden) + " I " +
         std::to_string(shape.intermediate) + " E " + std::to_string(shape.num_experts) + " k " +
         std::to_string(shape.top_k) + " " + shape.recipe + " " + activation_name(shape.activation.kind) + " " +
         routing_method_name(shape.routing.method) + " storage " + std::to_string(static_cast<int>(shape.storage)) +
         " stored " + dtype_name(shape.stored) + " shared " + std::to_string(shape.shared.intermediate) +
         (shape.shared.gated ? " gated" : "") + (shape.weights_on_input ? " on_input" : "") +
         (shape.biases ? " biases" : "");
}

// Compares exact, oracle and fast on one input; both output types.
void check_layer(const RandomLayer& layer, const Input& input) {
  const tables::RecipeRow& recipe = tables::get_recipe(layer.config.recipe);
  const tables::Tolerance& tolerance = recipe.tolerance;
  const int hidden = layer.config.hidden;
  const auto measure = [&](const Outcome& got, const Outcome& wanted) {
    return distance(got, wanted, hidden, tolerance.element_rel, tolerance.element_rms);
  };
  const Outcome oracle = run_reference(layer, ReferenceMode::kOracle, input, recipe.io);
  const Outcome fast = run_fast(layer, input, recipe.io);
  ASSERT_EQ(fast.ids, oracle.ids);
  for (std::size_t i = 0; i < oracle.weights.size(); ++i) {
    if (std::isnan(fast.weights[i]) && std::isnan(oracle.weights[i])) continue;
    ASSERT_NEAR(fast.weights[i], oracle.weights[i], 1e-6 * std::fabs(oracle.weights[i]));
  }
  for (std::size_t i = 0; i < oracle.logits.size(); ++i) {
    ASSERT_NEAR(fast.logits[i], oracle.logits[i], 1e-6 * std::fabs(oracle.logits[i]) + 1e-7);
  }
  const Distance near = measure(fast, oracle);
  EXPECT_LE(near.row_l2, tolerance.oracle_row_l2);
  EXPECT_LE(near.element, 1.0);
  // Without the output's rounding, what is left are elements of h that FP32 sums round the other way: about one in a
  // thousand, none in most rows.
  if (input.tokens >= 7) {
    const Distance unrounded =
        measure(run_fast(layer, input, DType::kF32), run_reference(layer, ReferenceMode::kOracle, input, DType::kF64));
    EXPECT_LE(unrounded.median_row_l2, tolerance.oracle_row_l2 / 10);
  }
}

constexpr ActivationKind kKinds[] = {
    ActivationKind::kGelu,      ActivationKind::kRelu,  ActivationKind::kSilu,       ActivationKind::kSwiglu,
    ActivationKind::kGeglu,     ActivationKind::kRelu2, ActivationKind::kSwigluBias, ActivationKind::kSwigluStep,
    ActivationKind::kGegluTanh, ActivationKind::kSitu,  ActivationKind::kIdentity};

Activation with_parameters(ActivationKind kind) {
  Activation activation{kind, {}, {}, {}};
  if (kind == ActivationKind::kSwigluBias) activation = {kind, 1.702f, 1.0f, 1.5f};
  if (kind == ActivationKind::kSwigluStep) activation.limit = 0.5f;
  return activation;
}

TEST_F(Layers, FastMatchesOracleOnRandomShapes) {
  constexpr int kHidden[] = {8, 24, 50, 96, 129, 200}, kIntermediate[] = {16, 37, 96, 160}, kExperts[] = {1, 5, 16};
  constexpr std::int64_t kTokens[] = {1, 2, 7, 33};
  constexpr Storage kStorages[] = {Storage::kSeparate,    Storage::kFusedGateFirst, Storage::kFusedUpFirst,
                                   Storage::kInterleaved, Storage::kTransposed,     Storage::kPaddedRows};
  constexpr DType kStored[] = {DType::kBF16, DType::kF16, DType::kF32};
  for (int round = 0; round < 132; ++round) {
    LayerShape shape;
    shape.hidden = pick(kHidden);
    shape.intermediate = pick(kIntermediate);
    shape.num_experts = pick(kExperts);
    shape.top_k = uniform(1, std::min(shape.num_experts, 8));
    shape.recipe = round % 3 == 0 ? "fp16" : "bf16";
    shape.activation = with_parameters(kKinds[round % std::size(kKinds)]);
    shape.routing.method = static_cast<RoutingMethod>(uniform(0, 7));
    shape.routing.renormalize = uniform(0, 1) == 1;
    shape.routing.scaling = 2.5f;
    if (shape.num_experts == 16 && shape.top_k <= 8) {
      shape.routing.n_group = 4;
      shape.routing.topk_group = 2;
    }
    shape.shared = {uniform(0, 1) * pick(kIntermediate), false};
    shape.shared.gated = shape.shared.intermediate > 0 && uniform(0, 1) == 1;
    shape.weights_on_input = uniform(0, 3) == 0;
    shape.biases = uniform(0, 1) == 1;
    shape.storage = kStorages[round % std::size(kStorages)];
    shape.stored = pick(kStored);
    shape.router_stored = pick(kStored);
    const std::int64_t tokens = pick(kTokens);
    SCOPED_TRACE(describe(shape, tokens));
    const RandomLayer layer(shape, random_);
    const Input input = random_input(layer.config, tokens, random_);
    ASSERT_NO_FATAL_FAILURE(check_layer(layer, input));
    if (HasFailure()) return;
  }
}

// One element decides a row here, so a sum that rounds the other way would be out of tolerance: the seed is fixed.
TEST(SmallestLayers, FastMatchesOracle) {
  std::mt19937 random(7);
  for (const int hidden : {1, 8}) {
    for (const char* recipe : {"bf16", "fp16"}) {
      LayerShape shape;
      shape.hidden = hidden;
      shape.intermediate = shape.num_experts = shape.top_k = 1;
      shape.recipe = recipe;
      const RandomLayer layer(shape, random);
      check_layer(layer, random_input(layer.config, 5, random));
    }
  }
}

TEST_F(Layers, OracleStaysNearExact) {
  for (const char* recipe : {"bf16", "fp16"}) {
    for (const ActivationKind kind : kKinds) {
      LayerShape shape;
      shape.hidden = 160;
      shape.intermediate = 96;
      shape.recipe = recipe;
      shape.activation = with_parameters(kind);
      shape.shared = {64, true};
      shape.stored = std::string(recipe) == "bf16" ? DType::kBF16 : DType::kF16;
      SCOPED_TRACE(describe(shape, 7));
      const RandomLayer layer(shape, random_);
      const Input input = random_input(layer.config, 7, random_);
      const tables::RecipeRow& row = tables::get_recipe(recipe);
      const Outcome exact = run_reference(layer, ReferenceMode::kExact, input, DType::kF64);
      const Outcome oracle = run_reference(layer, ReferenceMode::kOracle, input, row.io);
      const double apart = distance(oracle, exact, shape.hidden, 1.0, 1.0).row_l2;
      EXPECT_LE(apart, row.tolerance.exact_row_l2);
      EXPECT_GT(apart, 1e-5) << "the oracle did not round";
    }
  }
}

TEST_F(Layers, EveryInstructionSetMatchesOracle) {
  for (const FastKernels* kernels : available_kernels()) {
    for (const char* recipe : {"bf16", "fp16"}) {
      for (const std::int64_t tokens : {1, 3, 26, 61}) {
        LayerShape shape;
        shape.hidden = 77;
        shape.intermediate = 150;
        shape.recipe = recipe;
        shape.num_experts = 3;
        shape.top_k = 2;
        SCOPED_TRACE(std::string(kernels->name) + " " + describe(shape, tokens));
        use_kernels(kernels);
        EXPECT_STREQ(fast_target(), kernels->name);
        const RandomLayer layer(shape, random_);
        check_layer(layer, random_input(layer.config, tokens, random_));
      }
    }
  }
}

// Everything exact in bf16, so the result is known to the last bit: relu, H = 2, I = 2, E = 2, k = 2.
struct TinyLayer {
  MoeConfig config;
  MoeWeights weights;
  std::vector<float> gate{1, 0, 0, 1, 2, 0, 0, -1}, down{1, 1, 0, 2, 1, 0, 3, 1};  // [E][2][2]
  std::vector<float> bias{1, 0};

  TinyLayer() {
    config.hidden = config.intermediate = config.num_experts = config.top_k = 2;
    config.activation.kind = ActivationKind::kRelu;
    config.routing.method = RoutingMethod::kTopK;
    config.router = false;
    for (int e = 0; e < 2; ++e) {
      ExpertWeights expert;
      expert.gate = {gate.data() + 4 * e, DType::kF32, 2, 2, 2, 1};
      expert.down = {down.data() + 4 * e, DType::kF32, 2, 2, 2, 1};
      weights.experts.push_back(expert);
    }
    weights.experts[0].gate_bias = {bias.data(), DType::kF32, 2, 1};
    weights.experts[1].down_bias = {bias.data(), DType::kF32, 2, 1};
  }
  TinyLayer(const TinyLayer&) = delete;
  TinyLayer& operator=(const TinyLayer&) = delete;

  // y for x = (3, -2) in the given way of running.
  template <typename Call>
  std::vector<float> run(const Call& call) {
    const std::uint16_t x[] = {float_to_bf16(3.0f), float_to_bf16(-2.0f)};
    const float logits[] = {0.5f, 2.0f};
    std::vector<float> y(2, NAN);
    MoeRun run;
    run.x = TensorView(x, DType::kBF16, {1, 2});
    run.router_logits = TensorView(logits, DType::kF32, {1, 2});
    run.out = TensorView(y.data(), DType::kF32, {1, 2});
    call(run);
    return y;
  }
  std::vector<float> reference(ReferenceMode mode) {
    return run([&](const MoeRun& r) { reference_layer(config, weights, mode, r); });
  }
  std::vector<float> fast() {
    Buffer prepared(fast_prepared_bytes(config)), workspace(fast_workspace_bytes(config, 1));
    fast_prepare(config, weights, prepared.data());
    return run([&](MoeRun r) {
      r.prepared = prepared.data();
      r.workspace = workspace.data();
      r.workspace_bytes = workspace.size();
      fast_run(config, r);
    });
  }
};

TEST(TinyLayer, ByHand) {
  TinyLayer layer;
  // Expert 0: h = relu(3 + 1, -2) = (4, 0), y = (4, 0). Expert 1: h = relu(6, 2), y = (6 + 1, 18 + 2).
  // 0.5 (4, 0) + 2 (7, 20) = (16, 40).
  const std::vector<float> wanted = {16.0f, 40.0f};
  EXPECT_EQ(layer.reference(ReferenceMode::kExact), wanted);
  EXPECT_EQ(layer.reference(ReferenceMode::kOracle), wanted);
  EXPECT_EQ(layer.fast(), wanted);
}

TEST(TinyLayer, WeightsOnInputByHand) {
  TinyLayer layer;
  layer.config.weights_on_input = true;
  // Expert 0: h = relu(0.5 * 3 + 1, -1) = (2.5, 0), y = (2.5, 0). Expert 1: h = relu(12, 4), y = (12 + 1, 36 + 4).
  const std::vector<float> wanted = {15.5f, 40.0f};
  EXPECT_EQ(layer.reference(ReferenceMode::kExact), wanted);
  EXPECT_EQ(layer.reference(ReferenceMode::kOracle), wanted);
  EXPECT_EQ(layer.fast(), wanted);
}

TEST_F(Layers, GivenRoutingCountsDuplicatesTwiceAndOutsidersNotAtAll) {
  LayerShape shape;
  shape.top_k = 3;
  const RandomLayer layer(shape, random_);
  Input input = random_input(layer.config, 4, random_);
  input.topk_ids = {2, 2, 0, -1, 1, 5, 2147483647, -2147483647 - 1, 99, 0, 2, 2};
  input.topk_weights = {0.5f, 0.25f, 1.0f, NAN, 2.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 0.75f, 0.0f};
  ASSERT_NO_FATAL_FAILURE(check_layer(layer, input));
  Input merged = input;
  merged.topk_ids = {2, -1, 0, -1, 1, -1, -1, -1, -1, 0, 2, -1};
  merged.topk_weights = {0.75f, 0.0f, 1.0f, 0.0f, 2.0f, 0.0f, 0.0f, 0.0f, 0.0f, 1.0f, 0.75f, 0.0f};
  const Outcome apart = run_reference(layer, ReferenceMode::kExact, input, DType::kF64);
  const Outcome together = run_reference(layer, ReferenceMode::kExact, merged, DType::kF64);
  EXPECT_LE(distance(apart, together, shape.hidden, 1e-9, 1e-9).row_l2, 1e-12);
  for (int j = 0; j < shape.hidden; ++j) EXPECT_EQ(run_fast(layer, input, DType::kF32).y[2 * shape.hidden + j], 0.0);
}

TEST_F(Layers, AllTokensToOneExpertAndEmptyExperts) {
  LayerShape shape;
  shape.num_experts = 16;
  shape.top_k = 1;
  const RandomLayer layer(shape, random_);
  Input input = random_input(layer.config, 130, random_);
  input.router_logits.assign(130 * 16, -1.0f);
  for (int t = 0; t < 130; ++t) input.router_logits[t * 16 + 11] = 1.0f;
  check_layer(layer, input);
  EXPECT_EQ(run_fast(layer, input, DType::kF32).ids, std::vector<std::int32_t>(130, 11));
}

TEST_F(Layers, NoTokens) {
  const RandomLayer layer(LayerShape{}, random_);
  const Input input = random_input(layer.config, 0, random_);
  EXPECT_TRUE(run_fast(layer, input, DType::kBF16).y.empty());
  EXPECT_TRUE(run_reference(layer, ReferenceMode::kOracle, input, DType::kBF16).y.empty());
}

TEST_F(Layers, TokenDoesNotDependOnItsBatch) {
  LayerShape shape;
  shape.hidden = 136;
  shape.intermediate = 96;
  shape.shared = {48, true};
  const RandomLayer layer(shape, random_);
  const std::int64_t tokens = kChunkTokens + 77;  // two chunks, full and ragged tiles
  const Input batch = random_input(layer.config, tokens, random_);
  const Outcome together = run_fast(layer, batch, DType::kF32);
  for (const std::int64_t token : {std::int64_t{0}, std::int64_t{513}, kChunkTokens, tokens - 1}) {
    Input alone;
    alone.tokens = 1;
    alone.x.assign(batch.x.begin() + token * shape.hidden, batch.x.begin() + (token + 1) * shape.hidden);
    const Outcome single = run_fast(layer, alone, DType::kF32);
    const std::vector<double> row(together.y.begin() + token * shape.hidden,
                                  together.y.begin() + (token + 1) * shape.hidden);
    EXPECT_EQ(single.y, row) << "token " << token;
  }
}

TEST_F(Layers, ThreadsDoNotChangeBits) {
  LayerShape shape;
  shape.hidden = 96;
  const RandomLayer layer(shape, random_);
  const Input input = random_input(layer.config, 33, random_);
  const Outcome all = run_fast(layer, input, DType::kF32);
  limit_threads(1);
  EXPECT_EQ(run_fast(layer, input, DType::kF32).y, all.y);
}

TEST_F(Layers, ConcurrentRunsDoNotDisturbEachOther) {
  const RandomLayer layer(LayerShape{}, random_);
  const Input input = random_input(layer.config, 33, random_);
  const Outcome wanted = run_fast(layer, input, DType::kF32);
  std::vector<Outcome> got(4);
  std::vector<std::thread> threads;
  for (Outcome& outcome : got) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) outcome = run_fast(layer, input, DType::kF32);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Outcome& outcome : got) EXPECT_EQ(outcome.y, wanted.y);
}

TEST_F(Layers, NanReachesItsOwnTokenOnly) {
  const RandomLayer layer(LayerShape{}, random_);
  Input input = random_input(layer.config, 9, random_);
  const Outcome clean = run_fast(layer, input, DType::kF32);
  input.x[4 * layer.config.hidden + 3] = 0x7fc0;
  for (const bool fast : {false, true}) {
    const Outcome dirty =
        fast ? run_fast(layer, input, DType::kF32) : run_reference(layer, ReferenceMode::kOracle, input, DType::kF32);
    for (std::size_t i = 0; i < dirty.y.size(); ++i) {
      if (i / layer.config.hidden == 4) {
        ASSERT_TRUE(std::isnan(dirty.y[i]));
      } else if (fast) {
        ASSERT_EQ(dirty.y[i], clean.y[i]);
      } else {
        ASSERT_FALSE(std::isnan(dirty.y[i]));
      }
    }
    EXPECT_TRUE(std::all_of(dirty.ids.begin(), dirty.ids.end(), [](std::int32_t id) { return id >= 0 && id < 5; }));
  }
}

TEST_F(Layers, LogitsAndWeightsComeOutAsTheyWentIn) {
  const RandomLayer layer(LayerShape{}, random_);
  Input input = random_input(layer.config, 3, random_);
  for (int i = 0; i < 15; ++i) input.router_logits.push_back(static_cast<float>(uniform(-9, 9)));
  EXPECT_EQ(run_fast(layer, input, DType::kF32).logits, input.router_logits);
  EXPECT_EQ(run_reference(layer, ReferenceMode::kExact, input, DType::kF32).logits, input.router_logits);
  input.topk_ids = {0, 1, 2, 3, 4, 0};
  input.topk_weights = {1, 2, 3, 4, 5, 6};
  for (const Outcome& outcome :
       {run_fast(layer, input, DType::kF32), run_reference(layer, ReferenceMode::kExact, input, DType::kF32)}) {
    EXPECT_EQ(outcome.ids, input.topk_ids);
    EXPECT_EQ(outcome.weights, input.topk_weights);
  }
}

// The comparison itself must notice wrong layers: each mutation moves the result out of tolerance.
TEST_F(Layers, MutationsAreNoticed) {
  LayerShape shape;
  shape.hidden = 96;
  shape.intermediate = 64;
  shape.biases = true;
  shape.shared = {32, true};
  shape.activation = with_parameters(ActivationKind::kSwigluBias);
  const RandomLayer layer(shape, random_);
  const Input input = random_input(layer.config, 7, random_);
  const tables::RecipeRow& recipe = tables::get_recipe("bf16");
  const Outcome wanted = run_reference(layer, ReferenceMode::kOracle, input, recipe.io);
  const auto expect_far = [&](const char* what, const std::function<void(RandomLayer&)>& mutate) {
    RandomLayer mutated = layer;
    mutate(mutated);
    EXPECT_GT(distance(run_fast(mutated, input, recipe.io), wanted, shape.hidden, 1.0, 1.0).row_l2,
              2 * recipe.tolerance.oracle_row_l2)
        << what;
  };
  expect_far("gate and up swapped", [](RandomLayer& l) {
    for (ExpertWeights& e : l.weights.experts) std::swap(e.gate, e.up);
  });
  expect_far("no clamp", [](RandomLayer& l) { l.config.activation.limit.reset(); });
  expect_far("no beta", [](RandomLayer& l) { l.config.activation.beta = 0.0f; });
  expect_far("no gate bias", [](RandomLayer& l) {
    for (ExpertWeights& e : l.weights.experts) e.gate_bias = {};
  });
  expect_far("no down bias", [](RandomLayer& l) {
    for (ExpertWeights& e : l.weights.experts) e.down_bias = {};
  });
  expect_far("no router bias", [](RandomLayer& l) { l.weights.router_bias = {}; });
  expect_far("weights on input", [](RandomLayer& l) { l.config.weights_on_input = true; });
  expect_far("not renormalised", [](RandomLayer& l) { l.config.routing.method = RoutingMethod::kSoftmaxTopK; });
  expect_far("shared expert without gate", [](RandomLayer& l) {
    l.config.shared.gated = false;
    l.weights.shared_gate = {};
  });
  expect_far("experts rotated", [](RandomLayer& l) {
    std::rotate(l.weights.experts.begin(), l.weights.experts.begin() + 1, l.weights.experts.end());
  });
}

}  // namespace
}  // namespace moesaic::cpu
