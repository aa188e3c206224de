// SPDX-License-Identifier: Apache-2.0
// What a run costs on the host besides the launches, and the CPU's routing: `build/bench/bench_host`.
#include <benchmark/benchmark.h>

#include <random>

#include "backend_cpu/backend_cpu.h"
#include "module/kernel_instance.h"
#include "plan/moe_plan.h"
#include "tables/model_table.h"

namespace moesaic {
namespace {

/// Planning every T of a layer, as `create` does once.
void PlanRanges(benchmark::State& state) {
  MoeConfig c = tables::model_config(tables::get_model("qwen3-30b-a3b"));
  c.max_tokens = static_cast<int>(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(plan::plan_ranges(c, *tables::find_arch(90), {}, ""));
}
BENCHMARK(PlanRanges)->Arg(512)->Arg(65536)->Unit(benchmark::kMillisecond);

/// The part of `run` that is not a launch.
void WorkspaceLayout(benchmark::State& state) {
  const MoeConfig c = tables::model_config(tables::get_model("deepseek-v3"));
  for (auto _ : state) benchmark::DoNotOptimize(plan::workspace_layout(c, state.range(0), 8));
}
BENCHMARK(WorkspaceLayout)->Arg(1)->Arg(8192);

/// Identities of one architecture's ahead-of-time set, as `compile --list` and bundle look-ups need them.
void Identities(benchmark::State& state) {
  for (auto _ : state) {
    for (const module::KernelInstance& i : module::instances_for(*tables::find_arch(90), ~0u, ~0u)) {
      benchmark::DoNotOptimize(module::identity(i));
    }
  }
}
BENCHMARK(Identities)->Unit(benchmark::kMillisecond);

/// The oracle's routing, one thread.
void RouteOnCpu(benchmark::State& state) {
  const MoeConfig c = tables::model_config(tables::get_model("deepseek-v3"));
  const std::int64_t tokens = state.range(0);
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> logits(static_cast<std::size_t>(tokens * c.num_experts)),
      weights(static_cast<std::size_t>(tokens * c.top_k));
  std::vector<std::int32_t> ids(weights.size());
  for (float& l : logits) l = normal(rng);
  for (auto _ : state) {
    cpu::route(c.routing, logits.data(), nullptr, tokens, c.num_experts, c.top_k, ids.data(), weights.data());
    benchmark::DoNotOptimize(ids.data());
  }
  state.SetItemsProcessed(state.iterations() * tokens);
}
BENCHMARK(RouteOnCpu)->Arg(1)->Arg(256);

}  // namespace
}  // namespace moesaic

BENCHMARK_MAIN();
