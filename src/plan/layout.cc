// SPDX-License-Identifier: Apache-2.0
// Byte layouts of the prepared buffer and the workspace, and the legality of a configuration.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "kernels/abi/params.h"
#include "plan/moe_plan.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic::plan {
namespace {

/// Refusals that begin with the name of an operation.
struct Refusal {
  const char* operation;

  [[noreturn]] void operator()(const char* field, std::int64_t got, const std::string& wanted) const {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: {} is {}, wanted {}", operation, field, got, wanted));
  }
  void unless_within(const char* field, int value, int largest) const {
    if (value < 1 || value > largest) (*this)(field, value, fmt::format("1 to {}", largest));
  }
};

void check_experts(const Refusal& refuse, const MoeConfig& c) {
  const ExpertMap& map = c.experts;
  if (map.slots.empty()) {
    if (map.first < 0 || map.first >= c.num_experts) {
      refuse("experts.first", map.first, fmt::format("an expert: 0 to {}", c.num_experts - 1));
    }
    if (map.count < 0 || map.count > c.num_experts - map.first) {
      refuse("experts.count", map.count,
             fmt::format("at most the {} experts from {} on, or 0 (all)", c.num_experts - map.first, map.first));
    }
    if (map.count == 0 && map.first != 0) refuse("experts.first", map.first, "0 where experts.count is 0 (all)");
    return;
  }
  const auto size = static_cast<std::int64_t>(map.slots.size());
  if (size != c.num_experts) refuse("experts.slots", size, fmt::format("{} entries, one an expert", c.num_experts));
  const int held = num_local_experts(c);
  std::vector<bool> taken(static_cast<std::size_t>(held), false);
  for (const int slot : map.slots) {
    if (slot < 0) continue;
    if (slot >= held || taken[static_cast<std::size_t>(slot)]) {
      refuse("experts.slots", slot,
             fmt::format("every index from 0 to {} once, as {} experts are held", held - 1, held));
    }
    taken[static_cast<std::size_t>(slot)] = true;
  }
  if (held == 0) refuse("experts.slots", held, "at least one expert held");
}

void check_routing(const Refusal& refuse, const MoeConfig& c) {
  const Routing& r = c.routing;
  const int method = static_cast<int>(r.method);
  if (method >= kNumRoutingMethods) refuse("routing.method", method, "an enumerator");
  if (r.method == RoutingMethod::kHash && r.vocabulary < 1) {
    refuse("routing.vocabulary", r.vocabulary, "at least 1 token id with routing hash");
  }
  if (!std::isfinite(r.scaling)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: routing.scaling is {}, wanted a finite number", refuse.operation, r.scaling));
  }
  const bool grouped = r.method == RoutingMethod::kDeepSeekV2 || r.method == RoutingMethod::kDeepSeekV3;
  if (!grouped) {
    if (r.n_group > 1) refuse("routing.n_group", r.n_group, fmt::format("1 with {}", routing_method_name(r.method)));
    return;
  }
  if (r.n_group < 1 || r.n_group > 32) refuse("routing.n_group", r.n_group, "1 to 32");
  if (c.num_experts % r.n_group != 0)
    refuse("routing.n_group", r.n_group, fmt::format("a divisor of num_experts {}", c.num_experts));
  if (r.method == RoutingMethod::kDeepSeekV3 && r.n_group > 1 && c.num_experts / r.n_group < 2) {
    refuse("routing.n_group", r.n_group, "groups of at least 2 experts: their two largest scores are added");
  }
  if (r.topk_group < 1 || r.topk_group > r.n_group)
    refuse("routing.topk_group", r.topk_group, fmt::format("1 to n_group {}", r.n_group));
  if (c.num_experts / r.n_group * r.topk_group < c.top_k) {
    refuse("top_k", c.top_k,
           fmt::format("at most the {} experts of topk_group {} groups", c.num_experts / r.n_group * r.topk_group,
                       r.topk_group));
  }
}

}  // namespace

MoeConfig routing_only(const RouterConfig& config) {
  MoeConfig layer;
  layer.num_experts = config.num_experts;
  layer.top_k = config.top_k;
  layer.routing = config.routing;
  layer.experts = config.experts;
  layer.max_tokens = config.max_tokens;
  return layer;
}

void check_routing_config(const char* operation, const MoeConfig& c) {
  const Refusal refuse{operation};
  refuse.unless_within("num_experts", c.num_experts, kMostExperts);
  refuse.unless_within("top_k", c.top_k, kMostExperts);
  refuse.unless_within("max_tokens", c.max_tokens, std::numeric_limits<int>::max());
  if (c.top_k > c.num_experts) refuse("top_k", c.top_k, fmt::format("at most num_experts {}", c.num_experts));
  if (static_cast<std::int64_t>(c.max_tokens) * c.top_k > (std::int64_t{1} << 30)) {
    refuse("max_tokens", c.max_tokens, fmt::format("at most 2^30 / top_k = {}", (std::int64_t{1} << 30) / c.top_k));
  }
  check_experts(refuse, c);
  check_routing(refuse, c);
}

void check_config(const MoeConfig& c) {
  const Refusal refuse{"fused_moe"};
  tables::get_recipe(c.recipe);
  if (!c.shared.recipe.empty()) tables::get_recipe(c.shared.recipe);
  refuse.unless_within("hidden", c.hidden, kLargestSize);
  refuse.unless_within("intermediate", c.intermediate, kLargestSize);
  if (c.shared.intermediate < 0 || c.shared.intermediate > kLargestSize) {
    refuse("shared.intermediate", c.shared.intermediate, fmt::format("0 (none) to {}", kLargestSize));
  }
  if (c.shared.gated && c.shared.intermediate == 0) {
    refuse("shared.intermediate", 0, "more than 0 when shared.gated is set");
  }
  if (c.tp.size < 1 || c.tp.rank < 0 || c.tp.rank >= c.tp.size) {
    refuse("tp.rank", c.tp.rank, fmt::format("0 to tp.size - 1, and tp.size ({}) at least 1", c.tp.size));
  }
  for (const std::string& recipe : {c.recipe, tables::shared_recipe(c)}) {
    if (const auto spec = weight_spec(recipe, c.int4)) tables::check_quant_spec("fused_moe", *spec);
  }
  check_activation("fused_moe", c.activation);
  check_device("fused_moe", c.device);
  check_routing_config("fused_moe", c);
}

RouteSegments route_segments(std::int64_t tokens, int slots) {
  const std::int64_t most = std::max(1, 65535 / slots);
  const std::int64_t wanted = std::max<std::int64_t>(16, (tokens + 127) / 128);
  const std::int64_t segment = std::min(wanted, most);
  return {static_cast<int>(segment), static_cast<int>((tokens + segment - 1) / segment)};
}

void check_activation(const char* operation, const Activation& activation) {
  const auto invalid = [&](const char* field, const std::string& got, const char* wanted) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: activation.{} is {}, wanted {}", operation, field, got, wanted));
  };
  if (activation.kind > ActivationKind::kSitu) {
    invalid("kind", fmt::format("value {}", static_cast<int>(activation.kind)), "an enumerator");
  }
  if (activation.limit && !(*activation.limit >= 0.0f)) {
    invalid("limit", fmt::format("{}", *activation.limit), "0 or more");
  }
  const bool divides = activation.kind == ActivationKind::kSitu;
  for (const auto& [name, value] : {std::pair{"alpha", activation.alpha}, std::pair{"beta", activation.beta}}) {
    if (!value) continue;
    if (!std::isfinite(*value)) invalid(name, fmt::format("{}", *value), "a finite number");
    if (divides && *value == 0.0f) invalid(name, "0", "another number: situ divides by it");
  }
}

void check_device(const char* operation, Device device) {
  const bool cpu = device.type == DeviceType::kCpu && device.index == 0;
  const bool cuda = device.type == DeviceType::kCuda && device.index >= 0;
  if (cpu || cuda) return;
  throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: device has type {} and index {}, wanted the CPU, index 0, "
                                                       "or CUDA and a device ordinal",
                                                       operation, static_cast<int>(device.type), device.index));
}

void check_depth(const std::string& operation, const std::string& recipe, const Int4Groups& int4, const char* field,
                 int k) {
  for (const auto& spec : {weight_spec(recipe, int4), activation_spec(recipe, true)}) {
    if (!spec) continue;
    tables::check_quant_spec(operation.c_str(), *spec);
    const QuantTraits traits = quant_traits(*spec);
    if (traits.scales == ScaleFormat::kF32 || k % traits.block_cols == 0) continue;
    Refusal{operation.c_str()}(field, k,
                               fmt::format("a multiple of {}: {} has a scale for that many elements of it",
                                           traits.block_cols, quant_format_name(spec->format)));
  }
}

void check_depths(const MoeConfig& c) {
  check_depth("fused_moe", c.recipe, c.int4, "hidden", c.hidden);
  check_depth("fused_moe", c.recipe, c.int4, "intermediate", c.intermediate);
  if (c.shared.intermediate == 0) return;
  const std::string& shared = tables::shared_recipe(c);
  check_depth("fused_moe", shared, c.int4, "hidden", c.hidden);
  check_depth("fused_moe", shared, c.int4, "shared.intermediate", c.shared.intermediate);
}

OperandSpace take_operand(Packer& pack, const tables::RecipeRow& recipe, std::size_t rows, int k) {
  const bool by_block = recipe.activation.scale == tables::Scale::kBlock1x128;
  OperandSpace space;
  space.values = pack.take(rows * static_cast<std::size_t>(abi::round_up(k, 8)) * 2);
  space.token_scale = pack.take(by_block ? 0 : rows * 4);
  space.token_block_scale = pack.take(by_block ? rows * static_cast<std::size_t>(abi::div_up(k, 128)) * 4 : 0);
  return space;
}

namespace {

/// `rows` of GEMM 1's result, from `tokens` rows of x.
ExpertSpace take_experts(Packer& pack, const tables::RecipeRow& recipe, std::size_t tokens, std::size_t rows,
                         int hidden, int intermediate) {
  const bool quantised = tables::quantises_activations(recipe);
  ExpertSpace space;
  space.h = pack.take(rows * static_cast<std::size_t>(abi::round_up(intermediate, 8)) * (quantised ? 4 : 2));
  space.y = pack.take(rows * static_cast<std::size_t>(hidden) * 4);  // f32: only a run knows its output's type
  if (!quantised) return space;
  space.x_operand = take_operand(pack, recipe, tokens, hidden);
  space.h_operand = take_operand(pack, recipe, rows, intermediate);
  return space;
}

}  // namespace

int slots_of(const MoeConfig& c) { return c.top_k + (shared_is_expert(c) ? 1 : 0); }

bool shares_input_operand(const MoeConfig& c) {
  if (c.shared.intermediate == 0) return false;
  const tables::RecipeRow &routed = tables::get_recipe(c.recipe),
                          &shared = tables::get_recipe(tables::shared_recipe(c));
  return tables::quantises_activations(routed) && routed.activation == shared.activation &&
         !tables::takes_static_scales(routed);
}

WorkspaceLayout workspace_layout(const MoeConfig& c, std::int64_t tokens, int tile_tokens) {
  WorkspaceLayout w{};
  const auto t = static_cast<std::size_t>(tokens);
  const int slots = slots_of(c), shared_slots = slots - c.top_k;
  const std::size_t rows = t * static_cast<std::size_t>(slots);
  const auto experts = static_cast<std::size_t>(c.num_experts),
             held = static_cast<std::size_t>(num_local_experts(c)) + static_cast<std::size_t>(shared_slots);
  // Every touched expert has at most one tile that is not full.
  w.max_tiles = static_cast<int>(std::min(rows, rows / static_cast<std::size_t>(tile_tokens) + std::min(held, rows)));
  const RouteSegments segments = route_segments(tokens, slots);
  w.segment_tokens = segments.tokens;
  w.segments = segments.count;
  Packer pack;
  w.logits = pack.take(t * experts * 4);
  w.ids = pack.take(rows * 4);
  w.weights = pack.take(rows * 4);
  w.segment_counts = pack.take(static_cast<std::size_t>(w.segments) * held * 2);
  w.row_token = pack.take(rows * 4);
  w.row_weight = pack.take(rows * 4);
  w.slot_row = pack.take(rows * 4);
  w.tiles = pack.take(static_cast<std::size_t>(w.max_tiles) * sizeof(abi::Tile));
  w.num_tiles = pack.take(abi::kTileCounts * sizeof(int));
  w.shared_gate = pack.take(c.shared.gated ? t * 4 : 0);
  w.routed = take_experts(pack, tables::get_recipe(c.recipe), t, rows, c.hidden, c.intermediate);
  if (has_shared_gemms(c)) {
    w.shared = take_experts(pack, tables::get_recipe(tables::shared_recipe(c)), t, t, c.hidden, c.shared.intermediate);
    if (shares_input_operand(c)) w.shared.x_operand = w.routed.x_operand;
  }
  w.total = pack.size();
  return w;
}

void check_grids(const MoeConfig& c) {
  // Every expert has one tile that is not full; the narrowest columns are one row block wide.
  constexpr std::int64_t kMostBlocks = (std::int64_t{1} << 31) - 1;
  const bool gated = is_gated(c.activation.kind);
  const std::int64_t down = abi::div_up(c.hidden, abi::kBlockRows);
  const std::int64_t columns = std::max<std::int64_t>(down, abi::gate_up_blocks(c.intermediate, gated));
  const std::int64_t shared_columns = std::max<std::int64_t>(down, abi::gate_up_blocks(c.shared.intermediate, gated));
  const std::int64_t routed = (kMostBlocks / columns - num_local_experts(c) - 1) * kSmallestTile / slots_of(c);
  const std::int64_t most = std::min(routed, kMostBlocks / shared_columns * kSmallestTile);
  if (c.max_tokens <= most) return;
  Refusal{"fused_moe"}("max_tokens", c.max_tokens,
                       fmt::format("at most {}: a grid has no more than 2^31 - 1 blocks", most));
}

std::size_t workspace_bytes(const MoeConfig& c, std::int64_t tokens) {
  return workspace_layout(c, tokens, kSmallestTile).total;
}

}  // namespace moesaic::plan
