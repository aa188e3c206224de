// SPDX-License-Identifier: Apache-2.0
// Copies a buffer: with the driver's own copy, the ceiling that benchmarks of reading and writing kernels use.
#pragma once

#include "kernels/common/ptx.cuh"

namespace moesaic {

/// Four 16-byte loads in flight a thread, a block's width apart. grid.x * threads * 4 >= pieces.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void copy_probe(const abi::CopyProbeParams& p) {
  const long long first = static_cast<long long>(blockIdx.x) * blockDim.x * 4 + threadIdx.x;
  const char* from = static_cast<const char*>(p.source);
  uint4 v[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const long long piece = first + i * static_cast<int>(blockDim.x);
    if (piece < p.pieces) v[i] = ptx::load_stream_16(from + piece * 16);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const long long piece = first + i * static_cast<int>(blockDim.x);
    if (piece < p.pieces) static_cast<uint4*>(p.target)[piece] = v[i];
  }
}

}  // namespace moesaic
