// SPDX-License-Identifier: Apache-2.0
// A naive FP64 product of mxfp8 rows and mxfp4 weights, and comparisons with it: the test's own text and decoding,
// nothing from kernels/ but the config header.
#pragma once

#include "tests/kernels/naive_gemm_params.h"

namespace moesaic::naive {

__device__ inline double power_of_two(int exponent) {
  return __longlong_as_double(static_cast<long long>(exponent + 1023) << 52);
}

__device__ inline double e8m0(unsigned char byte) {
  return byte == 255 ? __longlong_as_double(0x7ff8000000000000ll) : power_of_two(static_cast<int>(byte) - 127);
}

/// A code of `fraction` fraction bits below an exponent of `bias`; e4m3: 3 and 7, e5m2: 2 and 15.
__device__ inline double fp8(unsigned code, int fraction, int bias) {
  const int exponent = static_cast<int>(code >> fraction & ((1u << (7 - fraction)) - 1u));
  const int mantissa = static_cast<int>(code & ((1u << fraction) - 1u));
  const double magnitude = exponent == 0 ? mantissa * power_of_two(1 - bias - fraction)
                                         : ((1 << fraction) + mantissa) * power_of_two(exponent - bias - fraction);
  return code & 0x80u ? -magnitude : magnitude;
}

/// Twice the value of an e2m1 code.
__device__ inline int twice_e2m1(unsigned code) {
  const int magnitude = static_cast<int>(0x0c08060403020100ull >> 8 * (code & 7u) & 0xffu);
  return code & 8u ? -magnitude : magnitude;
}

__device__ inline unsigned hash(unsigned seed, long long index) {
  unsigned long long z = index + (static_cast<unsigned long long>(seed) << 40) + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<unsigned>((z ^ (z >> 31)) >> 16);
}

/// The sum of four uniform bytes: bell-shaped, mean 0, variance 1.
__device__ inline unsigned short bell(unsigned bits) {
  const int sum = static_cast<int>((bits & 255u) + (bits >> 8 & 255u) + (bits >> 16 & 255u) + (bits >> 24)) - 510;
  return static_cast<unsigned short>(__float_as_uint(static_cast<float>(sum) / 147.8f) >> 16);
}

__device__ inline double out_value(const abi::NaiveGemmParams& p, long long index) {
  const unsigned bits = static_cast<const unsigned short*>(p.out)[index];
  if (!p.fp16) return __uint_as_float(bits << 16);
  const int exponent = static_cast<int>(bits >> 10 & 31u), mantissa = static_cast<int>(bits & 1023u);
  double magnitude = exponent == 0 ? mantissa * power_of_two(-24) : (1024 + mantissa) * power_of_two(exponent - 25);
  if (exponent == 31) magnitude = __longlong_as_double(0x7ff8000000000000ll);  // infinity is no result either
  return bits & 0x8000u ? -magnitude : magnitude;
}

__device__ inline void fill(const abi::NaiveGemmParams& p) {
  const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < p.fill_count; i += step) {
    const unsigned bits = hash(p.fill_seed, i);
    if (p.fill_range == 0) {
      static_cast<unsigned short*>(p.fill)[i] = bell(bits);
    } else {
      static_cast<unsigned char*>(p.fill)[i] = static_cast<unsigned char>(p.fill_low + bits % p.fill_range);
    }
  }
}

/// grid.x = count.
__device__ inline void decode(const abi::NaiveGemmParams& p) {
  const long long row = p.samples[blockIdx.x];
  for (int i = threadIdx.x; i < p.k; i += blockDim.x) {
    const unsigned code = p.x_codes[row * p.k + i];
    const double value = p.e5m2 ? fp8(code, 2, 15) : fp8(code, 3, 7);
    p.operands[static_cast<long long>(blockIdx.x) * p.k + i] = value * e8m0(p.x_scales[row * (p.k / 32) + i / 32]);
  }
}

constexpr int kRowsTogether = abi::kNaiveRowsTogether;

/// A thread for a column; blockIdx.y: kRowsTogether samples. Those of another group than the first are done again.
__device__ inline void multiply(const abi::NaiveGemmParams& p) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= p.n) return;
  const int first = blockIdx.y * kRowsTogether;
  const int last = first + kRowsTogether < p.count ? first + kRowsTogether : p.count;
  for (int begin = first; begin < last;) {
    const long long group = p.samples[begin] / p.rows_per_group;
    int end = begin;
    while (end < last && p.samples[end] / p.rows_per_group == group) ++end;
    const long long row = group * p.n + column;
    double sums[kRowsTogether] = {};
    for (int block = 0; block < p.k / 32; ++block) {
      const uint4 codes = *reinterpret_cast<const uint4*>(p.w_codes + row * (p.k / 2) + block * 16);
      const unsigned words[4] = {codes.x, codes.y, codes.z, codes.w};
      const double scale = 0.5 * e8m0(p.w_scales[row * (p.k / 32) + block]);
#pragma unroll 8
      for (int i = 0; i < 32; ++i) {
        const double w = scale * twice_e2m1(words[i / 8] >> 4 * (i % 8));
        const double* x = p.operands + static_cast<long long>(begin) * p.k + block * 32 + i;
#pragma unroll
        for (int r = 0; r < kRowsTogether; ++r) {
          // Rows beyond `end` are computed from another row's numbers and not stored.
          sums[r] = fma(x[begin + r < end ? static_cast<long long>(r) * p.k : 0], w, sums[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRowsTogether; ++r) {
      if (begin + r < end) p.sums[static_cast<long long>(begin + r) * p.n + column] = p.alpha * sums[r];
    }
    begin = end;
  }
}

/// The sum (or, `largest`, the maximum) over a block of up to 256 threads; a NaN counts as the largest.
__device__ inline double over_block(double value, bool largest, double* shared) {
  shared[threadIdx.x] = value;
  __syncthreads();  // all values are there
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const double a = shared[threadIdx.x], b = shared[threadIdx.x + half];
      shared[threadIdx.x] = !largest ? a + b : a > b || a != a ? a : b;
    }
    __syncthreads();  // this round's pairs are one
  }
  const double result = shared[0];
  __syncthreads();  // everyone has read it
  return result;
}

/// grid.x = count.
__device__ inline void compare(const abi::NaiveGemmParams& p) {
  __shared__ double shared[256];
  const double* wanted = p.sums + static_cast<long long>(blockIdx.x) * p.n;
  const long long row = static_cast<long long>(p.samples[blockIdx.x]) * p.n;
  double squares = 0, errors = 0, beyond = 0, worst = 0;
  for (int i = threadIdx.x; i < p.n; i += blockDim.x) squares += wanted[i] * wanted[i];
  squares = over_block(squares, false, shared);
  const double rms = sqrt(squares / p.n);
  for (int i = threadIdx.x; i < p.n; i += blockDim.x) {
    const double d = fabs(out_value(p, row + i) - wanted[i]), size = fabs(wanted[i]);
    if (!(d <= p.tolerance + p.tolerance * size)) beyond += 1;
    const double ratio = d / (p.element_rel * size + p.element_rms * rms);
    if (ratio > worst || ratio != ratio) worst = ratio;
    errors += d * d;
  }
  beyond = over_block(beyond, false, shared);
  worst = over_block(worst, true, shared);
  errors = over_block(errors, false, shared);
  if (threadIdx.x == 0) {
    p.found[3 * blockIdx.x] = beyond;
    p.found[3 * blockIdx.x + 1] = worst;
    p.found[3 * blockIdx.x + 2] = errors / squares;
  }
}

/// Elements of out that nobody wrote (they were NaN) or that are no numbers.
__device__ inline void scan(const abi::NaiveGemmParams& p) {
  __shared__ double shared[256];
  const unsigned exponent = p.fp16 ? 0x7c00u : 0x7f80u;
  const unsigned* words = static_cast<const unsigned*>(p.out);
  const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  double bad = 0;
  for (long long i = first; i < p.out_size / 2; i += step) {
    const unsigned word = words[i];
    if ((word & exponent) == exponent) bad += 1;
    if ((word >> 16 & exponent) == exponent) bad += 1;
  }
  if (first == 0 && p.out_size % 2 != 0) {
    if ((static_cast<const unsigned short*>(p.out)[p.out_size - 1] & exponent) == exponent) bad += 1;
  }
  bad = over_block(bad, false, shared);
  if (threadIdx.x == 0) p.not_finite[blockIdx.x] = static_cast<unsigned>(bad);
}

template <abi::KernelConfig kConfig>
__device__ void gemm(const abi::NaiveGemmParams& p) {
  switch (p.phase) {
    case abi::kDecode:
      return decode(p);
    case abi::kMultiply:
      return multiply(p);
    case abi::kCompare:
      return compare(p);
    case abi::kScan:
      return scan(p);
    default:
      return fill(p);
  }
}

}  // namespace moesaic::naive
