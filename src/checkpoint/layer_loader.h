// SPDX-License-Identifier: Apache-2.0
// Builds one MoE layer's configuration and weight views from a checkpoint's tensors by its family row.
#pragma once

#include "checkpoint/families.h"
#include "checkpoint/quant_config.h"
#include "checkpoint/tensor_source.h"
#include "moesaic/checkpoint.h"

namespace moesaic::checkpoint {

/// The configuration that config.json gives, before any tensor is looked at.
MoeConfig layer_config(const FamilyRow& family, const ConfigView& config);

/// Every tensor of the layer is checked for shape and type against the configuration, and tensors of the layer that the
/// family does not know, in the format that `quant` says, are refused: nothing is silently left out.
CheckpointLayer load_layer(const FamilyRow& family, const ConfigView& config, const QuantConfig& quant,
                           const TensorSource& source, int layer);

}  // namespace moesaic::checkpoint
