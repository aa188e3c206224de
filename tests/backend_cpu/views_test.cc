// SPDX-License-Identifier: Apache-2.0
// Names of enumerators, views into fused tensors, and the refusals of the backend's argument checks.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "random_layer.h"

namespace moesaic::cpu {
namespace {

TEST(MoeTypes, NamesAreDistinct) {
  std::set<std::string> activations, methods;
  for (int kind = 0; kind <= 10; ++kind) activations.insert(activation_name(static_cast<ActivationKind>(kind)));
  for (int method = 0; method <= 7; ++method) methods.insert(routing_method_name(static_cast<RoutingMethod>(method)));
  EXPECT_EQ(activations.size(), 11u);
  EXPECT_EQ(methods.size(), 8u);
  EXPECT_STREQ(activation_name(ActivationKind::kSwigluBias), "swiglu_bias");
  EXPECT_STREQ(routing_method_name(RoutingMethod::kDeepSeekV3), "deepseek_v3");
}

TEST(MoeTypes, GatedKinds) {
  const std::set<int> gated = {3, 4, 5, 7, 8, 10};
  for (int kind = 0; kind <= 10; ++kind) {
    EXPECT_EQ(is_gated(static_cast<ActivationKind>(kind)), gated.count(kind) == 1) << kind;
  }
}

// E = 2, H = 3, I = 2; element values are their own index in the stored tensor.
class FusedViews : public ::testing::Test {
 protected:
  FusedViews() {
    for (int i = 0; i < 24; ++i) w13_.push_back(static_cast<float>(i));
    for (int i = 0; i < 12; ++i) w2_.push_back(static_cast<float>(100 + i));
    for (int i = 0; i < 8; ++i) b13_.push_back(static_cast<float>(200 + i));
    for (int i = 0; i < 6; ++i) b2_.push_back(static_cast<float>(300 + i));
  }

  std::vector<ExpertWeights> views(GateUpOrder order, bool gated, bool transposed) {
    const std::int64_t rows = gated ? 4 : 2;
    const auto w13 = transposed ? TensorView(w13_.data(), DType::kF32, {2, 3, rows})
                                : TensorView(w13_.data(), DType::kF32, {2, rows, 3});
    const auto w2 =
        transposed ? TensorView(w2_.data(), DType::kF32, {2, 2, 3}) : TensorView(w2_.data(), DType::kF32, {2, 3, 2});
    return expert_views(w13, w2, order, gated, transposed, TensorView(b13_.data(), DType::kF32, {2, rows}),
                        TensorView(b2_.data(), DType::kF32, {2, 3}));
  }

  static double at(const MatrixView& m, std::int64_t row, std::int64_t col) {
    return load_element(m.data, m.dtype, row * m.row_stride + col * m.col_stride);
  }
  static double at(const VectorView& v, std::int64_t i) { return load_element(v.data, v.dtype, i * v.stride); }

  std::vector<float> w13_, w2_, b13_, b2_;
};

TEST_F(FusedViews, EveryOrder) {
  // First gate row, first up row, and the distance between rows of one kind, in the stored tensor.
  const struct {
    GateUpOrder order;
    int gate, up, step;
  } cases[] = {{GateUpOrder::kGateFirst, 0, 2, 1},
               {GateUpOrder::kUpFirst, 2, 0, 1},
               {GateUpOrder::kInterleavedGateFirst, 0, 1, 2},
               {GateUpOrder::kInterleavedUpFirst, 1, 0, 2}};
  for (const auto& c : cases) {
    const auto plain = views(c.order, true, false), turned = views(c.order, true, true);
    for (int e = 0; e < 2; ++e) {
      for (int i = 0; i < 2; ++i) {
        for (int h = 0; h < 3; ++h) {
          EXPECT_EQ(at(plain[e].gate, i, h), 12 * e + 3 * (c.gate + i * c.step) + h);
          EXPECT_EQ(at(plain[e].up, i, h), 12 * e + 3 * (c.up + i * c.step) + h);
          EXPECT_EQ(at(turned[e].gate, i, h), 12 * e + 4 * h + c.gate + i * c.step);
          EXPECT_EQ(at(turned[e].up, i, h), 12 * e + 4 * h + c.up + i * c.step);
          EXPECT_EQ(at(plain[e].down, h, i), 100 + 6 * e + 2 * h + i);
          EXPECT_EQ(at(turned[e].down, h, i), 100 + 6 * e + 3 * i + h);
        }
        EXPECT_EQ(at(plain[e].gate_bias, i), 200 + 4 * e + c.gate + i * c.step);
        EXPECT_EQ(at(plain[e].up_bias, i), 200 + 4 * e + c.up + i * c.step);
      }
      EXPECT_EQ(at(plain[e].down_bias, 2), 300 + 3 * e + 2);
    }
  }
}

TEST_F(FusedViews, NotGated) {
  const auto plain = views(GateUpOrder::kGateFirst, false, false);
  ASSERT_EQ(plain.size(), 2u);
  EXPECT_TRUE(plain[1].up.empty());
  EXPECT_EQ(at(plain[1].gate, 1, 2), 6 + 3 + 2);
  EXPECT_EQ(at(plain[1].gate_bias, 1), 203);
}

std::string message_of(const std::function<void()>& call, ErrorKind kind = ErrorKind::kInvalidArgument) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "no error";
}

void expect_names(const std::string& message, const std::string& word) {
  EXPECT_NE(message.find(word), std::string::npos) << "message: " << message << "\nwanted: " << word;
}

TEST_F(FusedViews, RefusesShapesThatDoNotFit) {
  const TensorView w13(w13_.data(), DType::kF32, {2, 4, 3}), w2(w2_.data(), DType::kF32, {2, 3, 2});
  const TensorView b13(b13_.data(), DType::kF32, {2, 4}), b2(b2_.data(), DType::kF32, {2, 3});
  const auto call = [&](const TensorView& a, const TensorView& b, bool gated, const TensorView& c,
                        const TensorView& d) {
    return message_of([&] { expert_views(a, b, GateUpOrder::kGateFirst, gated, false, c, d); });
  };
  expect_names(call(w13, TensorView(w2_.data(), DType::kF32, {3, 2}), true, {}, {}), "w2");
  expect_names(call(w13, w2, false, {}, {}), "w13 is f32 [2, 4, 3]");
  expect_names(call(w13, w2, true, b13, {}), "b13 is given without b2");
  expect_names(call(w13, w2, true, {}, b2), "b2 is given without b13");
  expect_names(call(w13, w2, true, b2, b2), "b13 is f32");
  expect_names(call(TensorView(w13_.data(), DType::kI32, {2, 4, 3}), w2, true, {}, {}), "type i32");
  expect_names(call(TensorView(static_cast<const void*>(nullptr), DType::kF32, {2, 4, 3}), w2, true, {}, {}), "null");
}

class Refusals : public ::testing::Test {
 protected:
  Refusals() : random_(1), layer_(LayerShape{}, random_), input_(random_input(layer_.config, 2, random_)) {}

  // The message of the reference loops for a changed layer; the fast path's `prepare` must refuse it too.
  std::string of_layer(const std::function<void(RandomLayer&)>& change, ErrorKind kind = ErrorKind::kInvalidArgument) {
    RandomLayer changed = layer_;
    change(changed);
    std::vector<unsigned char> memory(64);
    EXPECT_NE(message_of([&] { fast_prepare(changed.config, changed.weights, memory.data()); }, kind), "no error");
    return message_of([&] { run_reference(changed, ReferenceMode::kExact, input_, DType::kF32); }, kind);
  }

  std::string of_run(const std::function<void(MoeRun&)>& change) {
    const MoeConfig& config = layer_.config;
    Buffer prepared(fast_prepared_bytes(config)), workspace(fast_workspace_bytes(config, 2));
    fast_prepare(config, layer_.weights, prepared.data());
    std::vector<float> y(2 * config.hidden);
    MoeRun run;
    run.x = TensorView(input_.x.data(), DType::kBF16, {2, config.hidden});
    run.out = TensorView(y.data(), DType::kF32, {2, config.hidden});
    run.prepared = prepared.data();
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    change(run);
    return message_of([&] { fast_run(config, run); });
  }

  std::mt19937 random_;
  RandomLayer layer_;
  Input input_;
};

TEST_F(Refusals, Configurations) {
  expect_names(of_layer([](RandomLayer& l) { l.config.hidden = 0; }), "hidden is 0");
  expect_names(of_layer([](RandomLayer& l) { l.config.recipe = "bf17"; }), "bf17");
  expect_names(of_layer([](RandomLayer& l) { l.config.recipe = "nvfp4"; }), "intermediate is 37, but recipe nvfp4");
  expect_names(of_layer([](RandomLayer& l) { l.config.activation.limit = NAN; }), "limit");
  expect_names(of_layer([](RandomLayer& l) { l.config.activation.alpha = HUGE_VALF; }), "alpha");
  expect_names(of_layer([](RandomLayer& l) { l.config.shared.gated = true; }), "shared");
  expect_names(of_layer([](RandomLayer& l) { l.config.top_k = 6; }), "top_k is 6");
}

TEST_F(Refusals, Weights) {
  expect_names(of_layer([](RandomLayer& l) { l.weights.experts.pop_back(); }), "has 4 entries, wanted 5");
  expect_names(of_layer([](RandomLayer& l) { l.weights.experts[3].up = {}; }), "experts[3].up is missing");
  expect_names(of_layer([](RandomLayer& l) { l.weights.experts[1].down.cols = 36; }), "experts[1].down has shape");
  expect_names(of_layer([](RandomLayer& l) { l.weights.experts[1].gate.dtype = DType::kU8; }), "type u8");
  expect_names(of_layer([](RandomLayer& l) { l.weights.router = {}; }), "router is missing");
  expect_names(of_layer([](RandomLayer& l) { l.config.router = false; }), "config.router is false");
  expect_names(of_layer([](RandomLayer& l) { l.config.activation.kind = ActivationKind::kRelu; }), "not gated");
  expect_names(of_layer([](RandomLayer& l) { l.config.shared.intermediate = 8; }), "shared.gate is missing");
  expect_names(of_layer([](RandomLayer& l) {
                 l.weights.selection_bias = {l.weights.router.data, DType::kF32, 5, 1};
               }),
               "selection_bias");
}

TEST_F(Refusals, Runs) {
  float spare[64] = {};
  EXPECT_EQ(of_run([](MoeRun&) {}), "no error");
  expect_names(of_run([](MoeRun& r) { r.x.dtype = DType::kF32; }), "x has type f32, wanted bf16");
  expect_names(of_run([](MoeRun& r) { r.x.shape[1] = 31; }), "x has shape [2, 31]");
  expect_names(of_run([](MoeRun& r) { r.x.data = nullptr; }), "x has no memory");
  expect_names(of_run([](MoeRun& r) { r.out.shape[0] = 3; }), "out has shape [3, 32], wanted [2, 32]");
  expect_names(of_run([](MoeRun& r) { r.out.dtype = DType::kF64; }), "out has type f64");
  expect_names(of_run([](MoeRun& r) { r.prepared = nullptr; }), "prepared");
  expect_names(of_run([&](MoeRun& r) { std::fill_n(static_cast<char*>(const_cast<void*>(r.prepared)), 8, 'x'); }),
               "prepared");
  expect_names(of_run([](MoeRun& r) { --r.workspace_bytes; }), "workspace");
  expect_names(of_run([](MoeRun& r) { r.workspace = nullptr; }), "workspace is null");
  expect_names(of_run([&](MoeRun& r) {
                 r.topk_weights = TensorView(spare, DType::kF32, {2, 2});
               }),
               "topk_weights is given without topk_ids");
  expect_names(of_run([&](MoeRun& r) { r.router_logits = TensorView(spare, DType::kF32, {2, 4}); }), "router_logits");
  expect_names(message_of([&] { fast_workspace_bytes(layer_.config, layer_.config.max_tokens + 1); }), "max_tokens");
}

}  // namespace
}  // namespace moesaic::cpu
