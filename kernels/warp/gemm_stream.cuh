// SPDX-License-Identifier: Apache-2.0
// Grouped GEMM for few tokens per expert: weights stream from global memory straight into mma operands.
//
// Orientation is swapped: weight rows are the m16 side, tokens the n8 side. A block owns tile_rows weight rows of one
// tile of at most tile_tokens tokens with the whole of K; its warps take chunks of tile_k in turn and add their FP32
// sums in warp order, so results do not depend on scheduling. Every lane's weight operand is one 16-byte load that
// nothing else reads: no shared memory, and enough loads in flight to saturate DRAM.
#pragma once

#include "kernels/common/epilogue.cuh"
#include "kernels/warp/weights.cuh"

namespace moesaic::warp {

template <abi::KernelConfig kConfig>
struct StreamShape {
  static constexpr int kWeights = kConfig.weights;
  static constexpr int kRowBlocks = kConfig.tile_rows / abi::kBlockRows;
  static constexpr int kTokenTiles = kConfig.tile_tokens / 8;
  static constexpr int kUnitK = abi::unit_k(kWeights), kHalves = kUnitK / abi::kBlockK;
  static constexpr int kUnits = kConfig.tile_k / kUnitK;              // of a chunk, all in flight
  static constexpr int kLoads = abi::unit_bytes(kWeights) / 32 / 16;  // 16-byte loads of a lane and unit
  static constexpr bool kByBlock = kWeights == abi::kWeightsE4m3Block;
  static_assert(kConfig.tile_tokens % 8 == 0 && kConfig.tile_rows % 16 == 0 && kConfig.tile_k % kUnitK == 0);
  static_assert(kConfig.warps_tokens == 1 && kConfig.warps_rows == 1 && kConfig.stages == 0);
  static_assert(!kByBlock || 128 % kConfig.tile_k == 0, "a chunk has one scale");
};

template <abi::KernelConfig kConfig>
using StreamSums = float[StreamShape<kConfig>::kRowBlocks][StreamShape<kConfig>::kTokenTiles][4];

/// A lane's places in the memory of one row block; codes nullptr: no such block.
struct LaneWeights {
  const char *codes, *scales;
  const unsigned char* zeros;
  int unit_stride;  // bytes, of 16-bit weights; the others' is a constant, which takes no register
};

/// Operands of one unit. Scale words: one of e4m3 and e2m1; int4: one (fp16) or two (FP32) of both halves in turn, and
/// four zero points.
template <abi::KernelConfig kConfig>
struct StreamUnit {
  using Shape = StreamShape<kConfig>;
  uint4 codes[Shape::kRowBlocks][Shape::kLoads];
  uint4 tokens[Shape::kTokenTiles][Shape::kHalves];
  u32 scales[Shape::kRowBlocks][4], zeros[Shape::kRowBlocks];
};

/// int4: halves of a unit that share scales, by the size of groups, and whether scales are FP32. Others: 0.
struct Groups {
  int halves = 0;
  bool float_scales = false;
};

/// This lane's scales of an int4 group, into words `at` and following.
template <bool kFloatScales>
__device__ __forceinline__ void load_group_scales(const LaneWeights& lane, int group, int at, u32 (&words)[4]) {
  const char* scales = lane.scales + group * kGroupScaleBytes<kFloatScales>;
  if constexpr (kFloatScales) {
    const uint2 pair = __ldg(reinterpret_cast<const uint2*>(scales));
    words[at] = pair.x, words[at + 1] = pair.y;
  } else {
    words[at] = __ldg(reinterpret_cast<const u32*>(scales));
  }
}

/// Scale words of a row block in unit `unit`.
template <int kWeights, Groups kGroups>
__device__ __forceinline__ void load_scales(const abi::GemmParams& p, const LaneWeights& lane, int unit,
                                            u32 (&words)[4], u32& zeros) {
  if constexpr (kWeights == abi::kWeightsE4m3) {
    if (p.block_scale != abi::kScaleNone) {
      words[0] = __ldg(reinterpret_cast<const u16*>(lane.scales + unit * unit_scale_bytes<kWeights>(p)));
    }
  } else if constexpr (kWeights == abi::kWeightsE2m1) {
    words[0] = __ldg(reinterpret_cast<const u32*>(lane.scales + unit * unit_scale_bytes<kWeights>(p)));
  } else if constexpr (kGroups.halves == 2) {
    const int group = unit * 64 >> p.group_shift;
    load_group_scales<kGroups.float_scales>(lane, group, 0, words);
    zeros = lane.zeros == nullptr ? kInt4Zeros : __ldg(reinterpret_cast<const u16*>(lane.zeros + group * 16));
  } else if constexpr (kGroups.halves == 1) {
    const int low = 2 * unit, high = min(low + 1, int4_groups(p) - 1);  // the unit may hang over the end of K
    load_group_scales<kGroups.float_scales>(lane, low, 0, words);
    load_group_scales<kGroups.float_scales>(lane, high, kGroups.float_scales ? 2 : 1, words);
    zeros = kInt4Zeros;
    if (lane.zeros != nullptr) {
      zeros = __ldg(reinterpret_cast<const u16*>(lane.zeros + low * 16)) |
              __ldg(reinterpret_cast<const u16*>(lane.zeros + high * 16)) << 16;
    }
  }
}

/// Loads weights of unit `unit`; beyond the end everything is zero.
template <abi::KernelConfig kConfig, Groups kGroups>
__device__ __forceinline__ void load_weights(const abi::GemmParams& p,
                                             const LaneWeights (&weights)[StreamShape<kConfig>::kRowBlocks], int unit,
                                             StreamUnit<kConfig>& operands) {
  using Shape = StreamShape<kConfig>;
  const bool inside = unit < p.units;
#pragma unroll
  for (int r = 0; r < Shape::kRowBlocks; ++r) {
    const int stride = kConfig.weights == abi::kWeights16 ? weights[r].unit_stride : abi::unit_bytes(kConfig.weights);
    const long long offset = static_cast<long long>(unit) * stride;
    const bool valid = inside && weights[r].codes != nullptr;
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      operands.codes[r][i] = valid ? ptx::load_stream_16(weights[r].codes + offset + i * 512) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (u32& word : operands.scales[r]) word = 0;
    operands.zeros[r] = 0;
    if (valid) load_scales<kConfig.weights, kGroups>(p, weights[r], unit, operands.scales[r], operands.zeros[r]);
  }
}
/// And its activations.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void load_tokens(const abi::GemmParams& p,
                                            const char* const (&tokens)[StreamShape<kConfig>::kTokenTiles], int unit,
                                            StreamUnit<kConfig>& operands) {
  using Shape = StreamShape<kConfig>;
#pragma unroll
  for (int h = 0; h < Shape::kHalves; ++h) {
    const int k = unit * Shape::kUnitK + h * abi::kBlockK + threadIdx.x % 4 * 8;
#pragma unroll
    for (int n = 0; n < Shape::kTokenTiles; ++n) {
      const bool valid = k < p.k && tokens[n] != nullptr;
      operands.tokens[n][h] = valid ? *reinterpret_cast<const uint4*>(tokens[n] + k * 2) : uint4{0, 0, 0, 0};
    }
  }
}

/// Operands of row block r in half `h` of a unit.
template <abi::KernelConfig kConfig, Groups kGroups>
__device__ __forceinline__ Fragment unit_fragment(const abi::GemmParams& p, const StreamUnit<kConfig>& unit, int r,
                                                  int h) {
  const uint4& codes = unit.codes[r][0];
  const u32* words = unit.scales[r];
  if constexpr (kConfig.weights == abi::kWeights16) {
    // Of k = 8 t .. 8 t + 7, rows g and g + 8, step 0 takes the first four.
    const uint4& high = unit.codes[r][1];
    return {{{codes.x, high.x, codes.y, high.y}, {codes.z, high.z, codes.w, high.w}}};
  } else if constexpr (kConfig.weights == abi::kWeightsE4m3 || kConfig.weights == abi::kWeightsE4m3Block) {
    u32 scales[2] = {kE4m3One, kE4m3One};
    if (kConfig.weights == abi::kWeightsE4m3 && p.block_scale != abi::kScaleNone) {
      const ByteScales bytes = byte_scales(abi::kScaleE8m0);
      scales[0] = bytes.pair(words[0], 0), scales[1] = bytes.pair(words[0], 1);
    }
    return e4m3_fragment(codes, scales);
  } else {
    u32 factors[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (kConfig.weights == abi::kWeightsE2m1) {
        factors[i] = byte_scales(p.block_scale).pair(words[0], 2 * h + i);
      } else {
        factors[i] = int4_zero(unit.zeros[r], kGroups.halves == 2 ? i : 2 * h + i);
      }
    }
    return half_unit_fragment<kConfig.weights>(h == 0 ? codes.x : codes.z, h == 0 ? codes.y : codes.w, factors);
  }
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void multiply_unit(const abi::GemmParams& p, const StreamUnit<kConfig>& unit,
                                              StreamSums<kConfig>& sums) {
  using Shape = StreamShape<kConfig>;
#pragma unroll
  for (int h = 0; h < Shape::kHalves; ++h) {
#pragma unroll
    for (int r = 0; r < Shape::kRowBlocks; ++r) {
      const Fragment fragment = unit_fragment<kConfig, Groups{}>(p, unit, r, h);
#pragma unroll
      for (int n = 0; n < Shape::kTokenTiles; ++n) multiply<kConfig.io>(fragment, unit.tokens[n][h], sums[r][n]);
    }
  }
}

/// int4: what each scale belongs to is summed by itself and multiplied in FP32.
template <abi::KernelConfig kConfig, Groups kGroups>
__device__ __forceinline__ void multiply_groups(const abi::GemmParams& p, const StreamUnit<kConfig>& unit,
                                                StreamSums<kConfig>& sums) {
  using Shape = StreamShape<kConfig>;
#pragma unroll
  for (int first = 0; first < Shape::kHalves; first += kGroups.halves) {
#pragma unroll
    for (int r = 0; r < Shape::kRowBlocks; ++r) {
      float parts[Shape::kTokenTiles][4] = {};
#pragma unroll
      for (int h = first; h < first + kGroups.halves; ++h) {
        const Fragment fragment = unit_fragment<kConfig, kGroups>(p, unit, r, h);
#pragma unroll
        for (int n = 0; n < Shape::kTokenTiles; ++n) multiply<kConfig.io>(fragment, unit.tokens[n][h], parts[n]);
      }
      constexpr int kWords = kGroups.float_scales ? 2 : 1;
      const u32* words = unit.scales[r] + first * kWords;
      const float2 scales = group_scales<kGroups.float_scales>(words[0], words[kWords - 1]);
#pragma unroll
      for (int n = 0; n < Shape::kTokenTiles; ++n) add_scaled(parts[n], scales, sums[r][n]);
    }
  }
}

/// FP32 scales of a chunk, of weights (rows g and g + 8) and of a lane's tokens (2 t and 2 t + 1 of each tile).
template <abi::KernelConfig kConfig>
struct ChunkScales {
  using Shape = StreamShape<kConfig>;
  float2 weights[Shape::kRowBlocks], tokens[Shape::kTokenTiles];

  __device__ __forceinline__ void load(const abi::GemmParams& p, const LaneWeights (&lanes)[Shape::kRowBlocks],
                                       const int (&rows)[Shape::kTokenTiles][2], int chunk) {
    const int block = chunk * kConfig.tile_k / 128, blocks = abi::div_up(p.k, 128);
    const bool inside = block < blocks;
#pragma unroll
    for (int r = 0; r < Shape::kRowBlocks; ++r) {
      const bool valid = inside && lanes[r].scales != nullptr;
      weights[r] = valid ? __ldg(reinterpret_cast<const float2*>(lanes[r].scales) + block) : float2{0.0f, 0.0f};
    }
#pragma unroll
    for (int n = 0; n < Shape::kTokenTiles; ++n) {
      const float* scales = p.token_block_scale + block;
      const long long stride = blocks;
      tokens[n].x = inside && rows[n][0] >= 0 ? scales[rows[n][0] * stride] : 0.0f;
      tokens[n].y = inside && rows[n][1] >= 0 ? scales[rows[n][1] * stride] : 0.0f;
    }
  }

  __device__ __forceinline__ void add(const StreamSums<kConfig>& parts, StreamSums<kConfig>& sums) const {
#pragma unroll
    for (int r = 0; r < Shape::kRowBlocks; ++r) {
#pragma unroll
      for (int n = 0; n < Shape::kTokenTiles; ++n) {
        const float part[4] = {parts[r][n][0] * tokens[n].x, parts[r][n][1] * tokens[n].y, parts[r][n][2] * tokens[n].x,
                               parts[r][n][3] * tokens[n].y};
        add_scaled(part, weights[r], sums[r][n]);
      }
    }
  }
};

/// Adds the warps' sums in warp order through shared memory; afterwards totals[row][token] is complete.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void reduce_warps(const StreamSums<kConfig>& sums,
                                             float (&totals)[kConfig.tile_rows][kConfig.tile_tokens + 1]) {
  using Shape = StreamShape<kConfig>;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  for (int warp = 0; warp < kConfig.warps_k; ++warp) {
    if (warp == static_cast<int>(threadIdx.x / 32)) {
#pragma unroll
      for (int r = 0; r < Shape::kRowBlocks; ++r) {
#pragma unroll
        for (int n = 0; n < Shape::kTokenTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& total = totals[r * 16 + g + 8 * (i / 2)][n * 8 + 2 * t + i % 2];
            total = warp == 0 ? sums[r][n][i] : total + sums[r][n][i];
          }
        }
      }
    }
    __syncthreads();  // warp `warp` has added its part; the next one may
  }
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_totals(const abi::GemmParams& p, const Work& work,
                                             const float (&totals)[kConfig.tile_rows][kConfig.tile_tokens + 1]) {
  const Epilogue epilogue{p, work.tile.expert};
  const HiddenOperand<kConfig> operand(p);
  const int count = work.tile.row_end - work.tile.row_begin;
  const bool hidden = p.epilogue == abi::kEpilogueHidden, gated = hidden && p.gated;
  const int columns = gated ? kConfig.tile_rows / 2 : kConfig.tile_rows;  // output columns of this block
  const int first_column = gated ? work.row_block * 8 : work.row_block * 16;
  for (int i = threadIdx.x; i < count * columns; i += blockDim.x) {
    const int token = i / columns, column = i % columns;
    const int row = work.tile.row_begin + token;
    if (first_column + column >= p.out_cols) continue;
    const int block = gated ? column / 8 : column / 16, r = gated ? column % 8 : column % 16;
    const float scale = epilogue.token_scale(row);
    float value;
    if (hidden) {
      const float input_weight = epilogue.input_weight(row);
      const int up = gated ? r + 8 : r;
      value = epilogue.hidden(epilogue.terms(work.row_block + block, r), totals[block * 16 + r][token],
                              epilogue.terms(work.row_block + block, up), totals[block * 16 + up][token], scale,
                              input_weight);
      if (operand.is_wanted()) {
        operand.store(row, first_column + column, value);
        continue;
      }
    } else {
      value = epilogue.plain(epilogue.terms(work.row_block + block, r), totals[column][token], scale);
    }
    epilogue.store(static_cast<long long>(row) * p.out_stride + first_column + column, value);
  }
}

/// This lane's places in row block `block` of the tile's expert.
template <int kWeights>
__device__ __forceinline__ LaneWeights lane_weights(const abi::GemmParams& p, int expert, int block) {
  if (block >= p.row_blocks) return {nullptr, nullptr, nullptr, 0};
  const int lane = threadIdx.x % 32;
  const long long index = static_cast<long long>(expert) * p.row_blocks + block;
  LaneWeights places{static_cast<const char*>(p.weights), nullptr, nullptr, 0};
  if constexpr (kWeights == abi::kWeights16) {
    places.codes += static_cast<long long>(expert) * p.row_blocks * p.units * abi::kBlockBytes +
                    abi::block_offset(block, p.units) + abi::swizzled_piece(lane);
    places.unit_stride = abi::blocks_together(block, p.row_blocks) * abi::kBlockBytes;
  } else {
    places.codes += index * p.units * abi::unit_bytes(kWeights) + lane * 16;
  }
  const char* scales = static_cast<const char*>(p.weight_scales);
  if constexpr (kWeights == abi::kWeightsE4m3 || kWeights == abi::kWeightsE2m1) {
    places.scales = scales + index * p.units * unit_scale_bytes<kWeights>(p) + lane_scale_offset<kWeights>(p, lane);
  } else if constexpr (kWeights == abi::kWeightsE4m3Block) {
    places.scales = scales + index * abi::div_up(p.k, 128) * 8;
  } else if constexpr (kWeights == abi::kWeightsInt4) {
    const int bytes = group_scale_bytes(p);
    places.scales = scales + index * int4_groups(p) * bytes + lane / 4 * (bytes / 8);
    if (p.zeros != nullptr) places.zeros = p.zeros + index * int4_groups(p) * 16 + lane / 4 * 2;
  }
  return places;
}

/// This warp's chunks of K.
template <abi::KernelConfig kConfig, Groups kGroups>
__device__ __forceinline__ void multiply_chunks(const abi::GemmParams& p,
                                                const LaneWeights (&weights)[StreamShape<kConfig>::kRowBlocks],
                                                const char* const (&tokens)[StreamShape<kConfig>::kTokenTiles],
                                                const int (&scale_rows)[StreamShape<kConfig>::kTokenTiles][2],
                                                StreamSums<kConfig>& sums) {
  using Shape = StreamShape<kConfig>;
  for (int chunk = threadIdx.x / 32; chunk * Shape::kUnits < p.units; chunk += kConfig.warps_k) {
    StreamUnit<kConfig> units[Shape::kUnits];
#pragma unroll
    for (int u = 0; u < Shape::kUnits; ++u) {
      load_weights<kConfig, kGroups>(p, weights, chunk * Shape::kUnits + u, units[u]);
    }
    // Before the first activations. It waits for the weights, too: nobody does so who need not.
    if (p.weights_early && chunk < kConfig.warps_k) ptx::wait_for_kernel_before<kConfig>();
#pragma unroll
    for (int u = 0; u < Shape::kUnits; ++u) load_tokens<kConfig>(p, tokens, chunk * Shape::kUnits + u, units[u]);
    // All that this warp reads is on its way: blocks of the kernel behind may have the places of those that end.
    if ((chunk + kConfig.warps_k) * Shape::kUnits >= p.units) ptx::let_kernel_behind_begin<kConfig>();
    if constexpr (Shape::kByBlock) {
      ChunkScales<kConfig> scales;
      scales.load(p, weights, scale_rows, chunk);
      StreamSums<kConfig> parts = {};
#pragma unroll
      for (int u = 0; u < Shape::kUnits; ++u) multiply_unit<kConfig>(p, units[u], parts);
      scales.add(parts, sums);
    } else {
#pragma unroll
      for (int u = 0; u < Shape::kUnits; ++u) {
        if constexpr (kGroups.halves == 0) {
          multiply_unit<kConfig>(p, units[u], sums);
        } else {
          multiply_groups<kConfig, kGroups>(p, units[u], sums);
        }
      }
    }
  }
}

/// This block's work, by one thread: 128 would ask L2 for the same line. false: there is none.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ bool find_shared_work(const abi::GemmParams& p, Work& work) {
  __shared__ Work shared;
  __shared__ bool found;
  if (!p.weights_early) ptx::wait_for_kernel_before<kConfig>();
  if (threadIdx.x == 0) found = find_work<kConfig>(p, count_tiles<kConfig>(p), blockIdx.x, shared);
  __syncthreads();  // it is found
  work = shared;
  if (!found) ptx::wait_for_kernel_before<kConfig>();  // no kernel ends before the one before it
  return found;
}

/// grid.x >= (upper bound of tiles) * div_up(row_blocks, tile_rows / 16). Static shared memory only.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void gemm_stream(const abi::GemmParams& p) {
  using Shape = StreamShape<kConfig>;
  __shared__ float totals[kConfig.tile_rows][kConfig.tile_tokens + 1];  // + 1: columns on different banks
  Work work;
  if (!find_shared_work<kConfig>(p, work)) return;
  const int lane = threadIdx.x % 32, g = lane / 4;

  LaneWeights weights[Shape::kRowBlocks];
#pragma unroll
  for (int r = 0; r < Shape::kRowBlocks; ++r) {
    weights[r] = lane_weights<kConfig.weights>(p, work.tile.expert, work.row_block + r);
  }
  const char* tokens[Shape::kTokenTiles];
  int scale_rows[Shape::kTokenTiles][2];  // activation rows of the tokens that this lane has sums of
#pragma unroll
  for (int n = 0; n < Shape::kTokenTiles; ++n) {
    const int row = work.tile.row_begin + n * 8 + g;
    tokens[n] = nullptr;
    if (row < work.tile.row_end) {
      tokens[n] = static_cast<const char*>(p.activations) +
                  static_cast<long long>(activation_row(p, row)) * p.activation_stride * 2;
    }
    if constexpr (Shape::kByBlock) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int result = work.tile.row_begin + n * 8 + lane % 4 * 2 + i;
        scale_rows[n][i] = result < work.tile.row_end ? activation_row(p, result) : -1;
      }
    }
  }

  StreamSums<kConfig> sums = {};
  if constexpr (kConfig.weights != abi::kWeightsInt4) {
    multiply_chunks<kConfig, Groups{}>(p, weights, tokens, scale_rows, sums);
  } else if (p.block_scale == abi::kScaleGroupFloat) {
    if (p.group_shift == 5) {
      multiply_chunks<kConfig, Groups{1, true}>(p, weights, tokens, scale_rows, sums);
    } else {
      multiply_chunks<kConfig, Groups{2, true}>(p, weights, tokens, scale_rows, sums);
    }
  } else if (p.group_shift == 5) {
    multiply_chunks<kConfig, Groups{1, false}>(p, weights, tokens, scale_rows, sums);
  } else {
    multiply_chunks<kConfig, Groups{2, false}>(p, weights, tokens, scale_rows, sums);
  }
  if (p.weights_early) ptx::wait_for_kernel_before<kConfig>();  // of warps that had nothing of K
  reduce_warps<kConfig>(sums, totals);
  store_totals<kConfig>(p, work, totals);
}

}  // namespace moesaic::warp
