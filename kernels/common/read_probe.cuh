// SPDX-License-Identifier: Apache-2.0
// Reads a buffer once and keeps (almost) nothing: the read ceiling that benchmarks measure themselves against.
#pragma once

#include "kernels/common/ptx.cuh"

namespace moesaic {

/// grid-stride over `pieces` 16-byte pieces, eight loads in flight a thread.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void read_probe(const abi::ReadProbeParams& p) {
  const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
  const char* data = static_cast<const char*>(p.data);
  u32 seen = 0;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < p.pieces; i += 8 * stride) {
    uint4 v[8] = {};
#pragma unroll
    for (int u = 0; u < 8; ++u) {
      if (i + u * stride < p.pieces) v[u] = ptx::load_stream_16(data + (i + u * stride) * 16);
    }
#pragma unroll
    for (int u = 0; u < 8; ++u) seen |= (v[u].x ^ v[u].y) & (v[u].z ^ v[u].w) & 0x5a5a5a5au;
  }
  if (seen == 0xffffffffu) *p.never = seen;  // keeps the loads; cannot happen under the mask
}

}  // namespace moesaic
