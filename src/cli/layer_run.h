// SPDX-License-Identifier: Apache-2.0
// One layer run once or a few times, on the CPU or a GPU, with everything that `moesaic run` reports of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moesaic/moe.h"

namespace moesaic::cli {

struct LayerInputs {
  std::int64_t tokens = 0;
  std::vector<float> x;                // [T, H]
  std::vector<std::int32_t> topk_ids;  // [T, k], or empty: the router decides
  std::vector<float> topk_weights;     // [T, k]
};

struct LayerOutputs {
  std::vector<float> y;                // [T, H], values of `dtype`
  DType dtype = DType::kF32;           // type in which the layer wrote y
  std::vector<float> logits;           // [T, E]; empty when the routing was given
  std::vector<std::int32_t> topk_ids;  // [T, k]
  std::vector<float> topk_weights;     // [T, k]
  std::vector<std::string> kernels;    // what ran
  std::int64_t rounded_inputs = 0;     // elements of x that the io type does not hold exactly
  double create_seconds = 0, prepare_seconds = 0, first_run_seconds = 0;
  double median_seconds = 0;  // of `timed_runs` runs after the first; on a GPU between events
  int timed_runs = 0;
  std::size_t prepared_bytes = 0, workspace_bytes = 0;
};

/// reference_moe on the CPU. Exact takes x as FP32 and gives FP32; oracle takes and gives the recipe's io type.
LayerOutputs run_reference(const MoeConfig& config, const MoeWeights& weights, ReferenceMode mode,
                           const LayerInputs& inputs);

/// FusedMoe on config.device, in the recipe's io type; `weights` lie on the host.
LayerOutputs run_fused(const MoeConfig& config, const MoeWeights& weights, const ModuleOptions& modules,
                       const LayerInputs& inputs);

/// Values of `dtype` (bf16, fp16) nearest to `values`.
std::vector<std::uint16_t> encode_io(const std::vector<float>& values, DType dtype);
std::vector<float> decode_io(const std::vector<std::uint16_t>& bits, DType dtype);

}  // namespace moesaic::cli
