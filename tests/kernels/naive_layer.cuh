// SPDX-License-Identifier: Apache-2.0
// A naive FP64 layer for one GPU thread per element: the test's own text, nothing from kernels/ but the config header.
#pragma once

namespace moesaic::abi {

struct NaiveParams {
  const unsigned short* x;                 // [T][H] bf16
  const unsigned short* w13;               // [E][2I][H] bf16, gate rows first
  const unsigned short* w2;                // [E][H][I] bf16
  const int* tokens;                       // [count] which tokens
  const int* ids;                          // [T][k]
  const float* weights;                    // [T][k]
  double* h;                               // [count][k][I], rounded to bf16
  double* y;                               // [count][H]
  int hidden, intermediate, top_k, phase;  // phase 0: h, 1: y, 2: fill
  unsigned short* fill;                    // [fill_count] bf16 values of a hash, uniform in +-fill_scale
  long long fill_count;
  unsigned fill_seed;
  float fill_scale;
};

}  // namespace moesaic::abi

namespace moesaic::naive {

__device__ inline double value(unsigned short bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }

/// Nearest even straight from FP64: the upper bound of the lower neighbour's half-way point decides.
__device__ inline double round_bf16(double v) {
  const unsigned high = __float_as_uint(__double2float_rz(v)) >> 16;
  const double half = __uint_as_float((high << 16) | 0x8000u);
  const bool up = fabs(v) > fabs(half) || (fabs(v) == fabs(half) && (high & 1u));
  return __uint_as_float((high + (up ? 1u : 0u)) << 16);
}

/// A bf16 value that depends on seed and index alone.
__device__ inline unsigned short hashed(const abi::NaiveParams& p, long long index) {
  unsigned long long z = index + (static_cast<unsigned long long>(p.fill_seed) << 40) + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  const float uniform = static_cast<float>(static_cast<unsigned>(z)) * 4.656612873e-10f - 1.0f;
  return static_cast<unsigned short>(__float_as_uint(uniform * p.fill_scale) >> 16);
}

/// blockIdx.y: sampled token (and slot in phase 0); threads along output columns.
template <abi::KernelConfig kConfig>
__device__ void layer(const abi::NaiveParams& p) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (p.phase == 2) {
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = column; i < p.fill_count; i += step) p.fill[i] = hashed(p, i);
  } else if (p.phase == 0) {
    const int sample = blockIdx.y / p.top_k, slot = blockIdx.y % p.top_k;
    if (column >= p.intermediate) return;
    const int token = p.tokens[sample];
    const unsigned short* x = p.x + static_cast<long long>(token) * p.hidden;
    const long long expert = p.ids[token * p.top_k + slot];
    const unsigned short* gate = p.w13 + (expert * 2 * p.intermediate + column) * p.hidden;
    const unsigned short* up = gate + static_cast<long long>(p.intermediate) * p.hidden;
    double g = 0, u = 0;
    for (int k = 0; k < p.hidden; ++k) {
      g += value(x[k]) * value(gate[k]);
      u += value(x[k]) * value(up[k]);
    }
    p.h[static_cast<long long>(blockIdx.y) * p.intermediate + column] = round_bf16(g / (1.0 + exp(-g)) * u);
  } else {
    if (column >= p.hidden) return;
    const int sample = blockIdx.y, token = p.tokens[sample];
    double y = 0;
    for (int slot = 0; slot < p.top_k; ++slot) {
      const long long expert = p.ids[token * p.top_k + slot];
      const unsigned short* down = p.w2 + (expert * p.hidden + column) * p.intermediate;
      const double* h = p.h + (static_cast<long long>(sample) * p.top_k + slot) * p.intermediate;
      double sum = 0;
      for (int i = 0; i < p.intermediate; ++i) sum += h[i] * value(down[i]);
      y += p.weights[token * p.top_k + slot] * sum;
    }
    p.y[static_cast<long long>(sample) * p.hidden + column] = y;
  }
}

}  // namespace moesaic::naive
