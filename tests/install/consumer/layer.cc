// SPDX-License-Identifier: Apache-2.0
// A layer on the CPU whose result is exact: one expert whose matrices are 1 and 2 times the identity doubles x. Then an
// error of the library, caught by its type.
#include <moesaic/moe.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr int kSize = 64;                              // of x, H, and of the expert's hidden layer, I
constexpr std::uint16_t kOne = 0x3f80, kTwo = 0x4000;  // in bf16

std::vector<std::uint16_t> diagonal(std::uint16_t value) {
  std::vector<std::uint16_t> matrix(kSize * kSize);  // [I][H]
  for (int i = 0; i < kSize; ++i) matrix[i * kSize + i] = value;
  return matrix;
}

moesaic::MoeConfig one_expert() {
  moesaic::MoeConfig config;
  config.hidden = config.intermediate = kSize;
  config.num_experts = config.top_k = 1;
  config.max_tokens = 1;
  config.activation.kind = moesaic::ActivationKind::kIdentity;
  config.router = false;
  return config;
}

void print_layer() {
  const std::vector<std::uint16_t> first = diagonal(kOne), second = diagonal(kTwo), x(kSize, kTwo);
  std::int32_t id = 0;
  float weight = 1.0f;
  std::vector<float> y(kSize);
  moesaic::MoeWeights weights;
  weights.experts = moesaic::expert_views({first.data(), moesaic::DType::kBF16, {1, kSize, kSize}},
                                          {second.data(), moesaic::DType::kBF16, {1, kSize, kSize}},
                                          moesaic::GateUpOrder::kGateFirst, false, false);
  const auto layer = moesaic::FusedMoe::create(one_expert());
  moesaic::MoeRun run;
  run.x = {x.data(), moesaic::DType::kBF16, {1, kSize}};
  run.out = {y.data(), moesaic::DType::kF32, {1, kSize}};
  run.topk_ids = {&id, moesaic::DType::kI32, {1, 1}};
  run.topk_weights = {&weight, moesaic::DType::kF32, {1, 1}};
  void* prepared = std::aligned_alloc(256, (layer.prepared_bytes() + 255) / 256 * 256);
  run.workspace_bytes = (layer.workspace_bytes(1) + 255) / 256 * 256;
  run.workspace = std::aligned_alloc(256, run.workspace_bytes);
  run.prepared = prepared;
  layer.prepare(weights, prepared);
  layer.run(run);
  std::printf("layer: %g %g\n", y.front(), y.back());
  std::free(run.workspace);
  std::free(prepared);
}

}  // namespace

int main() {
  print_layer();
  moesaic::MoeConfig config = one_expert();
  config.recipe = "no such recipe";
  try {
    moesaic::FusedMoe::create(config);
  } catch (const moesaic::Error& error) {
    std::printf("error: %s\n", moesaic::error_kind_name(error.kind()));
  }
}
