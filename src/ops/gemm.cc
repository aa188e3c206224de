// SPDX-License-Identifier: Apache-2.0
// Gemm: checks, then the implementation of the device. Also the reference entry point.
#include "moesaic/gemm.h"

#include <fmt/format.h>

#include "backend_cpu/backend_cpu.h"
#include "ops/argument_check.h"
#include "ops/gemm_impl.h"
#include "plan/gemm_plan.h"

namespace moesaic {

namespace {

void check_rows(const char* question, const GemmConfig& config, std::int64_t rows) {
  if (rows >= 0 && rows <= config.max_rows) return;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("gemm: {} of {} rows, wanted 0 to max_rows {}", question, rows, config.max_rows));
}

}  // namespace

struct Gemm::Impl {
  GemmConfig config;
  std::unique_ptr<ops::GemmImpl> device;
};

Gemm Gemm::create(const GemmConfig& config, const ModuleOptions& modules) {
  plan::check_gemm_config(config);
  auto impl = std::make_shared<Impl>();
  impl->config = config;
  impl->device =
      config.device.type == DeviceType::kCpu ? ops::make_cpu_gemm(config) : ops::make_cuda_gemm(config, modules);
  return Gemm(std::move(impl));
}

Gemm::Gemm(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Gemm::Gemm(Gemm&&) noexcept = default;
Gemm& Gemm::operator=(Gemm&&) noexcept = default;
Gemm::~Gemm() = default;

const GemmConfig& Gemm::config() const noexcept { return impl_->config; }
std::size_t Gemm::prepared_bytes() const noexcept { return impl_->device->prepared_bytes(); }

void Gemm::prepare(std::span<const GemmWeights> weights, void* prepared, void* stream) const {
  ops::check_gemm_weights(impl_->config, weights, ops::WeightFormats::kOfRecipe);
  ops::ArgumentCheck{"gemm"}.memory("prepared", prepared, prepared_bytes(), prepared_bytes());
  impl_->device->prepare(weights, prepared, stream);
}

std::size_t Gemm::workspace_bytes(std::int64_t rows) const {
  check_rows("workspace_bytes", impl_->config, rows);
  return impl_->device->workspace_bytes(rows);
}

void Gemm::run(const GemmRun& run, void* stream) const {
  const std::int64_t rows = ops::check_gemm_run(impl_->config, run, ops::Precision::kIo);
  if (rows == 0) return;
  ops::check_gemm_memory(run, prepared_bytes(), impl_->device->workspace_bytes(rows));
  GemmRun flat = run;  // rows of groups are rows of a matrix, however they are found
  flat.x = TensorView(run.x.data, run.x.dtype, {rows, run.x.shape[static_cast<std::size_t>(run.x.rank - 1)]});
  flat.out = TensorView(run.out.data, run.out.dtype, {rows, impl_->config.n});
  impl_->device->run(flat, stream);
}

std::vector<std::string> Gemm::kernels(std::int64_t rows) const {
  check_rows("kernels", impl_->config, rows);
  return impl_->device->kernels(rows);
}

void reference_gemm(const GemmConfig& config, std::span<const GemmWeights> weights, ReferenceMode mode,
                    const GemmRun& run) {
  plan::check_gemm_config(config);
  ops::check_gemm_weights(config, weights,
                          mode == ReferenceMode::kExact ? ops::WeightFormats::kAny : ops::WeightFormats::kOfRecipe);
  const std::int64_t rows = ops::check_gemm_run(config, run, ops::Precision::kReference);
  ops::check_group_values(config, run, rows);
  if (rows > 0) cpu::reference_gemm(config, weights, mode, rows, run);
}

}  // namespace moesaic
