// SPDX-License-Identifier: Apache-2.0
// What launches of grouped GEMM kernels have in common, be they of a layer or of Gemm.
#pragma once

#include "backend_cuda/kernel.h"
#include "kernels/abi/params.h"
#include "plan/prepared_layout.h"

namespace moesaic::ops {

/// Fields that say where prepared weights with `k` columns lie and what form they have.
void set_weights(const plan::WeightForm& form, const plan::MatrixParts& parts, const void* prepared, int k,
                 abi::GemmParams& params);

/// How many rows a GEMM has: of an expert on average, and tiles at most where there is a list of them.
struct GemmRows {
  int per_expert;
  int max_tiles;
};
/// Enqueues a GEMM on a device of `sm_count` SMs; sets params.raster_tiles.
void launch_gemm(cuda::LaunchChain& chain, const cuda::Kernel& kernel, const abi::KernelConfig& config,
                 abi::GemmParams params, GemmRows rows, int sm_count);

}  // namespace moesaic::ops
