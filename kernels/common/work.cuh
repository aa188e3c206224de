// SPDX-License-Identifier: Apache-2.0
// Which tile of tokens and which weight rows a block of a grouped GEMM works on.
#pragma once

#include "kernels/common/number.cuh"
#include "kernels/common/tiles.cuh"

namespace moesaic {

/// Token tiles that share a pass over weight rows where parameters do not say: their activations and as many weight
/// tiles fit in L2 together.
inline constexpr int kRasterTiles = 16;

/// Where a block works: token tile and first weight row block.
struct Work {
  abi::Tile tile;
  int row_block;
};

// Kernels that wait by themselves may read the list of tiles before (weights_early): what L2 has.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ int listed_tiles(const int* count) {
  if constexpr (abi::waits_itself(kConfig)) return __ldcg(count);
  return *count;
}
template <abi::KernelConfig kConfig>
__device__ __forceinline__ abi::Tile listed_tile(const abi::Tile* tile) {
  if constexpr (abi::waits_itself(kConfig)) {
    return {__ldcg(&tile->expert), __ldcg(&tile->row_begin), __ldcg(&tile->row_end), 0};
  }
  return *tile;
}

template <abi::KernelConfig kConfig>
__device__ __forceinline__ int count_tiles(const abi::GemmParams& p) {
  return p.num_tiles != nullptr ? listed_tiles<kConfig>(p.num_tiles)
                                : tile_count(p.rows, kConfig.tile_tokens, kConfig.tile_slack);
}

/// Where the index-th of all pieces of work is; false: there are fewer. Token tiles of a group run fastest, so that
/// concurrent blocks share weights in L2. Persistent blocks begin with the last tiles: those of shared experts, which
/// have every token, take longest, and what takes long must not be begun last.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ bool find_place(const abi::GemmParams& p, int tiles, int index, int& tile, int& row_block) {
  constexpr int kBlocks = kConfig.tile_rows / abi::kBlockRows;
  const int columns = abi::div_up(p.row_blocks, kBlocks);
  if (index >= tiles * columns) return false;
  const int together = abi::is_persistent(kConfig) ? p.raster_tiles : kRasterTiles;
  const int group = index / (together * columns);
  const int first = group * together;
  const int size = tiles - first < together ? tiles - first : together;
  const int local = index - first * columns;
  tile = first + local % size;
  if (abi::is_persistent(kConfig)) tile = tiles - 1 - tile;
  row_block = local / size * kBlocks;
  return true;
}

/// Tile number `tile` where no list says.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ abi::Tile even_tile(const abi::GemmParams& p, int tile) {
  const int begin = tile * kConfig.tile_tokens;
  return {0, begin, tile_end(begin, p.rows, kConfig.tile_tokens, kConfig.tile_slack),
          p.rows <= abi::narrow_rows(kConfig) ? 1 : 0};
}

/// The index-th of all pieces of work; false: there are fewer.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ bool find_work(const abi::GemmParams& p, int tiles, int index, Work& work) {
  int tile;
  if (!find_place<kConfig>(p, tiles, index, tile, work.row_block)) return false;
  work.tile = p.tiles != nullptr ? listed_tile<kConfig>(p.tiles + tile) : even_tile<kConfig>(p, tile);
  return true;
}

/// Activation row that row `row` of the result is made of.
__device__ __forceinline__ int activation_row(const abi::GemmParams& p, int row) {
  return p.row_token != nullptr ? p.row_token[row] : row;
}

}  // namespace moesaic
