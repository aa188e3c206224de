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

/// Of a GEMM with a list of tiles: rows of an expert on average, and tiles at most.
struct TileList {
  int expert_rows;
  int max_tiles;
};
/// Enqueues a GEMM on a device of `sm_count` SMs; params.raster_tiles is decided here.
void launch_gemm(cuda::LaunchChain& chain, const cuda::Kernel& kernel, const abi::KernelConfig& config,
                 const abi::GemmParams& params, TileList list, int sm_count);

}  // namespace moesaic::ops
