// SPDX-License-Identifier: Apache-2.0
// Graph capture on the very first run, replays with changed inputs, streams and threads.
#include <gtest/gtest.h>

#include <thread>

#include "moesaic/quantize.h"
#include "support/device_layer.h"
#include "support/replayed_layer.h"

namespace moesaic {
namespace {

using testing::DeviceLayer;
using testing::HostArray;
using testing::HostLayer;

constexpr Device kGpu{DeviceType::kCuda, 0};

struct DeviceGraphTest : testing::DeviceTest {};

MoeConfig graph_config() {
  MoeConfig c;
  c.hidden = 256, c.intermediate = 128, c.num_experts = 16, c.top_k = 4, c.max_tokens = 512;
  c.shared.intermediate = 64;
  c.shared.gated = true;
  c.device = kGpu;
  return c;
}

/// Device buffers of one run.
struct Buffers {
  cuda::DeviceBuffer x, y, workspace;
  MoeRun run;

  Buffers(const DeviceLayer& layer, int tokens)
      : x(kGpu, static_cast<std::size_t>(tokens) * 256 * 2),
        y(kGpu, static_cast<std::size_t>(tokens) * 256 * 4),
        workspace(kGpu, layer.layer().workspace_bytes(tokens)) {
    workspace.fill(0xff);
    y.fill(0xff);
    run.x = TensorView(x.data(), DType::kBF16, {tokens, 256});
    run.out = TensorView(y.data(), DType::kF32, {tokens, 256});
    run.prepared = layer.prepared();
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
  }
  std::vector<float> result() const {
    std::vector<float> values(y.size() / 4);
    y.download(values.data(), y.size());
    return values;
  }
};

TEST_F(DeviceGraphTest, FirstRunEverIsACaptureAndReplaysFollowTheInputs) {
  std::mt19937 rng(testing::fresh_seed());
  const HostLayer host = testing::random_layer(rng, graph_config(), {});
  for (const int tokens : {1, 64, 400}) {
    const DeviceLayer layer(host, host.config);
    Buffers b(layer, tokens);
    const cuda::Stream stream(kGpu);
    const cuda::Graph graph(kGpu, stream, [&](void* s) { layer.layer().run(b.run, s); });
    for (int replay = 0; replay < 3; ++replay) {
      const HostArray x = testing::random_array(rng, tokens * 256, DType::kBF16, 1.0);
      b.x.upload(x.bytes.data(), x.bytes.size());
      graph.launch(stream);
      stream.synchronize();
      EXPECT_EQ(b.result(), layer.run(x, {}).out) << "T=" << tokens << " replay " << replay;
    }
  }
}

// bf16, and a recipe whose activations are quantised in launches of their own.
TEST_F(DeviceGraphTest, ThousandReplaysGiveWhatTheirInputsGiveAlone) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* recipe : {"bf16", "fp8_block"}) {
    SCOPED_TRACE(recipe);
    MoeConfig config = graph_config();
    config.recipe = recipe;
    const HostLayer host = testing::random_layer(rng, config, {.biases = true});
    const OwnedWeights converted = convert_weights(config, host.weights);
    const DeviceLayer layer(converted.weights, config);
    testing::ReplayedLayer replayed(rng, layer, 16);
    replayed.replay(1000, testing::fresh_seed());
    replayed.expect_right();
  }
}

TEST_F(DeviceGraphTest, ThreadsAndStreamsShareOneLayer) {
  std::mt19937 rng(testing::fresh_seed());
  const HostLayer host = testing::random_layer(rng, graph_config(), {});
  const DeviceLayer layer(host, host.config);
  constexpr int kThreads = 8, kTokens = 48;
  std::vector<HostArray> inputs;
  std::vector<std::vector<float>> wanted, got(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    inputs.push_back(testing::random_array(rng, kTokens * 256, DType::kBF16, 1.0));
    wanted.push_back(layer.run(inputs.back(), {}).out);
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      Buffers b(layer, kTokens);
      b.x.upload(inputs[static_cast<std::size_t>(i)].bytes.data(), inputs[static_cast<std::size_t>(i)].bytes.size());
      const cuda::Stream stream(kGpu);
      for (int repeat = 0; repeat < 20; ++repeat) layer.layer().run(b.run, stream.get());
      stream.synchronize();
      got[static_cast<std::size_t>(i)] = b.result();
    });
  }
  for (std::thread& t : threads) t.join();
  for (int i = 0; i < kThreads; ++i) EXPECT_EQ(got[static_cast<std::size_t>(i)], wanted[static_cast<std::size_t>(i)]);
}

TEST_F(DeviceGraphTest, RunChecksItsArguments) {
  std::mt19937 rng(1);
  const HostLayer host = testing::random_layer(rng, graph_config(), {});
  const DeviceLayer layer(host, host.config);
  Buffers b(layer, 4);
  const auto expect_refused = [&](MoeRun run, const char* word) {
    try {
      layer.layer().run(run);
      ADD_FAILURE() << word << " was accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidArgument);
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
  };
  MoeRun run = b.run;
  run.workspace_bytes -= 1;
  expect_refused(run, "workspace");
  run = b.run;
  run.x.dtype = DType::kF16;
  expect_refused(run, "x is");
  run = b.run;
  run.out.data = static_cast<char*>(run.out.data) + 4;
  expect_refused(run, "out is");
  run = b.run;
  run.prepared = nullptr;
  expect_refused(run, "prepared");
}

}  // namespace
}  // namespace moesaic
