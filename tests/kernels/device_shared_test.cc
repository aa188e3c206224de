// SPDX-License-Identifier: Apache-2.0
// Shared experts of the routed ones' size on a GPU, where they are one more expert of the routed GEMMs, against the CPU
// oracle, which adds them on its own.
#include <gtest/gtest.h>

#include "plan/moe_plan.h"
#include "support/device_layer.h"

namespace moesaic {
namespace {

using testing::compare;
using testing::DeviceLayer;
using testing::DeviceOutput;
using testing::HostArray;
using testing::HostLayer;

struct DeviceSharedTest : testing::DeviceTest {};

MoeConfig layer_config(int experts, int top_k, RoutingMethod method) {
  MoeConfig c;
  c.hidden = 72;
  c.intermediate = 40;
  c.num_experts = experts;
  c.top_k = top_k;
  c.routing.method = method;
  c.max_tokens = 600;
  c.shared.intermediate = 40;
  c.router = false;
  c.device = {DeviceType::kCuda, 0};
  return c;
}

/// What one run got: logits, or ids and weights.
struct Input {
  HostArray x;
  std::vector<float> logits;
  std::vector<int> ids;
  std::vector<float> weights;
};

Input random_logits(std::mt19937& rng, const MoeConfig& c, int tokens) {
  return {testing::random_array(rng, std::int64_t{tokens} * c.hidden, DType::kBF16, 1.0),
          testing::to_floats(testing::random_array(rng, std::int64_t{tokens} * c.num_experts, DType::kF32, 1.5)),
          {},
          {}};
}

/// Experts that are nobody's are among them, as are numbers that shared experts have inside of kernels.
Input random_ids(std::mt19937& rng, const MoeConfig& c, int tokens) {
  Input input = random_logits(rng, c, tokens);
  input.logits.clear();
  std::uniform_int_distribution<int> id(-1, c.num_experts + 1);
  std::uniform_real_distribution<float> weight(0.05f, 0.9f);
  for (int i = 0; i < tokens * c.top_k; ++i) input.ids.push_back(id(rng)), input.weights.push_back(weight(rng));
  return input;
}

std::vector<double> oracle(const HostLayer& host, const Input& in) {
  const MoeConfig& c = host.config;
  if (in.ids.empty()) return testing::oracle_output(host, in.x, in.logits);
  const std::int64_t tokens = in.x.size() / c.hidden;
  std::vector<double> y(static_cast<std::size_t>(in.x.size()));
  MoeRun run;
  run.x = TensorView(const_cast<unsigned char*>(in.x.bytes.data()), in.x.dtype, {tokens, c.hidden});
  run.topk_ids = TensorView(const_cast<int*>(in.ids.data()), DType::kI32, {tokens, c.top_k});
  run.topk_weights = TensorView(const_cast<float*>(in.weights.data()), DType::kF32, {tokens, c.top_k});
  run.out = TensorView(y.data(), DType::kF64, {tokens, c.hidden});
  reference_moe(c, host.weights, ReferenceMode::kOracle, run);
  return y;
}

/// What the run lists are the routed slots, k a token, whatever kernels append to them.
void check_run(const HostLayer& host, const DeviceLayer& device, const Input& in) {
  const MoeConfig& c = host.config;
  const DeviceOutput f32 = device.run_into(DType::kF32, {in.x, in.logits, in.ids, in.weights});
  const DeviceOutput bf16 = device.run_into(DType::kBF16, {in.x, in.logits, in.ids, in.weights});
  ASSERT_TRUE(f32.guard_intact && bf16.guard_intact);
  const std::vector<double> wanted = oracle(host, in);
  for (const DeviceOutput* result : {&f32, &bf16}) {
    const testing::Distance d = compare(testing::to_floats(result->y), wanted, c.hidden, tables::kTolBf16);
    EXPECT_TRUE(d.finite);
    EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2) << "row " << d.row;
    EXPECT_LE(d.element, 1.0);
  }
  if (!in.ids.empty()) {
    EXPECT_EQ(f32.ids, in.ids);
    EXPECT_EQ(f32.weights, in.weights);
  } else {
    for (const int id : f32.ids) EXPECT_TRUE(id >= 0 && id < c.num_experts);
  }
}

void check_layer(std::mt19937& rng, const MoeConfig& c, bool biases) {
  ASSERT_TRUE(plan::shared_is_expert(c));
  HostLayer host = testing::random_layer(rng, c, {.biases = biases});
  host.weights.router_bias = {};
  const DeviceLayer device(host, c);
  // Of one token, of one block or cluster, of a tile a warp, of two launches.
  for (const int tokens : {1, 3, 40, 128, 530}) {
    SCOPED_TRACE("T=" + std::to_string(tokens));
    int gemms = 0;
    for (const std::string& name : device.layer().kernels(tokens)) {
      if (tables::find_kernel(name.substr(0, name.find('/')))->op == tables::Op::kGemm) ++gemms;
    }
    EXPECT_EQ(gemms, 2);
    check_run(host, device, random_logits(rng, c, tokens));
    check_run(host, device, random_ids(rng, c, tokens));
  }
}

TEST_F(DeviceSharedTest, OneMoreExpertOfTheRoutedGemms) {
  std::mt19937 rng(testing::fresh_seed());
  for (const RoutingMethod method : {RoutingMethod::kSoftmaxTopKRenorm, RoutingMethod::kTopKSoftmax,
                                     RoutingMethod::kSoftmaxTopK, RoutingMethod::kDeepSeekV3, RoutingMethod::kLlama4}) {
    SCOPED_TRACE("method " + std::to_string(static_cast<int>(method)));
    MoeConfig c = layer_config(12, method == RoutingMethod::kLlama4 ? 1 : 3, method);
    c.weights_on_input = method == RoutingMethod::kLlama4;
    if (method == RoutingMethod::kDeepSeekV3) c.routing.n_group = 4, c.routing.topk_group = 2;
    c.shared.gated = method == RoutingMethod::kSoftmaxTopKRenorm;  // as Qwen3-Next has it
    check_layer(rng, c, method == RoutingMethod::kTopKSoftmax);
  }
}

// 8 and 16 routed slots fill what is summed at once, 31 leave one of 32.
TEST_F(DeviceSharedTest, SlotsOfATokenUpToTheLast) {
  std::mt19937 rng(testing::fresh_seed());
  for (const auto& [experts, top_k] : {std::pair{200, 8}, std::pair{20, 16}, std::pair{300, 31}}) {
    SCOPED_TRACE("top " + std::to_string(top_k) + " of " + std::to_string(experts));
    check_layer(rng, layer_config(experts, top_k, RoutingMethod::kSoftmaxTopKRenorm), false);
  }
  EXPECT_FALSE(plan::shared_is_expert(layer_config(40, 32, RoutingMethod::kSoftmaxTopKRenorm)));
}

// Whatever the GEMM: every configuration of every row.
TEST_F(DeviceSharedTest, ByEveryKernel) {
  std::mt19937 rng(testing::fresh_seed());
  const MoeConfig c = layer_config(6, 2, RoutingMethod::kSoftmaxTopKRenorm);
  HostLayer host = testing::random_layer(rng, c, {.biases = true});
  host.weights.router_bias = {};
  for (const tables::KernelRow& row : tables::kernel_table()) {
    const auto served = testing::modules_that_serve(row, tables::recipe_index("bf16"));
    if (!served || (row.op != tables::Op::kGemm && row.op != tables::Op::kGather)) continue;
    for (const abi::KernelConfig& config : row.configs) {
      ModuleOptions modules = *served;
      modules.force_kernel = std::string(row.name) + "/" + tables::config_name(row, config);
      SCOPED_TRACE(*modules.force_kernel);
      const DeviceLayer device(host, c, modules);
      for (const int tokens : {5, 200}) check_run(host, device, random_logits(rng, c, tokens));
      for (const int tokens : {4, 30}) check_run(host, device, random_ids(rng, c, tokens));  // sorted in two other ways
    }
  }
}

}  // namespace
}  // namespace moesaic
