// SPDX-License-Identifier: Apache-2.0
// Activations of moesaic::ActivationKind in FP32; NaN passes through. They are written for few instructions: exp2 and
// reciprocals are the hardware's (relative error below 1e-6 while sigmoid is a normal number, x > -87; 0 below), erf
// and tanh are fitted (tools/fit_activations.py prints the coefficients and the errors).
#pragma once

#include "kernels/common/number.cuh"

namespace moesaic {

/// What an epilogue needs of GemmParams.
struct ActivationParams {
  int kind;
  float alpha, beta, limit;
};

// Their forms that flush subnormal numbers need no scaling around them: what is flushed is lost beside what it is added
// to, and a sum that large gives what __fdividef gives.
__device__ __forceinline__ float exp2_flush(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
__device__ __forceinline__ float reciprocal_flush(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// exp(-x) = 2^(-x log2 e).
__device__ __forceinline__ float exp_negative(float x) { return exp2_flush(-1.4426950408889634f * x); }
__device__ __forceinline__ float sigmoid(float x) { return reciprocal_flush(1.0f + exp_negative(x)); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }

/// x times the normal distribution's integral: that of -|x| is exp(-x^2 / 2) times a polynomial in 1 / (1 + 0.3 |x|)
/// (the form of Abramowitz and Stegun 7.1.26), so that the left tail keeps its digits: relative error below 3e-6 for
/// |x| < 4, below 1e-5 beyond.
__device__ __forceinline__ float gelu(float x) {
  const float t = reciprocal_flush(fmaf(fabsf(x), 0.3f, 1.0f));
  float r = -0.084592216f;
  r = fmaf(r, t, 0.24056897f);
  r = fmaf(r, t, -0.04863856f);
  r = fmaf(r, t, 0.16475987f);
  r = fmaf(r, t, 0.10670649f);
  r = fmaf(r, t, 0.12127428f);
  r = fmaf(r, t, -7.975279e-05f);
  const float power = exp2_flush(-0.72134752f * x * x);
  return x * (x > 0.0f ? fmaf(-r, power, 1.0f) : r * power);
}

/// 0.5 (1 + tanh(z)) = sigmoid(2 z).
__device__ __forceinline__ float gelu_tanh(float x) {
  return x * sigmoid(2.0f * 0.7978845608f * x * fmaf(0.044715f * x, x, 1.0f));
}

/// scale tanh(x / scale) = numerator / denominator, relative error below 3e-6; beyond 7.7 scale it is scale to that
/// error.
struct Ratio {
  float numerator, denominator;
};
__device__ __forceinline__ Ratio scaled_tanh(float x, float scale) {
  const float clamped = max_nan(min_nan(x, 7.7f * scale), -7.7f * scale);
  const float a = clamped * reciprocal_flush(scale), z = a * a;
  const float n = fmaf(fmaf(fmaf(3.6275658e-06f, z, 0.0022136348f), z, 0.12232871f), z, 0.99999791f);
  const float d = fmaf(fmaf(0.00013541164f, z, 0.020780202f), z, 0.45564747f);
  return {clamped * n, fmaf(d, z, 1.0f)};
}

/// The same for |x| <= scale, as a polynomial: relative error below 1e-6.
__device__ __forceinline__ float scaled_tanh_near_zero(float x, float scale) {
  const float a = x * reciprocal_flush(scale), z = a * a;
  float r = -0.0030670492f;
  r = fmaf(r, z, 0.01674309f);
  r = fmaf(r, z, -0.051605653f);
  r = fmaf(r, z, 0.13281433f);
  r = fmaf(r, z, -0.33329043f);
  return x * fmaf(r, z, 0.9999994f);
}

/// SITU's up half: beta tanh(u / beta).
__device__ __forceinline__ float situ_up(const ActivationParams& p, float u) {
  if (fabsf(u) <= p.beta) return scaled_tanh_near_zero(u, p.beta);
  const Ratio up = scaled_tanh(u, p.beta);
  return up.numerator * reciprocal_flush(up.denominator);
}
/// SITU from what its up half became: times alpha tanh(g / alpha) sigmoid(g).
__device__ __forceinline__ float situ_of_up(const ActivationParams& p, float g, float up) {
  const Ratio gate = scaled_tanh(g, p.alpha);
  return gate.numerator * up * reciprocal_flush(fmaf(gate.denominator, exp_negative(g), gate.denominator));
}

/// act(g, u) by the formula of one kind; `u` is ignored by the kinds that are not gated. Numbers:
/// moesaic::ActivationKind.
template <int kKind>
__device__ __forceinline__ float activate_as(const ActivationParams& p, float g, float u) {
  if constexpr (kKind == 0) {
    return gelu(g);
  } else if constexpr (kKind == 1) {
    return max_nan(g, 0.0f);
  } else if constexpr (kKind == 2) {
    return silu(g);
  } else if constexpr (kKind == 3) {
    return silu(g) * u;
  } else if constexpr (kKind == 4) {
    return gelu(g) * u;
  } else if constexpr (kKind == 5) {
    const float gate = min_nan(g, p.limit), up = max_nan(min_nan(u, p.limit), -p.limit);
    return gate * sigmoid(p.alpha * gate) * (up + p.beta);
  } else if constexpr (kKind == 6) {
    const float positive = max_nan(g, 0.0f);
    return positive * positive;
  } else if constexpr (kKind == 7) {
    return min_nan(silu(g), p.limit) * max_nan(min_nan(u, p.limit), -p.limit);
  } else if constexpr (kKind == 8) {
    return gelu_tanh(g) * u;
  } else if constexpr (kKind == 9) {
    return g;
  } else {
    static_assert(kKind == 10, "the last kind");
    return situ_of_up(p, g, situ_up(p, u));
  }
}

/// act(g, u) of any kind.
__device__ __forceinline__ float activate(const ActivationParams& p, float g, float u) {
  switch (p.kind) {
    case 0:
      return activate_as<0>(p, g, u);
    case 1:
      return activate_as<1>(p, g, u);
    case 2:
      return activate_as<2>(p, g, u);
    case 3:
      return activate_as<3>(p, g, u);
    case 4:
      return activate_as<4>(p, g, u);
    case 5:
      return activate_as<5>(p, g, u);
    case 6:
      return activate_as<6>(p, g, u);
    case 7:
      return activate_as<7>(p, g, u);
    case 8:
      return activate_as<8>(p, g, u);
    case 9:
      return activate_as<9>(p, g, u);
    default:
      return activate_as<10>(p, g, u);
  }
}

}  // namespace moesaic
