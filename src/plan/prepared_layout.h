// SPDX-License-Identifier: Apache-2.0
// Where prepared weights lie in their buffer. Formats of the parts: kernels/abi/params.h.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "moesaic/moe.h"
#include "plan/packer.h"

namespace moesaic::plan {

/// How the grouped GEMMs hold the weights of one recipe.
struct WeightForm {
  int weights = 0;           // abi::Weights
  int block_scale = 0;       // abi::BlockScale
  int group = 0;             // elements of K that share a scale; 0: one scale a row
  bool zero_points = false;  // int4: stored beside the codes
  bool multipliers = false;  // FP32 of each row: all but 16-bit weights
};
/// Throws Error(kInvalidArgument) on an unknown recipe.
WeightForm weight_form(const std::string& recipe, const Int4Groups& int4);

Part take_part(Packer& pack, std::size_t bytes);

/// One matrix of a number of experts, expert by expert in each part.
struct MatrixParts {
  Part weights, scales, zeros;  // [experts][row blocks][...]
  Part multipliers, bias;       // f32 [experts][16 * row blocks]
  Part biased;                  // i32 [experts]: 0 where `bias` is zeros because the expert has none

  MatrixParts share(std::size_t index, std::size_t count) const;
};
MatrixParts take_matrix(Packer& pack, const WeightForm& form, std::size_t experts, int row_blocks, int k);

/// True when the shared experts, being of the routed experts' size and recipe, are one more expert of their GEMMs, the
/// last, with every token in an additional slot of weight 1: no launches of their own, whose few tiles leave SMs idle.
/// Not with static scales of activations, which the routed experts have in common.
bool shared_is_expert(const MoeConfig& config);
/// True when there are shared experts that are not: their GEMMs are launches of their own.
bool has_shared_gemms(const MoeConfig& config);

/// Parts of a layer.
struct PreparedLayout {
  WeightForm form, shared_form;
  MatrixParts w13, w2;                // of those held, and the shared ones behind them if shared_is_expert
  MatrixParts shared_w13, shared_w2;  // of other shared ones
  std::size_t experts;                // in w13 and w2
  std::size_t router, router_bias, selection_bias;  // f32 [E][H], [E], [E]
  std::size_t token_experts, expert_slots;  // i32 [vocabulary][k] and [E]: routing by token id, an arbitrary expert map
  std::size_t shared_gate;                  // f32 [H]
  // Static scales of activations, for GEMM 1's and GEMM 2's input: f32 [L + 1][2], of every expert and behind them of
  // the shared ones; and f32 [4], what launches read: those that all experts share, then those of the shared ones.
  Part expert_scales, common_scales;
  std::vector<Part> gaps;  // what no kernel writes; 0, so that the same weights are the same bytes
  std::size_t total;
};
PreparedLayout prepared_layout(const MoeConfig& config);

}  // namespace moesaic::plan
