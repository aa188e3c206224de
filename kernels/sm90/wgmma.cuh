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

// Operand lists: "%0, %1, ..." by tens, and the registers behind them.
#define MOESAIC_TEN(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9"
#define MOESAIC_LIST_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define MOESAIC_LIST_16 MOESAIC_TEN() ", %10, %11, %12, %13, %14, %15"
#define MOESAIC_LIST_24 MOESAIC_TEN() ", " MOESAIC_TEN(1) ", %20, %21, %22, %23"
#define MOESAIC_LIST_32 MOESAIC_TEN() ", " MOESAIC_TEN(1) ", " MOESAIC_TEN(2) ", %30, %31"
#define MOESAIC_LIST_48 \
  MOESAIC_TEN() ", " MOESAIC_TEN(1) ", " MOESAIC_TEN(2) ", " MOESAIC_TEN(3) ", %40, %41, %42, %43, %44, %45, %46, %47"
#define MOESAIC_LIST_64 \
  MOESAIC_TEN() ", " MOESAIC_TEN(1) ", " MOESAIC_TEN(2) ", " MOESAIC_TEN(3) ", " MOESAIC_TEN(4) ", " MOESAIC_TEN(5) ", " \
                "%60, %61, %62, %63"
#define MOESAIC_LIST_80                                                                             \
  MOESAIC_TEN()                                                                                     \
  ", " MOESAIC_TEN(1) ", " MOESAIC_TEN(2) ", " MOESAIC_TEN(3) ", " MOESAIC_TEN(4) ", " MOESAIC_TEN( \
      5) ", " MOESAIC_TEN(6) ", " MOESAIC_TEN(7)
#define MOESAIC_LIST_128 \
  MOESAIC_TEN() ", " MOESAIC_TEN(1) ", " MOESAIC_TEN(2) ", " MOESAIC_TEN(3) ", " MOESAIC_TEN(4) ", " MOESAIC_TEN(5) ", " \
  MOESAIC_TEN(6) ", " MOESAIC_TEN(7) ", " MOESAIC_TEN(8) ", " MOESAIC_TEN(9) ", " MOESAIC_TEN(10) ", " MOESAIC_TEN(11) \
                ", %120, %121, %122, %123, %124, %125, %126, %127"
#define MOESAIC_D8(i)                                                                                         \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define MOESAIC_D16(i) MOESAIC_D8(i), MOESAIC_D8(i + 8)
#define MOESAIC_D24(i) MOESAIC_D16(i), MOESAIC_D8(i + 16)
#define MOESAIC_D32(i) MOESAIC_D16(i), MOESAIC_D16(i + 16)
#define MOESAIC_D48(i) MOESAIC_D32(i), MOESAIC_D16(i + 32)
#define MOESAIC_D64(i) MOESAIC_D32(i), MOESAIC_D32(i + 32)
#define MOESAIC_D80(i) MOESAIC_D64(i), MOESAIC_D16(i + 64)
#define MOESAIC_D128(i) MOESAIC_D64(i), MOESAIC_D64(i + 64)
#define MOESAIC_WGMMA(n, type, count, a_index, b_index)                                         \
  asm volatile(                                                                                 \
      "{\n\t.reg .pred add;\n\tsetp.eq.u32 add, 0, 0;\n\t"                                      \
      "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" MOESAIC_LIST_##count \
      "}, %" #a_index ", %" #b_index ", add, 1, 1, 0, 0;\n\t}"                                  \
      : MOESAIC_D##count(kFirst)                                                                \
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
  static_assert(kColumns == 16 || kColumns == 32 || kColumns == 48 || kColumns == 64 || kColumns == 96 ||
                kColumns == 128 || kColumns == 160 || kColumns == 256);
  MOESAIC_WGMMA_CASE(16, 8, 8, 9)
  MOESAIC_WGMMA_CASE(32, 16, 16, 17)
  MOESAIC_WGMMA_CASE(48, 24, 24, 25)
  MOESAIC_WGMMA_CASE(64, 32, 32, 33)
  MOESAIC_WGMMA_CASE(96, 48, 48, 49)
  MOESAIC_WGMMA_CASE(128, 64, 64, 65)
  MOESAIC_WGMMA_CASE(160, 80, 80, 81)
  MOESAIC_WGMMA_CASE(256, 128, 128, 129)
}

#undef MOESAIC_WGMMA_CASE
#undef MOESAIC_WGMMA

}  // namespace moesaic::ptx
