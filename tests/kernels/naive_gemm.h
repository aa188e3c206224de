// SPDX-License-Identifier: Apache-2.0
// Runs naive_gemm.cuh: FP64 products of mxfp8 rows and mxfp4 weights that stay on the GPU, and comparisons with them.
#pragma once

#include <vector>

#include "backend_cuda/device_memory.h"
#include "backend_cuda/kernel.h"
#include "kernels/naive_gemm_params.h"
#include "tables/recipe_table.h"

namespace moesaic::testing {

/// Operands in device memory: abi::NaiveGemmParams has the layouts.
struct NaiveOperands {
  const void *x_codes, *x_scales, *w_codes, *w_scales;
  int rows_per_group, n, k;
  bool e5m2;
  double alpha;
};

/// What a comparison of sampled rows found.
struct NaiveDifference {
  long long compared = 0, beyond = 0;  // elements; those beyond rtol = atol
  long long not_finite = 0;            // of all elements of out
  double element = 0, row_l2 = 0;      // worst |d| / (element_rel |ref| + element_rms rms(row)); worst relative row
};

class NaiveGemm {
 public:
  explicit NaiveGemm(Device device);

  /// Bytes low .. low + range - 1 by a hash; range 0: bf16 numbers of mean 0 and variance 1.
  void fill(void* data, long long count, unsigned seed, unsigned low, unsigned range) const;
  /// Makes the sums of these rows, ascending, which stay until the next call.
  void multiply(const NaiveOperands& operands, const std::vector<int>& samples);
  /// The sums on the host, [samples][n].
  std::vector<double> sums() const;
  /// out [rows][n], bf16 or f16, against the sums: elementwise with rtol = atol = `tolerance`, and tightly by the
  /// bound.
  NaiveDifference compare(const void* out, DType type, long long rows, double tolerance,
                          const tables::Tolerance& tight);

 private:
  void launch(abi::NaiveGemmPhase phase, cuda::Grid grid) const;

  Device device_;
  cuda::Kernel kernel_;
  abi::NaiveGemmParams p_{};
  cuda::DeviceBuffer samples_, operands_, sums_, found_, not_finite_;
};

}  // namespace moesaic::testing
