// SPDX-License-Identifier: Apache-2.0
// Pure planning: a layer and a number of tokens -> kernels (row, config), memory layouts. No CUDA, no state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "moesaic/moe.h"
#include "moesaic/route.h"
#include "plan/prepared_layout.h"
#include "tables/kernel_table.h"

namespace moesaic::plan {

/// A kernel row and one of its configs.
struct Choice {
  const tables::KernelRow* row = nullptr;
  int config_index = -1;

  const abi::KernelConfig& config() const { return row->configs[static_cast<std::size_t>(config_index)]; }
  bool operator==(const Choice&) const = default;
};

/// One candidate for a step, with its predicted microseconds or the reason that it is out.
struct Candidate {
  Choice choice;
  double score_us = 0;
  std::string why_not;  // empty: possible
};

/// The row that MOESAIC_FORCE_KERNEL names, alone or with one of its configs ("row/config"), nullptr for an empty name.
/// Throws Error(kInvalidArgument) when there is none.
const tables::KernelRow* forced_row(const std::string& force_kernel);

/// Of hidden sizes and of experts: sizes in bytes and in elements stay far below 2^63 whatever is multiplied.
inline constexpr int kLargestSize = 1 << 20, kMostExperts = 1 << 16;
/// Rows of the smallest tile of grouped GEMMs, which has the longest list of tiles.
inline constexpr int kSmallestTile = 8;

/// What the planner must know of a device.
struct DeviceRates {
  double dram_bytes_per_us = 2.9e6;  // measured read rate
  double l2_bytes_per_us = 7.0e6;
  double mma_flops_per_us = 4.0e8;  // of mma.sync on all SMs
  int sm_count = 132;
};

/// The grouped GEMM pair as the planner sees it: `experts` weight matrices of which every token uses `top_k`.
struct GemmShape {
  std::int64_t tokens = 0;
  int hidden = 0, intermediate = 0, num_experts = 0, top_k = 0;
  bool gated = true;
  int held_experts = num_experts;  // of num_experts, each chosen as often as any
  bool float_groups = false;       // int4: scales are kept in FP32
  int shared_experts = 0;          // held beside these, which all tokens use
};

/// A layer's routed GEMMs. Throws Error(kInvalidArgument) when its recipe is unknown.
GemmShape routed_shape(const MoeConfig& config, std::int64_t tokens);

/// All (row, config) pairs of the table for an op, with scores (of GEMMs: as GEMM 1); `force_kernel` (as forced_row
/// takes it) excludes the other rows of its op. Throws Error(kInvalidArgument) when that name is unknown.
std::vector<Candidate> candidates(tables::Op op, const tables::ArchRow& arch, int recipe, const GemmShape& shape,
                                  const DeviceRates& rates, const std::string& force_kernel);

/// Kernels of one run, for a fixed number of tokens.
struct MoeSteps {
  Choice project, route, scatter, gemm1, gemm2, sum;  // scatter: only with the two-launch routing
  Choice shared_gemm1, shared_gemm2;                  // only with shared experts that are no expert of the routed GEMMs
  Choice operand;                                     // only with quantised activations, of either set of experts
  Choice gather;                                      // only where GEMM 1 gains more than it takes
  // h leaves GEMM 1 as the operand of GEMM 2; where it does not, and is quantised, `operand` is launched between them.
  bool hidden_is_operand = false, shared_hidden_is_operand = false;
  bool operator==(const MoeSteps&) const = default;

  std::vector<Choice> all() const;  // those that are set, in launch order
};

/// Throws Error(kUnsupported) with every candidate's reason when a step has no kernel.
MoeSteps plan_moe(const MoeConfig& config, std::int64_t tokens, const tables::ArchRow& arch, const DeviceRates& rates,
                  const std::string& force_kernel);

/// Picks a step that has no score: the first possible candidate that `wanted` accepts. Throws Error(kUnsupported) with
/// every candidate's reason when there is none.
Choice pick(tables::Op op, const tables::ArchRow& arch, int recipe, const GemmShape& shape, const DeviceRates& rates,
            const std::string& force_kernel, const std::function<bool(const Choice&)>& wanted);

/// plan_moe for every T in 1..max_tokens, as runs of equal plans: entry i serves T up to `last_tokens`.
struct PlanRange {
  std::int64_t last_tokens;
  MoeSteps steps;
};
std::vector<PlanRange> plan_ranges(const MoeConfig& config, const tables::ArchRow& arch, const DeviceRates& rates,
                                   const std::string& force_kernel);

/// A GEMM operand made of quantised activations: bf16 rows, f32 [rows] scales, f32 [rows][K / 128] scales.
struct OperandSpace {
  std::size_t values = 0, token_scale = 0, token_block_scale = 0;
};
OperandSpace take_operand(Packer& pack, const tables::RecipeRow& recipe, std::size_t rows, int k);

/// What one set of experts, routed or shared, needs between its launches. h: of 16 bits, or f32 where it is quantised
/// for GEMM 2. y: GEMM 2's rows, f32, or bf16 where the run's output is. The operands: only with quantised activations.
struct ExpertSpace {
  std::size_t h = 0, y = 0;
  OperandSpace x_operand, h_operand;
};

/// Byte offsets into the workspace of a run of `tokens` tokens.
struct WorkspaceLayout {
  std::size_t logits, ids, weights, segment_counts, row_token, row_weight, slot_row, tiles, num_tiles;
  std::size_t shared_gate;
  ExpertSpace routed, shared;
  std::size_t total;
  int max_tiles;       // upper bound of tiles of the grouped GEMMs
  int segment_tokens;  // of the two-launch routing
  int segments;
};
/// True when routed and shared experts read the same operand: one format, whose scales come from x alone.
bool shares_input_operand(const MoeConfig& config);
/// Slots of a token: those that are routed, and one of the shared experts where they are an expert among the others.
int slots_of(const MoeConfig& config);
WorkspaceLayout workspace_layout(const MoeConfig& config, std::int64_t tokens, int tile_tokens);
/// Enough for every plan of `tokens` or fewer tokens.
std::size_t workspace_bytes(const MoeConfig& config, std::int64_t tokens);

/// Microseconds that a GEMM configuration takes to bring a million weights into operands and multiply them by a tile of
/// tokens, as the planner assumes; 0: nobody has measured it.
double weights_cost(const abi::KernelConfig& config) noexcept;

/// True when one launch, of a block or of a cluster, does the whole routing.
bool routing_is_fused(std::int64_t tokens, int slots) noexcept;

/// Tokens per block of the two-launch routing, and blocks. Entries of a segment are counted in 16 bits.
struct RouteSegments {
  int tokens, count;
};
RouteSegments route_segments(std::int64_t tokens, int slots);

/// Kernels of Router. Throws Error(kUnsupported).
struct RouteSteps {
  Choice fused, select, scatter;
};
RouteSteps plan_route(const RouterConfig& config, const tables::ArchRow& arch, const std::string& force_kernel);

/// A layer for dispatched rows: every row is a token of one expert; no shared experts.
MoeConfig dispatched_config(MoeConfig config);
/// Kernel that makes the tiles of dispatched rows.
Choice plan_dispatched(const MoeConfig& config, const tables::ArchRow& arch, const std::string& force_kernel);

/// Kernel of ActivationOp. Throws Error(kUnsupported).
Choice plan_activation(const tables::ArchRow& arch, const std::string& force_kernel);

/// The routing part of a layer's configuration that has nothing else.
MoeConfig routing_only(const RouterConfig& config);
/// Throws Error(kInvalidArgument) that begins with `operation`: experts, top_k, max_tokens, routing and expert map.
void check_routing_config(const char* operation, const MoeConfig& config);

/// Throws Error(kInvalidArgument) when a run of max_tokens could need a grid of more blocks than a GPU has.
void check_grids(const MoeConfig& config);
/// Each throws Error(kInvalidArgument) that begins with `operation`: on a kind or parameters that are no activation, on
/// a device that cannot be.
void check_activation(const char* operation, const Activation& activation);
void check_device(const char* operation, Device device);
/// Throws Error(kInvalidArgument) that begins with `operation` on groups that int4 has not, and when `k`, called
/// `field`, does not hold whole blocks of every format of the recipe. Blocks with FP32 scales may be ragged.
void check_depth(const std::string& operation, const std::string& recipe, const Int4Groups& int4, const char* field,
                 int k);
/// The same for the inputs of both GEMMs of a layer, and of its shared experts.
void check_depths(const MoeConfig& config);

/// Throws Error(kInvalidArgument or kUnsupported) when the configuration is not a legal layer.
void check_config(const MoeConfig& config);

}  // namespace moesaic::plan
