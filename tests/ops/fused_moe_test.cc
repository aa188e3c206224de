// SPDX-License-Identifier: Apache-2.0
// FusedMoe on the CPU: the life of a layer, and every argument that is refused, by name.
#include <gtest/gtest.h>

#include <cstdint>

#include "support/random_layer.h"

namespace moesaic {
namespace {

using testing::HostArray;
using testing::HostLayer;

MoeConfig small_config() {
  MoeConfig c;
  c.hidden = 48, c.intermediate = 20, c.num_experts = 6, c.top_k = 2, c.max_tokens = 64;
  c.shared.intermediate = 12;
  c.shared.gated = true;
  return c;
}

/// A prepared CPU layer with the buffers of one run.
struct Fixture {
  HostLayer host;
  FusedMoe layer;
  std::vector<unsigned char> prepared, workspace;
  HostArray x;
  std::vector<float> y;
  MoeRun run;

  explicit Fixture(int tokens, unsigned seed = testing::fresh_seed()) : Fixture(tokens, std::mt19937(seed)) {}

  Fixture(int tokens, std::mt19937 rng)
      : host(testing::random_layer(rng, small_config(), {.biases = true})),
        layer(FusedMoe::create(host.config)),
        prepared(layer.prepared_bytes() + 256),
        workspace(layer.workspace_bytes(tokens) + 256, 0xff),
        x(testing::random_array(rng, tokens * host.config.hidden, DType::kBF16, 1.0)),
        y(static_cast<std::size_t>(tokens * host.config.hidden), std::nanf("")) {
    layer.prepare(host.weights, aligned(prepared));
    run.x = TensorView(x.bytes.data(), DType::kBF16, {tokens, host.config.hidden});
    run.out = TensorView(y.data(), DType::kF32, {tokens, host.config.hidden});
    run.prepared = aligned(prepared);
    run.workspace = aligned(workspace);
    run.workspace_bytes = workspace.size() - 256;
  }

  static void* aligned(std::vector<unsigned char>& bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
    return bytes.data() + (256 - address % 256) % 256;
  }
};

TEST(FusedMoe, CpuLayerMatchesTheOracle) {
  for (const int tokens : {0, 1, 7, 64}) {
    Fixture f(tokens);
    f.layer.run(f.run);
    const std::vector<double> wanted = testing::oracle_output(f.host, f.x, {});
    const testing::Distance d = testing::compare(f.y, wanted, f.host.config.hidden, tables::kTolBf16);
    EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2) << "T=" << tokens;
    EXPECT_LE(d.element, 1.0);
    EXPECT_TRUE(d.finite);
    ASSERT_EQ(f.layer.kernels(tokens).size(), 1u);
    EXPECT_EQ(f.layer.kernels(tokens).front().rfind("cpu_fast_", 0), 0u);
  }
}

TEST(FusedMoe, CopiesShareTheLayer) {
  Fixture f(5);
  const FusedMoe copy = f.layer;
  copy.run(f.run);
  const std::vector<float> first = f.y;
  f.layer.run(f.run);
  EXPECT_EQ(first, f.y);
}

/// Expects Error(kInvalidArgument) whose message has `word`, and an output that was not touched.
void expect_refused(void (*change)(MoeRun&), const std::string& word) {
  Fixture f(4, 7u);
  MoeRun run = f.run;
  change(run);
  try {
    f.layer.run(run);
    ADD_FAILURE() << word << " was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidArgument);
    EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
  }
  for (const float v : f.y) EXPECT_TRUE(std::isnan(v));
}

std::int32_t ids[8] = {};
float floats[64] = {};

TEST(FusedMoe, WrongArgumentsAreRefusedByName) {
  expect_refused([](MoeRun& r) { r.x = {}; }, "x is");
  expect_refused([](MoeRun& r) { r.x.dtype = DType::kF16; }, "x is f16");
  expect_refused([](MoeRun& r) { r.x.shape[1] = 47; }, "47");
  expect_refused([](MoeRun& r) { r.x.shape[0] = 65; }, "max_tokens");
  expect_refused([](MoeRun& r) { r.x.data = nullptr; }, "null");
  expect_refused([](MoeRun& r) { r.out.shape[0] = 3; }, "out is");
  expect_refused([](MoeRun& r) { r.out.dtype = DType::kF64; }, "out is f64");
  expect_refused([](MoeRun& r) { r.prepared = nullptr; }, "prepared");
  expect_refused([](MoeRun& r) { r.workspace = nullptr; }, "workspace");
  expect_refused([](MoeRun& r) { r.workspace_bytes -= 1; }, "workspace");
  expect_refused([](MoeRun& r) { r.topk_ids = TensorView(ids, DType::kI32, {4, 2}); }, "topk_weights");
  expect_refused([](MoeRun& r) { r.router_logits = TensorView(floats, DType::kF32, {4, 5}); }, "router_logits");
  expect_refused(
      [](MoeRun& r) {
        r.topk_ids = TensorView(ids, DType::kI64, {4, 2});
        r.topk_weights = TensorView(floats, DType::kF32, {4, 2});
      },
      "topk_ids");
}

TEST(FusedMoe, WrongWeightsAreRefusedByName) {
  Fixture f(1, 3u);
  const auto expect = [&](MoeWeights weights, const std::string& word) {
    try {
      f.layer.prepare(weights, Fixture::aligned(f.prepared));
      ADD_FAILURE() << word << " was accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidArgument);
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
  };
  MoeWeights w = f.host.weights;
  w.experts.pop_back();
  expect(w, "experts");
  w = f.host.weights;
  w.experts[3].up = {};
  expect(w, "experts[3].up");
  w = f.host.weights;
  w.experts[5].down.rows = 47;
  expect(w, "experts[5].down");
  w = f.host.weights;
  w.router.dtype = DType::kI32;
  expect(w, "router");
  w = f.host.weights;
  w.shared_gate = {};
  expect(w, "shared_gate");
  w = f.host.weights;
  w.router_bias.size = 5;
  expect(w, "router_bias");
}

TEST(FusedMoe, RecipesAndDevicesThatCannotServeSaySo) {
  MoeConfig c = small_config();
  c.recipe = "nvfp4";
  c.hidden = 40;  // not whole blocks of 16
  try {
    FusedMoe::create(c);
    FAIL() << "hidden 40 was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidArgument);
    EXPECT_NE(std::string(e.what()).find("nvfp4"), std::string::npos) << e.what();
  }
  c = small_config();
  c.device = {DeviceType::kCuda, 4711};
  EXPECT_THROW(FusedMoe::create(c), Error);
}

}  // namespace
}  // namespace moesaic
