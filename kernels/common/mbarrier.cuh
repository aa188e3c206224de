// SPDX-License-Identifier: Apache-2.0
// PTX of mbarriers (SM90 and later): 8 bytes of shared memory, given by address. Waits spin in the instruction, which
// suspends the thread.
#pragma once

#include "kernels/common/ptx.cuh"

namespace moesaic::ptx {

__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Makes barriers that this thread has made known to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and makes the phase wait for `bytes` of bulk copies.
__device__ __forceinline__ void barrier_arrive_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Arrives at the barrier of that place in block `rank` of the cluster. It orders nothing there: with .release.cluster
/// it would wait for all memory of the GPU (MEMBAR.ALL.GPU; three times slower stages).
__device__ __forceinline__ void barrier_arrive_at(u32 barrier, int rank) {
  asm volatile(
      "{\n\t.reg .b32 there;\n\t"
      "mapa.shared::cluster.u32 there, %0, %1;\n\t"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n\t}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
/// Waits for the end of the phase of that parity.
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "again:\n\t"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
      "@!done bra again;\n\t}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
/// Stores 16 bytes at `shared` of block `rank` of the cluster, which `barrier` of that block counts once they are
/// there.
__device__ __forceinline__ void store_async_16(u32 shared, uint4 value, u32 barrier, int rank) {
  asm volatile(
      "{\n\t.reg .b32 there, counts;\n\t"
      "mapa.shared::cluster.u32 there, %0, %6;\n\t"
      "mapa.shared::cluster.u32 counts, %5, %6;\n\t"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [there], {%1, %2, %3, %4}, [counts];\n\t}" ::"r"(
          shared),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(barrier), "r"(rank)
      : "memory");
}

}  // namespace moesaic::ptx
