// SPDX-License-Identifier: Apache-2.0
// Builds one MoE layer's configuration and weight views from a checkpoint's tensors.
#include "checkpoint/layer_loader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "checkpoint/printable.h"

namespace moesaic::checkpoint {
namespace {

constexpr int kMaxSize = 1 << 24;
constexpr int kMaxExperts = 1 << 16;

using Shape = std::vector<std::int64_t>;

// Keeps what the views point into: mapped files, and copies of tensors that a file stores off their natural alignment.
struct LayerStorage {
  std::vector<std::shared_ptr<const SafetensorsFile>> files;
  std::vector<std::vector<std::byte>> copies;
};

class LayerLoader {
 public:
  LayerLoader(const FamilyRow& family, const TensorSource& source, CheckpointLayer* layer)
      : family_(family),
        names_(family.tensors),
        source_(source),
        layer_(*layer),
        storage_(std::make_shared<LayerStorage>()) {}

  void load() {
    find_block();
    const MoeConfig& c = layer_.config;
    MoeWeights& w = layer_.weights;
    // The router comes first: its shape bounds the number of experts by the size of the file.
    w.router = matrix(names_.router, c.num_experts, c.hidden);
    if (names_.router_bias != nullptr) w.router_bias = vector(names_.router_bias, {c.num_experts});
    if (names_.selection_bias != nullptr) w.selection_bias = vector(names_.selection_bias, {c.num_experts});
    if (names_.gate != nullptr) {
      load_split_experts();
    } else {
      load_fused_experts();
    }
    if (c.shared.intermediate > 0) load_shared();
    refuse_unknown_tensors();
    const DType stored = w.experts.front().gate.dtype;
    layer_.stored = dtype_name(stored);
    layer_.config.recipe = stored == DType::kF16 ? "fp16" : "bf16";
    layer_.storage = storage_;
  }

 private:
  void find_block() {
    std::vector<std::string> tried;
    for (const char* prefix : family_.prefixes) {
      block_ = fmt::format("{}{}.{}", prefix, layer_.layer, names_.block);
      tried.push_back(block_ + names_.router);
      if (source_.has(tried.back())) return;
    }
    std::string first = tried.front();
    tried.erase(tried.begin());
    throw Error(ErrorKind::kIo, fmt::format("{} lists no tensor {}, the router of layer {} (nor {})", source_.listing(),
                                            in_quotes(first), layer_.layer, fmt::join(tried, ", ")));
  }

  // The checked tensor `name` below the block; `shapes`: those that are accepted, *taken says which it was.
  TensorView tensor(const std::string& name, const std::vector<Shape>& shapes, std::size_t* taken = nullptr) {
    FoundTensor found = source_.get(block_ + name);
    seen_.insert(found.entry->name);
    DType dtype{};
    bool known = find_dtype(found.entry->dtype, &dtype);
    if (!known || (dtype != DType::kBF16 && dtype != DType::kF16 && dtype != DType::kF32)) {
      throw Error(
          ErrorKind::kUnsupported,
          fmt::format("{}: tensor {} has dtype {}; this version reads BF16, F16 and F32 weights and no quantised "
                      "ones",
                      found.file->path(), in_quotes(found.entry->name), found.entry->dtype));
    }
    auto at = std::find(shapes.begin(), shapes.end(), found.entry->shape);
    if (at == shapes.end()) {
      std::vector<std::string> wanted;
      for (const Shape& shape : shapes) wanted.push_back(shape_text(shape));
      throw Error(ErrorKind::kIo,
                  fmt::format("{}: tensor {} has shape {}; by config.json it should be {}", found.file->path(),
                              in_quotes(found.entry->name), shape_text(found.entry->shape), fmt::join(wanted, " or ")));
    }
    if (taken != nullptr) *taken = static_cast<std::size_t>(at - shapes.begin());
    return view(found, dtype);
  }

  TensorView view(const FoundTensor& found, DType dtype) {
    TensorView view;
    view.data = const_cast<std::byte*>(keep(found, dtype));
    view.dtype = dtype;
    view.rank = static_cast<int>(found.entry->shape.size());
    std::copy(found.entry->shape.begin(), found.entry->shape.end(), view.shape.begin());
    return view;
  }

  const std::byte* keep(const FoundTensor& found, DType dtype) {
    const std::byte* data = found.file->data(*found.entry);
    if (reinterpret_cast<std::uintptr_t>(data) % dtype_size(dtype) != 0) {
      storage_->copies.emplace_back(data, data + (found.entry->end - found.entry->begin));
      return storage_->copies.back().data();
    }
    if (std::find(storage_->files.begin(), storage_->files.end(), found.file) == storage_->files.end()) {
      storage_->files.push_back(found.file);
    }
    return data;
  }

  MatrixView matrix(const std::string& name, std::int64_t rows, std::int64_t cols) {
    TensorView t = tensor(name, {{rows, cols}});
    return {t.data, t.dtype, rows, cols, cols, 1};
  }

  VectorView vector(const std::string& name, const Shape& shape) {
    TensorView t = tensor(name, {shape});
    return {t.data, t.dtype, t.num_elements(), 1};
  }

  void load_split_experts() {
    const MoeConfig& c = layer_.config;
    for (int e = 0; e < c.num_experts; ++e) {
      auto name = [&](const char* which) { return fmt::format("experts.{}.{}.weight", e, which); };
      ExpertWeights expert;
      expert.gate = matrix(name(names_.gate), c.intermediate, c.hidden);
      expert.up = matrix(name(names_.up), c.intermediate, c.hidden);
      expert.down = matrix(name(names_.down), c.hidden, c.intermediate);
      layer_.weights.experts.push_back(expert);
    }
    layer_.layout = "one matrix per expert, [out, in]";
  }

  // Published: [E, H, 2I] and [E, I, H]. transformers 5 saves some families as [E, 2I, H] and [E, H, I]. Both shapes of
  // one of the two tensors cannot be equal unless 2I = H or I = H, and never for both tensors: the pair decides.
  void load_fused_experts() {
    const std::int64_t e = layer_.config.num_experts, h = layer_.config.hidden, i = layer_.config.intermediate;
    std::vector<std::pair<Shape, Shape>> pairs = {{{e, h, 2 * i}, {e, i, h}}, {{e, 2 * i, h}, {e, h, i}}};
    const std::string up_name = "experts.gate_up_proj", down_name = "experts.down_proj";
    TensorView w13 = tensor(up_name, {pairs[0].first, pairs[1].first});
    TensorView w2 = tensor(down_name, {pairs[0].second, pairs[1].second});
    Shape w13_shape(w13.shape.begin(), w13.shape.begin() + 3), w2_shape(w2.shape.begin(), w2.shape.begin() + 3);
    auto at = std::find(pairs.begin(), pairs.end(), std::pair(w13_shape, w2_shape));
    if (at == pairs.end()) {
      throw Error(
          ErrorKind::kIo,
          fmt::format("{}: {} has shape {} and {} has shape {}: one is transposed; wanted {} and {}, or {} and {}",
                      source_.listing(), in_quotes(block_ + up_name), shape_text(w13_shape),
                      in_quotes(block_ + down_name), shape_text(w2_shape), shape_text(pairs[0].first),
                      shape_text(pairs[0].second), shape_text(pairs[1].first), shape_text(pairs[1].second)));
    }
    bool transposed = at == pairs.begin();
    TensorView b13, b2;
    if (names_.fused_biases) {
      b13 = tensor(up_name + "_bias", {{e, 2 * i}});
      b2 = tensor(down_name + "_bias", {{e, h}});
    }
    layer_.weights.experts = expert_views(w13, w2, names_.fused_order, /*gated=*/true, transposed, b13, b2);
    layer_.layout =
        fmt::format("fused {} {}{}", transposed ? "[E, H, 2I], [E, I, H]" : "[E, 2I, H], [E, H, I]",
                    names_.fused_order == GateUpOrder::kGateFirst ? "gate then up" : "gate and up interleaved",
                    transposed ? "" : " (as transformers 5 saves it)");
  }

  void load_shared() {
    const MoeConfig& c = layer_.config;
    const std::int64_t size = c.shared.intermediate;
    auto name = [&](const char* which) { return fmt::format("{}{}.weight", names_.shared, which); };
    layer_.weights.shared.gate = matrix(name("gate_proj"), size, c.hidden);
    layer_.weights.shared.up = matrix(name("up_proj"), size, c.hidden);
    layer_.weights.shared.down = matrix(name("down_proj"), c.hidden, size);
    if (names_.shared_gate != nullptr) layer_.weights.shared_gate = vector(names_.shared_gate, {1, c.hidden});
  }

  void refuse_unknown_tensors() const {
    for (const std::string& name : source_.names_below(block_)) {
      if (seen_.contains(name)) continue;
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("{}: tensor {} belongs to layer {}, but the family {} has none of that name (a quantised "
                              "checkpoint, or more experts than config.json says?); this version reads bf16, fp16 and "
                              "fp32 weights",
                              source_.listing(), in_quotes(name), layer_.layer, layer_.family));
    }
  }

  const FamilyRow& family_;
  const TensorNames& names_;
  const TensorSource& source_;
  CheckpointLayer& layer_;
  std::shared_ptr<LayerStorage> storage_;
  std::string block_;           // "model.layers.3.mlp."
  std::set<std::string> seen_;  // tensors that were read
};

}  // namespace

MoeConfig layer_config(const FamilyRow& family, const ConfigView& config) {
  MoeConfig layer;
  layer.hidden = config.integer("hidden_size", 1, kMaxSize);
  layer.intermediate = config.integer(family.intermediate_keys, 1, kMaxSize);
  layer.num_experts = config.integer(family.experts_keys, 1, kMaxExperts);
  layer.top_k = config.integer(family.top_k_keys, 1, layer.num_experts);
  layer.activation = family.activation(config);
  layer.routing = family.routing(config);
  if (layer.num_experts % layer.routing.n_group != 0) {
    config.fail(fmt::format("n_group {} does not divide the {} experts", layer.routing.n_group, layer.num_experts));
  }
  if (layer.num_experts / layer.routing.n_group * layer.routing.topk_group < layer.top_k) {
    config.fail(fmt::format("{} of {} groups hold fewer than the {} experts per token", layer.routing.topk_group,
                            layer.routing.n_group, layer.top_k));
  }
  if (family.shared_intermediate != nullptr) layer.shared.intermediate = family.shared_intermediate(config);
  layer.shared.gated = layer.shared.intermediate > 0 && family.tensors.shared_gate != nullptr;
  layer.weights_on_input = family.weights_on_input;
  return layer;
}

CheckpointLayer load_layer(const FamilyRow& family, const ConfigView& config, const TensorSource& source, int layer) {
  CheckpointLayer result;
  result.config = layer_config(family, config);
  result.layer = layer;
  result.family = family.model_types.front();
  LayerLoader(family, source, &result).load();
  return result;
}

}  // namespace moesaic::checkpoint
