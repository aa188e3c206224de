// SPDX-License-Identifier: Apache-2.0
// The kernel rows, and the compile-time checks that keep the tables honest.
#include "tables/kernel_table.h"

#include <fmt/format.h>

#include <bit>

#include "kernels/abi/params.h"
#include "kernels/abi/quant_params.h"
#include "moesaic/quantize.h"

namespace moesaic::tables {
namespace {

using abi::KernelConfig;

constexpr const char* supports_any(const Problem&) { return nullptr; }

// Rows of activations are read in 16-byte pieces.
constexpr const char* supports_aligned(const Problem& p) {
  return p.hidden % 8 != 0 ? "the hidden size must be a multiple of 8 (16-byte rows)" : nullptr;
}

constexpr const char* supports_routing(const Problem& p) {
  if (p.num_experts > kMostRoutedExperts) return "at most 1024 experts";
  if (p.top_k > kMostSlots) return "at most 32 experts per token";
  return nullptr;
}

// role: RouteRole of kernels/common/route.cuh.
constexpr std::array kRouteConfigs = {
    KernelConfig{.role = 0, .warps_tokens = 16, .warps_rows = 1, .warps_k = 1},
    KernelConfig{.role = 1, .warps_tokens = 16, .warps_rows = 1, .warps_k = 1},
    KernelConfig{.role = 2, .warps_tokens = 8, .warps_rows = 1, .warps_k = 1},
    KernelConfig{.role = 3, .warps_tokens = 8, .warps_rows = 1, .warps_k = 1},
};

constexpr KernelConfig elementwise(int io, int warps, int min_blocks = 0) {
  return {.io = io, .warps_tokens = warps, .warps_rows = 1, .warps_k = 1, .min_blocks = min_blocks};
}
constexpr std::array kVectorConfigs = {elementwise(abi::kIoNone, 8)};
constexpr std::array kOneWarpConfigs = {elementwise(abi::kIoNone, 1)};
template <int kWeights>
constexpr std::array kPrepareCodeConfigs = {
    KernelConfig{.weights = kWeights, .warps_tokens = 8, .warps_rows = 1, .warps_k = 1}};
constexpr std::array kOperandConfigs = {
    KernelConfig{.warps_tokens = 8, .warps_rows = 1, .warps_k = 1, .min_blocks = 4}};
template <int kIo>
constexpr std::array kMatrixConfigs = {elementwise(kIo, 8)};
// Four blocks an SM: eight rows of 16 bytes in flight fit the registers that this leaves a thread.
template <int kIo>
constexpr std::array kSumConfigs = {elementwise(kIo, 8, 4)};

template <int kIo>
constexpr std::array kProjectConfigs = {
    KernelConfig{.io = kIo, .tile_tokens = 8, .tile_rows = 4, .warps_tokens = 1, .warps_rows = 4, .warps_k = 1},
    KernelConfig{.io = kIo, .tile_tokens = 64, .tile_rows = 32, .warps_tokens = 4, .warps_rows = 1, .warps_k = 1},
};

constexpr KernelConfig stream(int weights, int io, int tokens, int rows, int k, int warps_k, int min_blocks) {
  return {.io = io,
          .weights = weights,
          .tile_tokens = tokens,
          .tile_rows = rows,
          .tile_k = k,
          .stages = 0,
          .warps_tokens = 1,
          .warps_rows = 1,
          .warps_k = warps_k,
          .min_blocks = min_blocks};
}
// As many bytes as registers hold are in flight in a warp; min_blocks: as many as no spill allows.
template <int kIo>
constexpr std::array kStream16BitConfigs = {
    stream(abi::kWeights16, kIo, 8, 32, 128, 4, 4),
    stream(abi::kWeights16, kIo, 16, 32, 64, 4, 5),
};
template <int kWeights>
constexpr std::array kStream8BitConfigs = {stream(kWeights, abi::kIoBf16, 8, 16, 128, 4, 6)};
// Activations that a warp reads serve more rows, for they are several times the weights' bytes.
template <int kWeights>
constexpr std::array kStream4BitConfigs = {stream(kWeights, abi::kIoBf16, 8, 32, 128, 4, 4)};

constexpr KernelConfig tiled(int weights, int io, int tokens, int rows, int k, int stages, int warps_tokens,
                             int warps_rows, int min_blocks) {
  return {.io = io,
          .weights = weights,
          .tile_tokens = tokens,
          .tile_rows = rows,
          .tile_k = k,
          .stages = stages,
          .warps_tokens = warps_tokens,
          .warps_rows = warps_rows,
          .warps_k = 1,
          .min_blocks = min_blocks};
}
template <int kIo>
constexpr std::array kTiled16BitConfigs = {
    tiled(abi::kWeights16, kIo, 32, 128, 64, 4, 1, 4, 2),
    tiled(abi::kWeights16, kIo, 64, 128, 64, 3, 1, 4, 2),
    tiled(abi::kWeights16, kIo, 128, 128, 32, 4, 2, 2, 2),
};
constexpr KernelConfig wgmma(int io, int tokens, int slack, int rows, int stages, int cluster, int blocks) {
  return {.io = io,
          .weights = abi::kWeights16,
          .tile_tokens = tokens,
          .tile_slack = slack,
          .tile_rows = rows,
          .tile_k = 64,
          .stages = stages,
          .warps_tokens = 1,
          .warps_rows = 8,
          .warps_k = 1,
          .warps_load = 4,
          .cluster = cluster,
          .min_blocks = blocks};
}
// Prefill is bound by what SMs read from L2: clusters of two share the weights that they read, of experts that have
// more tokens than one of their blocks takes.
template <int kIo>
constexpr std::array kWgmmaConfigs = {
    wgmma(kIo, 64, 0, 128, 4, 1, 2),
    wgmma(kIo, 256, 64, 256, 4, 2, 1),
};
// Tiles of few tokens: decoding codes is the work then, and their warps share the activations in shared memory.
constexpr std::array kTiledE4m3Configs = {
    tiled(abi::kWeightsE4m3, abi::kIoBf16, 16, 128, 128, 3, 1, 4, 3),
    tiled(abi::kWeightsE4m3, abi::kIoBf16, 32, 128, 64, 4, 1, 4, 3),
    tiled(abi::kWeightsE4m3, abi::kIoBf16, 64, 128, 64, 3, 1, 4, 2),
    tiled(abi::kWeightsE4m3, abi::kIoBf16, 128, 128, 64, 3, 2, 2, 2),
};
// FP32 sums of blocks bound the speed: with larger tiles of tokens, 32 of K are all that registers hold (measured: 9%
// slower at 4096 tokens of Mixtral-8x7B).
constexpr std::array kTiledBlockConfigs = {
    tiled(abi::kWeightsE4m3Block, abi::kIoBf16, 16, 128, 128, 3, 1, 4, 3),
    tiled(abi::kWeightsE4m3Block, abi::kIoBf16, 32, 128, 64, 4, 1, 4, 3),
};
template <int kWeights>
constexpr std::array kTiled4BitConfigs = {
    tiled(kWeights, abi::kIoBf16, 8, 128, 128, 4, 1, 4, 4),
    tiled(kWeights, abi::kIoBf16, 16, 128, 128, 4, 1, 4, 4),
    tiled(kWeights, abi::kIoBf16, 32, 128, 64, 4, 1, 4, kWeights == abi::kWeightsE2m1 ? 4 : 3),
    tiled(kWeights, abi::kIoBf16, 64, 128, 64, 3, 1, 4, 2),
};

// role: abi::Role bits. Registers are bounded (min_blocks) so far as no configuration spills.
constexpr KernelConfig quantizer(int role, int tile_k, int warps, int min_blocks) {
  return {
      .role = role, .tile_k = tile_k, .warps_tokens = warps, .warps_rows = 1, .warps_k = 1, .min_blocks = min_blocks};
}
constexpr int kPlain = 0, kGated = abi::kRoleGated, kAmax = abi::kRoleAmax;
constexpr std::array kBlockConfigs = {quantizer(kPlain, 16, 8, 6), quantizer(kGated, 16, 8, 5)};
constexpr std::array kInt4Configs = {quantizer(kPlain, 16, 8, 6), quantizer(kGated, 16, 8, 4)};
constexpr std::array kRowConfigs = {quantizer(kPlain, 64, 8, 5), quantizer(kGated, 32, 8, 4)};
constexpr std::array kRowConvertConfigs = {quantizer(kPlain, 64, 8, 5), quantizer(kGated, 32, 8, 3)};
constexpr std::array kAmaxConfigs = {quantizer(kAmax, 32, 8, 4), quantizer(kAmax | kGated, 16, 8, 4)};
constexpr std::array kTileConfigs = {quantizer(kPlain, 32, abi::kTileThreads / 32, 2),
                                     quantizer(kGated, 16, abi::kTileThreads / 16, 1)};

constexpr std::uint32_t format_bit(QuantFormat format) { return 1u << static_cast<unsigned>(format); }
template <typename... Formats>
constexpr std::uint32_t format_bits(Formats... formats) {
  return (format_bit(formats) | ...);
}
constexpr std::uint32_t kFp4Formats = format_bits(QuantFormat::kNvfp4, QuantFormat::kMxfp4);
constexpr std::uint32_t kFp8Formats = format_bits(QuantFormat::kMxfp8, QuantFormat::kMxfp8E5m2, QuantFormat::kFp8Static,
                                                  QuantFormat::kFp8Tensor, QuantFormat::kFp8Block1x128);
constexpr std::uint32_t kRowFormats = format_bits(QuantFormat::kNvfp4Row, QuantFormat::kFp8Row);
constexpr std::uint32_t kTileFormats = format_bits(QuantFormat::kFp8Block128x128);
constexpr std::uint32_t kInt4Formats = format_bits(QuantFormat::kInt4);
constexpr std::uint32_t kByteScaleFormats =
    kFp4Formats | format_bits(QuantFormat::kNvfp4Row, QuantFormat::kMxfp8, QuantFormat::kMxfp8E5m2);
constexpr std::uint32_t kAllFormats = kFp4Formats | kFp8Formats | kRowFormats | kTileFormats | kInt4Formats;

/// Formats that an operand may be quantised in: with a static scale or, without one, by rows.
constexpr std::uint32_t operand_formats(const Operand& operand, bool is_weight) {
  switch (operand.scale) {
    case Scale::kNone:
      return 0;
    case Scale::kTensorStatic:
      return is_weight ? format_bits(QuantFormat::kFp8Tensor)
                       : format_bits(QuantFormat::kFp8Static, QuantFormat::kFp8Row);
    case Scale::kToken:
    case Scale::kChannel:
      return format_bits(QuantFormat::kFp8Row);
    case Scale::kBlock1x128:
      return format_bits(QuantFormat::kFp8Block1x128);
    case Scale::kBlock128x128:
      return format_bits(QuantFormat::kFp8Block128x128);
    case Scale::kE8m0x32:
      return format_bits(operand.number == Number::kE2m1 ? QuantFormat::kMxfp4 : QuantFormat::kMxfp8);
    case Scale::kE4m3x16:
      return is_weight ? format_bits(QuantFormat::kNvfp4) : format_bits(QuantFormat::kNvfp4, QuantFormat::kNvfp4Row);
    case Scale::kGroup:
      return format_bits(QuantFormat::kInt4);
  }
  return 0;
}

/// Recipes with an operand in one of the formats.
constexpr std::uint32_t recipes_with(std::uint32_t formats) {
  std::uint32_t recipes = 0;
  for (std::size_t i = 0; i < kRecipeTable.size(); ++i) {
    const std::uint32_t used =
        operand_formats(kRecipeTable[i].activation, false) | operand_formats(kRecipeTable[i].weight, true);
    if ((used & formats) != 0) recipes |= 1u << i;
  }
  return recipes;
}

constexpr std::uint32_t kBf16Bit = recipe_bit("bf16"), kFp16Bit = recipe_bit("fp16");
/// Recipes for which something holds.
template <typename Holds>
constexpr std::uint32_t recipes_where(Holds holds) {
  std::uint32_t recipes = 0;
  for (std::size_t i = 0; i < kRecipeTable.size(); ++i) {
    if (holds(kRecipeTable[i])) recipes |= 1u << i;
  }
  return recipes;
}
constexpr std::uint32_t recipes_of(int weights) {
  return recipes_where([weights](const RecipeRow& r) { return prepared_weights(r) == weights; });
}
constexpr std::uint32_t kQuantisedActivations = recipes_where(quantises_activations);
constexpr std::uint32_t kBf16Io = recipes_where([](const RecipeRow& r) { return r.io == DType::kBF16; });

constexpr const char* kPrepareSource = "kernels/warp/prepare.cuh";
constexpr const char* kPrepareCodesSource = "kernels/warp/prepare_codes.cuh";
constexpr const char* kProjectSource = "kernels/warp/project.cuh";
constexpr const char* kStreamSource = "kernels/warp/gemm_stream.cuh";
constexpr const char* kTiledSource = "kernels/warp/gemm_tiled.cuh";
constexpr const char* kSumSource = "kernels/warp/weighted_sum.cuh";

constexpr KernelRow warp_row(const char* name, Op op, std::uint32_t recipes, const char* source, const char* body,
                             const char* params, std::span<const KernelConfig> configs,
                             const char* (*supports)(const Problem&)) {
  return {name, op, recipes, kAllFamilies, kMmaSync, CodeKind::kBaseline, source, body, params, configs, supports};
}

constexpr KernelRow gemm_row(const char* name, std::uint32_t recipes, const char* source, const char* body,
                             std::span<const KernelConfig> configs) {
  return warp_row(name, Op::kGemm, recipes, source, body, "GemmParams", configs, supports_aligned);
}

constexpr KernelRow wgmma_row(const char* name, std::uint32_t recipes, std::span<const KernelConfig> configs) {
  return {name,
          Op::kGemm,
          recipes,
          family_bit(Family::kSm90),
          kWgmma | kTma,
          CodeKind::kExact,
          "kernels/sm90/gemm_wgmma.cuh",
          "sm90::gemm_wgmma",
          "TensorGemmParams",
          configs,
          supports_aligned};
}

// For GEMMs that read rows that follow each other faster than those that do not.
constexpr KernelRow gather_row(const char* name, std::uint32_t recipes) {
  KernelRow row = warp_row(name, Op::kGather, recipes, "kernels/common/gather.cuh", "gather_rows", "GatherParams",
                           kVectorConfigs, supports_aligned);
  row.families = family_bit(Family::kSm90);
  return row;
}

constexpr KernelRow prepare_row(const char* name, int weights, std::span<const KernelConfig> configs) {
  return warp_row(name, Op::kPrepare, recipes_of(weights), kPrepareCodesSource, "warp::prepare_codes",
                  "PrepareCodesParams", configs, supports_any);
}

// Where wgmma serves the same recipes there is no tiled row: nothing would choose it.
constexpr KernelRow tiled_16_row(const char* name, std::uint32_t recipes, std::span<const KernelConfig> configs) {
  KernelRow row = gemm_row(name, recipes, kTiledSource, "warp::gemm_tiled", configs);
  row.families &= ~family_bit(Family::kSm90);
  return row;
}

// Families whose exact targets have the e2m1 conversion; their rows are twins of the portable ones.
constexpr std::uint32_t families_with(Capability capability, bool has) {
  std::uint32_t families = 0;
  for (const ArchRow& arch : kArchTable) {
    if (((arch.caps & capability) != 0) == has) families |= family_bit(arch.family);
  }
  return families;
}
constexpr std::uint32_t kFp4ConvertFamilies = families_with(kFp4Convert, true);
static_assert((kFp4ConvertFamilies & families_with(kFp4Convert, false)) == 0,
              "members of a family must agree on the e2m1 conversion, or its rows need two families");

constexpr KernelRow format_row(const char* name, Op op, std::uint32_t formats, const char* source, const char* body,
                               const char* params, std::span<const KernelConfig> configs) {
  KernelRow row = warp_row(name, op, recipes_with(formats), source, body, params, configs, supports_any);
  row.formats = formats;
  return row;
}
/// A row of a kernel that encodes e2m1: the one text, compiled with and without the conversion instruction.
constexpr KernelRow e2m1_row(bool convert, const char* name, std::uint32_t formats, const char* source,
                             const char* body, std::span<const KernelConfig> configs) {
  KernelRow row = format_row(name, Op::kQuantize, formats, source, body, "QuantizeParams", configs);
  row.families = convert ? kFp4ConvertFamilies : kAllFamilies & ~kFp4ConvertFamilies;
  if (convert) {
    row.needs |= kFp4Convert;
    row.code_kind = CodeKind::kExact;
  }
  return row;
}

constexpr const char* kBlockSource = "kernels/quant/block.cuh";
constexpr const char* kRowSource = "kernels/quant/row.cuh";

// Order is preference among equal scores.
constexpr std::array kRows = {
    warp_row("warp_prepare_bf16", Op::kPrepare, kBf16Bit, kPrepareSource, "warp::prepare_matrix", "PrepareParams",
             kMatrixConfigs<abi::kIoBf16>, supports_any),
    warp_row("warp_prepare_fp16", Op::kPrepare, kFp16Bit, kPrepareSource, "warp::prepare_matrix", "PrepareParams",
             kMatrixConfigs<abi::kIoFp16>, supports_any),
    warp_row("warp_prepare_vector", Op::kPrepare, kAllRecipes, kPrepareSource, "warp::prepare_vector",
             "PrepareVectorParams", kVectorConfigs, supports_any),
    prepare_row("warp_prepare_e4m3", abi::kWeightsE4m3, kPrepareCodeConfigs<abi::kWeightsE4m3>),
    prepare_row("warp_prepare_e4m3_block", abi::kWeightsE4m3Block, kPrepareCodeConfigs<abi::kWeightsE4m3Block>),
    prepare_row("warp_prepare_e2m1", abi::kWeightsE2m1, kPrepareCodeConfigs<abi::kWeightsE2m1>),
    prepare_row("warp_prepare_int4", abi::kWeightsInt4, kPrepareCodeConfigs<abi::kWeightsInt4>),
    warp_row("warp_prepare_scales", Op::kPrepare, recipes_where(takes_static_scales), kPrepareCodesSource,
             "warp::static_scales", "StaticScalesParams", kOneWarpConfigs, supports_any),
    warp_row("warp_project_bf16", Op::kProjection, kBf16Io, kProjectSource, "warp::project", "ProjectParams",
             kProjectConfigs<abi::kIoBf16>, supports_aligned),
    warp_row("warp_project_fp16", Op::kProjection, kFp16Bit, kProjectSource, "warp::project", "ProjectParams",
             kProjectConfigs<abi::kIoFp16>, supports_aligned),
    warp_row("warp_route", Op::kRouting, kAllRecipes, "kernels/common/route.cuh", "route", "RouteParams", kRouteConfigs,
             supports_routing),
    gemm_row("warp_stream_bf16", kBf16Bit, kStreamSource, "warp::gemm_stream", kStream16BitConfigs<abi::kIoBf16>),
    tiled_16_row("warp_tiled_bf16", kBf16Bit, kTiled16BitConfigs<abi::kIoBf16>),
    gemm_row("warp_stream_fp16", kFp16Bit, kStreamSource, "warp::gemm_stream", kStream16BitConfigs<abi::kIoFp16>),
    tiled_16_row("warp_tiled_fp16", kFp16Bit, kTiled16BitConfigs<abi::kIoFp16>),
    wgmma_row("sm90_wgmma_bf16", kBf16Bit, kWgmmaConfigs<abi::kIoBf16>),
    wgmma_row("sm90_wgmma_fp16", kFp16Bit, kWgmmaConfigs<abi::kIoFp16>),
    gemm_row("warp_stream_e4m3", recipes_of(abi::kWeightsE4m3), kStreamSource, "warp::gemm_stream",
             kStream8BitConfigs<abi::kWeightsE4m3>),
    gemm_row("warp_tiled_e4m3", recipes_of(abi::kWeightsE4m3), kTiledSource, "warp::gemm_tiled", kTiledE4m3Configs),
    gemm_row("warp_stream_e4m3_block", recipes_of(abi::kWeightsE4m3Block), kStreamSource, "warp::gemm_stream",
             kStream8BitConfigs<abi::kWeightsE4m3Block>),
    gemm_row("warp_tiled_e4m3_block", recipes_of(abi::kWeightsE4m3Block), kTiledSource, "warp::gemm_tiled",
             kTiledBlockConfigs),
    gemm_row("warp_stream_e2m1", recipes_of(abi::kWeightsE2m1), kStreamSource, "warp::gemm_stream",
             kStream4BitConfigs<abi::kWeightsE2m1>),
    gemm_row("warp_tiled_e2m1", recipes_of(abi::kWeightsE2m1), kTiledSource, "warp::gemm_tiled",
             kTiled4BitConfigs<abi::kWeightsE2m1>),
    gemm_row("warp_stream_int4", recipes_of(abi::kWeightsInt4), kStreamSource, "warp::gemm_stream",
             kStream4BitConfigs<abi::kWeightsInt4>),
    gemm_row("warp_tiled_int4", recipes_of(abi::kWeightsInt4), kTiledSource, "warp::gemm_tiled",
             kTiled4BitConfigs<abi::kWeightsInt4>),
    warp_row("warp_sum_bf16", Op::kWeightedSum, kBf16Io, kSumSource, "warp::weighted_sum", "WeightedSumParams",
             kSumConfigs<abi::kIoBf16>, supports_aligned),
    warp_row("warp_sum_fp16", Op::kWeightedSum, kFp16Bit, kSumSource, "warp::weighted_sum", "WeightedSumParams",
             kSumConfigs<abi::kIoFp16>, supports_aligned),
    warp_row("operand", Op::kOperand, kQuantisedActivations, "kernels/quant/operand.cuh", "quant::make_operand",
             "OperandParams", kOperandConfigs, supports_any),
    gather_row("gather_rows", kBf16Bit | kFp16Bit),
    warp_row("activate", Op::kActivation, kAllRecipes, "kernels/common/activate.cuh", "activate_rows", "ActivateParams",
             kVectorConfigs, supports_any),
    e2m1_row(false, "quant_fp4", kFp4Formats, kBlockSource, "quant::quantize_fp4", kBlockConfigs),
    e2m1_row(true, "quant_fp4_cvt", kFp4Formats, kBlockSource, "quant::quantize_fp4", kBlockConfigs),
    format_row("quant_fp8", Op::kQuantize, kFp8Formats, kBlockSource, "quant::quantize_fp8", "QuantizeParams",
               kBlockConfigs),
    format_row("quant_int4", Op::kQuantize, kInt4Formats, "kernels/quant/int4.cuh", "quant::quantize_int4",
               "QuantizeParams", kInt4Configs),
    e2m1_row(false, "quant_row", kRowFormats, kRowSource, "quant::quantize_row", kRowConfigs),
    e2m1_row(true, "quant_row_cvt", kRowFormats, kRowSource, "quant::quantize_row", kRowConvertConfigs),
    format_row("quant_tile", Op::kQuantize, kTileFormats, "kernels/quant/tile.cuh", "quant::quantize_tile",
               "QuantizeParams", kTileConfigs),
    format_row("quant_amax", Op::kQuantize, format_bits(QuantFormat::kFp8Tensor), "kernels/quant/tensor.cuh",
               "quant::tensor_amax", "QuantizeParams", kAmaxConfigs),
    format_row("quant_decode", Op::kDequantize, kAllFormats, "kernels/quant/dequantize.cuh", "quant::dequantize",
               "DequantizeParams", kVectorConfigs),
    format_row("quant_swizzle", Op::kSwizzle, kByteScaleFormats, "kernels/quant/swizzle.cuh", "quant::swizzle",
               "SwizzleParams", kVectorConfigs),
};

consteval bool architectures_are_unique() {
  for (std::size_t i = 0; i < kArchTable.size(); ++i) {
    for (std::size_t j = i + 1; j < kArchTable.size(); ++j) {
      if (kArchTable[i].sm == kArchTable[j].sm) return false;
    }
  }
  return true;
}

consteval bool recipes_are_unique() {
  for (int i = 0; i < kNumRecipes; ++i) {
    if (recipe_index(kRecipeTable[static_cast<std::size_t>(i)].name) != i) return false;
  }
  return true;
}

/// Every row has a name of its own, a recipe, and an architecture that can run all of its configs.
consteval bool rows_are_reachable() {
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    const KernelRow& row = kRows[i];
    for (std::size_t j = 0; j < i; ++j) {
      if (std::string_view(kRows[j].name) == row.name) return false;
    }
    if (row.recipes == 0 || (row.recipes & ~kAllRecipes) != 0 || row.configs.empty()) return false;
    bool reached = false;
    for (const ArchRow& arch : kArchTable) {
      if ((row.families & family_bit(arch.family)) == 0 || (row.needs & ~arch.caps) != 0) continue;
      reached = true;
      for (const KernelConfig& config : row.configs) {
        if (abi::smem_bytes(config) > arch.smem_per_block || abi::threads(config) > 1024) return false;
        if (config.tile_tokens != 0 && !std::has_single_bit(static_cast<unsigned>(config.tile_tokens))) return false;
      }
    }
    if (!reached) return false;
  }
  return true;
}

static_assert(architectures_are_unique(), "arch_table.h lists an SM twice");
static_assert(recipes_are_unique(), "recipe_table.h lists a name twice");
static_assert(rows_are_reachable(),
              "a kernel row is named twice, reaches no architecture, or needs more shared memory "
              "or threads than one of its architectures has");

}  // namespace

std::span<const KernelRow> kernel_table() noexcept { return kRows; }

const KernelRow* find_kernel(std::string_view name) noexcept {
  for (const KernelRow& row : kRows) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

const char* op_name(Op op) noexcept {
  switch (op) {
    case Op::kPrepare:
      return "prepare";
    case Op::kProjection:
      return "projection";
    case Op::kRouting:
      return "routing";
    case Op::kGemm:
      return "gemm";
    case Op::kWeightedSum:
      return "weighted_sum";
    case Op::kOperand:
      return "operand";
    case Op::kGather:
      return "gather";
    case Op::kActivation:
      return "activation";
    case Op::kQuantize:
      return "quantize";
    case Op::kDequantize:
      return "dequantize";
    case Op::kSwizzle:
      return "swizzle";
  }
  return "unknown";
}

const char* code_kind_name(CodeKind kind) noexcept {
  switch (kind) {
    case CodeKind::kBaseline:
      return "baseline";
    case CodeKind::kFamily:
      return "family";
    case CodeKind::kExact:
      return "exact";
  }
  return "unknown";
}

std::string config_name(const KernelRow& row, const abi::KernelConfig& c) {
  switch (row.op) {
    case Op::kRouting:
      return c.role == 0 ? "fused" : c.role == 1 ? "select" : c.role == 2 ? "scatter" : "dispatched";
    case Op::kQuantize:
      return (c.role & abi::kRoleGated) != 0 ? "gated" : "plain";
    case Op::kPrepare:
    case Op::kWeightedSum:
    case Op::kOperand:
    case Op::kGather:
    case Op::kActivation:
    case Op::kDequantize:
    case Op::kSwizzle:
      return fmt::format("w{}", c.warps_tokens);
    case Op::kProjection:
      return fmt::format("t{}x{}", c.tile_tokens, c.tile_rows);
    default:
      break;
  }
  if (c.stages == 0) return fmt::format("t{}x{}x{}_k{}", c.tile_tokens, c.tile_rows, c.tile_k, c.warps_k);
  return fmt::format("t{}x{}x{}_s{}_w{}x{}", c.tile_tokens, c.tile_rows, c.tile_k, c.stages, c.warps_tokens,
                     c.warps_rows);
}

std::string why_not(const KernelRow& row, const ArchRow& arch, int recipe) {
  if ((row.recipes >> recipe & 1u) == 0) {
    return fmt::format("does not serve {}", kRecipeTable[static_cast<std::size_t>(recipe)].name);
  }
  if ((row.families & family_bit(arch.family)) == 0) {
    return fmt::format("not built for family {}", family_name(arch.family));
  }
  if (const std::uint32_t missing = row.needs & ~arch.caps; missing != 0) {
    return fmt::format("SM{} lacks {}", arch.sm, capability_names(missing));
  }
  return {};
}

}  // namespace moesaic::tables
