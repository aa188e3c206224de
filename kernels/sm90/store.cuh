// SPDX-License-Identifier: Apache-2.0
// What becomes of the sums of a warpgroup's piece of work. Weights of 16 bits have no scales, but maybe biases. 16-bit
// results go through shared memory, so that threads store 16 bytes each: transposed when weight rows are on the m64
// side.
#pragma once

#include "kernels/sm90/products.cuh"

namespace moesaic::sm90 {

/// kStoreTokens tokens of a warpgroup's sums, from `first` on -> [tokens][kPitch].
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void share_tokens(float* shared, int first, const Sums<kConfig>& sums) {
  using Group = typename WgmmaShape<kConfig>::Group;
  constexpr int kSums = WgmmaShape<kConfig>::kMostTokens / 2;  // of 64 rows
  const int thread = ptx::thread_again(), row = thread / 32 % 4 * 16 + thread % 32 / 4, token = thread % 4 * 2;
#pragma unroll
  for (int part = 0; part < kSums * 2; part += WgmmaShape<kConfig>::kStoreTokens) {
    if (part != first) continue;
#pragma unroll
    for (int half = 0; half < Group::kRows / 64; ++half) {
#pragma unroll
      for (int i = 0; i < WgmmaShape<kConfig>::kStoreTokens / 2; ++i) {  // [n8 tile][8 rows further][token of a pair]
        shared[(i / 4 * 8 + token + i % 2) * Group::kPitch + half * 64 + row + i % 4 / 2 * 8] =
            sums[half * kSums + part / 2 + i];
      }
    }
  }
}

/// Of RowsTimesTokens, whatever the results are.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_any_rows(const abi::GemmParams& p, Work work, const Ring<kConfig>& ring,
                                               const Sums<kConfig>& sums) {
  using Group = typename WgmmaShape<kConfig>::Group;
  constexpr int kStoreTokens = WgmmaShape<kConfig>::kStoreTokens;
  const int group = threadIdx.x / 128, thread = threadIdx.x % 128;
  float* shared = ring.sums(group);
  work.row_block += group * (Group::kRows / abi::kBlockRows);
  const int count = work.tile.row_end - work.tile.row_begin;
#pragma unroll 1
  for (int first = 0; first < count; first += kStoreTokens) {
    const int tokens = min(count - first, kStoreTokens);
    ptx::named_barrier(1 + group, 128);  // the warpgroup has stored the tokens before
    share_tokens<kConfig>(shared, first, sums);
    ptx::named_barrier(1 + group, 128);  // these are complete
    if (work.row_block >= p.row_blocks) continue;
    if (p.epilogue == abi::kEpilogueHidden) {
      store_hidden<Group>(p, work, thread, work.tile.row_begin + first, tokens, shared);
    } else {
      store_plain<Group>(p, work, thread, work.tile.row_begin + first, tokens, shared);
    }
  }
  // Results of the next tile may lie where these sums do.
  if constexpr (TokensTimesRows<kConfig>::kExists) ptx::named_barrier(1 + group, 128);
}

/// 16-bit results of RowsTimesTokens on their way out: [tokens][pieces of 8 columns], of one warpgroup.
template <abi::KernelConfig kConfig, bool kHidden>
struct Lines {
  static constexpr int kTokens = 32;
  static constexpr int kPieces = WgmmaShape<kConfig>::Group::kRows / (kHidden ? 16 : 8);
  static_assert(kTokens * kPieces * 16 <= Ring<kConfig>::kSumsBytes && kTokens * kPieces % 128 == 0);

  /// Eight tokens' same pieces lie in different banks.
  __device__ __forceinline__ static u32 at(int token, int piece) {
    return (token * kPieces + (piece ^ (kPieces < 8 ? token / 2 & 3 : token & 7))) * 16;
  }
  /// All threads of the warpgroup: tokens from row `row` on, of which `tokens` exist, to global memory.
  __device__ __forceinline__ static void copy_out(const abi::GemmParams& p, u32 shared, int row, int tokens,
                                                  int column) {
    const int thread = ptx::thread_again() % 128;
#pragma unroll
    for (int i = 0; i < kTokens * kPieces / 128; ++i) {
      const int index = i * 128 + thread, token = index / kPieces, piece = index % kPieces;
      if (token >= tokens || column + piece * 8 >= p.out_cols) continue;
      const long long element = static_cast<long long>(row + token) * p.out_stride + column + piece * 8;
      *reinterpret_cast<uint4*>(static_cast<u16*>(p.out) + element) = ptx::load_shared_16(shared + at(token, piece));
    }
  }
};

/// Of RowsTimesTokens, results of the io type. kKind: the activation of a gated GEMM 1, kAnyKind: none. kTerms:
/// has_terms.
template <abi::KernelConfig kConfig, int kKind, bool kTerms>
__device__ __forceinline__ void store_rows_16(const abi::GemmParams& p, const Work& work, const Ring<kConfig>& ring,
                                              const Sums<kConfig>& sums) {
  using Shape = WgmmaShape<kConfig>;
  constexpr bool kHidden = kKind != kAnyKind;
  using Out = Lines<kConfig, kHidden>;
  constexpr int kHalves = Shape::Group::kRows / 64, kPairs = kHidden ? 1 : 2;  // pieces of a row block
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int first_block = work.row_block + group * (Shape::Group::kRows / abi::kBlockRows);
  const int count = work.tile.row_end - work.tile.row_begin;
  const Epilogue epilogue{p, work.tile.expert};
  float biases[kHalves][2] = {};  // of rows lane / 4 and 8 further of a row block
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int block = min(first_block + half * 4 + warp, p.row_blocks - 1);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (kTerms) biases[half][i] = epilogue.bias(block, lane / 4 + 8 * i);
    }
  }
  // Activations with biases are compiled a few times, not once per sum.
  constexpr int kUnroll = kHidden && kTerms ? 1 : Shape::kMostTokens / Out::kTokens;
#pragma unroll kUnroll
  for (int first = 0; first < Shape::kMostTokens; first += Out::kTokens) {
    if (first >= count) break;
    ptx::named_barrier(1 + group, 128);  // what lay there before has been read
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      u32 words[kPairs][4];
#pragma unroll
      for (int tile = 0; tile < 4; ++tile) {
        float s[4];
#pragma unroll
        for (int part = 0; part < Shape::kMostTokens; part += Out::kTokens) {
          if (part != first) continue;
#pragma unroll
          for (int i = 0; i < 4; ++i) s[i] = sums[(half * Shape::kMostTokens + part) / 2 + tile * 4 + i];
        }
        float weight[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = work.tile.row_begin + min(first + tile * 8 + lane % 4 * 2 + i, count - 1);
          weight[i] = kTerms && kHidden ? epilogue.input_weight(row) : 1.0f;
        }
        if constexpr (kHidden) {
          const auto hidden = [&](int i) {
            return epilogue.template hidden<kKind, kTerms>({1.0f, biases[half][0]}, s[i], {1.0f, biases[half][1]},
                                                           s[2 + i], 1.0f, weight[i]);
          };
          words[0][tile] = pack<kConfig.io>(hidden(0), hidden(1));
        } else {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            words[i][tile] =
                pack<kConfig.io>(epilogue.template plain<kTerms>({1.0f, biases[half][i]}, s[2 * i], 1.0f),
                                 epilogue.template plain<kTerms>({1.0f, biases[half][i]}, s[2 * i + 1], 1.0f));
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int piece = (half * 4 + warp) * kPairs + i;
        ptx::store_transposed(ring.lines(group) + Out::at(lane, piece), words[i]);
      }
    }
    ptx::named_barrier(1 + group, 128);  // these are complete
    Out::copy_out(p, ring.lines(group), work.tile.row_begin + first, count - first, first_block * (kHidden ? 8 : 16));
  }
  ptx::named_barrier(1 + group, 128);  // results of the next tile may lie where these do
}

/// The two rows of results that a thread has sums of, eight apart, and the first of its columns: two of every tile
/// of 8.
struct Corner {
  int rows[2];
  bool exist[2];
  int column;

  __device__ __forceinline__ Corner(const Work& work, int first_column) : column(first_column + threadIdx.x % 4 * 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      rows[i] = work.tile.row_begin + static_cast<int>(threadIdx.x) / 32 * 16 + threadIdx.x % 32 / 4 + 8 * i;
      exist[i] = rows[i] < work.tile.row_end;
    }
  }
};

inline constexpr int kLoaded = 4;  // tiles whose biases are under way at once, and in registers

/// 16-bit results of 16 tokens of a warp, 64 columns at a time through shared memory, so that eight threads store 128
/// bytes of a row. load(tile): what the next kLoaded tiles need from memory. words(tile, words of both rows): of this
/// thread's two columns of a tile of 8.
template <int kTiles, typename Load, typename Words>
__device__ __forceinline__ void store_lines(const abi::GemmParams& p, const Work& work, const Corner& corner,
                                            u32 shared, Load load, Words words) {
  constexpr int kTogether = kLineBytes / 16;  // tiles
  static_assert(kTiles % kTogether == 0);
  const int lane = threadIdx.x % 32, first_column = corner.column - lane % 4 * 2, left = p.out_cols - first_column;
  const int row = work.tile.row_begin + static_cast<int>(threadIdx.x) / 32 * 16 + lane / 8;
  u16* const out = static_cast<u16*>(p.out) + static_cast<long long>(row) * p.out_stride + first_column + lane % 8 * 8;
#pragma unroll
  for (int first = 0; first < kTiles; first += kTogether) {
    if (first * 8 >= left) break;
    __syncwarp();  // what lay there has been read
#pragma unroll
    for (int tile = 0; tile < kTogether; tile += 2) {
      if (tile % kLoaded == 0) load(first + tile);
      u32 matrices[4];  // rows 0 to 7 and 8 to 15 of a tile, then of the next
      words(first + tile, matrices[0], matrices[1]);
      words(first + tile + 1, matrices[2], matrices[3]);
      // Eight rows' same pieces lie in different banks.
      ptx::store_matrices(shared + lane % 16 * kLineBytes + ((tile + lane / 16) ^ lane % 8) * 16, matrices);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int line = lane / 8 + i * 4;
      const uint4 piece = ptx::load_shared_16(shared + line * kLineBytes + (lane ^ line) % 8 * 16);
      if (row + i * 4 < work.tile.row_end && (first + lane % 8) * 8 < left) {
        *reinterpret_cast<uint4*>(out + static_cast<long long>(i * 4) * p.out_stride + first * 8) = piece;
      }
    }
  }
}

/// Of TokensTimesRows, gated GEMM 1: gate and up are neighbouring n8 tiles of the same thread.
template <abi::KernelConfig kConfig, int kKind, bool kTerms>
__device__ __forceinline__ void store_tokens_hidden(const abi::GemmParams& p, const Work& work,
                                                    const Sums<kConfig>& sums, const Ring<kConfig>& ring) {
  const Epilogue epilogue{p, work.tile.expert};
  const Corner corner(work, work.row_block * 8);
  float weight[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    weight[i] = kTerms && corner.exist[i] ? epilogue.input_weight(corner.rows[i]) : 1.0f;
  }
  constexpr int kTiles = kConfig.tile_rows / 16;
  float2 gates[kLoaded] = {}, ups[kLoaded] = {};  // biases
  const auto load = [&](int first_tile) {
    if constexpr (kTerms) {
      const int row = threadIdx.x % 4 * 2;
#pragma unroll
      for (int i = 0; i < kLoaded; ++i) {
        const int block = min(work.row_block + first_tile + i, p.row_blocks - 1);
        gates[i] = epilogue.pair_bias(block, row), ups[i] = epilogue.pair_bias(block, row + 8);
      }
    }
  };
  store_lines<kTiles>(p, work, corner, ring.warp_lines(), load, [&](int tile, u32& first, u32& second) {
    const float* s = sums + tile * 8;
    const float2 gate = gates[tile % kLoaded], up = ups[tile % kLoaded];
    const auto hidden = [&](int column, int i) {
      return epilogue.template hidden<kKind, kTerms>({1.0f, column == 0 ? gate.x : gate.y}, s[i * 2 + column],
                                                     {1.0f, column == 0 ? up.x : up.y}, s[i * 2 + column + 4], 1.0f,
                                                     weight[i]);
    };
    first = pack<kConfig.io>(hidden(0, 0), hidden(1, 0));
    second = pack<kConfig.io>(hidden(0, 1), hidden(1, 1));
  });
}

/// Of TokensTimesRows, GEMM 2 and plain GEMMs whose results are of the io type.
template <abi::KernelConfig kConfig, bool kTerms>
__device__ __forceinline__ void store_tokens_16(const abi::GemmParams& p, const Work& work, const Sums<kConfig>& sums,
                                                const Ring<kConfig>& ring) {
  const Epilogue epilogue{p, work.tile.expert};
  const Corner corner(work, work.row_block * abi::kBlockRows);
  constexpr int kTiles = kConfig.tile_rows / 8;
  float2 biases[kLoaded] = {};
  const auto load = [&](int first_tile) {
    if constexpr (kTerms) {
#pragma unroll
      for (int i = 0; i < kLoaded; ++i) {
        const int block = min(work.row_block + (first_tile + i) / 2, p.row_blocks - 1);
        biases[i] = epilogue.pair_bias(block, i % 2 * 8 + threadIdx.x % 4 * 2);
      }
    }
  };
  store_lines<kTiles>(p, work, corner, ring.warp_lines(), load, [&](int tile, u32& first, u32& second) {
    const float* s = sums + tile * 4;
    const float2 bias = biases[tile % kLoaded];
    const auto plain = [&](int column, int i) {
      return epilogue.template plain<kTerms>({1.0f, column == 0 ? bias.x : bias.y}, s[i * 2 + column], 1.0f);
    };
    first = pack<kConfig.io>(plain(0, 0), plain(1, 0));
    second = pack<kConfig.io>(plain(0, 1), plain(1, 1));
  });
}

/// The same, FP32, 32 columns at a time.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_tokens_32(const abi::GemmParams& p, const Work& work, bool terms,
                                                const Sums<kConfig>& sums, const Ring<kConfig>& ring) {
  constexpr int kTogether = kLineBytes / 32;  // tiles
  const Epilogue epilogue{p, work.tile.expert};
  const Corner corner(work, work.row_block * abi::kBlockRows);
  const int lane = threadIdx.x % 32, first_column = corner.column - lane % 4 * 2, left = p.out_cols - first_column;
  const int row = work.tile.row_begin + static_cast<int>(threadIdx.x) / 32 * 16 + lane / 8;
  float* const out = static_cast<float*>(p.out) + static_cast<long long>(row) * p.out_stride + first_column;
  const u32 shared = ring.warp_lines();
  // Pieces of 16 bytes: the two of a tile lie in different banks in four rows.
  const auto at = [&](int line, int piece) { return shared + line * kLineBytes + (piece ^ line % 4 * 2) * 16; };
#pragma unroll
  for (int first = 0; first < kConfig.tile_rows / 8; first += kTogether) {
    if (first * 8 >= left) break;
    float2 biases[kTogether] = {};
    if (terms) {
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int block = min(work.row_block + (first + i) / 2, p.row_blocks - 1);
        biases[i] = epilogue.pair_bias(block, i % 2 * 8 + lane % 4 * 2);
      }
    }
    __syncwarp();  // what lay there has been read
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const float* s = sums + (first + i) * 4;
      const float2 bias = biases[i];
      const auto pair = [&](int half) {
        return float2{epilogue.plain({1.0f, bias.x}, s[2 * half], 1.0f),
                      epilogue.plain({1.0f, bias.y}, s[2 * half + 1], 1.0f)};
      };
      const u32 target = at(lane / 4, 2 * i + lane % 4 / 2) + lane % 2 * 8;
      ptx::store_shared_8(target, pair(0));
      ptx::store_shared_8(target + 8 * kLineBytes, pair(1));
    }
    __syncwarp();
    const int column = first * 8 + lane % 8 * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 piece = ptx::load_shared_16(at(lane / 8 + i * 4, lane % 8));
      if (row + i * 4 < work.tile.row_end && column < left) {
        *reinterpret_cast<uint4*>(out + static_cast<long long>(i * 4) * p.out_stride + column) = piece;
      }
    }
  }
}

/// Whether results are 16-bit ones that are stored from registers. What is not, few need: other activations, which
/// would be compiled for every sum, the other 16-bit type, results in odd places.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ bool stores_16(const abi::GemmParams& p) {
  if (p.epilogue == abi::kEpilogueHidden && p.activation != 3 && p.activation != 5) return false;
  return p.out_type == (kConfig.io == abi::kIoBf16 ? abi::kSourceBf16 : abi::kSourceFp16) &&
         (p.out_cols | p.out_stride) % 8 == 0 && reinterpret_cast<u64>(p.out) % 16 == 0;
}
/// Whether there is TokensTimesRows, and store_tokens can.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ bool stores_tokens(const abi::GemmParams& p) {
  if (!TokensTimesRows<kConfig>::kExists) return false;
  if (p.out_type != abi::kSourceF32) return stores_16<kConfig>(p);
  return p.epilogue != abi::kEpilogueHidden && (p.out_cols | p.out_stride) % 4 == 0 &&
         reinterpret_cast<u64>(p.out) % 16 == 0;
}

/// Of RowsTimesTokens. `terms`: has_terms of the expert.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_rows(const abi::GemmParams& p, const Work& work, bool terms,
                                           const Sums<kConfig>& sums, const Ring<kConfig>& ring) {
  if (!stores_16<kConfig>(p)) {
    store_any_rows<kConfig>(p, work, ring, sums);
  } else if (p.epilogue != abi::kEpilogueHidden) {
    if (terms) {
      store_rows_16<kConfig, kAnyKind, true>(p, work, ring, sums);
    } else {
      store_rows_16<kConfig, kAnyKind, false>(p, work, ring, sums);
    }
  } else if (p.activation == 5) {  // gpt-oss: with biases
    store_rows_16<kConfig, 5, true>(p, work, ring, sums);
  } else if (terms) {
    store_rows_16<kConfig, 3, true>(p, work, ring, sums);
  } else {
    store_rows_16<kConfig, 3, false>(p, work, ring, sums);
  }
}

/// Of TokensTimesRows.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_tokens(const abi::GemmParams& p, const Work& work, bool terms,
                                             const Sums<kConfig>& sums, const Ring<kConfig>& ring) {
  if (p.out_type == abi::kSourceF32) {
    store_tokens_32<kConfig>(p, work, terms, sums, ring);
  } else if (p.epilogue != abi::kEpilogueHidden) {
    if (terms) {
      store_tokens_16<kConfig, true>(p, work, sums, ring);
    } else {
      store_tokens_16<kConfig, false>(p, work, sums, ring);
    }
  } else if (p.activation == 5) {  // gpt-oss: with biases
    store_tokens_hidden<kConfig, 5, true>(p, work, sums, ring);
  } else if (terms) {
    store_tokens_hidden<kConfig, 3, true>(p, work, sums, ring);
  } else {
    store_tokens_hidden<kConfig, 3, false>(p, work, sums, ring);
  }
}

}  // namespace moesaic::sm90
