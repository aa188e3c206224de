// SPDX-License-Identifier: Apache-2.0
// THE list of kernels. JIT, AOT, dispatch and the support matrix all read these rows, so they cannot disagree.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "kernels/abi/params.h"
#include "tables/arch_table.h"
#include "tables/recipe_table.h"

namespace moesaic::tables {

/// What some kernel row serves: a step of the layer, ActivationOp, or a step of Quantizer.
enum class Op : std::uint8_t {
  kPrepare,
  kProjection,
  kRouting,
  kGemm,
  kWeightedSum,
  kOperand,
  kGather,
  kActivation,
  kQuantize,
  kDequantize,
  kSwizzle
};
inline constexpr std::array kAllOps = {Op::kPrepare,     Op::kProjection, Op::kRouting, Op::kGemm,
                                       Op::kWeightedSum, Op::kOperand,    Op::kGather,  Op::kActivation,
                                       Op::kQuantize,    Op::kDequantize, Op::kSwizzle};
/// "prepare", "weighted_sum", ...: the names that `moesaic kernels` prints.
const char* op_name(Op op) noexcept;
/// True for the ops of Quantizer, which a recipe of 16-bit operands has no use for.
constexpr bool is_quantizer_op(Op op) { return op >= Op::kQuantize; }

/// Which target a row is compiled for: the exact one (sm_90a), the family's (sm_100f) or the plain one (sm_90).
enum class CodeKind : std::uint8_t { kBaseline, kFamily, kExact };
const char* code_kind_name(CodeKind kind) noexcept;

/// What routing kernels take: experts whose rows are sorted, and a token's slots.
inline constexpr int kMostRoutedExperts = 1024, kMostSlots = 32;

/// What a row is asked to serve. Sizes of 0 are unknown and restrict nothing.
struct Problem {
  std::int64_t tokens = 0;
  int hidden = 0, intermediate = 0, num_experts = 0, top_k = 0;
};

struct KernelRow {
  const char* name;
  Op op;
  std::uint32_t recipes;   // bits by recipe index
  std::uint32_t families;  // family_bit
  std::uint32_t needs;     // capabilities
  CodeKind code_kind;
  const char* source;  // path of the text below the repository root
  const char* body;    // the function template <KernelConfig> in it that the entry calls
  const char* params;  // the parameter struct in kernels/abi
  std::span<const abi::KernelConfig> configs;
  const char* (*supports)(const Problem&);  // nullptr: yes; else why not
  std::uint32_t formats = 0;                // bits by QuantFormat, of Quantizer's ops
};

/// How the GEMMs hold weights of a recipe: abi::Weights and abi::BlockScale.
constexpr int prepared_weights(const RecipeRow& recipe) {
  switch (recipe.weight.number) {
    case Number::kE4m3:
      return recipe.weight.scale == Scale::kBlock128x128 ? abi::kWeightsE4m3Block : abi::kWeightsE4m3;
    case Number::kE2m1:
      return abi::kWeightsE2m1;
    case Number::kInt4:
      return abi::kWeightsInt4;
    default:
      return abi::kWeights16;
  }
}
constexpr int prepared_block_scale(const RecipeRow& recipe) {
  switch (recipe.weight.scale) {
    case Scale::kE8m0x32:
      return abi::kScaleE8m0;
    case Scale::kE4m3x16:
      return abi::kScaleE4m3;
    case Scale::kBlock128x128:
      return abi::kScaleFloat;
    case Scale::kGroup:
      return abi::kScaleGroup;
    default:
      return abi::kScaleNone;
  }
}
/// True when GEMM operands are quantised from x and from GEMM 1's result.
constexpr bool quantises_activations(const RecipeRow& recipe) { return recipe.activation.scale != Scale::kNone; }

/// True when activations may be quantised by a scale that comes with the weights.
constexpr bool takes_static_scales(const RecipeRow& recipe) {
  return recipe.activation.scale == Scale::kTensorStatic || recipe.activation.scale == Scale::kE4m3x16;
}

std::span<const KernelRow> kernel_table() noexcept;

/// Short name of a config, for entry names, logs and JSON: "t128x128x32_s4_w2x2".
std::string config_name(const KernelRow& row, const abi::KernelConfig& config);

/// The row of that name, or nullptr.
const KernelRow* find_kernel(std::string_view name) noexcept;

/// nullptr when the row can serve (arch, recipe index); else the reason it cannot. Shape is not looked at.
std::string why_not(const KernelRow& row, const ArchRow& arch, int recipe);

}  // namespace moesaic::tables
