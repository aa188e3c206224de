// SPDX-License-Identifier: Apache-2.0
// Offsets of the fast path's prepared weights and workspace.
#include "backend_cpu/fast_layout.h"

#include <algorithm>
#include <cstring>

#include "backend_cpu/fast_routing.h"
#include "backend_cpu/fast_threads.h"

namespace moesaic::cpu {
namespace {

// Hands out consecutive parts, each 64-byte aligned.
class Parts {
 public:
  std::size_t take(std::int64_t count, std::size_t size) {
    const std::size_t offset = next_;
    next_ += static_cast<std::size_t>(round_up(count * static_cast<std::int64_t>(size), 64));
    return offset;
  }
  std::size_t total() const { return next_; }

 private:
  std::size_t next_ = 0;
};

PackedMatrix packed_matrix(Parts& parts, std::int64_t outputs, std::int64_t depth, bool gated) {
  PackedMatrix matrix;
  matrix.outputs = outputs;
  matrix.depth = depth;
  matrix.outputs_per_panel = gated ? kPanelRows / 2 : kPanelRows;
  matrix.panels = (outputs + matrix.outputs_per_panel - 1) / matrix.outputs_per_panel;
  matrix.weights = parts.take(matrix.panels * depth * kPanelRows, sizeof(std::uint16_t));
  matrix.bias = parts.take(matrix.panels * kPanelRows, sizeof(float));
  return matrix;
}

PackedExpert packed_expert(std::int64_t hidden, std::int64_t intermediate, bool gated) {
  Parts parts;
  PackedExpert expert;
  expert.up = packed_matrix(parts, intermediate, hidden, gated);
  expert.down = packed_matrix(parts, hidden, intermediate, false);
  expert.bytes = parts.total();
  return expert;
}

}  // namespace

PreparedLayout prepared_layout(const MoeConfig& config) {
  const bool gated = is_gated(config.activation.kind);
  Parts parts;
  PreparedLayout layout;
  layout.io = config.recipe == "fp16" ? Io::kFp16 : Io::kBf16;
  layout.router_rows = round_up(config.num_experts + 1, kProjectRows);
  layout.router_cols = round_up(config.hidden, 8);
  layout.expert = packed_expert(config.hidden, config.intermediate, gated);
  parts.take(1, sizeof(PreparedHeader));
  layout.router = parts.take(layout.router_rows * layout.router_cols, sizeof(float));
  layout.router_bias = parts.take(layout.router_rows, sizeof(float));
  layout.selection_bias = parts.take(config.num_experts, sizeof(float));
  layout.experts = parts.take(config.num_experts, layout.expert.bytes);
  if (config.shared.intermediate > 0) {
    layout.shared_expert = packed_expert(config.hidden, config.shared.intermediate, gated);
    layout.shared = parts.take(1, layout.shared_expert.bytes);
  }
  layout.bytes = parts.total();
  return layout;
}

PreparedHeader prepared_header(const MoeConfig& config) {
  PreparedHeader header{};
  std::memcpy(header.tag, "moecpu1", sizeof(header.tag));
  header.hidden = config.hidden;
  header.intermediate = config.intermediate;
  header.num_experts = config.num_experts;
  header.shared_intermediate = config.shared.intermediate;
  header.io = config.recipe == "fp16" ? 1 : 0;
  header.gated = is_gated(config.activation.kind);
  header.router = config.router;
  header.shared_gated = config.shared.gated;
  return header;
}

ThreadScratch thread_scratch(const MoeConfig& config) {
  const std::int64_t depth = std::max({config.hidden, config.intermediate, config.shared.intermediate});
  const std::int64_t project = kProjectTokens * round_up(config.hidden, 8);
  Parts parts;
  ThreadScratch scratch;
  scratch.tile = parts.take(std::max(kBlockPairs * depth, 2 * project), sizeof(float));
  scratch.row = parts.take(depth, sizeof(float));
  scratch.sums = parts.take(kMaxTilePanels * kMaxTileTokens * kPanelRows, sizeof(float));
  scratch.route = parts.take(1, route_scratch_bytes(config.num_experts));
  scratch.bytes = parts.total();
  return scratch;
}

WorkspaceLayout workspace_layout(const MoeConfig& config, std::int64_t tokens) {
  WorkspaceLayout layout;
  layout.chunk = std::min(tokens, kChunkTokens);
  const std::int64_t pairs = layout.chunk * config.top_k;
  const std::int64_t shared = config.shared.intermediate > 0 ? layout.chunk : 0;
  // Every expert can end in a block that is not full.
  const std::int64_t max_items = (pairs + shared) / kBlockPairs + config.num_experts + 1;
  Parts parts;
  layout.logits = parts.take(layout.chunk * round_up(config.num_experts + 1, kProjectRows), sizeof(float));
  layout.ids = parts.take(pairs, sizeof(std::int32_t));
  layout.weights = parts.take(pairs, sizeof(float));
  layout.gates = parts.take(layout.chunk, sizeof(float));
  layout.order = parts.take(pairs, sizeof(std::int32_t));
  layout.starts = parts.take(config.num_experts + 2, sizeof(std::int32_t));
  layout.items = parts.take(max_items, sizeof(WorkItem));
  layout.h = parts.take(pairs * config.intermediate, sizeof(std::uint16_t));
  layout.shared_h = parts.take(shared * config.shared.intermediate, sizeof(std::uint16_t));
  layout.y = parts.take(pairs * config.hidden, sizeof(float));
  layout.shared_y = parts.take(shared * config.hidden, sizeof(float));
  layout.thread_bytes = thread_scratch(config).bytes;
  layout.threads = parts.take(max_threads(), layout.thread_bytes);
  layout.bytes = parts.total();
  return layout;
}

}  // namespace moesaic::cpu
