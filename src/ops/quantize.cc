// SPDX-License-Identifier: Apache-2.0
// Quantizer: checks, then the CPU's fast path or the GPU's launches.
#include "moesaic/quantize.h"

#include <cstring>

#include "backend_cpu/backend_cpu.h"
#include "moesaic/error.h"
#include "ops/quant_impl.h"
#include "plan/moe_plan.h"

namespace moesaic {

struct Quantizer::Impl {
  QuantSpec spec;
  std::optional<Activation> activation;
  std::unique_ptr<const ops::QuantImpl> gpu;  // none: the CPU

  /// Byte scales between linear order and the spec's layout, on the CPU.
  void swizzle(const TensorView& linear, const TensorView& tiles, bool to_linear) const {
    auto* a = static_cast<std::uint8_t*>(linear.data);
    auto* b = static_cast<std::uint8_t*>(tiles.data);
    const std::int64_t rows = linear.shape[0], cols = linear.shape[1];
    if (!to_linear) std::memset(b, 0, static_cast<std::size_t>(tiles.num_elements()));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        const std::int64_t at = scale_index(spec.layout, r, c, cols);
        (to_linear ? a[r * cols + c] : b[at]) = to_linear ? b[at] : a[r * cols + c];
      }
    }
  }
};

Quantizer Quantizer::create(const QuantSpec& spec, Device device, const ModuleOptions& modules,
                            const Activation* activation) {
  auto impl = std::make_unique<Impl>();
  impl->spec = spec;
  if (activation != nullptr) impl->activation = *activation;
  ops::check_quantizer(spec, impl->activation);
  plan::check_device("quantizer", device);
  if (device.type == DeviceType::kCuda) impl->gpu = ops::make_cuda_quantizer(spec, device, modules, impl->activation);
  return Quantizer(std::move(impl));
}

Quantizer::Quantizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Quantizer::Quantizer(Quantizer&&) noexcept = default;
Quantizer& Quantizer::operator=(Quantizer&&) noexcept = default;
Quantizer::~Quantizer() = default;

void Quantizer::quantize(const QuantizeRun& run, void* stream) const {
  const ops::QuantShape shape = ops::check_quantize(impl_->spec, impl_->activation, run);
  if (impl_->gpu) return impl_->gpu->quantize(shape, run, stream);
  ops::check_offset_values(shape, run.group_offsets);
  cpu::fast_quantize(impl_->spec, run, impl_->activation ? &*impl_->activation : nullptr);
}

void Quantizer::dequantize(const QuantizeRun& run, void* stream) const {
  const ops::QuantShape shape = ops::check_dequantize(impl_->spec, run);
  if (impl_->gpu) return impl_->gpu->dequantize(shape, run, stream);
  ops::check_offset_values(shape, run.group_offsets);
  cpu::fast_dequantize(impl_->spec, run);
}

void Quantizer::swizzle_scales(const TensorView& linear, const TensorView& layout_scales, void* stream) const {
  ops::check_swizzle(impl_->spec, linear, layout_scales);
  if (!impl_->gpu) return impl_->swizzle(linear, layout_scales, false);
  impl_->gpu->swizzle(linear.shape[0], linear.shape[1], linear.data, layout_scales.data, false, stream);
}

void Quantizer::unswizzle_scales(const TensorView& layout_scales, const TensorView& linear, void* stream) const {
  ops::check_swizzle(impl_->spec, linear, layout_scales);
  if (!impl_->gpu) return impl_->swizzle(linear, layout_scales, true);
  impl_->gpu->swizzle(linear.shape[0], linear.shape[1], linear.data, layout_scales.data, true, stream);
}

}  // namespace moesaic
