// SPDX-License-Identifier: Apache-2.0
// What naive_gemm.cuh is given: plain C++ for the host's compiler and NVRTC.
#pragma once

namespace moesaic::abi {

enum NaiveGemmPhase : int { kDecode, kMultiply, kCompare, kScan, kFill };

/// Rows that a thread multiplies with the weights that it decodes.
inline constexpr int kNaiveRowsTogether = 8;

/// Sampled rows of a grouped product, and what is asked about them.
struct NaiveGemmParams {
  const unsigned char* x_codes;   // [rows][k]
  const unsigned char* x_scales;  // [rows][k / 32] e8m0
  const unsigned char* w_codes;   // [groups][n][k / 2], even k in the low nibble
  const unsigned char* w_scales;  // [groups][n][k / 32] e8m0
  const int* samples;             // [count] rows, ascending
  double* operands;               // [count][k] decoded
  double* sums;                   // [count][n] alpha sum
  const void* out;                // [rows][n] bf16 or fp16
  double* found;                  // [count][3]: elements beyond rtol = atol, worst element ratio, squared row ratio
  unsigned* not_finite;           // [gridDim.x] elements of out
  long long out_size;
  int count, rows_per_group, n, k;
  int e5m2, fp16;
  int phase;  // NaiveGemmPhase
  double alpha, tolerance, element_rel, element_rms;
  void* fill;  // [fill_count] bytes of a hash: low + hash % range; range 0: bf16 numbers of about N(0, 1)
  long long fill_count;
  unsigned fill_seed, fill_low, fill_range;
};

}  // namespace moesaic::abi
