// SPDX-License-Identifier: Apache-2.0
// Replays of a captured run; copies on the device bring inputs in and results out.
#include "support/replayed_layer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "backend_cuda/device.h"

namespace moesaic::testing {
namespace {

constexpr int kInputs = 16;

std::size_t bytes_of(std::int64_t rows, std::int64_t cols, DType dtype) {
  return static_cast<std::size_t>(rows * cols) * dtype_size(dtype);
}

DType io_type(const DeviceLayer& layer) { return tables::get_recipe(layer.layer().config().recipe).io; }

}  // namespace

ReplayedLayer::ReplayedLayer(std::mt19937& rng, const DeviceLayer& layer, int tokens)
    : device_(layer.device()),
      x_(device_, bytes_of(tokens, layer.layer().config().hidden, io_type(layer))),
      logits_(device_, bytes_of(tokens, layer.layer().config().num_experts, DType::kF32)),
      out_(device_, bytes_of(tokens, layer.layer().config().hidden, DType::kF32)),
      workspace_(device_, layer.layer().workspace_bytes(tokens)),
      stream_(device_) {
  const MoeConfig& c = layer.layer().config();
  MoeRun run;
  run.x = TensorView(x_.data(), io_type(layer), {tokens, c.hidden});
  run.router_logits = TensorView(logits_.data(), DType::kF32, {tokens, c.num_experts});
  run.out = TensorView(out_.data(), DType::kF32, {tokens, c.hidden});
  run.prepared = layer.prepared();
  run.workspace = workspace_.data();
  run.workspace_bytes = workspace_.size();
  graph_ = std::make_unique<const cuda::Graph>(device_, stream_, [&](void* s) { layer.layer().run(run, s); });
  make_pool(rng, layer, tokens);
}

void ReplayedLayer::make_pool(std::mt19937& rng, const DeviceLayer& layer, int tokens) {
  const MoeConfig& c = layer.layer().config();
  for (int i = 0; i < kInputs; ++i) {
    const HostArray x = random_array(rng, std::int64_t{tokens} * c.hidden, io_type(layer), 1.0);
    const std::vector<float> logits =
        to_floats(random_array(rng, std::int64_t{tokens} * c.num_experts, DType::kF32, 2.0));
    const DeviceOutput alone = layer.run_into(DType::kF32, {x, logits, {}, {}});
    EXPECT_TRUE(std::none_of(pool_.begin(), pool_.end(), [&](const Input& other) {
      return other.output == alone.y.bytes;
    })) << "a replay that gives the result of another input would go unnoticed";
    pool_.push_back({PoisonedBuffer(device_, x.bytes), PoisonedBuffer(device_, logits), alone.y.bytes});
  }
}

void ReplayedLayer::replay(int times, unsigned seed) {
  std::mt19937 rng(seed);
  results_ = cuda::DeviceBuffer(device_, static_cast<std::size_t>(times) * out_.size());
  order_.clear();
  const cuda::DeviceGuard current(device_.index);
  for (int i = 0; i < times; ++i) {
    order_.push_back(rng() % pool_.size());
    const Input& input = pool_[order_.back()];
    cuda::copy_async(x_.data(), input.x.data(), x_.size(), stream_.get());
    cuda::copy_async(logits_.data(), input.logits.data(), logits_.size(), stream_.get());
    cuda::fill_async(out_.data(), kPoison, out_.size(), stream_.get());
    graph_->launch(stream_);
    char* const result = static_cast<char*>(results_.data()) + static_cast<std::size_t>(i) * out_.size();
    cuda::copy_async(result, out_.data(), out_.size(), stream_.get());
  }
  stream_.synchronize();
}

void ReplayedLayer::expect_right() const {
  EXPECT_TRUE(workspace_.intact()) << "wrote behind the workspace";
  EXPECT_TRUE(out_.intact()) << "wrote behind out";
  EXPECT_TRUE(x_.intact() && logits_.intact()) << "wrote behind an input";
  std::vector<unsigned char> results(results_.size());
  results_.download(results.data(), results.size());
  auto result = results.begin();
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const std::vector<unsigned char>& wanted = pool_[order_[i]].output;
    ASSERT_TRUE(std::equal(wanted.begin(), wanted.end(), result)) << "replay " << i << " of input " << order_[i];
    result += static_cast<std::ptrdiff_t>(wanted.size());
  }
}

}  // namespace moesaic::testing
