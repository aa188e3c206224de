// SPDX-License-Identifier: Apache-2.0
// ActivationOp on a GPU: one kernel for all kinds and types.
#include <fmt/format.h>

#include "backend_cuda/device.h"
#include "kernels/abi/params.h"
#include "ops/activation_impl.h"
#include "ops/cuda_serve.h"
#include "plan/moe_plan.h"

namespace moesaic::ops {
namespace {

bool is_aligned(const TensorView& t) {
  const auto bytes = static_cast<std::uintptr_t>(abi::kActivateWidth) * dtype_size(t.dtype);
  return reinterpret_cast<std::uintptr_t>(t.data) % bytes == 0;
}

class CudaActivation final : public ActivationImpl {
 public:
  CudaActivation(const Activation& activation, Device device, const ModuleOptions& modules)
      : activation_(activation), device_(device) {
    const Served served = serve(cuda::device_info(device.index).sm, modules);
    choice_ = plan::plan_activation(served.arch, served.force_kernel);
    kernels_.load({choice_}, served, device, modules);
  }

  void run(const ActivationRun& run, const cpu::GateUpColumns& columns, void* stream) const override {
    const std::int64_t rows = run.out.shape[0], cols = run.out.shape[1];
    const std::int64_t per_row = (cols + abi::kActivateWidth - 1) / abi::kActivateWidth;
    if (per_row * rows >= std::int64_t{1} << 31 || run.x.shape[1] >= std::int64_t{1} << 31) {
      throw Error(
          ErrorKind::kUnsupported,
          fmt::format("activation: out [{}, {}] on a GPU, at most 2^31 pieces of {} elements; run fewer rows at "
                      "a time",
                      rows, cols, abi::kActivateWidth));
    }
    abi::ActivateParams p{};
    p.x = run.x.data;
    p.out = run.out.data;
    p.type = source_type(run.x.dtype);
    p.out_type = source_type(run.out.dtype);
    p.cols = static_cast<int>(cols);
    p.row_stride = static_cast<int>(run.x.shape[1]);
    p.gate_offset = static_cast<int>(columns.gate);
    p.up_offset = static_cast<int>(columns.up);
    p.step = columns.step;
    p.pieces = static_cast<unsigned>(per_row * rows);
    p.row_pieces = static_cast<unsigned>(per_row);
    p.aligned =
        columns.step == 1 && cols % abi::kActivateWidth == 0 && is_aligned(run.x) && is_aligned(run.out) ? 1 : 0;
    const ActivationParameters parameters = activation_parameters(activation_);
    p.kind = static_cast<int>(activation_.kind);
    p.gated = is_gated(activation_.kind) ? 1 : 0;
    p.alpha = parameters.alpha;
    p.beta = parameters.beta;
    p.limit = parameters.limit;
    const cuda::DeviceGuard guard(device_.index);
    const int threads = abi::threads(choice_.config());
    const unsigned blocks = (p.pieces + static_cast<unsigned>(threads) - 1) / static_cast<unsigned>(threads);
    kernels_.at(choice_).launch({blocks}, threads, &p, stream);
  }

 private:
  Activation activation_;
  Device device_;
  plan::Choice choice_;
  LoadedKernels kernels_;
};

}  // namespace

std::unique_ptr<const ActivationImpl> make_cuda_activation(const Activation& activation, Device device,
                                                           const ModuleOptions& modules) {
  return std::make_unique<CudaActivation>(activation, device, modules);
}

}  // namespace moesaic::ops
