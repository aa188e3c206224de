// SPDX-License-Identifier: Apache-2.0
// Thin wrappers of the PTX instructions that the portable family uses (SM80 and later).
#pragma once

#include "kernels/common/number.cuh"

namespace moesaic::ptx {

__device__ __forceinline__ u32 shared_address(const void* pointer) {
  return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes global -> shared asynchronously; `size` 0 writes zeros and reads nothing.
__device__ __forceinline__ void cp_async_16(u32 shared, const void* global, int size) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(size) : "memory");
}

/// Address of piece `index` of 16 bytes behind `base`, in one instruction.
__device__ __forceinline__ const char* piece_address(const char* base, u32 index) {
  const char* address;
  asm("mad.wide.u32 %0, %1, 16, %2;" : "=l"(address) : "r"(index), "l"(base));
  return address;
}

/// 4 bytes.
__device__ __forceinline__ void cp_async_4(u32 shared, const void* global, int size) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(size) : "memory");
}

/// 16 bytes by way of L1: for pieces whose neighbours another instruction of the warp copies.
__device__ __forceinline__ void cp_async_16_l1(u32 shared, const void* global, int size) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(size) : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `kPending` of this thread's committed groups are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ uint4 load_shared_16(u32 shared) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(shared));
  return v;
}

__device__ __forceinline__ void store_shared_16(u32 shared, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ void store_shared_8(u32 shared, float2 v) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(shared), "f"(v.x), "f"(v.y) : "memory");
}

/// Four 8 x 8 matrices of 16-bit elements; lane 8 i + r has the address of row r of the i-th.
__device__ __forceinline__ uint4 load_matrices(u32 shared) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(shared));
  return v;
}

__device__ __forceinline__ uint2 load_shared_8(u32 shared) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(shared));
  return v;
}
__device__ __forceinline__ u32 load_shared_4(u32 shared) {
  u32 v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(shared));
  return v;
}
__device__ __forceinline__ u32 load_shared_2(u32 shared) {
  u16 v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(shared));
  return v;
}

/// 16 bytes that are read once: not kept in L1.
__device__ __forceinline__ uint4 load_stream_16(const void* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

/// d += a (16 x 16, row) b (16 x 8, col): FP32 accumulators, bf16 or fp16 operands.
template <int kIo>
__device__ __forceinline__ void mma_16816(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  if constexpr (kIo == abi::kIoBf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

/// What the kernel before this one has written is there.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void wait_for_kernel_before() {
  if constexpr ((kConfig.features & abi::kDependentLaunch) != 0) asm volatile("griddepcontrol.wait;" ::: "memory");
}
/// Blocks of the kernel behind may come up where there is room, once all of this one have said so or ended.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void let_kernel_behind_begin() {
  if constexpr ((kConfig.features & abi::kDependentLaunch) != 0) asm volatile("griddepcontrol.launch_dependents;");
}

/// Blocks of this block's cluster (1: there is none), and this one's number.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ int cluster_blocks() {
  u32 blocks = 1;
  if constexpr ((kConfig.features & abi::kClusters) != 0) asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
  return static_cast<int>(blocks);
}
template <abi::KernelConfig kConfig>
__device__ __forceinline__ int cluster_rank() {
  u32 rank = 0;
  if constexpr ((kConfig.features & abi::kClusters) != 0) asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
/// All threads arrive once and wait once; then all blocks of the cluster run, and have shared memory to write to.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void cluster_arrive() {
  if constexpr ((kConfig.features & abi::kClusters) != 0) asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void cluster_wait() {
  if constexpr ((kConfig.features & abi::kClusters) != 0) asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
/// What all threads of the cluster have written before is visible to all of them after.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void cluster_sync() {
  if constexpr ((kConfig.features & abi::kClusters) != 0) {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
  } else {
    __syncthreads();
  }
}
/// Writes a word to the place in the cluster's first block that `own` is in this one.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_to_first(u32* own, u32 value) {
  if constexpr ((kConfig.features & abi::kClusters) != 0) {
    u32 address;
    asm("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(address) : "r"(shared_address(own)));
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
  } else {
    *own = value;
  }
}

/// Largest of the warp's values.
__device__ __forceinline__ u32 warp_max(u32 value) { return __reduce_max_sync(0xffffffffu, value); }
__device__ __forceinline__ u32 warp_min(u32 value) { return __reduce_min_sync(0xffffffffu, value); }
__device__ __forceinline__ u32 warp_or(u32 value) { return __reduce_or_sync(0xffffffffu, value); }

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2) value += __shfl_xor_sync(0xffffffffu, value, delta);
  return value;
}

}  // namespace moesaic::ptx
