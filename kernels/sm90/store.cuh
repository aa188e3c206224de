// SPDX-License-Identifier: Apache-2.0
// What becomes of the sums of a warpgroup's piece of work. 16-bit results: transposed in shared memory when weight rows
// are on the m64 side; when tokens are, by the copy engine, while the next piece of work is multiplied.
#pragma once

#include "kernels/sm90/products.cuh"

namespace moesaic::sm90 {

/// kStoreTokens tokens of a warpgroup's sums, from `first` on -> [tokens][kPitch].
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void share_tokens(float* shared, int first, const Sums<kConfig>& sums) {
  using Group = typename WgmmaShape<kConfig>::Group;
  constexpr int kSums = WgmmaShape<kConfig>::kMostTokens / 2;  // of 64 rows
  const int row = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + threadIdx.x % 32 / 4, token = threadIdx.x % 4 * 2;
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
#pragma unroll
    for (int i = 0; i < kTokens * kPieces / 128; ++i) {
      const int index = i * 128 + threadIdx.x % 128, token = index / kPieces, piece = index % kPieces;
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
  RowTerms terms[kHalves][2];  // of rows lane / 4 and 8 further of a row block
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int block = min(first_block + half * 4 + warp, p.row_blocks - 1);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (kTerms) terms[half][i] = epilogue.terms(block, lane / 4 + 8 * i);
    }
  }
#pragma unroll 1  // the activation is compiled a few times, not once per sum
  for (int first = 0; first < count; first += Out::kTokens) {
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
        float scale[2], weight[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = work.tile.row_begin + min(first + tile * 8 + lane % 4 * 2 + i, count - 1);
          scale[i] = kTerms ? epilogue.token_scale(row) : 1.0f;
          weight[i] = kTerms && kHidden ? epilogue.input_weight(row) : 1.0f;
        }
        if constexpr (kHidden) {
          const auto hidden = [&](int i) {
            return epilogue.template hidden<kKind, kTerms>(terms[half][0], s[i], terms[half][1], s[2 + i], scale[i],
                                                           weight[i]);
          };
          words[0][tile] = pack<kConfig.io>(hidden(0), hidden(1));
        } else {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            words[i][tile] = pack<kConfig.io>(epilogue.template plain<kTerms>(terms[half][i], s[2 * i], scale[0]),
                                              epilogue.template plain<kTerms>(terms[half][i], s[2 * i + 1], scale[1]));
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
  float scale[2];
  int column;

  __device__ __forceinline__ Corner(const Epilogue& epilogue, const Work& work, int first_column)
      : column(first_column + threadIdx.x % 4 * 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      rows[i] = work.tile.row_begin + static_cast<int>(threadIdx.x) / 32 * 16 + threadIdx.x % 32 / 4 + 8 * i;
      exist[i] = rows[i] < work.tile.row_end;
      scale[i] = exist[i] ? epilogue.token_scale(rows[i]) : 1.0f;
    }
  }
};

/// Bytes of a row of kTiles * 8 16-bit results in shared memory; + 16: eight rows lie in different banks.
__device__ constexpr int line_pitch(int tiles) { return tiles * 16 + 16; }

/// 16-bit results of 16 tokens of a warp to `shared`; from there by the copy engine. words(tile, words of both rows):
/// of this thread's two columns of a tile of 8.
template <int kTiles, typename Words>
__device__ __forceinline__ void store_lines(const abi::GemmParams& p, const Work& work, const Corner& corner,
                                            u32 shared, Words words) {
  static_assert(kTiles % 2 == 0);
  const int lane = threadIdx.x % 32, first_column = corner.column - lane % 4 * 2, left = p.out_cols - first_column;
#pragma unroll
  for (int first = 0; first < kTiles; first += 2) {
    if (first * 8 >= left) break;
    u32 matrices[4];  // rows 0 to 7 and 8 to 15 of a tile, then of the next
    words(first, matrices[0], matrices[1]);
    words(first + 1, matrices[2], matrices[3]);
    ptx::store_matrices(shared + lane % 16 * line_pitch(kTiles) + (first + lane / 16) * 16, matrices);
  }
  ptx::fence_async_proxy();
  __syncwarp();
  const int row = work.tile.row_begin + static_cast<int>(threadIdx.x) / 32 * 16 + lane;
  if (lane < 16 && row < work.tile.row_end) {
    ptx::bulk_store(static_cast<u16*>(p.out) + static_cast<long long>(row) * p.out_stride + first_column,
                    shared + lane * line_pitch(kTiles), min(kTiles * 8, left) * 2);
  }
  ptx::bulk_commit();
}

/// Of TokensTimesRows, gated GEMM 1: gate and up are neighbouring n8 tiles of the same thread.
template <abi::KernelConfig kConfig, int kKind, bool kTerms>
__device__ __forceinline__ void store_tokens_hidden(const abi::GemmParams& p, const Work& work,
                                                    const Sums<kConfig>& sums, const Ring<kConfig>& ring, int slot) {
  const Epilogue epilogue{p, work.tile.expert};
  const Corner corner(epilogue, work, work.row_block * 8);
  float weight[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    weight[i] = kTerms && corner.exist[i] ? epilogue.input_weight(corner.rows[i]) : 1.0f;
  }
  constexpr int kTiles = kConfig.tile_rows / 16;
  store_lines<kTiles>(
      p, work, corner, ring.template results<line_pitch(kTiles)>(slot), [&](int tile, u32& first, u32& second) {
        const int block = min(work.row_block + tile, p.row_blocks - 1), row = threadIdx.x % 4 * 2;
        RowTerms gates[2], ups[2];
        if constexpr (kTerms) {
          epilogue.pair_terms(block, row, gates[0], gates[1]);
          epilogue.pair_terms(block, row + 8, ups[0], ups[1]);
        }
        const float* s = sums + tile * 8;
        const auto hidden = [&](int column, int i) {
          return epilogue.template hidden<kKind, kTerms>(gates[column], s[i * 2 + column], ups[column],
                                                         s[i * 2 + column + 4], corner.scale[i], weight[i]);
        };
        first = pack<kConfig.io>(hidden(0, 0), hidden(1, 0));
        second = pack<kConfig.io>(hidden(0, 1), hidden(1, 1));
      });
}

/// Of TokensTimesRows, GEMM 2 and plain GEMMs whose results are of the io type.
template <abi::KernelConfig kConfig, bool kTerms>
__device__ __forceinline__ void store_tokens_16(const abi::GemmParams& p, const Work& work, const Sums<kConfig>& sums,
                                                const Ring<kConfig>& ring, int slot) {
  const Epilogue epilogue{p, work.tile.expert};
  const Corner corner(epilogue, work, work.row_block * abi::kBlockRows);
  constexpr int kTiles = kConfig.tile_rows / 8;
  store_lines<kTiles>(p, work, corner, ring.template results<line_pitch(kTiles)>(slot),
                      [&](int tile, u32& first, u32& second) {
                        const int block = min(work.row_block + tile / 2, p.row_blocks - 1);
                        RowTerms terms[2];
                        if constexpr (kTerms) {
                          epilogue.pair_terms(block, tile % 2 * 8 + threadIdx.x % 4 * 2, terms[0], terms[1]);
                        }
                        const float* s = sums + tile * 4;
                        const auto plain = [&](int column, int i) {
                          return epilogue.template plain<kTerms>(terms[column], s[i * 2 + column], corner.scale[i]);
                        };
                        first = pack<kConfig.io>(plain(0, 0), plain(1, 0));
                        second = pack<kConfig.io>(plain(0, 1), plain(1, 1));
                      });
}

/// The same, FP32: four threads store 32 bytes of a row.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_tokens_32(const abi::GemmParams& p, const Work& work, const Sums<kConfig>& sums) {
  const Epilogue epilogue{p, work.tile.expert};
  const Corner corner(epilogue, work, work.row_block * abi::kBlockRows);
  float* rows[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows[i] = static_cast<float*>(p.out) + static_cast<long long>(corner.rows[i]) * p.out_stride + corner.column;
  }
#pragma unroll
  for (int tile = 0; tile < kConfig.tile_rows / 8; ++tile) {
    if (corner.column + tile * 8 >= p.out_cols) break;
    RowTerms terms[2];
    epilogue.pair_terms(work.row_block + tile / 2, tile % 2 * 8 + threadIdx.x % 4 * 2, terms[0], terms[1]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float* s = sums + tile * 4 + i * 2;
      const float2 values = {epilogue.plain(terms[0], s[0], corner.scale[i]),
                             epilogue.plain(terms[1], s[1], corner.scale[i])};
      if (corner.exist[i]) *reinterpret_cast<float2*>(rows[i] + tile * 8) = values;
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
  return p.epilogue != abi::kEpilogueHidden && (p.out_cols | p.out_stride) % 2 == 0 &&
         reinterpret_cast<u64>(p.out) % 8 == 0;
}

/// Whether 16-bit results of a tile need a slot of the ring for their way out: every tile of the kernel then has one.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ bool needs_slot(const abi::GemmParams& p) {
  constexpr bool kHidden = Ring<kConfig>::results_outside(line_pitch(kConfig.tile_rows / 16)) < 4;
  return (kHidden || p.epilogue != abi::kEpilogueHidden) && p.out_type != abi::kSourceF32 && stores_tokens<kConfig>(p);
}

/// Of RowsTimesTokens.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_rows(const abi::GemmParams& p, const Work& work, const Sums<kConfig>& sums,
                                           const Ring<kConfig>& ring) {
  if (!stores_16<kConfig>(p)) {
    store_any_rows<kConfig>(p, work, ring, sums);
  } else if (p.epilogue != abi::kEpilogueHidden) {
    if (has_terms(p)) {
      store_rows_16<kConfig, kAnyKind, true>(p, work, ring, sums);
    } else {
      store_rows_16<kConfig, kAnyKind, false>(p, work, ring, sums);
    }
  } else if (p.activation == 5) {  // gpt-oss: with biases
    store_rows_16<kConfig, 5, true>(p, work, ring, sums);
  } else if (has_terms(p)) {
    store_rows_16<kConfig, 3, true>(p, work, ring, sums);
  } else {
    store_rows_16<kConfig, 3, false>(p, work, ring, sums);
  }
}

/// outbox.slot: a free slot when needs_slot.
template <abi::KernelConfig kConfig>
__device__ __forceinline__ void store_tokens(const abi::GemmParams& p, const Work& work, const Sums<kConfig>& sums,
                                             const Outbox<kConfig>& outbox) {
  if (p.out_type == abi::kSourceF32) {
    store_tokens_32<kConfig>(p, work, sums);
  } else if (p.epilogue != abi::kEpilogueHidden) {
    if (has_terms(p)) {
      store_tokens_16<kConfig, true>(p, work, sums, outbox.ring, outbox.slot);
    } else {
      store_tokens_16<kConfig, false>(p, work, sums, outbox.ring, outbox.slot);
    }
  } else if (p.activation == 5) {  // gpt-oss: with biases
    store_tokens_hidden<kConfig, 5, true>(p, work, sums, outbox.ring, outbox.slot);
  } else if (has_terms(p)) {
    store_tokens_hidden<kConfig, 3, true>(p, work, sums, outbox.ring, outbox.slot);
  } else {
    store_tokens_hidden<kConfig, 3, false>(p, work, sums, outbox.ring, outbox.slot);
  }
}

}  // namespace moesaic::sm90
