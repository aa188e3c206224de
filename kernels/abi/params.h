// SPDX-License-Identifier: Apache-2.0
// What the host hands to each kernel, and the byte layouts that host and device share. Plain C++ without includes.
// Pointers are device pointers; [a][b] means b fastest; row = (token, slot) pair in expert order.
#pragma once

#include "kernels/abi/config.h"

namespace moesaic::abi {

/// Element types of source tensors, as a run-time argument.
enum SourceType : int { kSourceF32 = 0, kSourceBf16 = 1, kSourceFp16 = 2 };

// --- prepared weights -----------------------------------------------------------------------------------------------
// A matrix [rows][k] becomes blocks of 16 rows in which everything that a lane needs for whole mma.sync m16n8k16 is one
// 16-byte load. Lane = 4 g + t. Within 32 elements of k, step s (0, 1) multiplies k = c .. c + 3, c = 8 t + 4 s, of
// rows g and g + 8: the order of k inside a block is ours to choose as long as both operands agree, and with this one
// the other operand of lane t for both steps is also one 16-byte load, x[row][8 t .. 8 t + 7].
//
//   16 bit   [row block / 8][k / 32][row block % 8][r 2][g 8][piece 4][8 elements]: 1024 bytes for each row block, of
//            which eight (as many as there are) lie together, so that one bulk copy brings them. Row g + 8 r; piece
//            t ^ (g / 2) holds k = 8 t .. 8 t + 7: the 64-byte swizzle of wgmma's shared memory descriptors.
//   e4m3     [row block][k / 32][lane 32][4 words]: 512 bytes. Word 2 s + r: row g + 8 r, bytes from the lowest
//            W[c+2], W[c], W[c+3], W[c+1].
//   4 bit    [row block][k / 64][lane 32][4 words]: 512 bytes. Word 2 h + r: row g + 8 r, the eight k from
//            c = 64 kb + 32 h + 8 t on; c + 2 j is in the low half of the word, c + 2 j + 1 at the same place of the
//            high half. int4: nibble j. e2m1: where few instructions bring sign and magnitude to bits 15 and 8..6,
//            see e2m1_half.
//
// Scales beside them, in the order of row blocks:
//   e4m3, powers of two  [row block][k / 32][g 8][r 2] bytes: exponent field of a bf16 number, see kE4m3Exponent.
//   e4m3, 128 x 128      [row block][k / 128][r 2] f32, divided by a power of two of their row.
//   e2m1, powers of two  [row block][k / 64][g 8][h 2][r 2] bytes: exponent field, see kMxfp4Exponent.
//   e2m1, e4m3 per 16    [row block][k / 64][g 8][q 2][h 2][r 2] bytes, of the 16 k from 64 kb + 32 h + 16 q on: 5 bits
//                        of exponent, 3 of fraction, normalised, see kNvfp4Exponent. Codes of a block whose scale is 0
//                        are 0.
//   int4                 [row block][group][g 8][r 2] fp16, or f32 where asked for, divided by a power of two of their
//                        row.
//   int4 zero points     [row block][group][g 8][r 2] bytes, 0 to 16.
// And for every prepared row an FP32 multiplier: what is the same along K (scales of tensors and channels, powers of
// two taken out of the others). NaN where a code or scale of the row is NaN.
// Gated GEMM 1: a block is 8 gate rows, then the 8 up rows of the same outputs, so that both meet in one thread.
// Rows and k beyond the matrix are zero; their multiplier is 1.
inline constexpr int kBlockRows = 16;
inline constexpr int kBlockK = 32;
inline constexpr int kBlockBytes = kBlockRows * kBlockK * 2;
/// Bytes of 8 rows of a 16-bit block, and where among them the piece of a lane (or thread, by its last five bits) lies.
inline constexpr int kHalfBlockBytes = kBlockBytes / 2;
MOESAIC_HD constexpr int swizzled_piece(unsigned lane) {
  return static_cast<int>((lane & 28u) * 16u + ((lane ^ lane >> 3) & 3u) * 16u);
}

/// Elements of K in one unit of prepared codes, and its bytes for 16 rows.
MOESAIC_HD constexpr int unit_k(int weights) { return weights == kWeightsE2m1 || weights == kWeightsInt4 ? 64 : 32; }
MOESAIC_HD constexpr int unit_bytes(int weights) { return weights == kWeights16 ? kBlockBytes : 512; }

// Codes decode by moving bits into bf16 numbers 2^120 (e4m3) or 2^126 (e2m1) too small, which a multiplication by the
// block's scale brings back, exactly. A power of two relative to the row's largest, 2^d with d <= 0, is stored as
// max(0, base + d): scales so far below the largest that 0 replaces them are lost beside it.
inline constexpr int kE4m3Exponent = 247, kMxfp4Exponent = 253;
/// NVFP4: a scale (1 + m / 8) 2^e, e in [-9, 8], is byte (e + 10) << 3 | m; operands are code * scale * 2^-8, which the
/// row's multiplier makes up for. kNvfp4Exponent: exponent field for e = -10.
inline constexpr int kNvfp4Exponent = 235, kNvfp4Shift = 8;

/// The 16 bits of a half word that hold codes c0 .. c3 of e2m1.
MOESAIC_HD constexpr unsigned e2m1_half(unsigned c0, unsigned c1, unsigned c2, unsigned c3) {
  return (c0 >> 3) << 15 | (c0 & 7u) << 6 | (c1 >> 3) << 12 | (c1 & 7u) << 3 | (c2 >> 3) << 9 | (c2 & 7u) |
         (c3 >> 3) << 14 | (c3 >> 2 & 1u) << 13 | (c3 & 3u) << 10;
}

/// Row blocks of 16-bit weights that lie together.
inline constexpr int kGroupBlocks = 8;

MOESAIC_HD constexpr int div_up(int a, int b) { return (a + b - 1) / b; }
MOESAIC_HD constexpr int round_up(int a, int b) { return div_up(a, b) * b; }
/// 16-bit weights: row blocks that lie together with `row_block`, of those of a matrix; and bytes from the beginning of
/// the matrix to unit 0 of that row block. Its next unit is that many blocks further.
MOESAIC_HD constexpr int blocks_together(int row_block, int row_blocks) {
  const int left = row_blocks - row_block / kGroupBlocks * kGroupBlocks;
  return left < kGroupBlocks ? left : kGroupBlocks;
}
MOESAIC_HD constexpr long long block_offset(int row_block, int units) {
  const long long first = row_block / kGroupBlocks * kGroupBlocks;
  return (first * units + row_block % kGroupBlocks) * kBlockBytes;
}
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
  int* given;  // set to whether there is a source, 1 or 0; nullptr: nobody asks
};

/// How a quantised matrix decodes: moesaic::Quantization.
struct CodeSource {
  const void* codes;
  const void* scales;                            // nullptr: 1
  const void* zeros;                             // nullptr: 8
  long long row_stride, col_stride;              // of codes
  long long scale_row_stride, scale_col_stride;  // in scales
  long long zero_row_stride, zero_col_stride;
  int block_rows, block_cols;  // of a scale
  int order, zero_order;       // moesaic::NibbleOrder
  int scale_format;            // moesaic::ScaleFormat
  int zero_offset;
  float multiplier;
};

/// Which block scales a prepared matrix has.
enum BlockScale : int {
  kScaleNone = 0,        // one scale a row
  kScaleE8m0 = 1,        // powers of two per 32
  kScaleE4m3 = 2,        // e4m3 per 16
  kScaleFloat = 3,       // f32 per 128 x 128
  kScaleGroup = 4,       // fp16 per `group` elements
  kScaleGroupFloat = 5,  // f32 per `group` elements
};

/// One quantised matrix, or a gate and an up matrix, of one expert -> codes, scales, zero points, multipliers.
struct PrepareCodesParams {
  CodeSource gate;
  CodeSource up;    // codes nullptr: not gated
  int rows, k;      // of each source
  int block_scale;  // BlockScale
  int group;        // elements of k that share a scale: 16, 32, 64, 128; kScaleNone: 0
  void* codes;
  void* scales;          // nullptr with kScaleNone
  unsigned char* zeros;  // nullptr: no zero points
  float* multipliers;    // [16 * row blocks]
};

// --- routing --------------------------------------------------------------------------------------------------------

/// A run of rows of one expert: `tile_tokens` of them, the last one of an expert up to `tile_slack` more, or fewer.
struct Tile {
  int expert, row_begin, row_end;
  int narrow;  // 1: its expert has no more than narrow_rows
};

/// Methods as in moesaic::RoutingMethod (checked equal by a static_assert in src/ops). Experts are chosen among all
/// `num_experts`; rows, counts and tiles are those of the `held_experts` here, numbered from 0, and of the shared ones,
/// numbered after them. slots = top_k + shared_slots, at most 32.
/// Most (token, slot) pairs that one cluster, or block, chooses and sorts.
inline constexpr int kMaxFusedEntries = 2048;
/// Blocks of a cluster that does so, where targets have clusters.
inline constexpr int kRouteCluster = 8;

struct RouteParams {
  const float* logits;             // [tokens][num_experts], or nullptr with given ids
  const float* selection_bias;     // [num_experts] or nullptr
  const void* token_ids;           // [tokens] int, or long long when wide_token_ids: kHash
  const int* token_experts;        // [vocabulary][top_k]: kHash
  const int* given_ids;            // [tokens][listed_slots] or nullptr
  const float* given_weights;      // [tokens][listed_slots]
  const int* expert_offsets;       // [held_experts + 1] dispatched rows, or nullptr: expert_counts
  const int* expert_counts;        // [held_experts]: expert e has the first of its rows_per_expert rows
  const int* expert_slots;         // [num_experts] index among the held, -1: not held; nullptr: id - first_expert
  int* ids;                        // [tokens][slots]
  float* weights;                  // [tokens][slots]
  int* listed_ids;                 // [tokens][listed_slots] of these, or nullptr
  float* listed_weights;           // [tokens][listed_slots], or nullptr
  unsigned short* segment_counts;  // [segments][held_experts + shared_slots], two-launch form only
  int* row_token;                  // [rows] token of a row
  float* row_weight;               // [rows] routing weight of a row
  int* slot_row;                   // [tokens][slots] row of a slot, -1: its expert is not held; dispatched: or nullptr
  int* row_offsets;                // [held_experts + shared_slots + 1] first row of an expert, or nullptr
  Tile* tiles;                     // in expert order, narrow ones behind the others; nullptr: not wanted
  int* num_tiles;                  // [kTileCounts]
  int tokens, num_experts, top_k;
  int first_expert, held_experts;
  int shared_slots;     // appended to every token: experts num_experts, num_experts + 1, ...
  float shared_weight;  // their weight
  int listed_slots;     // what callers give and see: all, or the top_k first, which then are no shared ones
  int vocabulary, wide_token_ids;
  int rows_per_expert;  // with expert_counts; `tokens` is the number of dispatched rows
  int method, n_group, topk_group, renormalize;
  float scaling;
  int tile_tokens;  // a power of two
  int tile_slack;
  int narrow_rows;     // up to which tiles are marked as narrow; 0: none are
  int segment_tokens;  // tokens per block of the two-launch form
};

/// `method` of routing by a table of experts.
inline constexpr int kRouteByTable = 9;
/// Whether no token has an expert in two of its slots: a caller's ids and a table may.
MOESAIC_HD constexpr bool chooses_apart(const RouteParams& p) {
  return p.given_ids == nullptr && p.method != kRouteByTable;
}
/// Threads of the block that routes one such token.
inline constexpr int kRouteOneThreads = 128;

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

// --- operands of grouped GEMMs --------------------------------------------------------------------------------------

/// Rows -> the bf16 operand of a GEMM: quantised (or, `codes`, decoded) values without their row's scale, which is
/// exact in bf16; formats of abi::Quant. Values are operand * token_scale, or * token_block_scale with
/// kQuantFp8Block1x128. MX: the row's largest power of two is in token_scale, so that no operand leaves bf16's range.
struct OperandParams {
  const void* x;               // [rows][x_stride] of `source` type, or nullptr
  const unsigned char* codes;  // given instead: [rows][cols], or 4 bits [rows][cols / 2], dense
  const void* given_scales;    // of given codes, [rows][blocks] (bytes, f32; strides below), [rows] f32 (kQuantFp8Row)
  const float* given_rows;     // f32 scales of given codes of kQuantNvfp4Row, given_rows_stride apart (0: one for all)
  const float* static_scale;   // [1] value = code * scale: quantise by it unless it is 0; nullptr: none
  void* operand;               // [rows][stride] bf16, zero from cols to stride
  float* token_scale;          // [rows], or nullptr with kQuantFp8Block1x128
  float* token_block_scale;    // [rows][div_up(cols, 128)] with kQuantFp8Block1x128
  const Tile* tiles;           // with num_tiles: rows end where the last tile does; nullptr: `rows`
  const int* num_tiles;
  long long x_stride, stride;                    // elements
  long long given_row_stride, given_col_stride;  // of given_scales, in scales; kQuantFp8Row: 0 is one for all rows
  int given_rows_stride;
  int source;  // SourceType
  int format;  // Quant: kQuantNvfp4Row, kQuantMxfp8, kQuantMxfp8E5m2, kQuantFp8Row, kQuantFp8Block1x128
  int rows, cols;
};

/// Static scales of expert `index`, for the inputs of both GEMMs, are stored; then, unless `common` is nullptr, those
/// that all have in common: the largest, or twice 0 when a scale is 0, for they count only when every expert has both.
struct StaticScalesParams {
  float values[2];
  float* scales;  // [count][2]
  float* common;  // [2]
  int index, count;
};

// --- grouped GEMMs --------------------------------------------------------------------------------------------------

/// What becomes of sums.
enum Epilogue : int {
  kEpilogueRows = 0,    // alpha sum + bias
  kEpilogueHidden = 1,  // GEMM 1: routing weight on input, bias, activation
};

/// out[row][n] = epilogue(row_scale[row] multiplier[n] sum_k operand[row][k] W[n][k]).
struct GemmParams {
  const void* activations;         // [rows][activation_stride] bf16 or fp16
  const float* token_scale;        // of activation rows, or nullptr: 1
  const float* token_block_scale;  // kWeightsE4m3Block: [activation rows][k / 128], else nullptr
  const void* weights;             // [experts][row blocks][units][unit_bytes]
  const void* weight_scales;       // [experts][row blocks][...], or nullptr
  const unsigned char* zeros;      // int4 zero points, or nullptr: 8
  const float* multipliers;        // [experts][16 * row_blocks], or nullptr: 1
  const float* bias;               // [experts][16 * row_blocks] or nullptr
  const int* row_token;            // gather: row r reads activation row row_token[r]; nullptr: row r
  int activation_rows;             // that exist
  const float* row_weight;         // routing weights on the input, else nullptr
  const Tile* tiles;               // nullptr: one expert, cut in the same way
  const int* num_tiles;            // nullptr: as many as `rows` make
  void* out;                       // [rows][out_stride] of out_type
  int rows;                        // only used without `tiles`
  int k;                           // valid elements of K, a multiple of 8 in memory
  int units;                       // div_up(k, unit_k)
  int activation_stride;           // elements between activation rows, a multiple of 8
  int row_blocks;                  // of the weights
  int out_cols;                    // columns written; hidden: round_up(I, 8)
  int out_stride;                  // even
  int out_type;                    // SourceType
  int epilogue;                    // Epilogue
  int block_scale;                 // BlockScale of the weights
  int group_shift;                 // int4: log2 of the elements of k that share a scale
  int activation;                  // moesaic::ActivationKind
  int gated;
  float alpha, beta, limit;  // of the activation
  float out_alpha;           // kEpilogueRows
  // kEpilogueHidden: h is quantised and leaves as GEMM 2's operand, `out` bf16; quantises_hidden holds.
  const float* hidden_scale;  // [1] by this static scale; nullptr: h leaves as it is
  float* hidden_token_scale;  // [rows] of that operand
  int hidden_cols;            // of h; the operand is 0 from there to out_cols
  // Last: where the others lie decides which registers tiled kernels need.
  int raster_tiles;  // token tiles that share a pass over weight rows, of persistent kernels
  // Of kernels that wait by themselves: whether they read weights before the kernel before has ended. It writes neither
  // weights nor the list of tiles, and has waited for the one that wrote the list before it let this one begin. Nothing
  // is gathered then: row_token would be read early, too.
  int weights_early;
  const int* biased;  // [experts] 0: its part of `bias` is zeros; nullptr: nobody knows
  // Of persistent kernels: pieces of work that were claimed, beside the first two of each cluster, 0 before the launch;
  // nullptr: clusters do not claim, but take every n-th.
  int* claimed;
};

/// Numbers behind a list of tiles: how many there are, how many are not narrow, and `claimed` of GEMM 1 and 2. What
/// GEMM 1 still writes lies in no 16 bytes that GEMM 2 touches early.
inline constexpr int kTileCounts = 12, kWideTiles = 1;
MOESAIC_HD constexpr int claimed_at(int gemm) { return 4 * gemm; }

/// How the copy engine of Hopper reads a matrix: a CUtensorMap, encoded by the driver.
struct alignas(128) TensorMap {
  unsigned char opaque[128];
};

/// A GEMM whose activations come by tensor copies, boxes of kTensorRows x 64 with the 128-byte swizzle, unless their
/// rows are gathered.
inline constexpr int kTensorRows = 32;
struct TensorGemmParams {
  GemmParams gemm;
  TensorMap activations;  // of [activation_rows][k]
};

// --- rows in expert order --------------------------------------------------------------------------------------------

/// out[slot_row[t][s]] = x[t] for all tokens and slots.
struct GatherParams {
  const void* x;        // [tokens][row_pieces] of 16 bytes
  const int* slot_row;  // [tokens][slots], -1: none
  void* out;            // [rows][row_pieces]
  int tokens, slots, row_pieces;
};

// --- weighted sum ---------------------------------------------------------------------------------------------------

/// Columns that a thread sums, 16 bytes of each row.
MOESAIC_HD constexpr int sum_columns(bool bf16_rows) { return bf16_rows ? 8 : 4; }

/// out[t] = sum_s weights[t][s] rows[slot_row[t][s]] + sigmoid(shared_gate[t]) shared[t], in FP32 in slot order.
/// slots is top_k, or top_k + 1: then the last slot's row is shared[t], among `rows`, and `shared` is `rows`.
struct WeightedSumParams {
  const void* rows;          // [rows][cols] f32, or bf16 when bf16_rows
  const int* slot_row;       // [tokens][slots]
  const float* weights;      // [tokens][slots]; nullptr: 1 (weights on the input)
  const void* shared;        // [tokens][cols] as `rows`, or nullptr; or `rows`
  const float* shared_gate;  // [tokens] logits or nullptr
  void* out;                 // [tokens][cols] io type, or f32 when out_f32
  int tokens, cols, top_k, slots, out_f32;
  int bf16_rows;  // only where io is bf16 and out is of it
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
