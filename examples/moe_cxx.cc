// SPDX-License-Identifier: Apache-2.0
// A small MoE layer on the CPU in C++: in bf16, and again with its weights quantised to NVFP4.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "moesaic/moe.h"
#include "moesaic/quantize.h"

namespace {

constexpr int kTokens = 4, kHidden = 128, kIntermediate = 64, kExperts = 8;

/// bf16 numbers, normal with standard deviation `scale`.
std::vector<std::uint16_t> random_bf16(std::mt19937& rng, std::size_t count, float scale) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<std::uint16_t> values(count);
  for (std::uint16_t& value : values) {
    const float number = normal(rng);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &number, sizeof(bits));
    value = static_cast<std::uint16_t>(bits >> 16);
  }
  return values;
}

/// Memory at a multiple of 256 bytes.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : size_(bytes), bytes_(new std::byte[bytes + 256]) {}
  void* data() const {
    void* at = bytes_.get();
    std::size_t space = size_ + 256;
    return std::align(256, size_, at, space);
  }
  std::size_t size() const { return size_; }

 private:
  std::size_t size_;
  std::unique_ptr<std::byte[]> bytes_;
};

std::vector<float> run_layer(const moesaic::MoeConfig& config, const moesaic::MoeWeights& weights,
                             const std::vector<std::uint16_t>& x) {
  const auto layer = moesaic::FusedMoe::create(config);
  const Memory prepared(layer.prepared_bytes()), workspace(layer.workspace_bytes(kTokens));
  layer.prepare(weights, prepared.data());
  std::vector<float> y(kTokens * kHidden);
  moesaic::MoeRun run;
  run.x = {x.data(), moesaic::DType::kBF16, {kTokens, kHidden}};
  run.out = {y.data(), moesaic::DType::kF32, {kTokens, kHidden}};
  run.prepared = prepared.data();
  run.workspace = workspace.data();
  run.workspace_bytes = workspace.size();
  layer.run(run);
  std::printf("%s by %s, %zu bytes of weights:", config.recipe.c_str(), layer.kernels(kTokens).front().c_str(),
              prepared.size());
  for (int i = 0; i < 4; ++i) std::printf(" % .5f", y[i]);
  std::printf(" ...\n");
  return y;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    squares += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(squares / norm);
}

}  // namespace

int main() {
  try {
    std::mt19937 rng(1);
    const auto w13 = random_bf16(rng, std::size_t{kExperts} * 2 * kIntermediate * kHidden, 0.09f);
    const auto w2 = random_bf16(rng, std::size_t{kExperts} * kHidden * kIntermediate, 0.12f);
    const auto router = random_bf16(rng, std::size_t{kExperts} * kHidden, 0.09f);
    const auto x = random_bf16(rng, std::size_t{kTokens} * kHidden, 1.0f);

    moesaic::MoeConfig config;
    config.hidden = kHidden, config.intermediate = kIntermediate, config.num_experts = kExperts, config.top_k = 2;
    config.max_tokens = 64;
    moesaic::MoeWeights weights;
    weights.experts = moesaic::expert_views({w13.data(), moesaic::DType::kBF16, {kExperts, 2 * kIntermediate, kHidden}},
                                            {w2.data(), moesaic::DType::kBF16, {kExperts, kHidden, kIntermediate}},
                                            moesaic::GateUpOrder::kGateFirst, true, false);
    weights.router = {router.data(), moesaic::DType::kBF16, kExperts, kHidden, kHidden, 1};
    const std::vector<float> y = run_layer(config, weights, x);

    moesaic::MoeConfig quantised = config;
    quantised.recipe = "nvfp4";
    const moesaic::OwnedWeights owned = moesaic::convert_weights(quantised, weights);
    const double apart = distance(run_layer(quantised, owned.weights, x), y);
    std::printf("distance of nvfp4 from bf16: %.2f\n", apart);
    return apart > 0.01 && apart < 0.54 ? 0 : 1;  // what four bits cost, at most as the recipe's tolerance has it
  } catch (const moesaic::Error& error) {
    std::fprintf(stderr, "moesaic: %s: %s\n", moesaic::error_kind_name(error.kind()), error.what());
    return 1;
  }
}
