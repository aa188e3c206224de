// SPDX-License-Identifier: Apache-2.0
// What Quantizer delegates to on a GPU, and the checks of its arguments. Arguments are checked before they get there.
#pragma once

#include <memory>
#include <optional>

#include "moesaic/quantize.h"

namespace moesaic::ops {

/// Rows, columns and sizes of one run, after the activation.
struct QuantShape {
  std::int64_t rows, cols;
  QuantSizes sizes;
};

class QuantImpl {
 public:
  virtual ~QuantImpl() = default;
  virtual void quantize(const QuantShape& shape, const QuantizeRun& run, void* stream) const = 0;
  virtual void dequantize(const QuantShape& shape, const QuantizeRun& run, void* stream) const = 0;
  virtual void swizzle(std::int64_t rows, std::int64_t cols, void* linear, void* tiles, bool to_linear,
                       void* stream) const = 0;
};

/// Plans, and loads the kernels. Throws Error.
std::unique_ptr<const QuantImpl> make_cuda_quantizer(const QuantSpec& spec, Device device, const ModuleOptions& modules,
                                                     const std::optional<Activation>& activation);

/// Each throws Error(kInvalidArgument) that begins with "quantizer: " and names the argument.
void check_quantizer(const QuantSpec& spec, const std::optional<Activation>& activation);
QuantShape check_quantize(const QuantSpec& spec, const std::optional<Activation>& activation, const QuantizeRun& run);
QuantShape check_dequantize(const QuantSpec& spec, const QuantizeRun& run);
/// Host offsets: ascending from 0 to at most the rows. Those on a GPU cannot be looked at without waiting for it.
void check_offset_values(const QuantShape& shape, const TensorView& offsets);
void check_swizzle(const QuantSpec& spec, const TensorView& linear, const TensorView& layout_scales);

}  // namespace moesaic::ops
