// SPDX-License-Identifier: Apache-2.0
// Pure planning of a quantiser: a format -> kernels (row, config) of its steps.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "moesaic/quantize.h"
#include "plan/moe_plan.h"

namespace moesaic::plan {

/// Kernels of one quantiser. `amax`: only for the format with one scale from the tensor's maximum. `swizzle`: only for
/// formats whose scales may lie in tiles.
struct QuantSteps {
  Choice amax, quantize, dequantize, swizzle;

  std::vector<Choice> all() const;  // those that are set
};

/// `activation`: the gated formula that is applied on the way.
/// Throws Error: kInvalidArgument when the spec is none or `force_kernel` (a row name or empty) is unknown,
/// kUnsupported when a step has no kernel.
QuantSteps plan_quantize(const QuantSpec& spec, std::optional<ActivationKind> activation, const tables::ArchRow& arch,
                         const std::string& force_kernel);

}  // namespace moesaic::plan
