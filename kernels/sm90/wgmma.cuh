// SPDX-License-Identifier: Apache-2.0
// PTX of Hopper: bulk copies, wgmma (sm_90a).
#pragma once

#include "kernels/common/mbarrier.cuh"

namespace moesaic::ptx {

using u64 = unsigned long long;

/// threadIdx.x, read here: what is made of it takes no registers elsewhere.
__device__ __forceinline__ int thread_again() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

/// Barrier `id` (1 to 15) of `threads` threads of the block.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- copies ---------------------------------------------------------------------------------------------------------

/// Copies `bytes`, a multiple of 16, global -> shared; `barrier` counts them.
__device__ __forceinline__ void bulk_copy(u32 shared, const void* global, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
}
/// The same, to the same places of all blocks of the cluster whose bits are set.
__device__ __forceinline__ void bulk_copy_to(u16 blocks, u32 shared, const void* global, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier), "h"(blocks)
      : "memory");
}
/// A box of the matrix that `map` describes, from element (row, column) on, to shared memory; `barrier` counts its
/// bytes. Zeros where there is no matrix.
__device__ __forceinline__ void tensor_copy(u32 shared, const abi::TensorMap* map, int column, int row, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
/// Arrives at `barrier`, which expects it, when all copies by cp.async that this thread has begun have landed.
__device__ __forceinline__ void cp_async_arrive(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }
/// What this thread sees in shared memory, wgmma and the copy engine see. (By a thread whose copies are under way it
/// would wait for them.)
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Four 8 x 8 matrices of 16 bits in fragments, registers 0 to 3: lane 8 i + j says where row j of matrix i goes, 16
/// bytes; transposed, where column j does.
__device__ __forceinline__ void store_matrices(u32 shared, const u32 (&matrices)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(matrices[0]),
               "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
               : "memory");
}
__device__ __forceinline__ void store_transposed(u32 shared, const u32 (&matrices)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(matrices[0]),
               "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
               : "memory");
}

// --- wgmma ----------------------------------------------------------------------------------------------------------

/// Descriptor of a K-major operand in shared memory whose rows of `kRowBytes` (64, 128) are swizzled at that width.
/// Groups of 8 rows follow each other. 16 of K further: 32 bytes.
template <int kRowBytes>
__device__ __forceinline__ u64 operand_descriptor(u32 shared) {
  constexpr u64 kSwizzle = kRowBytes == 128 ? 1 : 2;
  constexpr u64 kGroupStride = 8 * kRowBytes / 16;
  return kSwizzle << 62 | kGroupStride << 32 | 1ull << 16 | (shared & 0x3ffffu) >> 4;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Registers of each thread of this warpgroup from here on.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// "%0, %1, ..." of so many registers, and the sums from d[i] on that these are.
#define MOESAIC_LIST_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define MOESAIC_LIST_16 MOESAIC_LIST_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define MOESAIC_LIST_24 MOESAIC_LIST_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define MOESAIC_LIST_32 MOESAIC_LIST_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define MOESAIC_LIST_40 MOESAIC_LIST_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define MOESAIC_LIST_48 MOESAIC_LIST_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define MOESAIC_LIST_56 MOESAIC_LIST_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define MOESAIC_LIST_64 MOESAIC_LIST_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define MOESAIC_LIST_72 MOESAIC_LIST_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define MOESAIC_LIST_80 MOESAIC_LIST_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define MOESAIC_LIST_68 MOESAIC_LIST_64 ", %64, %65, %66, %67"
#define MOESAIC_LIST_128                                                                                   \
  MOESAIC_LIST_80                                                                                          \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, " \
  "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, "             \
  "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define MOESAIC_SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define MOESAIC_SUMS_8(i) MOESAIC_SUMS_4(i), MOESAIC_SUMS_4(i + 4)
#define MOESAIC_SUMS_16(i) MOESAIC_SUMS_8(i), MOESAIC_SUMS_8(i + 8)
#define MOESAIC_SUMS_24(i) MOESAIC_SUMS_16(i), MOESAIC_SUMS_8(i + 16)
#define MOESAIC_SUMS_32(i) MOESAIC_SUMS_24(i), MOESAIC_SUMS_8(i + 24)
#define MOESAIC_SUMS_40(i) MOESAIC_SUMS_32(i), MOESAIC_SUMS_8(i + 32)
#define MOESAIC_SUMS_48(i) MOESAIC_SUMS_40(i), MOESAIC_SUMS_8(i + 40)
#define MOESAIC_SUMS_56(i) MOESAIC_SUMS_48(i), MOESAIC_SUMS_8(i + 48)
#define MOESAIC_SUMS_64(i) MOESAIC_SUMS_56(i), MOESAIC_SUMS_8(i + 56)
#define MOESAIC_SUMS_72(i) MOESAIC_SUMS_64(i), MOESAIC_SUMS_8(i + 64)
#define MOESAIC_SUMS_80(i) MOESAIC_SUMS_72(i), MOESAIC_SUMS_8(i + 72)
#define MOESAIC_SUMS_68(i) MOESAIC_SUMS_64(i), MOESAIC_SUMS_4(i + 64)
#define MOESAIC_SUMS_128(i) MOESAIC_SUMS_80(i), MOESAIC_SUMS_48(i + 80)
#define MOESAIC_WGMMA(n, type, count, a_index, b_index)                                         \
  asm volatile(                                                                                 \
      "{\n\t.reg .pred add;\n\tsetp.eq.u32 add, 0, 0;\n\t"                                      \
      "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" MOESAIC_LIST_##count \
      "}, %" #a_index ", %" #b_index ", add, 1, 1, 0, 0;\n\t}"                                  \
      : MOESAIC_SUMS_##count(kFirst)                                                            \
      : "l"(a), "l"(b))
#define MOESAIC_WGMMA_CASE(n, count, a_index, b_index)  \
  if constexpr (kColumns == n && kIo == abi::kIoBf16) { \
    MOESAIC_WGMMA(n, "bf16", count, a_index, b_index);  \
  } else if constexpr (kColumns == n) {                 \
    MOESAIC_WGMMA(n, "f16", count, a_index, b_index);   \
  }

/// d (64 x kColumns, FP32; the mma.sync fragment of each 8 columns; from kFirst on) += a (64 x 16) b (16 x kColumns).
/// Operands: descriptors.
template <int kIo, int kColumns, int kFirst = 0, int kSums>
__device__ __forceinline__ void wgmma(float (&d)[kSums], u64 a, u64 b) {
  static_assert(kSums >= kFirst + kColumns / 2);
  static_assert(kColumns == 128 || kColumns == 136 || kColumns == 144 || kColumns == 160 || kColumns == 256 ||
                (kColumns % 16 == 0 && kColumns <= 96));
  MOESAIC_WGMMA_CASE(16, 8, 8, 9)
  MOESAIC_WGMMA_CASE(32, 16, 16, 17)
  MOESAIC_WGMMA_CASE(48, 24, 24, 25)
  MOESAIC_WGMMA_CASE(64, 32, 32, 33)
  MOESAIC_WGMMA_CASE(80, 40, 40, 41)
  MOESAIC_WGMMA_CASE(96, 48, 48, 49)
  MOESAIC_WGMMA_CASE(128, 64, 64, 65)
  MOESAIC_WGMMA_CASE(136, 68, 68, 69)
  MOESAIC_WGMMA_CASE(144, 72, 72, 73)
  MOESAIC_WGMMA_CASE(160, 80, 80, 81)
  MOESAIC_WGMMA_CASE(256, 128, 128, 129)
}

#undef MOESAIC_WGMMA_CASE
#undef MOESAIC_WGMMA

}  // namespace moesaic::ptx
