// SPDX-License-Identifier: Apache-2.0
// Router on a GPU: the layer's own routing kernels, without tiles.
#include <fmt/format.h>

#include "backend_cuda/device.h"
#include "backend_cuda/device_memory.h"
#include "kernels/abi/params.h"
#include "ops/cuda_serve.h"
#include "ops/route_impl.h"
#include "plan/moe_plan.h"

namespace moesaic::ops {
namespace {

class CudaRouter final : public RouteImpl {
 public:
  CudaRouter(const RouterConfig& config, const ModuleOptions& modules)
      : config_(config), held_(num_local_experts(plan::routing_only(config))) {
    const Served served = serve(cuda::device_info(config.device.index).sm, modules);
    steps_ = plan::plan_route(config, served.arch, served.force_kernel);
    kernels_.load({steps_.fused, steps_.select, steps_.scatter}, served, config.device, modules);
    if (config_.experts.slots.empty()) return;
    const std::size_t bytes = config_.experts.slots.size() * sizeof(int);
    expert_slots_ = cuda::DeviceBuffer(config.device, bytes);
    expert_slots_.upload(config_.experts.slots.data(), bytes);
  }

  std::size_t workspace_bytes(std::int64_t tokens) const override {
    if (is_fused(tokens)) return 0;
    const plan::RouteSegments segments = plan::route_segments(tokens, slots());
    return static_cast<std::size_t>(segments.count) * static_cast<std::size_t>(held_ + config_.shared_slots) * 2;
  }

  void run(const RouteRun& run, void* stream) const override {
    const std::int64_t tokens = route_tokens(run);
    const bool sorted = !run.row_offsets.empty();
    if (tokens == 0 && !sorted) return;
    const cuda::DeviceGuard guard(config_.device.index);
    abi::RouteParams p = params(run, static_cast<int>(tokens));
    cuda::LaunchChain chain(stream);
    if (!sorted) {
      p.segment_tokens = 16;  // one a warp of the select kernel
      return launch(chain, steps_.select, abi::div_up(p.tokens, p.segment_tokens), p);
    }
    if (is_fused(tokens)) return launch_fused_route(chain, kernels_.at(steps_.fused), steps_.fused.config(), p);
    const plan::RouteSegments segments = plan::route_segments(tokens, slots());
    p.segment_tokens = segments.tokens;
    p.segment_counts = static_cast<unsigned short*>(run.workspace);
    launch(chain, steps_.select, segments.count, p);
    launch(chain, steps_.scatter, segments.count, p);
  }

  std::vector<std::string> kernels(std::int64_t tokens) const override {
    const auto name = [](const plan::Choice& c) {
      return fmt::format("{}/{}", c.row->name, tables::config_name(*c.row, c.config()));
    };
    if (is_fused(tokens)) return {name(steps_.fused)};
    return {name(steps_.select), name(steps_.scatter)};
  }

 private:
  int slots() const { return config_.top_k + config_.shared_slots; }
  bool is_fused(std::int64_t tokens) const { return plan::routing_is_fused(tokens, slots()); }

  void launch(cuda::LaunchChain& chain, const plan::Choice& c, int blocks, const abi::RouteParams& p) const {
    chain.launch(kernels_.at(c), {static_cast<unsigned>(blocks)}, abi::threads(c.config()), p);
  }

  abi::RouteParams params(const RouteRun& run, int tokens) const {
    abi::RouteParams p{};
    p.logits = static_cast<const float*>(run.logits.data);
    p.selection_bias = static_cast<const float*>(run.selection_bias.data);
    p.token_ids = run.token_ids.data;
    p.wide_token_ids = run.token_ids.dtype == DType::kI64 ? 1 : 0;
    p.token_experts = static_cast<const int*>(run.token_experts.data);
    p.vocabulary = config_.routing.vocabulary;
    p.given_ids = static_cast<const int*>(run.given_ids.data);
    p.given_weights = static_cast<const float*>(run.given_weights.data);
    p.expert_slots = static_cast<const int*>(expert_slots_.data());
    p.ids = static_cast<int*>(run.ids.data);
    p.weights = static_cast<float*>(run.weights.data);
    p.row_token = static_cast<int*>(run.row_token.data);
    p.row_weight = static_cast<float*>(run.row_weight.data);
    p.slot_row = static_cast<int*>(run.slot_row.data);
    p.row_offsets = static_cast<int*>(run.row_offsets.data);
    p.tokens = tokens;
    p.num_experts = config_.num_experts;
    p.top_k = config_.top_k;
    p.first_expert = config_.experts.first;
    p.held_experts = held_;
    p.shared_slots = config_.shared_slots;
    p.shared_weight = config_.shared_weight;
    p.listed_slots = slots();
    p.method = static_cast<int>(config_.routing.method);
    p.n_group = config_.routing.n_group;
    p.topk_group = config_.routing.topk_group;
    p.renormalize = config_.routing.renormalize ? 1 : 0;
    p.scaling = config_.routing.scaling;
    p.tile_tokens = 1;  // no tiles are written
    return p;
  }

  RouterConfig config_;
  int held_;
  plan::RouteSteps steps_;
  LoadedKernels kernels_;
  cuda::DeviceBuffer expert_slots_;  // i32 [E], empty: a slice
};

}  // namespace

std::unique_ptr<const RouteImpl> make_cuda_router(const RouterConfig& config, const ModuleOptions& modules) {
  return std::make_unique<CudaRouter>(config, modules);
}

}  // namespace moesaic::ops
