// SPDX-License-Identifier: Apache-2.0
// Cases of whole layers that cover every pair of recipe, activation, sizes, weights and routing; how one is made, and
// what its result must be. Nothing here knows where the layer runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "backend_cpu/quantized_layer.h"
#include "support/random_layer.h"
#include "tables/recipe_table.h"

namespace moesaic::testing {

/// How tokens spread over experts: evenly, a few experts get most, or one is chosen by all.
enum class Load { kUniform, kSkewed, kOneExpert };

struct RecipeCase {
  unsigned seed = 0;
  const tables::RecipeRow* recipe = nullptr;
  Int4Groups int4;
  Activation activation;
  int tokens = 0, hidden = 0, intermediate = 0, experts = 1, top_k = 1;
  SharedExperts shared;
  Load load = Load::kUniform;
  cpu::Storage storage = cpu::Storage::kSeparate;  // of 16-bit weights; others: any order that views describe
  bool biases = false, weights_on_input = false, f32_out = true, static_scales = false;
  bool promised = false;          // static scales, by the configuration: GEMM 1 quantises its result
  std::size_t most_sampled = 64;  // tokens that are held against references

  DType out_type() const { return f32_out ? DType::kF32 : recipe->io; }
  /// Says all of it, of letters, digits and underscores.
  std::string name() const;
};

/// Sizes of K must be a multiple of it: blocks that share a scale, unless that is FP32.
int depth_multiple(const std::string& recipe, const Int4Groups& int4);

/// The pairwise design.
std::vector<RecipeCase> recipe_cases();

/// Weights of a case in the formats of its recipes. max_tokens is the case's.
cpu::RandomLayer make_layer(const RecipeCase& c);

struct CaseInput {
  HostArray x;                // [T, H] io type
  std::vector<float> logits;  // [T, E]
};
CaseInput make_input(const RecipeCase& c);

struct CaseOutput {
  HostArray y;                    // [T, H] in the case's type
  std::vector<std::int32_t> ids;  // [T, k]
  std::vector<float> weights;     // [T, k]
};

/// Holds sampled tokens against the oracle, tightly, and against exact arithmetic; with the ids and weights that the
/// run chose, which must be those of its logits.
void expect_right(const RecipeCase& c, const MoeConfig& config, const MoeWeights& weights, const CaseInput& input,
                  const CaseOutput& output);

}  // namespace moesaic::testing
