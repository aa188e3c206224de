// SPDX-License-Identifier: Apache-2.0
// Builds one MoE layer's configuration and weight views from a checkpoint's tensors.
#include "checkpoint/layer_loader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "checkpoint/layer_tensors.h"
#include "checkpoint/printable.h"
#include "checkpoint/quant_formats.h"
#include "tables/kernel_table.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic::checkpoint {
namespace {

constexpr int kMaxSize = 1 << 24;
constexpr int kMaxExperts = 1 << 16;

const std::string kNoReason;
const char* const kFusedUp = "experts.gate_up_proj";
const char* const kFusedDown = "experts.down_proj";

// Names of an expert's matrices.
struct ExpertNames {
  const char *gate, *up, *down;
};
constexpr ExpertNames kUsualNames = {"gate_proj", "up_proj", "down_proj"};

// The format that experts turn out to have: one for all of them.
struct ExpertFormat {
  const Scheme* scheme = nullptr;
  std::string module;  // the first one
  DType dtype = DType::kBF16;
  bool zero_points = false;  // int4: other ones than 8
  bool f32_scales = false;   // int4

  bool plain() const { return scheme->format == StoredFormat::kPlain; }
};

struct LoadedMatrix {
  MatrixView view;
  float input_scale = 0.0f;
};

// The block of a layer: the first prefix under which there is a router.
std::string find_block(const FamilyRow& family, const TensorSource& source, int layer) {
  std::vector<std::string> tried;
  for (const char* prefix : family.prefixes) {
    std::string block = fmt::format("{}{}.{}", prefix, layer, family.tensors.block);
    tried.push_back(block + family.tensors.router);
    if (source.has(tried.back())) return block;
  }
  std::string first = tried.front();
  tried.erase(tried.begin());
  throw Error(ErrorKind::kIo, fmt::format("{} lists no tensor {}, the router of layer {} (nor {})", source.listing(),
                                          in_quotes(first), layer, fmt::join(tried, ", ")));
}

class LayerLoader {
 public:
  LayerLoader(const FamilyRow& family, const QuantConfig& quant, const TensorSource& source, CheckpointLayer* layer)
      : names_(family.tensors),
        quant_(quant),
        source_(source),
        tensors_(source, find_block(family, source, layer->layer)),
        layer_(*layer) {}

  void load() {
    const MoeConfig& c = layer_.config;
    MoeWeights& w = layer_.weights;
    // The router comes first: its shape bounds the number of experts by the size of the file.
    TensorView router = tensors_.get_plain(names_.router, {{c.num_experts, c.hidden}}, kNoReason);
    w.router = {router.data, router.dtype, c.num_experts, c.hidden, c.hidden, 1};
    if (names_.router_bias != nullptr) w.router_bias = vector(names_.router_bias, {c.num_experts});
    if (names_.selection_bias != nullptr) w.selection_bias = vector(names_.selection_bias, {c.num_experts});
    layer_.modules.block = tensors_.block();
    layer_.modules.expert_tensors = matrices_of([this] { load_experts(); });
    if (c.shared.intermediate > 0) layer_.modules.shared_tensors = matrices_of([this] { load_shared(); });
    refuse_others();
    set_recipes();
    set_static_scales();
    layer_.storage = tensors_.storage();
  }

 private:
  VectorView vector(const std::string& name, const Shape& shape) {
    TensorView t = tensors_.get_plain(name, {shape}, kNoReason);
    return {t.data, t.dtype, t.num_elements(), 1};
  }

  // Names of the tensors that `load` asks for, without biases and the shared gate.
  template <class Load>
  std::vector<std::string> matrices_of(const Load& load) {
    const std::set<std::string> before = tensors_.seen();
    load();
    std::vector<std::string> names;
    for (const std::string& name : tensors_.seen()) {
      const bool is_gate = names_.shared_gate != nullptr && name.ends_with(names_.shared_gate);
      if (!before.contains(name) && !name.ends_with("_bias") && !is_gate) names.push_back(name);
    }
    return names;
  }

  void load_experts() {
    const int count = layer_.config.num_experts;
    ExpertNames names = kUsualNames;
    if (names_.gate != nullptr) names = {names_.gate, names_.up, names_.down};
    LayerModules& modules = layer_.modules;
    modules.gate = names.gate;
    modules.up = names.up;
    modules.down = names.down;
    modules.order = names_.fused_order;
    modules.fused = names_.gate == nullptr;
    modules.shared = names_.shared == nullptr ? "" : names_.shared;
    if (modules.fused) {
      // Linear layers are what most formats quantise: there fused experts are split.
      const Scheme& scheme = *quant_.expected(tensors_.block() + kFusedUp).scheme;
      if (scheme.format == StoredFormat::kPlain) return load_fused_experts();
      if (format_row(scheme.format).fused) return load_fused_codes();
    }
    for (int e = 0; e < count; ++e) {
      layer_.weights.experts.push_back(
          expert(fmt::format("experts.{}.", e), names, layer_.config.intermediate, &experts_));
    }
    layer_.layout = fmt::format("one matrix per expert, {}", format_row(experts_.scheme->format).layout);
  }

  void load_shared() {
    layer_.weights.shared = expert(names_.shared, kUsualNames, layer_.config.shared.intermediate, &shared_);
    if (names_.shared_gate != nullptr) {
      layer_.weights.shared_gate = vector(names_.shared_gate, {1, layer_.config.hidden});
    }
  }

  ExpertWeights expert(const std::string& prefix, const ExpertNames& names, std::int64_t size, ExpertFormat* format) {
    const std::int64_t hidden = layer_.config.hidden;
    LoadedMatrix gate = matrix(prefix + names.gate, {size, hidden}, format);
    LoadedMatrix up = matrix(prefix + names.up, {size, hidden}, format);
    LoadedMatrix down = matrix(prefix + names.down, {hidden, size}, format);
    ExpertWeights weights;
    weights.gate = gate.view;
    weights.up = up.view;
    weights.down = down.view;
    // gate and up see the same x, which is quantised once.
    weights.input_scale = std::max(gate.input_scale, up.input_scale);
    weights.down_input_scale = down.input_scale;
    return weights;
  }

  // A module's matrix, plain or quantised: the config says which format, the format's row which tensors.
  LoadedMatrix matrix(const std::string& module, const MatrixExtent& extent, ExpertFormat* format) {
    const Expected expected = quant_.expected(tensors_.block() + module);
    const Scheme& scheme = *expected.scheme;
    const FormatRow& row = format_row(scheme.format);
    demand_one_format(module, scheme, format);
    std::string problem = extent_problem(row, scheme, extent);
    if (!problem.empty()) refuse(module, problem);
    StoredParts parts;
    for (const PartRow& part : row.parts) {
      std::string name = module + part.suffix;
      const Presence presence = part.presence(scheme);
      if (presence == Presence::kNo || (presence == Presence::kMaybe && !tensors_.has(name))) continue;
      ErrorKind kind = quant_.quantized() ? ErrorKind::kIo : ErrorKind::kUnsupported;
      parts[static_cast<std::size_t>(part.part)] =
          tensors_.get(name, {part.dtypes, part.shapes(scheme, extent), expected.reason, kind});
    }
    LoadedMatrix loaded{matrix_of(row, scheme, parts, extent), input_scale_of(row, parts)};
    if (format->module == module) format->dtype = loaded.view.dtype;
    const Quantization& q = loaded.view.quantization;
    format->zero_points |= q.zeros != nullptr;
    format->f32_scales |= q.codes == CodeFormat::kInt4 && q.scale_format == ScaleFormat::kF32;
    return loaded;
  }

  void demand_one_format(const std::string& module, const Scheme& scheme, ExpertFormat* format) const {
    if (format->scheme == nullptr) {
      format->scheme = &scheme;
      format->module = module;
    }
    if (format->scheme == &scheme) return;
    refuse(module, fmt::format("stored as {}, but {} as {}: this version reads experts of one format",
                               format_row(scheme.format).name, in_quotes(tensors_.block() + format->module),
                               format_row(format->scheme->format).name));
  }

  [[noreturn]] void refuse(const std::string& module, const std::string& why) const {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: module {} is {}", source_.listing(), in_quotes(tensors_.block() + module), why));
  }

  // Published: [E, H, 2I] and [E, I, H]. transformers 5 saves some families as [E, 2I, H] and [E, H, I]. Both shapes of
  // one of the two tensors cannot be equal unless 2I = H or I = H, and never for both tensors: the pair decides.
  void load_fused_experts() {
    const std::int64_t e = layer_.config.num_experts, h = layer_.config.hidden, i = layer_.config.intermediate;
    std::vector<std::pair<Shape, Shape>> pairs = {{{e, h, 2 * i}, {e, i, h}}, {{e, 2 * i, h}, {e, h, i}}};
    const Expected expected = quant_.expected(tensors_.block() + kFusedUp);
    TensorView w13 = tensors_.get_plain(kFusedUp, {pairs[0].first, pairs[1].first}, expected.reason);
    TensorView w2 = tensors_.get_plain(kFusedDown, {pairs[0].second, pairs[1].second}, expected.reason);
    Shape w13_shape(w13.shape.begin(), w13.shape.begin() + 3), w2_shape(w2.shape.begin(), w2.shape.begin() + 3);
    auto at = std::find(pairs.begin(), pairs.end(), std::pair(w13_shape, w2_shape));
    if (at == pairs.end()) {
      throw Error(
          ErrorKind::kIo,
          fmt::format("{}: {} has shape {} and {} has shape {}: one is transposed; wanted {} and {}, or {} and {}",
                      source_.listing(), in_quotes(tensors_.block() + kFusedUp), shape_text(w13_shape),
                      in_quotes(tensors_.block() + kFusedDown), shape_text(w2_shape), shape_text(pairs[0].first),
                      shape_text(pairs[0].second), shape_text(pairs[1].first), shape_text(pairs[1].second)));
    }
    bool transposed = at == pairs.begin();
    const auto [b13, b2] = fused_biases();
    experts_ = {expected.scheme, kFusedUp, w13.dtype, false};
    layer_.weights.experts = expert_views(w13, w2, names_.fused_order, /*gated=*/true, transposed, b13, b2);
    layer_.layout = fmt::format("fused {} {}{}", transposed ? "[E, H, 2I], [E, I, H]" : "[E, 2I, H], [E, H, I]",
                                order_text(), transposed ? "" : " (as transformers 5 saves it)");
  }

  // Codes and scales of all experts in one tensor each, rows as in [E, 2I, H] and [E, H, I].
  void load_fused_codes() {
    const MoeConfig& c = layer_.config;
    const std::int64_t size = c.intermediate, hidden = c.hidden;
    const MatrixView w13 = matrix(kFusedUp, {2 * size, hidden, c.num_experts}, &experts_).view;
    const MatrixView w2 = matrix(kFusedDown, {hidden, size, c.num_experts}, &experts_).view;
    const auto [b13, b2] = fused_biases();
    const bool interleaved = names_.fused_order == GateUpOrder::kInterleavedGateFirst;
    const std::int64_t step = interleaved ? 2 : 1, up = interleaved ? 1 : size;
    for (std::int64_t e = 0; e < c.num_experts; ++e) {
      ExpertWeights weights;
      weights.gate = rows_of(w13, 2 * size * e, step, size);
      weights.up = rows_of(w13, 2 * size * e + up, step, size);
      weights.down = rows_of(w2, hidden * e, 1, hidden);
      weights.gate_bias = elements_of(b13, 2 * size * e, step, size);
      weights.up_bias = elements_of(b13, 2 * size * e + up, step, size);
      weights.down_bias = elements_of(b2, hidden * e, 1, hidden);
      layer_.weights.experts.push_back(weights);
    }
    layer_.layout = fmt::format("fused {} {}", format_row(experts_.scheme->format).layout, order_text());
  }

  std::pair<TensorView, TensorView> fused_biases() {
    if (!names_.fused_biases) return {};
    const std::int64_t e = layer_.config.num_experts, h = layer_.config.hidden, i = layer_.config.intermediate;
    return {tensors_.get_plain(std::string(kFusedUp) + "_bias", {{e, 2 * i}}, kNoReason),
            tensors_.get_plain(std::string(kFusedDown) + "_bias", {{e, h}}, kNoReason)};
  }

  static VectorView elements_of(const TensorView& t, std::int64_t first, std::int64_t step, std::int64_t count) {
    if (t.empty()) return {};
    const auto bytes = static_cast<std::int64_t>(dtype_size(t.dtype));
    return {static_cast<const std::byte*>(t.data) + first * bytes, t.dtype, count, step};
  }

  const char* order_text() const {
    return names_.fused_order == GateUpOrder::kGateFirst ? "gate then up" : "gate and up interleaved";
  }

  void refuse_others() const {
    std::string hint = quant_.quantized()
                           ? fmt::format("{}, has none of that name (more experts than config.json says?)",
                                         format_row(quant_.scheme().format).name)
                           : "16 or 32 bits, has none of that name (a quantised checkpoint whose config.json does not "
                             "say so, or more experts than it says?)";
    tensors_.refuse_others(fmt::format("the family {}, in {}", layer_.family, hint));
  }

  // What the layer computes with: the experts' format with the activations that the config names.
  void set_recipes() {
    MoeConfig& c = layer_.config;
    const bool has_shared = c.shared.intermediate > 0;
    const bool all_plain = experts_.plain() && (!has_shared || shared_.plain());
    layer_.stored = experts_.plain() ? dtype_name(experts_.dtype) : format_row(experts_.scheme->format).name;
    c.recipe = recipe(experts_);
    if (all_plain && experts_.dtype == DType::kF16) c.recipe = "fp16";
    if (has_shared && !all_plain && recipe(shared_) != c.recipe) c.shared.recipe = recipe(shared_);
    if (!all_plain && quant_.scheme().group > 0) {
      c.int4 = {quant_.scheme().group, experts_.zero_points || shared_.zero_points,
                experts_.f32_scales || shared_.f32_scales};
    }
  }

  // Whether every expert that could has both static scales: GEMM 1 can quantise its result then.
  void set_static_scales() {
    const auto has = [](const std::string& recipe, const ExpertWeights& e) {
      const bool takes = tables::takes_static_scales(tables::get_recipe(recipe));
      return !takes || (e.input_scale > 0.0f && e.down_input_scale > 0.0f);
    };
    MoeConfig& c = layer_.config;
    const std::vector<ExpertWeights>& experts = layer_.weights.experts;
    c.static_scales = tables::takes_static_scales(tables::get_recipe(c.recipe)) &&
                      std::all_of(experts.begin(), experts.end(), [&](const auto& e) { return has(c.recipe, e); }) &&
                      (c.shared.intermediate == 0 || has(tables::shared_recipe(c), layer_.weights.shared));
  }

  // Beside a quantised format 16-bit weights go with bf16, the type of x of all quantised recipes.
  std::string recipe(const ExpertFormat& format) const {
    return format.plain() ? "bf16" : recipe_of(*format.scheme, quant_.where());
  }

  const TensorNames& names_;
  const QuantConfig& quant_;
  const TensorSource& source_;
  LayerTensors tensors_;
  CheckpointLayer& layer_;
  ExpertFormat experts_, shared_;
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

CheckpointLayer load_layer(const FamilyRow& family, const ConfigView& config, const QuantConfig& quant,
                           const TensorSource& source, int layer) {
  CheckpointLayer result;
  result.config = layer_config(family, config);
  result.layer = layer;
  result.family = family.model_types.front();
  LayerLoader(family, quant, source, &result).load();
  return result;
}

}  // namespace moesaic::checkpoint
