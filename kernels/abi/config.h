// SPDX-License-Identifier: Apache-2.0
// The compile-time side of a kernel, shared by host and device: one plain struct for every kernel row, and what
// follows from it (threads, shared memory, legality). The planner filters with `valid`, the kernel asserts it.
// No includes: this text is compiled by the host compiler and by NVRTC without an include folder.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define MOESAIC_HD __host__ __device__
#else
#define MOESAIC_HD
#endif

namespace moesaic::abi {

/// Bumped when parameter structs, prepared layouts or launch conventions change: part of every kernel's identity.
inline constexpr int kModuleAbi = 2;

/// Element types of 16-bit operands as kernels see them.
enum Io : int { kIoNone = 0, kIoBf16 = 1, kIoFp16 = 2 };

/// Conversion instructions that a target has beyond the portable ones.
enum Convert : int { kConvertFp8 = 1, kConvertFp4 = 2 };

/// Bits of the quantise kernels' role.
enum Role : int { kRoleGated = 1, kRoleAmax = 2, kRoleSwiglu = 4 };  // kRoleSwiglu: gated, by no other formula

/// What varies between builds of one kernel text. Fields that a row does not use are 0.
struct KernelConfig {
  int io = 0;            // Io: type of activations, weights and output
  int role = 0;          // gemm: 1 or 2; route: Role of kernels/common/route.cuh; quantise: Role bits; others 0
  int tile_tokens = 0;   // tokens (rows of the activation matrix) per tile
  int tile_rows = 0;     // weight rows per tile
  int tile_k = 0;        // elements of K per stage
  int stages = 0;        // depth of the cp.async ring
  int warps_tokens = 0;  // warps along tokens
  int warps_rows = 0;    // warps along weight rows
  int warps_k = 0;       // warps along K, each with a partial sum
  int min_blocks = 0;    // blocks per SM asked of the register allocator
  int convert = 0;       // Convert bits of the target; 0 in tables, set by src/module for the compiler
};

MOESAIC_HD constexpr int threads(const KernelConfig& c) { return 32 * c.warps_tokens * c.warps_rows * c.warps_k; }

/// Floats between token rows when a tiled GEMM 1 hands its sums to the activation through shared memory; + 4 puts the
/// four tokens of a fragment on different banks.
MOESAIC_HD constexpr int sum_pitch(const KernelConfig& c) { return c.tile_rows + 4; }

/// Dynamic shared memory in bytes of tiled GEMMs: the ring of activations and weights, reused for GEMM 1's sums, the
/// tokens of one warps_tokens index at a time. Other kernels use static shared memory.
MOESAIC_HD constexpr int smem_bytes(const KernelConfig& c) {
  const int ring = c.stages * (c.tile_tokens + c.tile_rows) * c.tile_k * 2;
  const int sums = c.stages > 0 && c.role == 1 ? c.tile_tokens / c.warps_tokens * sum_pitch(c) * 4 : 0;
  return ring > sums ? ring : sums;
}

}  // namespace moesaic::abi
