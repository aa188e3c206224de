// SPDX-License-Identifier: Apache-2.0
// Activations of moesaic::ActivationKind in FP32; NaN passes through. tanh and erf are the accurate ones; sigmoid uses
// the hardware's exp2 and reciprocal (relative error below 1e-6 while it is a normal number, x > -87; 0 below).
#pragma once

#include "kernels/common/number.cuh"

namespace moesaic {

/// What an epilogue needs of GemmParams.
struct ActivationParams {
  int kind;
  float alpha, beta, limit;
};

// fminf and fmaxf drop NaN; these keep it, as clamp in the frameworks does.
__device__ __forceinline__ float min_keep_nan(float a, float b) { return a < b || a != a ? a : b; }
__device__ __forceinline__ float max_keep_nan(float a, float b) { return a > b || a != a ? a : b; }

// 1 / (1 + 2^(-x log2 e)). Their forms that flush subnormal numbers need no scaling around them: a flushed power is
// lost beside the 1, and a sum that large gives what __fdividef gives.
__device__ __forceinline__ float sigmoid(float x) {
  float power, result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-1.4426950408889634f * x));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
  return result;
}
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ __forceinline__ float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

/// act(g, u); `u` is ignored by the kinds that are not gated. Numbers: moesaic::ActivationKind.
__device__ __forceinline__ float activate(const ActivationParams& p, float g, float u) {
  switch (p.kind) {
    case 0:
      return gelu(g);
    case 1:
      return max_keep_nan(g, 0.0f);
    case 2:
      return silu(g);
    case 3:
      return silu(g) * u;
    case 4:
      return gelu(g) * u;
    case 5: {
      const float gate = min_keep_nan(g, p.limit);
      const float up = max_keep_nan(min_keep_nan(u, p.limit), -p.limit);
      return gate * sigmoid(p.alpha * gate) * (up + p.beta);
    }
    case 6: {
      const float positive = max_keep_nan(g, 0.0f);
      return positive * positive;
    }
    case 7:
      return min_keep_nan(silu(g), p.limit) * max_keep_nan(min_keep_nan(u, p.limit), -p.limit);
    case 8:
      return gelu_tanh(g) * u;
    case 9:
      return g;
    default:
      return p.alpha * tanhf(g / p.alpha) * sigmoid(g) * (p.beta * tanhf(u / p.beta));
  }
}

}  // namespace moesaic
