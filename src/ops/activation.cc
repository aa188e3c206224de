// SPDX-License-Identifier: Apache-2.0
// ActivationOp: checks, then the CPU's fast path or the GPU's launch.
#include "moesaic/activation.h"

#include <fmt/format.h>

#include <limits>

#include "base/tensor_text.h"
#include "ops/activation_impl.h"
#include "plan/moe_plan.h"

namespace moesaic {
namespace {

[[noreturn]] void refuse(const std::string& argument, const std::string& got, const std::string& wanted) {
  throw Error(ErrorKind::kInvalidArgument, fmt::format("activation: {} is {}, wanted {}", argument, got, wanted));
}

void check_matrix(const char* name, const TensorView& t) {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();  // no product of two overflows
  const auto fits = [](std::int64_t size) { return size >= 0 && size <= kLargest; };
  if (t.rank != 2 || !fits(t.shape[0]) || !fits(t.shape[1])) {
    refuse(name, base::tensor_text(t), fmt::format("a matrix [T, columns], each 0 to {}", kLargest));
  }
  if (t.dtype != DType::kBF16 && t.dtype != DType::kF16 && t.dtype != DType::kF32) {
    refuse(name, dtype_name(t.dtype), "bf16, f16 or f32");
  }
  if (t.data == nullptr && t.num_elements() > 0) refuse(name, "a null pointer", "memory");
  if (!base::is_aligned_for(t.data, t.dtype)) {
    refuse(name, fmt::format("at {}", t.data), fmt::format("a multiple of {} bytes", dtype_size(t.dtype)));
  }
}

void check_run(ActivationKind kind, const ActivationRun& run) {
  check_matrix("x", run.x);
  check_matrix("out", run.out);
  const std::int64_t wanted = run.out.shape[1] * (is_gated(kind) ? 2 : 1);
  if (run.x.shape[0] != run.out.shape[0] || run.x.shape[1] != wanted) {
    refuse("x", fmt::format("[{}, {}]", run.x.shape[0], run.x.shape[1]),
           fmt::format("[{}, {}]: out is [{}, {}] and {} is {}gated", run.out.shape[0], wanted, run.out.shape[0],
                       run.out.shape[1], activation_name(kind), is_gated(kind) ? "" : "not "));
  }
}

cpu::GateUpColumns columns_of(GateUpOrder order, bool gated, std::int64_t cols) {
  if (!gated) return {0, 0, 1};
  switch (order) {
    case GateUpOrder::kGateFirst:
      return {0, cols, 1};
    case GateUpOrder::kUpFirst:
      return {cols, 0, 1};
    case GateUpOrder::kInterleavedGateFirst:
      return {0, 1, 2};
    case GateUpOrder::kInterleavedUpFirst:
      return {1, 0, 2};
  }
  refuse("order", fmt::format("{}", static_cast<int>(order)), "an enumerator");
}

}  // namespace

struct ActivationOp::Impl {
  Activation activation;
  GateUpOrder order = GateUpOrder::kGateFirst;
  std::unique_ptr<const ops::ActivationImpl> gpu;  // none: the CPU
};

ActivationOp ActivationOp::create(const Activation& activation, Device device, const ModuleOptions& modules,
                                  GateUpOrder order) {
  plan::check_activation("activation", activation);
  plan::check_device("activation", device);
  columns_of(order, true, 0);  // refuses numbers that are no order
  auto impl = std::make_unique<Impl>();
  impl->activation = activation;
  impl->order = order;
  if (device.type == DeviceType::kCuda) impl->gpu = ops::make_cuda_activation(activation, device, modules);
  return ActivationOp(std::move(impl));
}

ActivationOp::ActivationOp(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ActivationOp::ActivationOp(ActivationOp&&) noexcept = default;
ActivationOp& ActivationOp::operator=(ActivationOp&&) noexcept = default;
ActivationOp::~ActivationOp() = default;

void ActivationOp::run(const ActivationRun& run, void* stream) const {
  check_run(impl_->activation.kind, run);
  if (run.out.num_elements() == 0) return;
  const cpu::GateUpColumns columns = columns_of(impl_->order, is_gated(impl_->activation.kind), run.out.shape[1]);
  if (impl_->gpu) return impl_->gpu->run(run, columns, stream);
  cpu::fast_activate(impl_->activation, columns, run);
}

}  // namespace moesaic
