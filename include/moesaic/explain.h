// SPDX-License-Identifier: Apache-2.0
// Which kernels serve a layer, and why not better ones. No GPU is needed.
#pragma once

#include <cstdint>
#include <string>

#include "moesaic/moe.h"

#pragma GCC visibility push(default)
namespace moesaic {

/// One paragraph for every architecture of `moesaic archs`: the row and configuration of each step of a run of `tokens`
/// tokens, or why the layer has none; and what the CPU uses. Plans for the rates of a typical device and obeys
/// MOESAIC_FORCE_KERNEL; FusedMoe::kernels says what a layer on a device uses. Throws Error(kInvalidArgument) on a
/// configuration that is no layer, or tokens outside 1 to max_tokens.
std::string explain(const MoeConfig& config, std::int64_t tokens);

}  // namespace moesaic
#pragma GCC visibility pop
