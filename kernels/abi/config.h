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
inline constexpr int kModuleAbi = 14;

/// Element types of 16-bit operands as kernels see them.
enum Io : int { kIoNone = 0, kIoBf16 = 1, kIoFp16 = 2 };

/// How weights of the grouped GEMMs are stored and scaled; layouts: kernels/abi/params.h.
enum Weights : int {
  kWeights16 = 0,         // io type
  kWeightsE4m3 = 1,       // e4m3: one scale a row, or powers of two per 32 of K
  kWeightsE4m3Block = 2,  // e4m3: FP32 scales per 128 x 128, of activations per 1 x 128
  kWeightsE2m1 = 3,       // e2m1: powers of two per 32 of K, or e4m3 per 16
  kWeightsInt4 = 4,       // int4: fp16 or FP32 scales per group of K
};

/// What a target has beyond the portable instructions: conversions, griddepcontrol (programmatic dependent launch),
/// clusters of blocks.
enum Feature : int { kConvertFp8 = 1, kConvertFp4 = 2, kDependentLaunch = 4, kClusters = 8 };

/// Bits of the quantise kernels' role.
enum Role : int { kRoleGated = 1, kRoleAmax = 2 };

/// What varies between builds of one kernel text. Fields that a row does not use are 0.
struct KernelConfig {
  int io = 0;            // Io: type of activations (and of kWeights16)
  int weights = 0;       // Weights of GEMMs and of their prepare kernel
  int role = 0;          // route: Role of kernels/common/route.cuh; quantise: Role bits; others 0
  int tile_tokens = 0;   // tokens (rows of the activation matrix) per tile, a power of two
  int tile_slack = 0;    // more tokens that the last tile of an expert may have, rather than be followed by another
  int tile_rows = 0;     // weight rows per tile
  int tile_k = 0;        // elements of K per stage
  int stages = 0;        // depth of the cp.async ring
  int warps_tokens = 0;  // warps along tokens
  int warps_rows = 0;    // warps along weight rows
  int warps_k = 0;       // warps along K, each with a partial sum
  int warps_load = 0;    // warps beside those, which fill the ring of a persistent kernel
  int cluster = 0;       // blocks of a cluster that share a persistent kernel's tile: its tokens, or weight rows
  int min_blocks = 0;    // blocks per SM asked of the register allocator
  int features = 0;      // Feature bits of the target; 0 in tables, set by src/module for the compiler
};

MOESAIC_HD constexpr int threads(const KernelConfig& c) {
  return 32 * (c.warps_tokens * c.warps_rows * c.warps_k + c.warps_load);
}

/// Kernels with warps of their own for loads go through their work in as many blocks as fit on the device.
MOESAIC_HD constexpr bool is_persistent(const KernelConfig& c) { return c.warps_load > 0; }
/// Kernels that stream weights past shared memory, straight into operands of mma.sync.
MOESAIC_HD constexpr bool is_streaming(const KernelConfig& c) { return c.stages == 0 && c.warps_k > 1; }
/// Kernels that wait for the kernel before by themselves, and say when the one behind may begin.
MOESAIC_HD constexpr bool waits_itself(const KernelConfig& c) { return is_persistent(c) || is_streaming(c); }
/// Of persistent kernels: tokens of one block, of a full tile and at most; and tokens whose sums a warpgroup stores at
/// a time.
MOESAIC_HD constexpr int block_tokens(const KernelConfig& c) {
  return c.cluster > 1 ? c.tile_tokens / c.cluster : c.tile_tokens;
}
MOESAIC_HD constexpr int most_block_tokens(const KernelConfig& c) {
  return block_tokens(c) + (c.cluster > 1 ? c.tile_slack / c.cluster : c.tile_slack);
}
/// Rows of an expert that a block of a cluster takes alone, at most: its blocks have weight rows of their own then. 0:
/// there are no clusters.
MOESAIC_HD constexpr int narrow_rows(const KernelConfig& c) { return c.cluster > 1 ? most_block_tokens(c) : 0; }
/// Of persistent kernels: as how many a block multiplies `tokens` of its tokens, at most most_block_tokens. Each size
/// is a loop of its own to compile; what is multiplied in vain takes time and energy as the rest does.
MOESAIC_HD constexpr int multiplied_tokens(const KernelConfig& c, int tokens) {
  const int full = block_tokens(c);
  if (tokens <= full / 4) return full / 4;
  if (tokens <= full / 4 * 3) return (tokens + 15) / 16 * 16;
  if (tokens <= full) return full;
  return tokens <= full + 16 ? (tokens + 7) / 8 * 8 : most_block_tokens(c);
}
MOESAIC_HD constexpr int store_tokens(const KernelConfig& c) { return c.tile_slack > 0 || c.min_blocks > 1 ? 16 : 32; }

/// Floats between token rows when sums of `rows` weight rows go through shared memory; + 4 puts the four tokens of a
/// fragment on different banks.
MOESAIC_HD constexpr int sum_pitch(int rows) { return rows + 4; }

MOESAIC_HD constexpr int weight_bits(int weights) {
  return weights == kWeights16 ? 16 : weights == kWeightsE2m1 || weights == kWeightsInt4 ? 4 : 8;
}

/// Whether a GEMM reads int4's FP32 scales (kScaleGroupFloat): larger tiles have no registers left for it.
MOESAIC_HD constexpr bool keeps_float_groups(const KernelConfig& c) {
  return c.weights == kWeightsInt4 && c.tile_tokens <= 32;
}

/// Whether GEMM 1 of this configuration can quantise its result by a static scale: e4m3 element by element
/// (fp8_tensor), e2m1 where a tile has whole blocks of 16 of its columns (nvfp4), half as many as weight rows of gated
/// activations.
MOESAIC_HD constexpr bool quantises_hidden(const KernelConfig& c, bool gated) {
  return c.weights == kWeightsE4m3 || (c.weights == kWeightsE2m1 && c.tile_rows / (gated ? 2 : 1) % 16 == 0);
}

/// Bytes that one stage of a tiled GEMM has for the scales of one row block, and for int4 zero points behind them.
MOESAIC_HD constexpr int scale_slot(const KernelConfig& c) {
  return c.weights == kWeightsE4m3 ? c.tile_k / 2 : weight_bits(c.weights) == 4 ? c.tile_k : 0;
}
MOESAIC_HD constexpr int zero_slot(const KernelConfig& c) { return c.weights == kWeightsInt4 ? c.tile_k / 2 : 0; }

/// One stage: activations, weights, scales of row blocks, zero points, scales of tokens.
MOESAIC_HD constexpr int stage_bytes(const KernelConfig& c) {
  const int operands = most_block_tokens(c) * c.tile_k * 2 + c.tile_rows * c.tile_k / 8 * weight_bits(c.weights);
  const int token_scales = c.weights == kWeightsE4m3Block ? c.tile_tokens * 4 : 0;
  return operands + c.tile_rows / 16 * (scale_slot(c) + zero_slot(c)) + token_scales;
}

/// Of persistent kernels: pieces of work that go through shared memory, three with two barriers each.
inline constexpr int kWorkBytes = 144;

/// Dynamic shared memory in bytes of tiled GEMMs: the ring, reused for GEMM 1's sums, the tokens of one warps_tokens
/// index at a time; of persistent ones: the ring, two barriers a stage, sums. Other kernels use static shared memory.
MOESAIC_HD constexpr int smem_bytes(const KernelConfig& c) {
  if (c.stages == 0) return 0;
  const int ring = c.stages * stage_bytes(c);
  if (is_persistent(c)) {
    const int groups = c.warps_rows / 4;
    return ring + c.stages * 16 + kWorkBytes + groups * store_tokens(c) * sum_pitch(c.tile_rows / groups) * 4;
  }
  const int sums = c.tile_tokens / c.warps_tokens * sum_pitch(c.tile_rows) * 4;
  return ring > sums ? ring : sums;
}

}  // namespace moesaic::abi
