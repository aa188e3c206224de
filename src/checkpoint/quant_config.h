// SPDX-License-Identifier: Apache-2.0
// What config.json (quantization_config) or ModelOpt's hf_quant_config.json says about a checkpoint's number formats.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "checkpoint/config_view.h"
#include "checkpoint/module_list.h"

namespace moesaic::checkpoint {

/// How a module's weights are stored; quant_formats.h has the tensors of each.
enum class StoredFormat : std::uint8_t {
  kPlain,  // 16 or 32 bits
  kFp8Blocks,
  kFp8Tensor,
  kMxfp4,
  kModelOptNvfp4,
  kModelOptFp8,
  kModelOptMxfp8,
  kCtNvfp4,  // Ct: compressed-tensors
  kCtFp8Channel,
  kCtFp8Tensor,
  kCtFp8Blocks,
  kCtInt4,
  kGptq,
  kAwq,
};

/// A format with what the config says of it.
struct Scheme {
  StoredFormat format = StoredFormat::kPlain;
  bool quantized_inputs = false;                // activations are quantised, too
  bool static_inputs = false;                   // by scales that the checkpoint stores
  std::int64_t block_rows = 0, block_cols = 0;  // FP8 blocks
  int group = 0;                                // int4: elements of K that share a scale
  bool zero_points = false;                     // int4: other zero points than 8
  int zero_offset = 0;                          // GPTQ: added to the stored zero points
  bool group_index = false;                     // int4: only g_idx says whether the order of K was changed
};

/// The format of a module and why it is expected, for messages ("; module ... is ...").
struct Expected {
  const Scheme* scheme;
  std::string reason;
};

/// The formats of a checkpoint's modules.
class QuantConfig {
 public:
  /// Nothing is quantised.
  QuantConfig() = default;
  QuantConfig(Scheme scheme, std::string where) : scheme_(scheme), where_(std::move(where)) {}

  bool quantized() const noexcept { return scheme_.format != StoredFormat::kPlain; }
  const Scheme& scheme() const noexcept { return scheme_; }
  /// Where the description stands: "<file>: quantization_config".
  const std::string& where() const noexcept { return where_; }

  /// Modules left unquantised: the array at `key` of the description, when there is one.
  void exclude(const ConfigView& description, const char* key);
  void exclude_pattern(const std::string& entry);
  /// Only modules of the list are quantised.
  void restrict_to(const nlohmann::json& list, const std::string& where);

  /// The list decides; the tensors must agree.
  Expected expected(const std::string& module) const;

 private:
  Scheme scheme_;
  Scheme plain_scheme_;
  std::string where_;
  ModuleList plain_;
  std::optional<ModuleList> only_;
};

/// Reads the object of config.json that describes the quantisation; `where` names it in messages.
/// Throws Error: kIo (damaged), kUnsupported (naming what is not read, and what is).
QuantConfig read_quant_config(const nlohmann::json& description, const std::string& where);

/// Reads the whole of hf_quant_config.json, which may also say that nothing is quantised.
QuantConfig read_modelopt_file(const nlohmann::json& root, const std::string& file);

/// Of compressed-tensors; `read_quant_config` calls it.
QuantConfig read_compressed_tensors(const ConfigView& description);

/// The sizes of FP8 blocks: [rows, columns] at `key`.
void read_block_shape(const ConfigView& description, const char* key, Scheme* scheme);

}  // namespace moesaic::checkpoint
