// SPDX-License-Identifier: Apache-2.0
// Byte layouts of the fast path's prepared weights and workspace. Every part begins at a multiple of 64 bytes.
//
// Prepared, in this order (R = E + 1 rounded up to 4; row E is the shared gate):
//   header                     tag and the sizes it was made for
//   router         f32 [R][Hp] Hp = H rounded up to 8, zero filled; router_bias f32 [R]; selection_bias f32 [E]
//   static scales  StaticScales; ExpertScales [L]
//   token experts  i32 [vocabulary][k], routing by token ids alone
//   experts        [L] of {gate and up: codes, scales, zeros, multipliers, bias; down: the same}
//   shared         the same once, when there are shared experts
// Panels are those of fast_panels.h. Gated: rows 0..15 of a panel are 16 gate rows, rows 16..31 the up rows of the
// same outputs; else 32 rows. Rows past the end are zero. Multipliers and biases are f32 [panels][32] in the panels'
// row order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend_cpu/fast_kernels.h"
#include "moesaic/moe.h"

namespace moesaic::cpu {

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// One packed matrix: where it lies relative to its expert, and its sizes.
struct PackedMatrix {
  std::int64_t outputs = 0;  // rows of the result: I or H
  std::int64_t depth = 0;    // H or I
  std::int64_t stored_depth = 0;
  std::int64_t blocks = 0;  // of K, in a panel
  std::int64_t panels = 0;
  int outputs_per_panel = kPanelRows;                                       // 16 when gated
  std::size_t codes = 0, scales = 0, zeros = 0, multipliers = 0, bias = 0;  // byte offsets within the expert
  std::size_t panel_codes = 0, panel_scales = 0, panel_zeros = 0;           // bytes of one panel
};

struct PackedExpert {
  PanelFormat format;
  PackedMatrix up, down;  // GEMM 1 (gate and up) and GEMM 2
  std::size_t bytes = 0;
};

struct PreparedLayout {
  Io io = Io::kBf16;
  std::int64_t router_rows = 0, router_cols = 0;
  std::size_t router = 0, router_bias = 0, selection_bias = 0, static_scales = 0, expert_scales = 0, token_experts = 0,
              experts = 0, shared = 0, bytes = 0;
  PackedExpert expert, shared_expert;
};

PreparedLayout prepared_layout(const MoeConfig& config);

/// Zeroes what lies between the parts of prepared memory, so that a file of it depends on the weights alone.
void clear_gaps(const MoeConfig& config, std::byte* prepared);

/// At the start of prepared memory: `fast_run` refuses memory whose header differs from the one of its configuration.
struct PreparedHeader {
  char tag[8];
  std::int64_t hidden, intermediate, num_experts, local_experts, first_expert, shared_intermediate, vocabulary;
  std::int32_t recipe, shared_recipe, int4_group, int4_flags, gated, router, shared_gated, adds_down_bias;
};
PreparedHeader prepared_header(const MoeConfig& config);

/// The layout's name and version, at the start of every header.
inline constexpr char kLayoutTag[8] = "moecpu4";

/// Scales of activations that one expert's weights brought along, kept so that one expert can be replaced.
struct ExpertScales {
  float input, down_input;
};

/// Scales of activations that the weights brought along: the largest of all experts', 0: none.
struct StaticScales {
  float input, down_input, shared_input, shared_down_input;
};

/// Tokens of a run are worked on in chunks of at most this many, which bounds the workspace.
inline constexpr std::int64_t kChunkTokens = 1024;
/// (token, expert) pairs of one expert that a task multiplies with each panel while the panel is in cache.
inline constexpr std::int64_t kBlockPairs = 48;

/// Workspace of one chunk. `pairs` = tokens * k, by token and slot.
struct WorkspaceLayout {
  std::int64_t chunk = 0;                        // tokens
  std::size_t logits = 0;                        // f32 [chunk][R]
  std::size_t ids = 0, weights = 0, gates = 0;   // i32 [pairs], f32 [pairs], f32 [chunk]
  std::size_t order = 0, starts = 0, items = 0;  // i32 [pairs] by expert, i32 [L + 2], WorkItem [max_items]
  std::size_t x = 0, shared_x = 0;               // f32 [chunk][H], rounded; shared_x = x unless rounded apart
  std::size_t h = 0, shared_h = 0;               // f32 [pairs][I], [chunk][I of shared]
  std::size_t y = 0, shared_y = 0;               // f32 [pairs][H], [chunk][H]
  std::size_t threads = 0, thread_bytes = 0;     // scratch of each thread
  std::size_t bytes = 0;
};
WorkspaceLayout workspace_layout(const MoeConfig& config, std::int64_t tokens);

/// Scratch of one thread, offsets within it.
struct ThreadScratch {
  std::size_t tile = 0;   // f32 [kBlockPairs][stored depth] packed by tile; also f64 [kProjectTokens][Hp]
  std::size_t row = 0;    // f32 [depth]
  std::size_t codes = 0;  // [depth] codes and f32 [depth] scales of a row that is quantised
  std::size_t sums = 0;   // f32 of one call of Gemm
  std::size_t route = 0;
  std::size_t bytes = 0;
};
ThreadScratch thread_scratch(const MoeConfig& config);

/// Consecutive entries of `order` that belong to one expert; expert L: the shared one, entries are tokens.
struct WorkItem {
  std::int32_t expert, first, count;
};

}  // namespace moesaic::cpu
