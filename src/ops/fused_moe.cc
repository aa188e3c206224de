// SPDX-License-Identifier: Apache-2.0
// FusedMoe: checks, then the implementation of the device. Also the reference entry point.
#include <fmt/format.h>

#include "backend_cpu/backend_cpu.h"
#include "base/env.h"
#include "moesaic/moe.h"
#include "ops/moe_impl.h"
#include "ops/prepared_file.h"
#include "plan/moe_plan.h"

namespace moesaic {

namespace {

void check_tokens(const char* question, const MoeConfig& config, std::int64_t tokens) {
  if (tokens >= 0 && tokens <= config.max_tokens) return;
  throw Error(ErrorKind::kInvalidArgument, fmt::format("fused_moe: {} of {} tokens, wanted 0 to max_tokens {}",
                                                       question, tokens, config.max_tokens));
}

}  // namespace

namespace ops {

MoeConfig planned_config(const MoeConfig& config) {
  MoeConfig planned = config;
  planned.static_scales = config.static_scales && base::env_switch(base::Env::kQuantiseHidden).value_or(true);
  return planned;
}

}  // namespace ops

struct FusedMoe::Impl {
  MoeConfig config;
  std::unique_ptr<ops::MoeImpl> device;
};

FusedMoe FusedMoe::create(const MoeConfig& config, const ModuleOptions& modules) {
  plan::check_config(config);
  auto impl = std::make_shared<Impl>();
  impl->config = config;
  impl->device =
      config.device.type == DeviceType::kCpu ? ops::make_cpu_moe(config) : ops::make_cuda_moe(config, modules);
  return FusedMoe(std::move(impl));
}

FusedMoe::FusedMoe(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
FusedMoe::FusedMoe(FusedMoe&&) noexcept = default;
FusedMoe& FusedMoe::operator=(FusedMoe&&) noexcept = default;
FusedMoe::FusedMoe(const FusedMoe&) = default;
FusedMoe& FusedMoe::operator=(const FusedMoe&) = default;
FusedMoe::~FusedMoe() = default;

const MoeConfig& FusedMoe::config() const noexcept { return impl_->config; }
std::size_t FusedMoe::prepared_bytes() const noexcept { return impl_->device->prepared_bytes(); }

void FusedMoe::prepare(const MoeWeights& weights, void* prepared, void* stream) const {
  ops::check_weights(impl_->config, weights, ops::WeightFormats::kOfRecipe);
  ops::check_memory("prepared", prepared, prepared_bytes(), prepared_bytes());
  impl_->device->prepare(weights, prepared, stream);
}

void FusedMoe::prepare_expert(int expert, const ExpertWeights& weights, void* prepared, void* stream) const {
  ops::check_expert_weights(impl_->config, expert, weights);
  ops::check_memory("prepared", prepared, prepared_bytes(), prepared_bytes());
  impl_->device->prepare_expert(expert, weights, prepared, stream);
}

void FusedMoe::save_prepared(const void* prepared, const std::string& path, void* stream) const {
  ops::save_prepared(impl_->config, *impl_->device, prepared, path, stream);
}

void FusedMoe::load_prepared(const std::string& path, void* prepared, void* stream) const {
  ops::load_prepared(impl_->config, *impl_->device, path, prepared, stream);
}

std::size_t FusedMoe::workspace_bytes(std::int64_t tokens) const {
  check_tokens("workspace_bytes", impl_->config, tokens);
  return impl_->device->workspace_bytes(tokens);
}

std::size_t FusedMoe::dispatched_workspace_bytes(std::int64_t rows) const {
  const std::int64_t most = std::int64_t{impl_->config.max_tokens} * impl_->config.top_k;
  if (rows < 0 || rows > most) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("fused_moe: workspace for {} rows, wanted 0 to max_tokens * top_k = {}", rows, most));
  }
  return impl_->device->dispatched_workspace_bytes(rows);
}

void FusedMoe::run(const MoeRun& run, void* stream) const {
  const bool dispatched = is_dispatched(run);
  ops::check_run(impl_->config, run, ops::Precision::kIo);
  // Either form of dispatched rows is a matrix of them.
  const std::int64_t tokens = run.x.rank == 3 ? run.x.shape[0] * run.x.shape[1] : run.x.shape[0];
  if (tokens == 0) return;
  const std::size_t needed =
      dispatched ? impl_->device->dispatched_workspace_bytes(tokens) : impl_->device->workspace_bytes(tokens);
  ops::check_memory("prepared", run.prepared, prepared_bytes(), prepared_bytes());
  ops::check_memory("workspace", run.workspace, run.workspace_bytes, needed);
  if (!dispatched) return impl_->device->run(run, stream);
  impl_->device->run_dispatched(ops::matrices_of_rows(impl_->config, run), stream);
}

std::vector<std::string> FusedMoe::kernels(std::int64_t tokens) const {
  check_tokens("kernels", impl_->config, tokens);
  return impl_->device->kernels(tokens);
}

void reference_moe(const MoeConfig& config, const MoeWeights& weights, ReferenceMode mode, const MoeRun& run) {
  plan::check_config(config);
  ops::check_weights(config, weights,
                     mode == ReferenceMode::kExact ? ops::WeightFormats::kAny : ops::WeightFormats::kOfRecipe);
  ops::check_run(config, run, ops::Precision::kReference);
  cpu::reference_layer(config, weights, mode, run);
}

}  // namespace moesaic
