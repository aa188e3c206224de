// SPDX-License-Identifier: Apache-2.0
// What a checkpoint folder's configs say: model family, MoE layers, number formats. Texts in, no files.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/config_view.h"
#include "checkpoint/families.h"
#include "checkpoint/quant_config.h"

namespace moesaic::checkpoint {

struct ConfigFile {
  std::string path;  // for messages
  std::string text;
};

struct ModelConfig {
  std::string model_type;
  const FamilyRow* family = nullptr;
  ConfigView text;  // the object that describes the language model
  QuantConfig quant;
  std::vector<int> moe_layers;  // ascending, at least one
};

/// `modelopt`: hf_quant_config.json, or nullptr. Where config.json describes the quantisation, too, the two must agree.
/// Throws Error: kIo (damaged), kUnsupported (unknown family or quantisation).
ModelConfig read_model_config(const ConfigFile& config, const ConfigFile* modelopt);

}  // namespace moesaic::checkpoint
