// SPDX-License-Identifier: Apache-2.0
// Activations of the fast path that have no vector code.
#pragma once

#include "backend_cpu/fast_kernels.h"

namespace moesaic::cpu {

/// Parameters after the defaults that moe.h states.
FastActivation fast_activation(const Activation& activation);

/// h[i] = act(g[i], u[i]) for the kinds without vector code. `u` is not read when the kind is not gated.
void activate_scalar(const FastActivation& activation, const float* g, const float* u, int count, float* h);

}  // namespace moesaic::cpu
