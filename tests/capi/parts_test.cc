// SPDX-License-Identifier: Apache-2.0
// Parts of a layer, its steps alone and dispatched rows in C against the C++ interface: the same bytes.
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "fixture.h"
#include "moesaic/activation.h"
#include "moesaic/quantize.h"
#include "moesaic/route.h"

namespace moesaic {
namespace {

/// The experts of `ids`.
MoeWeights held(const MoeWeights& whole, const std::vector<std::size_t>& ids) {
  MoeWeights part = whole;
  part.experts.clear();
  for (const std::size_t id : ids) part.experts.push_back(whole.experts[id]);
  return part;
}

TEST_F(CapiTest, LayersOfSomeExperts) {
  const std::vector<float> whole = run(config(), weights());
  std::vector<float> got(whole.size());
  MoeConfig c = config();
  c.experts.first = 1;
  c.experts.count = 2;
  capi_expert_slice(&data, 1, 2, got.data());
  EXPECT_EQ(got, run(c, held(weights(), {1, 2})));
  EXPECT_NE(got, whole);
  c.experts = {};
  c.experts.slots = {1, -1, -1, 0};
  capi_expert_slots(&data, c.experts.slots.data(), got.data());
  EXPECT_EQ(got, run(c, held(weights(), {3, 0})));
  EXPECT_NE(got, whole);
}

TEST_F(CapiTest, SlicesOfEveryExpert) {
  const std::vector<float> whole = run(config(), weights());
  std::vector<double> sum(whole.size());
  for (const int rank : {0, 1}) {
    std::vector<float> got(whole.size());
    capi_tensor_slice(&data, rank, got.data());
    MoeConfig c = config();
    c.intermediate = kIntermediate / 2;
    c.tp = {rank, 2};
    MoeWeights w = weights();
    const int first = rank * c.intermediate;
    for (ExpertWeights& e : w.experts) {
      for (MatrixView* m : {&e.gate, &e.up}) {
        m->data = static_cast<const std::uint16_t*>(m->data) + first * kHidden;
        m->rows = c.intermediate;
      }
      e.down.data = static_cast<const std::uint16_t*>(e.down.data) + first;
      e.down.cols = c.intermediate;
      for (VectorView* v : {&e.gate_bias, &e.up_bias}) {
        v->data = static_cast<const float*>(v->data) + first;
        v->size = c.intermediate;
      }
    }
    EXPECT_EQ(got, run(c, w)) << rank;
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += got[i];
  }
  for (std::size_t i = 0; i < sum.size(); ++i) ASSERT_NEAR(sum[i], whole[i], 1e-2 * (std::abs(whole[i]) + 1));
}

TEST_F(CapiTest, DispatchedRows) {
  MoeConfig c = config();
  c.experts.first = 1;
  c.experts.count = 3;
  const MoeWeights w = held(weights(), {1, 2, 3});
  std::int32_t offsets[] = {0, 4, 4, 9}, counts[] = {3, 0, 2};
  MoeRun r;
  r.x = TensorView(data.w13, DType::kBF16, {10, kHidden});
  r.expert_offsets = TensorView(offsets, DType::kI32, {4});
  std::vector<float> got(10 * kHidden, NAN);
  capi_dispatched(&data, 0, 10, offsets, got.data());
  EXPECT_EQ(got, run(c, w, r));
  EXPECT_EQ(got.back(), 0) << "the last row is nobody's";
  MoeRun masked;
  masked.x = TensorView(data.w13, DType::kBF16, {3, 3, kHidden});
  masked.expert_counts = TensorView(counts, DType::kI32, {3});
  got.assign(9 * kHidden, NAN);
  capi_dispatched(&data, 3, 9, counts, got.data());
  EXPECT_EQ(got, run(c, w, masked));
  EXPECT_NE(got[2 * kHidden], 0);
}

TEST_F(CapiTest, RoutingByTokenId) {
  MoeConfig c = config();
  c.routing.method = RoutingMethod::kHash;
  c.routing.vocabulary = kVocabulary;
  MoeWeights w = weights();
  w.token_experts = TensorView(data.token_experts, DType::kI32, {kVocabulary, kTopK});
  MoeRun r;
  r.x = x();
  r.token_ids = TensorView(data.token_ids, DType::kI64, {kTokens});
  std::vector<float> got(kTokens * kHidden, NAN);
  capi_token_ids(&data, got.data());
  EXPECT_EQ(got, run(c, w, r));
  EXPECT_NE(got.front(), 0);
  EXPECT_EQ(got.back(), 0) << "the last token has no experts";
}

TEST_F(CapiTest, CodesOfTheCallerGiveWhatNumbersDo) {
  const std::pair<const char*, int> recipes[] = {{"fp8_tensor", MOESAIC_FP8_ROW},
                                                 {"fp8_channel", MOESAIC_FP8_ROW},
                                                 {"fp8_block", MOESAIC_FP8_BLOCK_1X128},
                                                 {"mxfp8_mxfp4", MOESAIC_MXFP8},
                                                 {"nvfp4", MOESAIC_NVFP4_ROW}};
  for (const auto& [recipe, format] : recipes) {
    SCOPED_TRACE(recipe);
    MoeConfig c = config();
    c.recipe = recipe;
    MoeRun r;
    r.x = x();
    r.router_logits = TensorView(data.logits, DType::kF32, {kTokens, kExperts});
    const std::vector<float> wanted = run(c, convert_weights(c, weights()).weights, r);
    for (const int typed : {0, 1}) {
      std::vector<float> numbers(wanted.size(), NAN), codes = numbers;
      capi_given_codes(&data, recipe, format, typed, numbers.data(), codes.data());
      EXPECT_EQ(numbers, wanted);
      EXPECT_EQ(codes, wanted) << (typed != 0 ? "DLPack's types" : "u8");
    }
  }
}

capi_routing route(capi_data& data, const RouterConfig& c) {
  capi_routing to{};
  RouteRun r;
  r.logits = TensorView(data.logits, DType::kF32, {kTokens, kExperts});
  if (has_selection_bias(c.routing.method)) r.selection_bias = TensorView(data.selection_bias, DType::kF32, {kExperts});
  if (c.routing.method == RoutingMethod::kHash) {
    r.token_ids = TensorView(data.token_ids, DType::kI64, {kTokens});
    r.token_experts = TensorView(data.token_experts, DType::kI32, {kVocabulary, kTopK});
  }
  std::int64_t held = 0;
  for (const int slot : c.experts.slots) held += slot >= 0 ? 1 : 0;
  if (c.experts.slots.empty()) held = kExperts;
  r.ids = TensorView(to.ids, DType::kI32, {kTokens, kSlots});
  r.weights = TensorView(to.weights, DType::kF32, {kTokens, kSlots});
  r.row_offsets = TensorView(to.row_offsets, DType::kI32, {held + kSharedSlots + 1});
  r.row_token = TensorView(to.row_token, DType::kI32, {kTokens * kSlots});
  r.row_weight = TensorView(to.row_weight, DType::kF32, {kTokens * kSlots});
  r.slot_row = TensorView(to.slot_row, DType::kI32, {kTokens, kSlots});
  Router::create(c).run(r);
  return to;
}

TEST_F(CapiTest, RoutersOfEveryMethod) {
  for (int number = 0; number < kNumRoutingMethods; ++number) {
    RouterConfig c;
    c.num_experts = kExperts, c.top_k = kTopK, c.max_tokens = 16;
    c.routing.method = static_cast<RoutingMethod>(number);
    SCOPED_TRACE(routing_method_name(c.routing.method));
    const bool grouped = number == MOESAIC_DEEPSEEK_V2 || number == MOESAIC_DEEPSEEK_V3;
    if (grouped) c.routing.n_group = 2;
    if (grouped || number == MOESAIC_HASH) c.routing.scaling = 2.5f;
    if (number == MOESAIC_HASH) c.routing.vocabulary = kVocabulary;
    c.shared_slots = kSharedSlots;
    c.shared_weight = 0.25f;
    for (const bool all : {true, false}) {
      if (!all) c.experts.slots = {2, -1, 0, 1};
      capi_routing got{};
      capi_router(&data, number, all ? nullptr : c.experts.slots.data(), &got);
      const capi_routing wanted = route(data, c);
      EXPECT_EQ(std::memcmp(&got, &wanted, sizeof(got)), 0) << (all ? "all experts" : "three experts");
      EXPECT_GT(got.row_offsets[all ? kExperts : 3], 0) << "rows of routed experts";
    }
  }
}

TEST_F(CapiTest, ActivationsInEveryOrder) {
  for (int kind = MOESAIC_GELU; kind <= MOESAIC_SITU; ++kind) {
    for (int order = MOESAIC_GATE_FIRST; order <= MOESAIC_INTERLEAVED_UP_FIRST; ++order) {
      for (const std::optional<float> limit : {std::optional<float>(), std::optional(0.125f)}) {
        const Activation activation{static_cast<ActivationKind>(kind), {}, {}, limit};
        const std::int64_t outputs = is_gated(activation.kind) ? kHidden / 2 : kHidden;
        std::vector<float> got(static_cast<std::size_t>(kTokens * outputs), NAN), wanted = got;
        capi_activation(&data, kind, order, limit.value_or(NAN), outputs, got.data());
        ActivationOp::create(activation, {}, {}, static_cast<GateUpOrder>(order))
            .run({x(), TensorView(wanted.data(), DType::kF32, {kTokens, outputs})});
        EXPECT_EQ(got, wanted) << activation_name(activation.kind) << " " << order;
      }
    }
  }
}

}  // namespace
}  // namespace moesaic
