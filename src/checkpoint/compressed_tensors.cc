// SPDX-License-Identifier: Apache-2.0
// The quantization_config of compressed-tensors: a scheme spelled out field by field for a group of modules.
#include <fmt/format.h>

#include "checkpoint/printable.h"
#include "checkpoint/quant_config.h"

namespace moesaic::checkpoint {
namespace {

// What a QuantizationArgs object says; `there` is false for a null one: not quantised.
struct Args {
  bool there = false;
  std::string type, strategy, dynamic;  // dynamic: "false", "true" or "local"
  int bits = 0, group = 0;
  bool symmetric = true;

  bool is(const char* wanted_type, int wanted_bits) const {
    return there && type == wanted_type && bits == wanted_bits;
  }
  std::string text() const {
    return there ? fmt::format("{} {} strategy {} group_size {} dynamic {}", type, bits, in_quotes(strategy), group,
                               dynamic)
                 : "none";
  }
};

Args read_args(const ConfigView& group, const char* key) {
  Args args;
  args.there = group.has(key);
  if (!args.there) return args;
  ConfigView view = group.object_or_empty(key);
  args.type = view.text_or("type", "int");
  args.strategy = view.text_or("strategy", view.has("group_size") ? "group" : "tensor");
  args.bits = view.integer_or("num_bits", 8, 1, 64);
  args.group = view.integer_or("group_size", 0, -1, 1 << 24);
  args.symmetric = view.flag_or("symmetric", true);
  const nlohmann::json* dynamic = view.find("dynamic");
  if (dynamic != nullptr && dynamic->is_string()) {
    view.demand("dynamic", {"local"});
    args.dynamic = "local";
  } else {
    args.dynamic = view.flag_or("dynamic", false) ? "true" : "false";
  }
  return args;
}

// The only group, for all Linear modules.
ConfigView only_group(const ConfigView& config) {
  ConfigView groups = config.object_or_empty("config_groups");
  const nlohmann::json* object = config.find("config_groups");
  if (object == nullptr || object->empty()) config.fail("no config_groups");
  if (object->size() > 1) {
    config.refuse(fmt::format("{} config_groups; this version reads one, for all modules", object->size()));
  }
  std::string name = object->begin().key();
  if (!object->begin()->is_object()) config.fail("the entry of config_groups is no object");
  ConfigView group = groups.object_or_empty(name.c_str());
  const nlohmann::json* targets = group.find("targets");
  if (targets == nullptr || *targets != nlohmann::json::array({"Linear"})) {
    group.refuse(fmt::format("targets is {}; this version reads [\"Linear\"], all modules",
                             targets == nullptr ? "absent" : one_line(targets->dump(), 60)));
  }
  return group;
}

[[noreturn]] void refuse_inputs(const ConfigView& group, const Args& weights, const Args& inputs, const char* wanted) {
  group.refuse(
      fmt::format("weights {} with input_activations {}; supported is {}", weights.text(), inputs.text(), wanted));
}

Scheme fp8_scheme(const ConfigView& group, const Args& weights, const Args& inputs) {
  const bool dynamic = inputs.is("float", 8) && inputs.dynamic == "true";
  const bool by_token = dynamic && inputs.strategy == "token";
  Scheme scheme{.quantized_inputs = true};
  if (weights.strategy == "channel") {
    if (!by_token) refuse_inputs(group, weights, inputs, "float 8, dynamic, per token");
    scheme.format = StoredFormat::kCtFp8Channel;
  } else if (weights.strategy == "tensor") {
    scheme.static_inputs = inputs.is("float", 8) && inputs.dynamic == "false" && inputs.strategy == "tensor";
    if (!by_token && !scheme.static_inputs) {
      refuse_inputs(group, weights, inputs, "float 8, dynamic per token or static per tensor");
    }
    scheme.format = StoredFormat::kCtFp8Tensor;
  } else if (weights.strategy == "block") {
    if (!dynamic || inputs.strategy != "group" || inputs.group != 128) {
      refuse_inputs(group, weights, inputs, "float 8, dynamic, per group of 128");
    }
    scheme.format = StoredFormat::kCtFp8Blocks;
    read_block_shape(group.object_or_empty("weights"), "block_structure", &scheme);
  } else {
    group.refuse(fmt::format("weights have strategy {}; supported is channel, tensor or block with float 8",
                             in_quotes(weights.strategy)));
  }
  return scheme;
}

Scheme nvfp4_scheme(const ConfigView& group, const Args& weights, const Args& inputs) {
  Scheme scheme{.format = StoredFormat::kCtNvfp4, .quantized_inputs = inputs.there};
  if (weights.group != 16) group.refuse(fmt::format("group_size is {}; NVFP4 has 16", weights.group));
  scheme.static_inputs = inputs.there && inputs.dynamic == "local";
  bool fits = inputs.is("float", 4) && inputs.group == 16 && inputs.dynamic != "false";
  if (inputs.there && !fits)
    refuse_inputs(group, weights, inputs, "none, or float 4 in groups of 16, dynamic or local");
  return scheme;
}

Scheme int4_scheme(const ConfigView& group, const Args& weights, const Args& inputs) {
  Scheme scheme{.format = StoredFormat::kCtInt4, .quantized_inputs = inputs.there};
  if (weights.strategy != "group" || (weights.group != 32 && weights.group != 64 && weights.group != 128)) {
    group.refuse(fmt::format("weights have strategy {} with group_size {}; int4 is read in groups of 32, 64 or 128",
                             in_quotes(weights.strategy), weights.group));
  }
  bool fits = inputs.is("float", 8) && inputs.dynamic == "true" && inputs.strategy == "token";
  if (inputs.there && !fits) refuse_inputs(group, weights, inputs, "none, or float 8, dynamic, per token");
  scheme.group = weights.group;
  scheme.zero_points = !weights.symmetric;
  return scheme;
}

Scheme read_scheme(const ConfigView& config, const ConfigView& group) {
  Args weights = read_args(group, "weights"), inputs = read_args(group, "input_activations");
  if (!weights.there) group.fail("no weights");
  if (group.has("output_activations")) group.refuse("output_activations are quantised; supported is null");
  std::string format = group.text_or("format", config.text_or("format", ""));
  // naive-quantized was the first name of float-quantized; the tensors are the same.
  if ((format == "float-quantized" || format == "naive-quantized") && weights.is("float", 8)) {
    return fp8_scheme(group, weights, inputs);
  }
  if (format == "nvfp4-pack-quantized" && weights.is("float", 4)) return nvfp4_scheme(group, weights, inputs);
  if (format == "pack-quantized" && weights.is("int", 4)) return int4_scheme(group, weights, inputs);
  group.refuse(
      fmt::format("format {} with weights of type {} and {} bits is not read; read are float-quantized with "
                  "float 8, nvfp4-pack-quantized with float 4, pack-quantized with int 4",
                  in_quotes(format), in_quotes(weights.type), weights.bits));
}

}  // namespace

QuantConfig read_compressed_tensors(const ConfigView& config) {
  ConfigView sparsity = config.object_or_empty("sparsity_config");
  sparsity.demand("format", {"dense"});
  const nlohmann::json* transforms = config.find("transform_config");
  if (transforms != nullptr && !transforms->empty()) config.refuse("transform_config is given; supported is none");
  QuantConfig quant(read_scheme(config, only_group(config)), config.name());
  quant.exclude(config, "ignore");
  return quant;
}

}  // namespace moesaic::checkpoint
