// SPDX-License-Identifier: Apache-2.0
// Parts of a random layer, as the ranks of expert and tensor parallelism hold them. Views into the whole's memory.
#pragma once

#include <vector>

#include "support/random_layer.h"

namespace moesaic::testing {

/// A rank's layer: what it is created and prepared with.
struct LayerPart {
  MoeConfig config;
  MoeWeights weights;
};

/// Experts [first, first + count), with the shared experts where `first` is 0.
LayerPart expert_slice(const HostLayer& whole, int first, int count);

/// The experts that `held` lists, in that order, by an arbitrary map.
LayerPart expert_selection(const HostLayer& whole, const std::vector<int>& held, bool with_shared);

/// Slice `rank` of `size` of I and of the shared experts' I; the sizes need not divide.
LayerPart tensor_slice(const HostLayer& whole, int rank, int size);

/// Layers that split `whole` in every way: two and three slices, an arbitrary map, tensor slices. Each entry adds up.
std::vector<std::vector<LayerPart>> all_partitions(const HostLayer& whole);

}  // namespace moesaic::testing
