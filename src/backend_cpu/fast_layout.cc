// SPDX-License-Identifier: Apache-2.0
// Offsets of the fast path's prepared weights and workspace.
#include "backend_cpu/fast_layout.h"

#include <algorithm>
#include <cstring>

#include "backend_cpu/arguments.h"
#include "backend_cpu/fast_routing.h"
#include "backend_cpu/fast_threads.h"
#include "moesaic/quantize.h"
#include "tables/recipe_table.h"

namespace moesaic::cpu {
namespace {

// Hands out consecutive parts, each 64-byte aligned. With memory, the bytes between them become 0.
class Parts {
 public:
  explicit Parts(std::byte* memory = nullptr) : memory_(memory) {}
  std::size_t take(std::int64_t count, std::size_t size) {
    const std::size_t offset = next_;
    const std::int64_t used = count * static_cast<std::int64_t>(size), aligned = round_up(used, 64);
    next_ += static_cast<std::size_t>(aligned);
    if (memory_ != nullptr) std::memset(memory_ + offset + used, 0, static_cast<std::size_t>(aligned - used));
    return offset;
  }
  std::size_t total() const { return next_; }

 private:
  std::byte* memory_;
  std::size_t next_ = 0;
};

PackedMatrix packed_matrix(Parts& parts, const PanelFormat& format, std::int64_t outputs, std::int64_t depth,
                           bool gated) {
  PackedMatrix matrix;
  matrix.outputs = outputs;
  matrix.depth = depth;
  matrix.stored_depth = panel_depth(format.codes, depth);
  matrix.blocks = format.block == 0 ? 1 : (depth + format.block - 1) / format.block;
  matrix.outputs_per_panel = gated ? kPanelRows / 2 : kPanelRows;
  matrix.panels = (outputs + matrix.outputs_per_panel - 1) / matrix.outputs_per_panel;
  const std::int64_t scales = matrix.blocks * kPanelRows;
  matrix.panel_codes = static_cast<std::size_t>(matrix.stored_depth * kPanelRows * panel_code_bits(format.codes) / 8);
  matrix.panel_scales = static_cast<std::size_t>(scales * panel_scale_bytes(format.scale));
  matrix.panel_zeros = static_cast<std::size_t>(format.zeros ? scales : 0);
  matrix.codes = parts.take(matrix.panels, matrix.panel_codes);
  matrix.scales = parts.take(matrix.panels, matrix.panel_scales);
  matrix.zeros = parts.take(matrix.panels, matrix.panel_zeros);
  matrix.multipliers = parts.take(matrix.panels * kPanelRows, sizeof(float));
  matrix.bias = parts.take(matrix.panels * kPanelRows, sizeof(float));
  return matrix;
}

PackedExpert packed_expert(Parts parts, const PanelFormat& format, std::int64_t hidden, std::int64_t intermediate,
                           bool gated) {
  PackedExpert expert;
  expert.format = format;
  expert.up = packed_matrix(parts, format, intermediate, hidden, gated);
  expert.down = packed_matrix(parts, format, hidden, intermediate, false);
  expert.bytes = parts.total();
  return expert;
}

PackedExpert routed_expert(Parts parts, const MoeConfig& config) {
  return packed_expert(parts, panel_format(config.recipe, config.int4), config.hidden, config.intermediate,
                       is_gated(config.activation.kind));
}

PackedExpert shared_expert(Parts parts, const MoeConfig& config) {
  return packed_expert(parts, panel_format(shared_recipe(config), config.int4), config.hidden,
                       config.shared.intermediate, is_gated(config.activation.kind));
}

// Everything outside of the experts' own parts.
PreparedLayout lay_out(Parts parts, const MoeConfig& config) {
  PreparedLayout layout;
  layout.io = tables::get_recipe(config.recipe).io == DType::kF16 ? Io::kFp16 : Io::kBf16;
  layout.router_rows = round_up(config.num_experts + 1, kProjectRows);
  layout.router_cols = round_up(config.hidden, 8);
  layout.expert = routed_expert(Parts(), config);
  parts.take(1, sizeof(PreparedHeader));
  layout.router = parts.take(layout.router_rows * layout.router_cols, sizeof(float));
  layout.router_bias = parts.take(layout.router_rows, sizeof(float));
  layout.selection_bias = parts.take(config.num_experts, sizeof(float));
  layout.static_scales = parts.take(1, sizeof(StaticScales));
  layout.expert_scales = parts.take(num_local_experts(config), sizeof(ExpertScales));
  if (config.routing.method == RoutingMethod::kHash) {
    layout.token_experts = parts.take(std::int64_t{config.routing.vocabulary} * config.top_k, sizeof(std::int32_t));
  }
  layout.experts = parts.take(num_local_experts(config), layout.expert.bytes);
  if (config.shared.intermediate > 0) {
    layout.shared_expert = shared_expert(Parts(), config);
    layout.shared = parts.take(1, layout.shared_expert.bytes);
  }
  layout.bytes = parts.total();
  return layout;
}

}  // namespace

PanelFormat panel_format(const std::string& recipe, const Int4Groups& int4) {
  const tables::Operand& weight = tables::get_recipe(recipe).weight;
  switch (weight.scale) {
    case tables::Scale::kE4m3x16:
      return {PanelCodes::kE2m1Blocks, PanelScale::kE4m3, 16, false};
    case tables::Scale::kE8m0x32:
      return {weight.number == tables::Number::kE2m1 ? PanelCodes::kE2m1Blocks : PanelCodes::kE4m3Blocks,
              PanelScale::kE8m0, 32, false};
    case tables::Scale::kBlock128x128:
      return {PanelCodes::kE4m3Blocks, PanelScale::kF32, 128, false};
    case tables::Scale::kGroup:
      return {PanelCodes::kInt4Blocks, int4.f32_scales ? PanelScale::kF32 : PanelScale::kF16, int4.size,
              int4.zero_points};
    case tables::Scale::kNone:
      return {weight.number == tables::Number::kFp16 ? PanelCodes::kFp16 : PanelCodes::kBf16, PanelScale::kNone, 0,
              false};
    default:
      return {PanelCodes::kE4m3, PanelScale::kNone, 0, false};
  }
}

PreparedLayout prepared_layout(const MoeConfig& config) { return lay_out(Parts(), config); }

// Laying everything out once more over the memory is what zeroes it: the gaps are written down nowhere else.
void clear_gaps(const MoeConfig& config, std::byte* prepared) {
  const PreparedLayout layout = lay_out(Parts(prepared), config);
  for (int e = 0; e < num_local_experts(config); ++e) {
    routed_expert(Parts(prepared + layout.experts + static_cast<std::size_t>(e) * layout.expert.bytes), config);
  }
  if (config.shared.intermediate > 0) shared_expert(Parts(prepared + layout.shared), config);
}

PreparedHeader prepared_header(const MoeConfig& config) {
  PreparedHeader header{};
  std::memcpy(header.tag, kLayoutTag, sizeof(header.tag));
  header.hidden = config.hidden;
  header.local_experts = num_local_experts(config);
  header.first_expert = config.experts.first;
  header.vocabulary = config.routing.method == RoutingMethod::kHash ? config.routing.vocabulary : 0;
  header.adds_down_bias = config.tp.rank == 0;
  header.intermediate = config.intermediate;
  header.num_experts = config.num_experts;
  header.shared_intermediate = config.shared.intermediate;
  header.recipe = tables::recipe_index(config.recipe);
  header.shared_recipe = tables::recipe_index(shared_recipe(config));
  header.int4_group = config.int4.size;
  header.int4_flags = (config.int4.zero_points ? 1 : 0) | (config.int4.f32_scales ? 2 : 0);
  header.gated = is_gated(config.activation.kind);
  header.router = config.router;
  header.shared_gated = config.shared.gated;
  return header;
}

ThreadScratch thread_scratch(const MoeConfig& config) {
  // As deep as any panel; activations and quantisers work on whole vectors.
  const std::int64_t depth = round_up(std::max({config.hidden, config.intermediate, config.shared.intermediate}), 16);
  const std::int64_t project = kProjectTokens * round_up(config.hidden, 8);
  Parts parts;
  ThreadScratch scratch;
  scratch.tile = parts.take(std::max(kBlockPairs * depth, 2 * project), sizeof(float));
  scratch.row = parts.take(depth, sizeof(float));
  scratch.codes = parts.take(depth, 1 + sizeof(float));
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
  const std::int64_t max_items = (pairs + shared) / kBlockPairs + num_local_experts(config) + 1;
  Parts parts;
  layout.logits = parts.take(layout.chunk * round_up(config.num_experts + 1, kProjectRows), sizeof(float));
  layout.ids = parts.take(pairs, sizeof(std::int32_t));
  layout.weights = parts.take(pairs, sizeof(float));
  layout.gates = parts.take(layout.chunk, sizeof(float));
  layout.order = parts.take(pairs, sizeof(std::int32_t));
  layout.starts = parts.take(num_local_experts(config) + 2, sizeof(std::int32_t));
  layout.items = parts.take(max_items, sizeof(WorkItem));
  layout.x = parts.take(layout.chunk * config.hidden, sizeof(float));
  layout.shared_x = layout.x;
  const bool apart = activation_spec(config.recipe, true) || activation_spec(shared_recipe(config), true);
  if (shared > 0 && apart) layout.shared_x = parts.take(shared * config.hidden, sizeof(float));
  layout.h = parts.take(pairs * config.intermediate, sizeof(float));
  layout.shared_h = parts.take(shared * config.shared.intermediate, sizeof(float));
  layout.y = parts.take(pairs * config.hidden, sizeof(float));
  layout.shared_y = parts.take(shared * config.hidden, sizeof(float));
  layout.thread_bytes = thread_scratch(config).bytes;
  layout.threads = parts.take(max_threads(), layout.thread_bytes);
  layout.bytes = parts.total();
  return layout;
}

}  // namespace moesaic::cpu
