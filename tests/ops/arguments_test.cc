// SPDX-License-Identifier: Apache-2.0
// What FusedMoe, expert_views and reference_moe refuse, and that they keep within the memory that they are given.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "moesaic/quantize.h"
#include "support/expect_error.h"
#include "support/guarded_memory.h"
#include "support/random_layer.h"

namespace moesaic {
namespace {

using testing::expect_error;
using testing::GuardedMemory;

MoeConfig config_of(const std::string& recipe) {
  MoeConfig c;
  c.recipe = recipe;
  c.hidden = 64, c.intermediate = 96, c.num_experts = 6, c.top_k = 2, c.max_tokens = 2048;
  c.shared.intermediate = 32;
  c.shared.gated = true;
  return c;
}

class WithinMemory : public ::testing::TestWithParam<const char*> {};

TEST_P(WithinMemory, PreparedAndWorkspaceExactly) {
  const MoeConfig c = config_of(GetParam());
  std::mt19937 rng(testing::fresh_seed());
  MoeConfig bf16 = c;
  bf16.recipe = "bf16";
  const testing::HostLayer host = testing::random_layer(rng, bf16, {.biases = true});
  const OwnedWeights owned = convert_weights(c, host.weights);
  const FusedMoe layer = FusedMoe::create(c);
  GuardedMemory prepared(layer.prepared_bytes());
  layer.prepare(owned.weights, prepared.data());
  EXPECT_TRUE(prepared.intact());
  layer.prepare_expert(5, owned.weights.experts[0], prepared.data());
  EXPECT_TRUE(prepared.intact());
  layer.prepare_expert(5, owned.weights.experts[5], prepared.data());
  const std::string before = prepared.text();
  const DType io = tables::get_recipe(c.recipe).io;
  for (const std::int64_t tokens : {1, 2, 17, 100, 1025}) {  // 1025: more than one chunk
    const testing::HostArray x = testing::random_array(rng, tokens * c.hidden, io, 1.0);
    GuardedMemory workspace(layer.workspace_bytes(tokens)), again(layer.workspace_bytes(tokens), 0x00);
    const auto rows = static_cast<std::size_t>(tokens);
    GuardedMemory y(rows * 64 * 4), y_again(rows * 64 * 4), logits(rows * 6 * 4), ids(rows * 8), weights(rows * 8);
    MoeRun run;
    run.x = TensorView(x.bytes.data(), io, {tokens, c.hidden});
    run.out = TensorView(y.data(), DType::kF32, {tokens, c.hidden});
    run.prepared = prepared.data();
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    run.logits_out = TensorView(logits.data(), DType::kF32, {tokens, c.num_experts});
    run.topk_ids_out = TensorView(ids.data(), DType::kI32, {tokens, c.top_k});
    run.topk_weights_out = TensorView(weights.data(), DType::kF32, {tokens, c.top_k});
    layer.run(run);
    for (const GuardedMemory* memory : {&workspace, &y, &logits, &ids, &weights, &prepared}) {
      EXPECT_TRUE(memory->intact()) << tokens << " tokens";
    }
    EXPECT_EQ(prepared.text(), before);
    // What the workspace held before does not matter.
    run.workspace = again.data();
    run.out.data = y_again.data();
    layer.run(run);
    EXPECT_TRUE(again.intact());
    EXPECT_EQ(y_again.text(), y.text()) << tokens << " tokens";
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, WithinMemory,
                         ::testing::Values("bf16", "fp16", "fp8_tensor", "fp8_channel", "fp8_block", "mxfp8",
                                           "mxfp8_mxfp4", "fp8_mxfp4", "bf16_mxfp4", "nvfp4", "bf16_nvfp4", "bf16_int4",
                                           "fp8_int4"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Arguments, ConfigurationsThatAreNoLayer) {
  const auto expect = [](const std::vector<std::string>& words, const std::function<void(MoeConfig&)>& change) {
    MoeConfig c = config_of("bf16");
    change(c);
    expect_error(ErrorKind::kInvalidArgument, words, [&] { FusedMoe::create(c); });
  };
  expect({"hidden is 0", "1 to"}, [](MoeConfig& c) { c.hidden = 0; });
  expect({"hidden is 2147483647", "1 to"}, [](MoeConfig& c) { c.hidden = std::numeric_limits<int>::max(); });
  expect({"intermediate is -1"}, [](MoeConfig& c) { c.intermediate = -1; });
  expect({"num_experts is 2147483647"}, [](MoeConfig& c) { c.num_experts = std::numeric_limits<int>::max(); });
  expect({"top_k is 7", "num_experts 6"}, [](MoeConfig& c) { c.top_k = 7; });
  expect({"max_tokens is 0"}, [](MoeConfig& c) { c.max_tokens = 0; });
  expect({"max_tokens is 2147483647", "2^30"}, [](MoeConfig& c) { c.max_tokens = std::numeric_limits<int>::max(); });
  expect({"shared.intermediate is -5"}, [](MoeConfig& c) { c.shared.intermediate = -5; });
  expect({"shared.intermediate", "shared.gated"}, [](MoeConfig& c) { c.shared.intermediate = 0; });
  expect({"recipe", "bf17", "nvfp4"}, [](MoeConfig& c) { c.recipe = "bf17"; });
  expect({"fp17"}, [](MoeConfig& c) { c.shared.recipe = "fp17"; });
  expect({"activation.kind", "99"}, [](MoeConfig& c) { c.activation.kind = static_cast<ActivationKind>(99); });
  expect({"activation.limit", "nan"}, [](MoeConfig& c) { c.activation.limit = std::nanf(""); });
  expect({"activation.alpha", "inf"},
         [](MoeConfig& c) { c.activation.alpha = std::numeric_limits<float>::infinity(); });
  expect({"activation.beta", "situ"}, [](MoeConfig& c) {
    c.activation.kind = ActivationKind::kSitu;
    c.activation.beta = 0.0f;
  });
  expect({"routing.method", "99"}, [](MoeConfig& c) { c.routing.method = static_cast<RoutingMethod>(99); });
  expect({"routing.scaling", "nan"}, [](MoeConfig& c) { c.routing.scaling = std::nanf(""); });
  expect({"routing.n_group", "divisor"}, [](MoeConfig& c) {
    c.routing.method = RoutingMethod::kDeepSeekV3;
    c.routing.n_group = 4;
  });
  expect({"fused_moe: int4 group of 48", "32, 64 or 128"}, [](MoeConfig& c) {
    c.recipe = "bf16_int4";
    c.int4.size = 48;
  });
  expect({"device has type 7"}, [](MoeConfig& c) { c.device.type = static_cast<DeviceType>(7); });
  expect({"device", "index -1"}, [](MoeConfig& c) { c.device = {DeviceType::kCuda, -1}; });
  expect({"device", "index 1"}, [](MoeConfig& c) { c.device = {DeviceType::kCpu, 1}; });
}

/// A layer, its weights and a run that is right.
struct Prepared {
  testing::HostLayer host;
  FusedMoe layer;
  GuardedMemory prepared, workspace, x, y, routing;
  MoeRun run;

  Prepared()
      : host(make_host()),
        layer(FusedMoe::create(host.config)),
        prepared(layer.prepared_bytes()),
        workspace(layer.workspace_bytes(4)),
        x(4 * 64 * 2, 0x3f),
        y(4 * 64 * 4),
        routing(4 * 6 * 4, 0) {
    layer.prepare(host.weights, prepared.data());
    run.x = TensorView(x.data(), DType::kBF16, {4, 64});
    run.out = TensorView(y.data(), DType::kF32, {4, 64});
    run.prepared = prepared.data();
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
  }
  static testing::HostLayer make_host() {
    std::mt19937 rng(11);
    return testing::random_layer(rng, config_of("bf16"), {.biases = true});
  }
};

void* behind(void* data, std::size_t bytes) { return static_cast<char*>(data) + bytes; }

TEST(Arguments, RunsThatCannotBe) {
  Prepared p;
  p.layer.run(p.run);  // as it is, it is right
  const std::string result = p.y.text();
  const auto expect = [&](const std::vector<std::string>& words, const std::function<void(MoeRun&)>& change) {
    MoeRun run = p.run;
    change(run);
    expect_error(ErrorKind::kInvalidArgument, words, [&] { p.layer.run(run); });
    EXPECT_EQ(p.y.text(), result);
  };
  expect({"x is a view of rank 99"}, [](MoeRun& r) { r.x.rank = 99; });
  expect({"x is a view of rank -1"}, [](MoeRun& r) { r.x.rank = -1; });
  expect({"x", "[-4, 64]"}, [](MoeRun& r) { r.x.shape[0] = -4; });
  expect({"x", "unknown"}, [](MoeRun& r) { r.x.dtype = static_cast<DType>(77); });
  expect({"x is at", "multiple of 2 bytes"}, [](MoeRun& r) { r.x.data = behind(r.x.data, 1); });
  expect({"out is a view of rank 5"}, [](MoeRun& r) { r.out.rank = 5; });
  expect({"out is at", "multiple of 4 bytes"}, [](MoeRun& r) { r.out.data = behind(r.out.data, 2); });
  expect({"out is a null pointer"}, [](MoeRun& r) { r.out.data = nullptr; });
  expect({"prepared is at", "256"}, [](MoeRun& r) { r.prepared = behind(const_cast<void*>(r.prepared), 128); });
  expect({"prepared", "wrote"}, [](MoeRun& r) { r.prepared = r.workspace; });
  expect({"workspace is at", "256"}, [](MoeRun& r) { r.workspace = behind(r.workspace, 64); });
  expect({"workspace is 0 bytes", "multiple of 256"}, [](MoeRun& r) { r.workspace_bytes = 0; });
  expect({"router_logits is at", "multiple of 4"}, [&](MoeRun& r) {
    r.router_logits = TensorView(behind(p.routing.data(), 1), DType::kF32, {4, 6});
  });
  expect({"logits_out", "f32 [4, 6]"}, [&](MoeRun& r) {
    r.logits_out = TensorView(p.routing.data(), DType::kF32, {4, 5});
  });
  expect({"logits_out", "topk_ids"}, [&](MoeRun& r) {
    r.topk_ids = TensorView(p.routing.data(), DType::kI32, {4, 2});
    r.topk_weights = TensorView(p.routing.data(), DType::kF32, {4, 2});
    r.logits_out = TensorView(p.routing.data(), DType::kF32, {4, 6});
  });
  expect({"topk_ids_out", "i32 [4, 2]"}, [&](MoeRun& r) {
    r.topk_ids_out = TensorView(p.routing.data(), DType::kI64, {4, 2});
  });
  expect({"topk_weights_out is a null pointer"}, [&](MoeRun& r) {
    r.topk_weights_out = TensorView(p.routing.data(), DType::kF32, {4, 2});
    r.topk_weights_out.data = nullptr;
  });
  expect({"token_ids is i64 [4]", "none: routing hash"},
         [&](MoeRun& r) { r.token_ids = TensorView(p.routing.data(), DType::kI64, {4}); });
  expect({"expert_counts is at", "multiple of 4"}, [&](MoeRun& r) {
    r.expert_counts = TensorView(behind(p.routing.data(), 2), DType::kI32, {6});
    r.x = TensorView(p.x.data(), DType::kBF16, {6, 0, 64});
  });
  expect({"expert_offsets is at", "multiple of 4"},
         [&](MoeRun& r) { r.expert_offsets = TensorView(behind(p.routing.data(), 1), DType::kI32, {7}); });
  expect({"expert_offsets is a null pointer"},
         [](MoeRun& r) { r.expert_offsets = TensorView(static_cast<void*>(nullptr), DType::kI32, {7}); });
  for (const std::int64_t tokens : {std::int64_t{-1}, std::int64_t{2049}}) {
    expect_error(ErrorKind::kInvalidArgument, {"max_tokens 2048"}, [&] { p.layer.workspace_bytes(tokens); });
    expect_error(ErrorKind::kInvalidArgument, {"max_tokens 2048"}, [&] { p.layer.kernels(tokens); });
  }
}

// 2^62 tokens of 64 numbers are no numbers where sizes wrap.
TEST(Arguments, ReferencesOfMoreTokensThanSizesCanSay) {
  Prepared p;
  for (const int log2_tokens : {31, 62}) {
    MoeRun run = p.run;
    run.x.shape[0] = run.out.shape[0] = std::int64_t{1} << log2_tokens;
    expect_error(ErrorKind::kInvalidArgument, {"fused_moe: x is", "tokens, wanted 0 to 1073741824"},
                 [&] { reference_moe(p.host.config, p.host.weights, ReferenceMode::kOracle, run); });
  }
}

TEST(Arguments, TokenIdsThatCannotBe) {
  MoeConfig c = config_of("bf16");
  c.shared = {};
  c.router = false;
  c.routing.method = RoutingMethod::kHash;
  c.routing.vocabulary = 10;
  std::mt19937 rng(13);
  testing::HostLayer host = testing::random_layer(rng, c, {});
  std::vector<std::int32_t> token_experts(20, 1);
  host.weights.token_experts = TensorView(token_experts.data(), DType::kI32, {10, 2});
  std::vector<std::uint16_t> x(4 * 64);
  std::vector<float> logits(4 * 6), y(4 * 64);
  std::vector<std::int64_t> ids(5);
  MoeRun good;
  good.x = TensorView(x.data(), DType::kBF16, {4, 64});
  good.router_logits = TensorView(logits.data(), DType::kF32, {4, 6});
  good.token_ids = TensorView(ids.data(), DType::kI64, {4});
  good.out = TensorView(y.data(), DType::kF32, {4, 64});
  const auto run = [&](const MoeRun& r) { reference_moe(c, host.weights, ReferenceMode::kOracle, r); };
  run(good);
  const auto expect = [&](const std::vector<std::string>& words, const std::function<void(MoeRun&)>& change) {
    MoeRun r = good;
    change(r);
    expect_error(ErrorKind::kInvalidArgument, words, [&] { run(r); });
  };
  expect({"token_ids is empty", "i64 or i32 [4]"}, [](MoeRun& r) { r.token_ids = {}; });
  expect({"token_ids is i64 [5]", "i64 or i32 [4]"}, [](MoeRun& r) { r.token_ids.shape[0] = 5; });
  expect({"token_ids is f32 [4]"}, [](MoeRun& r) { r.token_ids.dtype = DType::kF32; });
  expect({"token_ids is a null pointer"}, [](MoeRun& r) { r.token_ids.data = nullptr; });
  expect({"token_ids is at", "multiple of 8"}, [](MoeRun& r) { r.token_ids.data = behind(r.token_ids.data, 4); });
  expect({"token_ids is at", "multiple of 4"},
         [](MoeRun& r) { r.token_ids = TensorView(behind(r.token_ids.data, 2), DType::kI32, {4}); });
  expect({"token_ids is i64 [4]", "none: topk_ids"}, [&](MoeRun& r) {
    r.router_logits = {};
    r.topk_ids = TensorView(ids.data(), DType::kI32, {4, 2});
    r.topk_weights = TensorView(logits.data(), DType::kF32, {4, 2});
  });
}

TEST(Arguments, WeightsThatCannotBe) {
  Prepared p;
  const std::string before = p.prepared.text();
  const auto expect = [&](const std::vector<std::string>& words, const std::function<void(MoeWeights&)>& change) {
    MoeWeights w = p.host.weights;
    change(w);
    expect_error(ErrorKind::kInvalidArgument, words, [&] { p.layer.prepare(w, p.prepared.data()); });
    EXPECT_EQ(p.prepared.text(), before);
  };
  expect({"experts[2].gate is at", "multiple of 2"},
         [](MoeWeights& w) { w.experts[2].gate.data = static_cast<const char*>(w.experts[2].gate.data) + 1; });
  expect({"experts[1].down_bias is at"}, [](MoeWeights& w) {
    w.experts[1].down_bias.data = static_cast<const char*>(w.experts[1].down_bias.data) + 1;
  });
  expect({"experts[0]", "input_scale", "nan"}, [](MoeWeights& w) { w.experts[0].input_scale = std::nanf(""); });
  expect({"experts[0]", "input_scale", "-1"}, [](MoeWeights& w) { w.experts[0].down_input_scale = -1.0f; });
  expect({"experts[0].gate", "another quantised format", "convert_weights"}, [](MoeWeights& w) {
    w.experts[0].gate.dtype = DType::kU8;
    w.experts[0].gate.quantization.codes = CodeFormat::kE4M3;
  });
  expect({"experts[4].up", "numbers with scales"},
         [](MoeWeights& w) { w.experts[4].up.quantization.scales = w.experts[4].up.data; });
  expect({"router", "multiplier"}, [](MoeWeights& w) { w.router.quantization.multiplier = 2.0; });
  expect({"router", "quantised"}, [](MoeWeights& w) {
    w.router.dtype = DType::kU8;
    w.router.quantization.codes = CodeFormat::kE4M3;
  });
  expect({"shared.up", "empty"}, [](MoeWeights& w) { w.shared.up = {}; });
  // Parts that the layer does not have.
  MoeConfig c = p.host.config;
  c.shared = {};
  c.router = false;
  const FusedMoe plain = FusedMoe::create(c);
  GuardedMemory memory(plain.prepared_bytes());
  MoeWeights w = p.host.weights;
  w.router = {};
  w.router_bias = {};
  w.selection_bias = {};
  expect_error(ErrorKind::kInvalidArgument, {"weights.shared is given"}, [&] { plain.prepare(w, memory.data()); });
  w.shared = {};
  expect_error(ErrorKind::kInvalidArgument, {"shared_gate is given"}, [&] { plain.prepare(w, memory.data()); });
  w.shared_gate = {};
  w.router = p.host.weights.router;
  expect_error(ErrorKind::kInvalidArgument, {"router is given"}, [&] { plain.prepare(w, memory.data()); });
}

TEST(Arguments, QuantisedWeightsThatCannotBe) {
  const MoeConfig c = config_of("bf16_int4");
  std::mt19937 rng(12);
  MoeConfig bf16 = c;
  bf16.recipe = "bf16";
  const testing::HostLayer host = testing::random_layer(rng, bf16, {});
  const OwnedWeights owned = convert_weights(c, host.weights);
  std::vector<float> x(64), y(64);
  MoeRun run;
  run.x = TensorView(x.data(), DType::kF32, {1, 64});
  run.out = TensorView(y.data(), DType::kF32, {1, 64});
  const auto expect = [&](const std::vector<std::string>& words, const std::function<void(MatrixView&)>& change) {
    MoeWeights w = owned.weights;
    change(w.experts[3].down);
    // The exact reference takes any format: nothing else stands between these and its loops.
    expect_error(ErrorKind::kInvalidArgument, words, [&] { reference_moe(c, w, ReferenceMode::kExact, run); });
  };
  expect({"experts[3].down", "codes 9"}, [](MatrixView& m) { m.quantization.codes = static_cast<CodeFormat>(9); });
  expect({"experts[3].down", "order 9"}, [](MatrixView& m) { m.quantization.order = static_cast<NibbleOrder>(9); });
  expect({"scale format 9"}, [](MatrixView& m) { m.quantization.scale_format = static_cast<ScaleFormat>(9); });
  expect({"experts[3].down", "blocks of 0 x 32"}, [](MatrixView& m) { m.quantization.block_rows = 0; });
  expect({"experts[3].down", "blocks of 1 x -3"}, [](MatrixView& m) { m.quantization.block_cols = -3; });
  expect({"experts[3].down", "codes of type bf16", "u8"}, [](MatrixView& m) { m.dtype = DType::kBF16; });
  expect({"experts[3].down.scales is at"},
         [](MatrixView& m) { m.quantization.scales = static_cast<const char*>(m.quantization.scales) + 1; });
  expect({"experts[3].down.zeros", "int4"}, [](MatrixView& m) {
    m.quantization.codes = CodeFormat::kE2M1;
    m.quantization.zeros = m.data;
  });
  expect({"experts[3].down.order", "8 bits"}, [](MatrixView& m) {
    m.quantization.codes = CodeFormat::kE4M3;
    m.quantization.order = NibbleOrder::kAwq;
  });
}

TEST(Arguments, FusedTensorsThatCannotBe) {
  std::vector<std::uint16_t> w13(2 * 8 * 4 + 1), w2(2 * 4 * 4 + 1);
  const TensorView good13(w13.data(), DType::kBF16, {2, 8, 4}), good2(w2.data(), DType::kBF16, {2, 4, 4});
  const auto views = [](const TensorView& a, const TensorView& b) {
    return expert_views(a, b, GateUpOrder::kGateFirst, true, false);
  };
  EXPECT_EQ(views(good13, good2).size(), 2u);
  TensorView bad = good13;
  bad.rank = 50;
  expect_error(ErrorKind::kInvalidArgument, {"w13", "rank 50"}, [&] { views(bad, good2); });
  bad = good2;
  bad.rank = -2;
  expect_error(ErrorKind::kInvalidArgument, {"w2", "rank -2"}, [&] { views(good13, bad); });
  bad = good13;
  bad.data = behind(bad.data, 1);
  expect_error(ErrorKind::kInvalidArgument, {"w13 is at", "multiple of 2"}, [&] { views(bad, good2); });
  expect_error(ErrorKind::kInvalidArgument, {"order", "9"},
               [&] { expert_views(good13, good2, static_cast<GateUpOrder>(9), true, false); });
}

}  // namespace
}  // namespace moesaic
