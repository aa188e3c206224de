// SPDX-License-Identifier: Apache-2.0
// The tensors that `moesaic run` reads: inputs, given routing, expected outputs. Errors say file, tensor, got, wanted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/layer_run.h"
#include "moesaic/moe.h"

namespace moesaic::cli {

/// x [T, H] in any of f32, bf16, f16, f64 as floats.
LayerInputs read_inputs(const std::string& file_and_name, const MoeConfig& config);

/// Given routing, [T, k] each: ids i32 or i64, weights a float type.
void read_routing(const std::string& ids, const std::string& weights, const MoeConfig& config, LayerInputs* inputs);

struct Expected {
  std::vector<float> y;                // [T, H]
  std::vector<std::int32_t> topk_ids;  // [T, k] where the file has them in that shape, else empty
};
Expected read_expected(const std::string& file_and_name, const MoeConfig& config, std::int64_t tokens);

/// The number that the file's metadata gives as `layer`, if any.
std::optional<int> layer_in_metadata(const std::string& file_and_name);

}  // namespace moesaic::cli
