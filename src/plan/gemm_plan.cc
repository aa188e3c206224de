// SPDX-License-Identifier: Apache-2.0
// The choice of Gemm's kernels, where its memory lies, and what is a legal product.
#include "plan/gemm_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "plan/prepare_plan.h"
#include "tables/quant_table.h"

namespace moesaic::plan {
namespace {

using tables::Op;

[[noreturn]] void refuse(const GemmConfig& c, const char* field, const std::string& got, const std::string& wanted) {
  throw Error(ErrorKind::kInvalidArgument, fmt::format("gemm({}): {} is {}, wanted {}", c.recipe, field, got, wanted));
}

void check_size(const GemmConfig& c, const char* field, int value, int largest) {
  if (value < 1 || value > largest) refuse(c, field, fmt::format("{}", value), fmt::format("1 to {}", largest));
}

std::string recipes_with_e5m2() {
  std::string names;
  for (const tables::RecipeRow& row : tables::kRecipeTable) {
    if (takes_e5m2(row)) names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  return names;
}

/// k as memory of activations has it: operands that are made here are padded.
int stored_depth(const GemmConfig& c) {
  const bool quantised = tables::quantises_activations(tables::get_recipe(c.recipe));
  return quantised ? abi::round_up(c.k, 8) : c.k;
}

std::int64_t most_tiles(const GemmConfig& c, std::int64_t rows, int tile_tokens) {
  // Every group that has rows has at most one tile that is not full.
  return std::min(rows, rows / tile_tokens + std::min<std::int64_t>(c.groups, rows));
}

void check_grid(const GemmConfig& c) {
  const std::int64_t columns = abi::div_up(c.n, abi::kBlockRows), limit = std::numeric_limits<int>::max();
  if (most_tiles(c, c.max_rows, kSmallestTile) <= limit / columns) return;
  refuse(c, "max_rows", fmt::format("{}", c.max_rows),
         fmt::format("about {} or fewer: a grid has no more than 2^31 - 1 blocks", limit / columns * kSmallestTile));
}

Choice best_gemm(const GemmConfig& c, std::int64_t rows, const tables::ArchRow& arch, const DeviceRates& rates,
                 const std::string& force) {
  GemmShape shape;
  shape.tokens = std::max<std::int64_t>(rows, 1);
  shape.hidden = stored_depth(c);
  shape.intermediate = c.n;
  shape.num_experts = shape.held_experts = c.groups;
  shape.top_k = 1;
  shape.gated = false;
  shape.float_groups = c.int4.f32_scales;
  const int recipe = tables::recipe_index(c.recipe);
  const std::vector<Candidate> all = candidates(Op::kGemm, arch, recipe, shape, rates, force);
  const Candidate* best = nullptr;
  for (const Candidate& candidate : all) {
    if (!candidate.why_not.empty()) continue;
    if (best == nullptr || candidate.score_us < best->score_us) best = &candidate;
  }
  if (best != nullptr) return best->choice;
  // Says why each candidate is out.
  return pick(Op::kGemm, arch, recipe, shape, rates, force, [](const Choice&) { return false; });
}

}  // namespace

bool takes_e5m2(const tables::RecipeRow& recipe) {
  return recipe.activation == tables::Operand{tables::Number::kE4m3, tables::Scale::kE8m0x32};
}

std::optional<QuantSpec> gemm_activation(const GemmConfig& c, bool static_scale) {
  std::optional<QuantSpec> spec = activation_spec(c.recipe, static_scale);
  if (spec && c.e5m2) spec->format = QuantFormat::kMxfp8E5m2;
  return spec;
}

MoeConfig gemm_as_layer(const GemmConfig& c) {
  MoeConfig layer;
  layer.hidden = c.k;
  layer.intermediate = c.n;
  layer.num_experts = c.groups;
  layer.top_k = 1;
  layer.recipe = c.recipe;
  layer.int4 = c.int4;
  layer.activation.kind = ActivationKind::kIdentity;
  layer.router = false;
  layer.max_tokens = c.max_rows;
  layer.device = c.device;
  return layer;
}

void check_gemm_config(const GemmConfig& c) {
  const tables::RecipeRow& recipe = tables::get_recipe(c.recipe);
  check_size(c, "n", c.n, kLargestSize);
  check_size(c, "k", c.k, kLargestSize);
  check_size(c, "groups", c.groups, kMostExperts);
  check_size(c, "max_rows", c.max_rows, 1 << 30);
  check_depth(fmt::format("gemm({})", c.recipe), c.recipe, c.int4, "k", c.k);
  if (c.e5m2 && !takes_e5m2(recipe)) refuse(c, "e5m2", "true", "false, or one of the recipes " + recipes_with_e5m2());
  check_device("gemm", c.device);
}

std::vector<Choice> GemmSteps::all() const {
  std::vector<Choice> set;
  for (const Choice& c : {dispatch, operand, gemm}) {
    if (c.row != nullptr) set.push_back(c);
  }
  return set;
}

GemmSteps plan_gemm(const GemmConfig& c, std::int64_t rows, const tables::ArchRow& arch, const DeviceRates& rates,
                    const std::string& force) {
  if (stored_depth(c) % 8 != 0) {
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("gemm({}): k is {}, wanted a multiple of 8 on a GPU: rows of 16-bit activations are read in "
                    "16-byte pieces; columns of zeros behind those of x and of W change no result",
                    c.recipe, c.k));
  }
  check_grid(c);
  const int recipe = tables::recipe_index(c.recipe);
  GemmSteps steps;
  steps.dispatch = plan_dispatched(gemm_as_layer(c), arch, force);
  if (tables::quantises_activations(tables::get_recipe(c.recipe))) {
    steps.operand = pick(Op::kOperand, arch, recipe, {}, rates, force, [](const Choice&) { return true; });
  }
  steps.gemm = best_gemm(c, rows, arch, rates, force);
  return steps;
}

std::vector<GemmRange> gemm_ranges(const GemmConfig& c, const tables::ArchRow& arch, const DeviceRates& rates,
                                   const std::string& force) {
  std::vector<GemmRange> ranges;
  // Every number up to 128, then steps of 1/64: predictions are smooth, and a range's plan serves any number in it.
  for (std::int64_t rows = 1; rows <= c.max_rows;) {
    const std::int64_t last = std::min<std::int64_t>(rows + std::max<std::int64_t>(1, rows / 64) - 1, c.max_rows);
    GemmSteps steps = plan_gemm(c, rows, arch, rates, force);
    if (!ranges.empty() && ranges.back().steps == steps) {
      ranges.back().last_rows = last;
    } else {
      ranges.push_back({last, steps});
    }
    rows = last + 1;
  }
  return ranges;
}

GemmPreparation plan_gemm_preparation(const GemmConfig& c, const tables::ArchRow& arch) {
  return {plan_matrix_preparation(tables::recipe_index(c.recipe), arch), plan_vector_preparation(arch)};
}

GemmLayout gemm_layout(const GemmConfig& c) {
  GemmLayout layout;
  layout.form = weight_form(c.recipe, c.int4);
  Packer pack;
  layout.matrix =
      take_matrix(pack, layout.form, static_cast<std::size_t>(c.groups), abi::gate_up_blocks(c.n, false), c.k);
  layout.total = pack.size();
  return layout;
}

GemmSpace gemm_space(const GemmConfig& c, std::int64_t rows, int tile_tokens) {
  const tables::RecipeRow& recipe = tables::get_recipe(c.recipe);
  GemmSpace space;
  space.max_tiles = static_cast<int>(most_tiles(c, rows, tile_tokens));
  Packer pack;
  space.tiles = pack.take(static_cast<std::size_t>(space.max_tiles) * sizeof(abi::Tile));
  space.num_tiles = pack.take(abi::kTileCounts * sizeof(int));
  if (tables::quantises_activations(recipe)) {
    space.operand = take_operand(pack, recipe, static_cast<std::size_t>(rows), c.k);
  }
  space.total = pack.size();
  return space;
}

std::size_t gemm_workspace_bytes(const GemmConfig& c, std::int64_t rows) {
  return gemm_space(c, rows, kSmallestTile).total;
}

}  // namespace moesaic::plan
