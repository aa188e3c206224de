// SPDX-License-Identifier: Apache-2.0
// Expert and tensor parallelism on the CPU: the outputs of all parts of a layer add up to the whole's.
#include <gtest/gtest.h>

#include <cstdint>

#include "support/expect_error.h"
#include "support/slices.h"

namespace moesaic {
namespace {

using testing::HostArray;
using testing::HostLayer;
using testing::LayerPart;

constexpr int kTokens = 37;

MoeConfig whole_config() {
  MoeConfig c;
  c.hidden = 48, c.intermediate = 40, c.num_experts = 9, c.top_k = 3, c.max_tokens = kTokens;
  c.shared.intermediate = 24;
  c.shared.gated = true;
  return c;
}

void* aligned(std::vector<unsigned char>& bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
  return bytes.data() + (256 - address % 256) % 256;
}

MoeRun run_of(const MoeConfig& c, const HostArray& x) {
  MoeRun run;
  run.x = TensorView(x.bytes.data(), x.dtype, {kTokens, c.hidden});
  return run;
}

std::vector<double> reference(const LayerPart& part, ReferenceMode mode, const HostArray& x) {
  std::vector<double> y(static_cast<std::size_t>(x.size()));
  MoeRun run = run_of(part.config, x);
  run.out = TensorView(y.data(), DType::kF64, {kTokens, part.config.hidden});
  reference_moe(part.config, part.weights, mode, run);
  return y;
}

std::vector<double> fast(const LayerPart& part, const HostArray& x) {
  const FusedMoe layer = FusedMoe::create(part.config);
  std::vector<unsigned char> prepared(layer.prepared_bytes() + 256), workspace(layer.workspace_bytes(kTokens) + 256);
  layer.prepare(part.weights, aligned(prepared));
  std::vector<float> y(static_cast<std::size_t>(x.size()));
  MoeRun run = run_of(part.config, x);
  run.out = TensorView(y.data(), DType::kF32, {kTokens, part.config.hidden});
  run.prepared = aligned(prepared);
  run.workspace = aligned(workspace);
  run.workspace_bytes = workspace.size() - 256;
  layer.run(run);
  return {y.begin(), y.end()};
}

/// Sums parts and compares: |d| <= bound * (|whole| + 1).
template <typename Compute>
void expect_sums(const HostLayer& whole, double bound, Compute compute) {
  const std::vector<double> wanted = compute(LayerPart{whole.config, whole.weights});
  int way = 0;
  for (const std::vector<LayerPart>& parts : testing::all_partitions(whole)) {
    SCOPED_TRACE("partition " + std::to_string(way++));
    std::vector<double> sum(wanted.size(), 0.0);
    for (const LayerPart& part : parts) {
      const std::vector<double> y = compute(part);
      EXPECT_NE(y, wanted) << "a part alone is not the whole";
      for (std::size_t i = 0; i < y.size(); ++i) sum[i] += y[i];
    }
    for (std::size_t i = 0; i < sum.size(); ++i) {
      ASSERT_NEAR(sum[i], wanted[i], bound * (std::abs(wanted[i]) + 1.0)) << "element " << i;
    }
  }
}

class ParallelTest : public ::testing::Test {
 protected:
  ParallelTest() : rng_(testing::fresh_seed()) {
    whole_ = testing::random_layer(rng_, whole_config(), {.biases = true});
    x_ = testing::random_array(rng_, std::int64_t{kTokens} * whole_.config.hidden, DType::kBF16, 1.0);
  }

  std::mt19937 rng_;
  HostLayer whole_;
  HostArray x_;
};

TEST_F(ParallelTest, PartsAddUpExactly) {
  expect_sums(whole_, 1e-12, [&](const LayerPart& part) { return reference(part, ReferenceMode::kExact, x_); });
}

// Both modes round every element of x and of h on its own, so a slice rounds what the whole does.
TEST_F(ParallelTest, PartsAddUpInTheOracle) {
  expect_sums(whole_, 1e-12, [&](const LayerPart& part) { return reference(part, ReferenceMode::kOracle, x_); });
}

TEST_F(ParallelTest, PartsAddUpInTheFastPath) {
  // h can round the other way where FP32 sums over H differ; those over I differ by a few units of 2^-24.
  expect_sums(whole_, 1e-5, [&](const LayerPart& part) { return fast(part, x_); });
}

TEST_F(ParallelTest, MapsThatAreNoneAreRefused) {
  const auto refused = [&](auto change, const char* word) {
    MoeConfig c = whole_config();
    change(c);
    testing::expect_error(ErrorKind::kInvalidArgument, {word}, [&] { FusedMoe::create(c); });
  };
  refused([](MoeConfig& c) { c.experts.first = 2; }, "experts.first");
  refused([](MoeConfig& c) { c.experts.first = 9, c.experts.count = 1; }, "experts.first");
  refused([](MoeConfig& c) { c.experts.first = 5, c.experts.count = 5; }, "experts.count");
  refused([](MoeConfig& c) { c.experts.slots = {0, 1}; }, "experts.slots");
  refused([](MoeConfig& c) { c.experts.slots = {0, 1, 1, -1, -1, -1, -1, -1, -1}; }, "experts.slots");
  refused([](MoeConfig& c) { c.experts.slots = {0, 2, -1, -1, -1, -1, -1, -1, -1}; }, "experts.slots");
  refused([](MoeConfig& c) { c.experts.slots.assign(9, -1); }, "experts.slots");
  refused([](MoeConfig& c) { c.tp.rank = 1; }, "tp.rank");
  refused([](MoeConfig& c) { c.tp.size = 0; }, "tp.rank");
}

TEST_F(ParallelTest, WeightsAreThoseHeld) {
  LayerPart part = testing::expert_slice(whole_, 2, 3);
  part.weights.experts.pop_back();
  const FusedMoe layer = FusedMoe::create(part.config);
  std::vector<unsigned char> prepared(layer.prepared_bytes() + 256);
  testing::expect_error(ErrorKind::kInvalidArgument, {"weights.experts", "3"},
                        [&] { layer.prepare(part.weights, aligned(prepared)); });
}

}  // namespace
}  // namespace moesaic
