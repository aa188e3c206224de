// SPDX-License-Identifier: Apache-2.0
// Sizes and places of prepared parts, by recipe.
#include "plan/prepared_layout.h"

#include "kernels/abi/params.h"
#include "tables/kernel_table.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic::plan {
namespace {

/// Bytes of the scales of one row block.
std::size_t scale_bytes(const WeightForm& form, int k) {
  if (form.group == 0) return 0;
  constexpr std::size_t kRows = abi::kBlockRows;
  const auto units = static_cast<std::size_t>(abi::div_up(k, abi::unit_k(form.weights)));
  const auto groups = static_cast<std::size_t>(abi::div_up(k, form.group));
  switch (form.block_scale) {
    case abi::kScaleFloat:
      return groups * 2 * 4;  // eight rows have one scale
    case abi::kScaleGroup:
      return groups * kRows * 2;
    case abi::kScaleGroupFloat:
      return groups * kRows * 4;
    default:
      return units * static_cast<std::size_t>(abi::unit_k(form.weights) / form.group) * kRows;
  }
}

std::size_t zero_bytes(const WeightForm& form, int k) {
  if (!form.zero_points || form.group == 0) return 0;
  return static_cast<std::size_t>(abi::div_up(k, form.group)) * abi::kBlockRows;
}

}  // namespace

WeightForm weight_form(const std::string& name, const Int4Groups& int4) {
  const tables::RecipeRow& recipe = tables::get_recipe(name);
  WeightForm form;
  form.weights = tables::prepared_weights(recipe);
  form.block_scale = tables::prepared_block_scale(recipe);
  form.multipliers = form.weights != abi::kWeights16;
  if (form.block_scale != abi::kScaleNone) form.group = quant_traits(*weight_spec(name, int4)).block_cols;
  form.zero_points = form.weights == abi::kWeightsInt4 && int4.zero_points;
  if (form.block_scale == abi::kScaleGroup && int4.f32_scales) form.block_scale = abi::kScaleGroupFloat;
  return form;
}

Part take_part(Packer& pack, std::size_t bytes) { return {pack.take(bytes), bytes}; }

MatrixParts MatrixParts::share(std::size_t index, std::size_t count) const {
  return {weights.share(index, count),     scales.share(index, count), zeros.share(index, count),
          multipliers.share(index, count), bias.share(index, count),   biased.share(index, count)};
}

MatrixParts take_matrix(Packer& pack, const WeightForm& form, std::size_t experts, int row_blocks, int k) {
  const std::size_t blocks = experts * static_cast<std::size_t>(row_blocks);
  const auto units = static_cast<std::size_t>(abi::div_up(k, abi::unit_k(form.weights)));
  const std::size_t floats = blocks * abi::kBlockRows * 4;
  MatrixParts parts;
  parts.weights = take_part(pack, blocks * units * static_cast<std::size_t>(abi::unit_bytes(form.weights)));
  parts.scales = take_part(pack, blocks * scale_bytes(form, k));
  parts.zeros = take_part(pack, blocks * zero_bytes(form, k));
  parts.multipliers = take_part(pack, form.multipliers ? floats : 0);
  parts.bias = take_part(pack, floats);
  parts.biased = take_part(pack, experts * 4);
  return parts;
}

bool shared_is_expert(const MoeConfig& c) {
  const std::string& recipe = tables::shared_recipe(c);
  return c.shared.intermediate > 0 && c.shared.intermediate == c.intermediate && recipe == c.recipe &&
         !tables::takes_static_scales(tables::get_recipe(recipe)) && c.top_k < tables::kMostSlots &&
         num_local_experts(c) < tables::kMostRoutedExperts;
}

bool has_shared_gemms(const MoeConfig& c) { return c.shared.intermediate > 0 && !shared_is_expert(c); }

PreparedLayout prepared_layout(const MoeConfig& c) {
  const bool gated = is_gated(c.activation.kind);
  const auto experts = static_cast<std::size_t>(c.num_experts), held = static_cast<std::size_t>(num_local_experts(c));
  const int down_blocks = abi::div_up(c.hidden, abi::kBlockRows);
  const std::string& shared_recipe = tables::shared_recipe(c);
  PreparedLayout p{};
  p.form = weight_form(c.recipe, c.int4);
  p.shared_form = weight_form(shared_recipe, c.int4);
  Packer pack(&p.gaps);
  p.experts = held + (shared_is_expert(c) ? 1 : 0);
  p.w13 = take_matrix(pack, p.form, p.experts, abi::gate_up_blocks(c.intermediate, gated), c.hidden);
  p.w2 = take_matrix(pack, p.form, p.experts, down_blocks, c.intermediate);
  p.router = pack.take(c.router ? experts * static_cast<std::size_t>(c.hidden) * 4 : 0);
  p.router_bias = pack.take(experts * 4);
  p.selection_bias = pack.take(experts * 4);
  const bool by_token = c.routing.method == RoutingMethod::kHash;
  p.token_experts =
      pack.take(by_token ? static_cast<std::size_t>(c.routing.vocabulary) * static_cast<std::size_t>(c.top_k) * 4 : 0);
  p.expert_slots = pack.take(c.experts.slots.size() * 4);
  const int shared = c.shared.intermediate;
  if (has_shared_gemms(c)) {
    p.shared_w13 = take_matrix(pack, p.shared_form, 1, abi::gate_up_blocks(shared, gated), c.hidden);
    p.shared_w2 = take_matrix(pack, p.shared_form, 1, down_blocks, shared);
  }
  p.shared_gate = pack.take(c.shared.gated ? static_cast<std::size_t>(c.hidden) * 4 : 0);
  if (tables::takes_static_scales(tables::get_recipe(c.recipe)) ||
      (shared > 0 && tables::takes_static_scales(tables::get_recipe(shared_recipe)))) {
    p.expert_scales = take_part(pack, (held + 1) * 2 * 4);
    p.common_scales = take_part(pack, std::size_t{4} * 4);
    if (shared == 0) {
      p.gaps.push_back(p.expert_scales.share(held, held + 1));
      p.gaps.push_back(p.common_scales.share(1, 2));
    }
  }
  p.total = pack.size();
  return p;
}

}  // namespace moesaic::plan
