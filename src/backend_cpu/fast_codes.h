// SPDX-License-Identifier: Apache-2.0
// Maxima and codes of many numbers, one set of functions for each instruction set.
#pragma once

#include <cstdint>

#include "backend_cpu/fast_number.h"

namespace moesaic::cpu {

struct CodeKernels {
  /// Largest magnitude as the bits of an fp32 number: above those of infinity when there is a NaN.
  std::uint32_t (*amax_bits)(const float* x, std::int64_t count);
  /// Smallest and largest of the numbers and 0; no NaN among them.
  void (*range)(const float* x, std::int64_t count, float* low, float* high);
  /// codes[i] = nearest code of fl(x[i] * factor), one a byte.
  using Encode = void (*)(const float* x, std::int64_t count, float factor, std::uint8_t* codes);
  Encode e4m3, e5m2, e2m1;
  /// codes[i] = clamp(round(fl(x[i] / step)) + zero, 0, 15); a quotient of infinities counts as - zero.
  void (*int4)(const float* x, std::int64_t count, float step, float zero, std::uint8_t* codes);
};

}  // namespace moesaic::cpu
