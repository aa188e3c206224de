// SPDX-License-Identifier: Apache-2.0
// What the host hands to each kernel, and the byte layouts that host and device share. Plain C++ without includes.
// Pointers are device pointers; [a][b] means b fastest; row = (token, slot) pair in expert order.
#pragma once

#include "kernels/abi/config.h"

namespace moesaic::abi {

/// Element types of source tensors, as a run-time argument.
enum SourceType : int { kSourceF32 = 0, kSourceBf16 = 1, kSourceFp16 = 2 };

// --- prepared weights -----------------------------------------------------------------------------------------------
// A matrix [rows][k] becomes blocks of 16 rows x 32 k, [row block][k block][step 2][lane 32][8 elements]: 1024 bytes,
// in which every lane's operand of one mma.sync m16n8k16 is one 16-byte load. Lane = 4 g + t holds, for step s,
//   W[g][c], W[g][c+1], W[g+8][c], W[g+8][c+1], W[g][c+2], W[g][c+3], W[g+8][c+2], W[g+8][c+3],  c = 8 t + 4 s:
// the order of k inside a block is ours to choose as long as both operands agree, and with this one the other operand
// of lane t for both steps is also one 16-byte load, x[row][32 kb + 8 t .. + 7].
// Gated GEMM 1: a block is 8 gate rows, then the 8 up rows of the same outputs, so that both meet in one thread.
// Rows and k beyond the matrix are zero.
inline constexpr int kBlockRows = 16;
inline constexpr int kBlockK = 32;
inline constexpr int kBlockBytes = kBlockRows * kBlockK * 2;

MOESAIC_HD constexpr int div_up(int a, int b) { return (a + b - 1) / b; }
MOESAIC_HD constexpr int round_up(int a, int b) { return div_up(a, b) * b; }
/// Row blocks of GEMM 1's weights.
MOESAIC_HD constexpr int gate_up_blocks(int intermediate, bool gated) {
  return gated ? div_up(intermediate, 8) : div_up(intermediate, kBlockRows);
}

/// One matrix, or a gate and an up matrix, of one expert -> prepared blocks.
struct PrepareParams {
  const void* gate;                                                          // [rows][k] with the strides below
  const void* up;                                                            // nullptr: not gated
  long long gate_row_stride, gate_col_stride, up_row_stride, up_col_stride;  // elements
  int gate_type, up_type;                                                    // SourceType
  int rows, k;
  void* out;
};

/// A vector (or gate and up bias) -> FP32 in the order of prepared rows; or, `plain`, in its own order.
struct PrepareVectorParams {
  const void* gate;
  const void* up;
  long long gate_stride, up_stride;
  int gate_type, up_type;
  int size, padded;  // elements of each source; floats written (the rest are 0)
  int interleave;    // 1: blocks of 8 gate, 8 up
  float* out;
};

// --- routing --------------------------------------------------------------------------------------------------------

/// A run of rows of one expert, at most `tile_tokens` long.
struct Tile {
  int expert, row_begin, row_end, unused;
};

/// Methods as in moesaic::RoutingMethod (checked equal by a static_assert in src/ops). Experts are chosen among all
/// `num_experts`; rows, counts and tiles are those of the `held_experts` here, numbered from 0, and of the shared ones,
/// numbered after them. slots = top_k + shared_slots, at most 32.
struct RouteParams {
  const float* logits;             // [tokens][num_experts], or nullptr with given ids
  const float* selection_bias;     // [num_experts] or nullptr
  const void* token_ids;           // [tokens] int, or long long when wide_token_ids: kHash
  const int* token_experts;        // [vocabulary][top_k]: kHash
  const int* given_ids;            // [tokens][slots] or nullptr
  const float* given_weights;      // [tokens][slots]
  const int* expert_offsets;       // [held_experts + 1] dispatched rows, or nullptr: expert_counts
  const int* expert_counts;        // [held_experts]: expert e has the first of its rows_per_expert rows
  const int* expert_slots;         // [num_experts] index among the held, -1: not held; nullptr: id - first_expert
  int* ids;                        // [tokens][slots]
  float* weights;                  // [tokens][slots]
  unsigned short* segment_counts;  // [segments][held_experts + shared_slots], two-launch form only
  int* row_token;                  // [rows] token of a row
  float* row_weight;               // [rows] routing weight of a row
  int* slot_row;                   // [tokens][slots] row of a slot, -1: its expert is not held
  int* row_offsets;                // [held_experts + shared_slots + 1] first row of an expert, or nullptr
  Tile* tiles;                     // in expert order; nullptr: not wanted
  int* num_tiles;
  int tokens, num_experts, top_k;
  int first_expert, held_experts;
  int shared_slots;     // appended to every token: experts num_experts, num_experts + 1, ...
  float shared_weight;  // their weight
  int vocabulary, wide_token_ids;
  int rows_per_expert;  // with expert_counts; `tokens` is the number of dispatched rows
  int method, n_group, topk_group, renormalize;
  float scaling;
  int tile_tokens;
  int segment_tokens;  // tokens per block of the two-launch form
};

// --- projection -----------------------------------------------------------------------------------------------------

/// out[t][r] = sum_k x[t][k] weight[r][k] + bias[r], FP32.
struct ProjectParams {
  const void* x;       // [tokens][k] io type
  const void* weight;  // [rows][k]
  const float* bias;   // [rows] or nullptr
  float* out;          // [tokens][rows]
  int weight_type;     // SourceType
  int tokens, rows, k;
};

// --- grouped GEMMs --------------------------------------------------------------------------------------------------

struct GemmParams {
  const void* activations;  // GEMM 1: x [tokens][k]; GEMM 2: h [rows][k stride]; io type
  const void* weights;      // [experts][row blocks][k blocks][1024 bytes]
  const float* bias;        // [experts][16 * row blocks] or nullptr
  const int* row_token;     // GEMM 1: gather; nullptr: row r reads activation row r
  const float* row_weight;  // GEMM 1 with weights on the input, else nullptr
  const Tile* tiles;        // nullptr: one expert, tile i is rows [i, i+1) * tile_tokens
  const int* num_tiles;     // nullptr: div_up(rows, tile_tokens)
  void* out;                // GEMM 1: h [rows][out_stride] io type; GEMM 2: [rows][out_stride] f32
  int rows;                 // only used without `tiles`
  int k;                    // valid elements of K, a multiple of 8 in memory
  int k_blocks;             // div_up(k, 32)
  int activation_stride;    // elements between activation rows, a multiple of 8
  int row_blocks;           // of the weights
  int out_cols;             // columns written: GEMM 1 round_up(I, 8), GEMM 2 H
  int out_stride;
  int activation;  // moesaic::ActivationKind
  int gated;
  float alpha, beta, limit;
};

// --- weighted sum ---------------------------------------------------------------------------------------------------

/// out[t] = sum_s weights[t][s] rows[slot_row[t][s]] + sigmoid(shared_gate[t]) shared[t], in FP32 in slot order.
struct WeightedSumParams {
  const float* rows;         // [rows][cols]
  const int* slot_row;       // [tokens][top_k]
  const float* weights;      // [tokens][top_k]; nullptr: 1 (weights on the input)
  const float* shared;       // [tokens][cols] or nullptr
  const float* shared_gate;  // [tokens] logits or nullptr
  void* out;                 // [tokens][cols] io type, or f32 when out_f32
  int tokens, cols, top_k, out_f32;
};

// --- activation -----------------------------------------------------------------------------------------------------

/// Neighbouring outputs of a thread.
inline constexpr int kActivateWidth = 4;

/// out[r][c] = act(x[r][gate_offset + c step], x[r][up_offset + c step]); out [rows][cols] is dense.
struct ActivateParams {
  const void* x;
  void* out;
  int type, out_type;  // SourceType
  int cols, row_stride, gate_offset, up_offset, step;
  unsigned pieces, row_pieces;  // of kActivateWidth outputs: all, those of a row
  int aligned;                  // whole pieces alone, each on a boundary of its size, step 1
  int kind;                     // moesaic::ActivationKind
  int gated;
  float alpha, beta, limit;
};

// --- benchmarks -----------------------------------------------------------------------------------------------------

/// Reads `pieces` times 16 bytes.
struct ReadProbeParams {
  const void* data;
  long long pieces;
  unsigned* never;
};

/// Copies `pieces` times 16 bytes.
struct CopyProbeParams {
  const void* source;
  void* target;
  long long pieces;
};

}  // namespace moesaic::abi
