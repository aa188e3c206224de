// SPDX-License-Identifier: Apache-2.0
// Any text as config.json, and what follows a line "---" as hf_quant_config.json: an Error, or a configuration with
// which the recorded folders of that model type load or are refused.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/fs.h"
#include "checkpoint/json_strict.h"
#include "checkpoint/layer_loader.h"
#include "checkpoint/model_config.h"
#include "moesaic/error.h"

namespace {

using namespace moesaic::checkpoint;  // NOLINT(google-build-using-namespace)
using moesaic::Error;

// Tensors of the recorded folders, by model type.
const std::multimap<std::string, TensorSource>& sources() {
  static const auto* all = [] {
    auto* found = new std::multimap<std::string, TensorSource>();
    for (const auto& entry : std::filesystem::directory_iterator(MOESAIC_TEST_DATA "/checkpoints")) {
      const std::string folder = entry.path().string(), config = folder + "/config.json";
      const std::string type = parse_strict(moesaic::base::read_file(config, 1 << 20), config, 16).at("model_type");
      found->emplace(std::piecewise_construct, std::forward_as_tuple(type), std::forward_as_tuple(folder));
    }
    return found;
  }();
  return *all;
}

void load(const ModelConfig& model) {
  const auto [begin, end] = sources().equal_range(model.model_type);
  for (auto at = begin; at != end; ++at) {
    try {
      const auto layer = load_layer(*model.family, model.text, model.quant, at->second, model.moe_layers.front());
      if (layer.weights.experts.empty() || layer.stored.empty()) std::abort();
    } catch (const Error&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::string_view kSeparator = "\n---\n";
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t cut = text.find(kSeparator);
  const ConfigFile config{"config.json", std::string(text.substr(0, cut))};
  try {
    if (cut == std::string_view::npos) {
      load(read_model_config(config, nullptr));
    } else {
      const ConfigFile modelopt{"hf_quant_config.json", std::string(text.substr(cut + kSeparator.size()))};
      load(read_model_config(config, &modelopt));
    }
  } catch (const Error&) {
  }
  return 0;
}
