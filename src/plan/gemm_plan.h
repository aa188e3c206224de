// SPDX-License-Identifier: Apache-2.0
// Kernels and memory of Gemm.
#pragma once

#include <optional>

#include "moesaic/gemm.h"
#include "moesaic/quantize.h"
#include "plan/moe_plan.h"
#include "plan/prepared_layout.h"

namespace moesaic::plan {

/// The layer whose GEMM 1 has a Gemm's weights: k inputs, n outputs that are not activated, a row an expert's.
MoeConfig gemm_as_layer(const GemmConfig& config);

/// Throws Error(kInvalidArgument or kUnsupported) when the configuration is no legal product.
void check_gemm_config(const GemmConfig& config);

/// True when activations of a recipe may be e5m2.
bool takes_e5m2(const tables::RecipeRow& recipe);

/// The format of x as an operand, made with a static scale or without; std::nullopt: 16 bits.
std::optional<QuantSpec> gemm_activation(const GemmConfig& config, bool static_scale);

/// Kernels of one run. dispatch: launched by runs with offsets or counts; operand: only with quantised activations.
struct GemmSteps {
  Choice dispatch, operand, gemm;
  bool operator==(const GemmSteps&) const = default;
  std::vector<Choice> all() const;  // those that are set, in launch order
};
/// Throws Error(kUnsupported) with every candidate's reason when a step has no kernel.
GemmSteps plan_gemm(const GemmConfig& config, std::int64_t rows, const tables::ArchRow& arch, const DeviceRates& rates,
                    const std::string& force_kernel);

/// plan_gemm for every number of rows in 1..max_rows, as runs of equal plans: entry i serves up to `last_rows`.
struct GemmRange {
  std::int64_t last_rows;
  GemmSteps steps;
};
std::vector<GemmRange> gemm_ranges(const GemmConfig& config, const tables::ArchRow& arch, const DeviceRates& rates,
                                   const std::string& force_kernel);

/// Kernels that prepare weights and biases.
struct GemmPreparation {
  Choice matrix, vector;
};
GemmPreparation plan_gemm_preparation(const GemmConfig& config, const tables::ArchRow& arch);

/// Where weights lie in the prepared buffer.
struct GemmLayout {
  WeightForm form;
  MatrixParts matrix;
  std::size_t total = 0;
};
GemmLayout gemm_layout(const GemmConfig& config);

/// Byte offsets into the workspace of a run of `rows` rows with tiles of `tile_tokens`.
struct GemmSpace {
  std::size_t tiles = 0, num_tiles = 0;
  OperandSpace operand;
  int max_tiles = 0;
  std::size_t total = 0;
};
GemmSpace gemm_space(const GemmConfig& config, std::int64_t rows, int tile_tokens);
/// Enough for every plan of `rows` rows.
std::size_t gemm_workspace_bytes(const GemmConfig& config, std::int64_t rows);

}  // namespace moesaic::plan
