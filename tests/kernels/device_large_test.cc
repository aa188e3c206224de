// SPDX-License-Identifier: Apache-2.0
// Large shapes against a naive FP64 kernel on sampled tokens; that kernel is itself held against the CPU oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/naive_layer.h"
#include "support/device_layer.h"

namespace moesaic {
namespace {

using testing::DeviceResult;
using testing::Distance;
using testing::HostArray;
using testing::NaiveGpu;
using testing::NaiveWeights;

constexpr Device kGpu{DeviceType::kCuda, 0};

struct DeviceLargeTest : testing::DeviceTest {};

struct Shape {
  int hidden, intermediate, experts, top_k;
};

MoeConfig layer_config(const Shape& s) {
  MoeConfig c;
  c.hidden = s.hidden;
  c.intermediate = s.intermediate;
  c.num_experts = s.experts;
  c.top_k = s.top_k;
  c.router = false;
  c.max_tokens = 8192;
  c.device = kGpu;
  return c;
}

/// A layer with device-made weights.
class LargeLayer {
 public:
  LargeLayer(const NaiveGpu& gpu, const Shape& s, unsigned seed)
      : gpu_(gpu),
        config_(layer_config(s)),
        weights_(gpu.make_weights(config_, seed)),
        layer_(FusedMoe::create(config_)),
        prepared_(kGpu, layer_.prepared_bytes()) {
    MoeWeights views;
    views.experts =
        expert_views(TensorView(weights_.w13.data(), DType::kBF16, {s.experts, 2 * s.intermediate, s.hidden}),
                     TensorView(weights_.w2.data(), DType::kBF16, {s.experts, s.hidden, s.intermediate}),
                     GateUpOrder::kGateFirst, true, false);
    layer_.prepare(views, prepared_.data());
  }

  struct Output {
    std::vector<float> y;
    std::vector<int> ids;
    std::vector<float> weights;
  };

  Output run(const void* x, const std::vector<float>& logits, int tokens) const {
    cuda::DeviceBuffer l(kGpu, logits.size() * 4),
        y(kGpu, static_cast<std::size_t>(tokens) * static_cast<std::size_t>(config_.hidden) * 4);
    l.upload(logits.data(), logits.size() * 4);
    y.fill(0xff);
    const auto slots = static_cast<std::size_t>(tokens * config_.top_k);
    cuda::DeviceBuffer ids(kGpu, slots * 4), weights(kGpu, slots * 4), workspace(kGpu, layer_.workspace_bytes(tokens));
    workspace.fill(0xff);
    MoeRun run;
    run.x = TensorView(x, DType::kBF16, {tokens, config_.hidden});
    run.router_logits = TensorView(l.data(), DType::kF32, {tokens, config_.num_experts});
    run.out = TensorView(y.data(), DType::kF32, {tokens, config_.hidden});
    run.topk_ids_out = TensorView(ids.data(), DType::kI32, {tokens, config_.top_k});
    run.topk_weights_out = TensorView(weights.data(), DType::kF32, {tokens, config_.top_k});
    run.prepared = prepared_.data();
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    layer_.run(run);
    Output out{std::vector<float>(y.size() / 4), std::vector<int>(slots), std::vector<float>(slots)};
    y.download(out.y.data(), y.size());
    ids.download(out.ids.data(), slots * 4);
    weights.download(out.weights.data(), slots * 4);
    return out;
  }

  const MoeConfig& config() const { return config_; }
  const NaiveWeights& weights() const { return weights_; }

 private:
  const NaiveGpu& gpu_;
  MoeConfig config_;
  NaiveWeights weights_;
  FusedMoe layer_;
  cuda::DeviceBuffer prepared_;
};

std::vector<float> random_logits(std::mt19937& rng, int tokens, int experts, double skew) {
  std::normal_distribution<float> normal(0.0f, 1.5f);
  std::vector<float> logits(static_cast<std::size_t>(tokens * experts));
  for (std::size_t i = 0; i < logits.size(); ++i) {
    logits[i] =
        normal(rng) + static_cast<float>(skew * static_cast<double>(i % static_cast<std::size_t>(experts)) / experts);
  }
  return logits;
}

/// First, last and random tokens.
std::vector<int> sample_tokens(std::mt19937& rng, int tokens, int count) {
  std::vector<int> all(static_cast<std::size_t>(tokens));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), rng);
  all.resize(std::min<std::size_t>(all.size(), static_cast<std::size_t>(count)));
  all.front() = 0;
  all.back() = tokens - 1;
  return all;
}

void check_tokens(std::mt19937& rng, const NaiveGpu& gpu, const LargeLayer& layer, int tokens, double skew) {
  const MoeConfig& c = layer.config();
  SCOPED_TRACE("H=" + std::to_string(c.hidden) + " I=" + std::to_string(c.intermediate) + " E=" +
               std::to_string(c.num_experts) + " k=" + std::to_string(c.top_k) + " T=" + std::to_string(tokens));
  const cuda::DeviceBuffer x(kGpu, static_cast<std::size_t>(tokens) * static_cast<std::size_t>(c.hidden) * 2);
  gpu.fill(x.data(), static_cast<long long>(tokens) * c.hidden, static_cast<unsigned>(rng()), 1.7f);
  const LargeLayer::Output out = layer.run(x.data(), random_logits(rng, tokens, c.num_experts, skew), tokens);
  const std::vector<int> sampled = sample_tokens(rng, tokens, 40);
  const std::vector<double> wanted = gpu.run(c, x.data(), layer.weights(), sampled, out.ids, out.weights);
  std::vector<float> got;
  for (const int t : sampled) {
    const auto row = out.y.begin() + static_cast<std::ptrdiff_t>(t) * c.hidden;
    got.insert(got.end(), row, row + c.hidden);
  }
  const Distance d = testing::compare(got, wanted, c.hidden, tables::kTolBf16);
  EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2);
  EXPECT_LE(d.element, 1.0);
  EXPECT_TRUE(std::all_of(out.y.begin(), out.y.end(), [](float v) { return std::isfinite(v); }));
}

TEST_F(DeviceLargeTest, NaiveKernelMatchesTheOracle) {
  std::mt19937 rng(testing::fresh_seed());
  const NaiveGpu gpu(kGpu);
  MoeConfig c = layer_config({96, 40, 4, 2});
  const NaiveWeights w = gpu.make_weights(c, static_cast<unsigned>(rng()));
  const int tokens = 12;
  HostArray x = testing::random_array(rng, tokens * c.hidden, DType::kBF16, 1.0);
  cuda::DeviceBuffer dx(kGpu, x.bytes.size());
  dx.upload(x.bytes.data(), x.bytes.size());
  HostArray w13{DType::kBF16, std::vector<unsigned char>(w.w13.size())},
      w2{DType::kBF16, std::vector<unsigned char>(w.w2.size())};
  w.w13.download(w13.bytes.data(), w.w13.size());
  w.w2.download(w2.bytes.data(), w.w2.size());
  testing::HostLayer host;
  host.config = c;
  host.weights.experts =
      expert_views(TensorView(w13.bytes.data(), DType::kBF16, {4, 80, 96}),
                   TensorView(w2.bytes.data(), DType::kBF16, {4, 96, 40}), GateUpOrder::kGateFirst, true, false);
  std::vector<int> ids, all(tokens);
  std::vector<float> weights;
  for (int i = 0; i < tokens * c.top_k; ++i)
    ids.push_back(i % 4), weights.push_back(0.25f + 0.01f * static_cast<float>(i));
  std::iota(all.begin(), all.end(), 0);
  const std::vector<double> naive = gpu.run(c, dx.data(), w, all, ids, weights);
  std::vector<double> wanted(naive.size());
  MoeRun run;
  run.x = TensorView(x.bytes.data(), DType::kBF16, {tokens, c.hidden});
  run.topk_ids = TensorView(ids.data(), DType::kI32, {tokens, c.top_k});
  run.topk_weights = TensorView(weights.data(), DType::kF32, {tokens, c.top_k});
  run.out = TensorView(wanted.data(), DType::kF64, {tokens, c.hidden});
  reference_moe(c, host.weights, ReferenceMode::kOracle, run);
  const std::vector<float> got(naive.begin(), naive.end());
  // Both round h to bf16 once from FP64 sums; what is left is an h that falls on the other side of a tie.
  EXPECT_LE(testing::compare(got, wanted, c.hidden, tables::kTolBf16).row_l2, 1e-6);
}

TEST_F(DeviceLargeTest, EveryTokenCountOnOddAndPublishedShapes) {
  std::mt19937 rng(testing::fresh_seed());
  const NaiveGpu gpu(kGpu);
  for (const Shape& s : std::vector<Shape>{{160, 96, 1, 1},
                                           {2880, 1440, 8, 2},
                                           {1032, 360, 128, 8},
                                           {2048, 768, 128, 8},
                                           {4096, 1792, 8, 2},
                                           {2880, 2880, 32, 4},
                                           {512, 96, 8, 8}}) {
    const LargeLayer layer(gpu, s, static_cast<unsigned>(rng()));
    for (const int tokens : {1, 2, 7, 63, 64, 65, 257, 1024, 4096}) check_tokens(rng, gpu, layer, tokens, 0.0);
    check_tokens(rng, gpu, layer, 1024, 8.0);  // skewed: a few experts get nearly everything, others nothing
  }
}

TEST_F(DeviceLargeTest, DeterministicAndIndependentOfTheBatch) {
  std::mt19937 rng(testing::fresh_seed());
  const NaiveGpu gpu(kGpu);
  const LargeLayer layer(gpu, {1024, 384, 64, 6}, 11);
  const MoeConfig& c = layer.config();
  for (const int tokens : {5, 300, 2048}) {
    const cuda::DeviceBuffer x(kGpu, static_cast<std::size_t>(tokens) * static_cast<std::size_t>(c.hidden) * 2);
    gpu.fill(x.data(), static_cast<long long>(tokens) * c.hidden, 5, 1.7f);
    std::vector<float> logits = random_logits(rng, tokens, c.num_experts, 0);
    const LargeLayer::Output first = layer.run(x.data(), logits, tokens);
    for (int repeat = 0; repeat < 3; ++repeat) EXPECT_EQ(layer.run(x.data(), logits, tokens).y, first.y);
    // Other tokens choose other experts; token 0 keeps its own.
    std::vector<float> other = random_logits(rng, tokens, c.num_experts, 3.0);
    std::copy_n(logits.begin(), c.num_experts, other.begin());
    const LargeLayer::Output second = layer.run(x.data(), other, tokens);
    EXPECT_TRUE(std::equal(first.y.begin(), first.y.begin() + c.hidden, second.y.begin())) << "T=" << tokens;
  }
}

}  // namespace
}  // namespace moesaic
