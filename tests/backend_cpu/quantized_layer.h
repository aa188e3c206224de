// SPDX-License-Identifier: Apache-2.0
// Random layers whose weights are stored in a recipe's format, in any of the orders that checkpoints have.
#pragma once

#include <random>

#include "random_layer.h"

namespace moesaic::cpu {

/// A layer of `shape` (its `stored` is f32) with the int4 groups of `int4`; weights are quantised by the fast quantiser
/// and stored in an order of codes, scales and zero points that `random` picks for each matrix. `fp32_group_scales`:
/// some of int4 are.
RandomLayer quantized_layer(const LayerShape& shape, const Int4Groups& int4, std::mt19937& random,
                            bool fp32_group_scales = true);

/// Gives every expert static scales that fit activations of about N(0, 1).
void give_input_scales(MoeWeights& weights, std::mt19937& random);

}  // namespace moesaic::cpu
