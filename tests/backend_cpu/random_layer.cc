// SPDX-License-Identifier: Apache-2.0
// Random layers, their runs, and the comparison of results.
#include "random_layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_number.h"
#include "tables/recipe_table.h"

namespace moesaic::cpu {
namespace {

DType io_type(const MoeConfig& config) { return tables::get_recipe(config.recipe).io; }

void store_random(void* data, DType type, std::int64_t index, double value) {
  switch (type) {
    case DType::kF32:
      static_cast<float*>(data)[index] = static_cast<float>(value);
      break;
    case DType::kBF16:
      static_cast<std::uint16_t*>(data)[index] = float_to_bf16(static_cast<float>(value));
      break;
    default:
      static_cast<std::uint16_t*>(data)[index] = float_to_half(static_cast<float>(value));
      break;
  }
}

GateUpOrder storage_order(Storage storage) {
  switch (storage) {
    case Storage::kFusedUpFirst:
      return GateUpOrder::kUpFirst;
    case Storage::kInterleaved:
      return GateUpOrder::kInterleavedGateFirst;
    case Storage::kTransposed:
      return GateUpOrder::kInterleavedUpFirst;
    default:
      return GateUpOrder::kGateFirst;
  }
}

}  // namespace

Buffer::Buffer(std::size_t bytes, unsigned char fill) : storage_(bytes + 64, fill), bytes_(bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
  data_ = storage_.data() + (64 - address % 64) % 64;
}

TensorView RandomLayer::random_tensor(DType type, std::initializer_list<std::int64_t> shape, double scale,
                                      std::mt19937& random) {
  std::int64_t count = 1;
  for (std::int64_t size : shape) count *= size;
  storage.push_back(std::make_shared<Buffer>(static_cast<std::size_t>(count) * dtype_size(type)));
  std::normal_distribution<double> normal(0.0, scale);
  for (std::int64_t i = 0; i < count; ++i) store_random(storage.back()->data(), type, i, normal(random));
  return TensorView(storage.back()->data(), type, shape);
}

MatrixView RandomLayer::random_matrix(DType type, std::int64_t rows, std::int64_t cols, std::int64_t padding,
                                      std::mt19937& random) {
  const TensorView tensor = random_tensor(type, {rows, cols + padding}, 1.0 / std::sqrt(cols), random);
  return {tensor.data, type, rows, cols, cols + padding, 1};
}

VectorView RandomLayer::random_vector(DType type, std::int64_t size, std::mt19937& random) {
  return {random_tensor(type, {size, 2}, 1.0, random).data, type, size, 2};
}

ExpertWeights RandomLayer::random_expert(const LayerShape& shape, int intermediate, std::mt19937& random) {
  const std::int64_t padding = shape.storage == Storage::kPaddedRows ? 3 : 0;
  ExpertWeights expert;
  expert.gate = random_matrix(shape.stored, intermediate, shape.hidden, padding, random);
  expert.down = random_matrix(shape.stored, shape.hidden, intermediate, padding, random);
  if (is_gated(shape.activation.kind)) {
    expert.up = random_matrix(shape.stored, intermediate, shape.hidden, padding, random);
  }
  if (!shape.biases) return expert;
  expert.gate_bias = random_vector(shape.stored, intermediate, random);
  expert.down_bias = random_vector(DType::kF32, shape.hidden, random);
  if (is_gated(shape.activation.kind)) expert.up_bias = random_vector(shape.stored, intermediate, random);
  return expert;
}

void RandomLayer::make_experts(const LayerShape& shape, std::mt19937& random) {
  if (shape.storage == Storage::kSeparate || shape.storage == Storage::kPaddedRows) {
    for (int e = 0; e < shape.num_experts; ++e) {
      weights.experts.push_back(random_expert(shape, shape.intermediate, random));
    }
    return;
  }
  const bool gated = is_gated(shape.activation.kind), transposed = shape.storage == Storage::kTransposed;
  const std::int64_t experts = shape.num_experts, hidden = shape.hidden, intermediate = shape.intermediate;
  const std::int64_t rows = gated ? 2 * intermediate : intermediate;
  const double scale = 1.0 / std::sqrt(hidden), down_scale = 1.0 / std::sqrt(intermediate);
  const auto w13 = transposed ? random_tensor(shape.stored, {experts, hidden, rows}, scale, random)
                              : random_tensor(shape.stored, {experts, rows, hidden}, scale, random);
  const auto w2 = transposed ? random_tensor(shape.stored, {experts, intermediate, hidden}, down_scale, random)
                             : random_tensor(shape.stored, {experts, hidden, intermediate}, down_scale, random);
  TensorView b13, b2;
  if (shape.biases) {
    b13 = random_tensor(shape.stored, {experts, rows}, 1.0, random);
    b2 = random_tensor(DType::kF32, {experts, hidden}, 1.0, random);
  }
  weights.experts = expert_views(w13, w2, storage_order(shape.storage), gated, transposed, b13, b2);
}

RandomLayer::RandomLayer(const LayerShape& shape, std::mt19937& random) {
  config.hidden = shape.hidden;
  config.intermediate = shape.intermediate;
  config.num_experts = shape.num_experts;
  config.top_k = shape.top_k;
  config.recipe = shape.recipe;
  config.activation = shape.activation;
  config.routing = shape.routing;
  config.shared = shape.shared;
  config.weights_on_input = shape.weights_on_input;
  make_experts(shape, random);
  weights.router = random_matrix(shape.router_stored, shape.num_experts, shape.hidden, 1, random);
  if (shape.biases) weights.router_bias = random_vector(shape.router_stored, shape.num_experts, random);
  if (has_selection_bias(shape.routing.method)) {
    weights.selection_bias = random_vector(DType::kF32, shape.num_experts, random);
  }
  if (shape.shared.intermediate > 0) weights.shared = random_expert(shape, shape.shared.intermediate, random);
  if (shape.shared.gated) weights.shared_gate = random_vector(shape.stored, shape.hidden, random);
}

Input random_input(const MoeConfig& config, std::int64_t tokens, std::mt19937& random) {
  Input input;
  input.tokens = tokens;
  std::normal_distribution<float> normal(0.0f, 1.0f);
  for (std::int64_t i = 0; i < tokens * config.hidden; ++i) {
    input.x.push_back(from_float(normal(random), io_type(config) == DType::kBF16 ? Io::kBf16 : Io::kFp16));
  }
  return input;
}

namespace {

template <typename Run>
Outcome run_layer(const RandomLayer& layer, const Input& input, DType out, bool wants_logits, const Run& call) {
  const MoeConfig& config = layer.config;
  const std::int64_t tokens = input.tokens, k = config.top_k, experts = config.num_experts;
  Outcome outcome;
  outcome.ids.assign(tokens * k, -99);
  outcome.weights.assign(tokens * k, NAN);
  Buffer y(static_cast<std::size_t>(tokens * config.hidden) * dtype_size(out));
  MoeRun run;
  run.x = TensorView(input.x.data(), io_type(config), {tokens, config.hidden});
  run.out = TensorView(y.data(), out, {tokens, config.hidden});
  if (!input.router_logits.empty()) {
    run.router_logits = TensorView(input.router_logits.data(), DType::kF32, {tokens, experts});
  }
  if (!input.topk_ids.empty()) {
    run.topk_ids = TensorView(input.topk_ids.data(), DType::kI32, {tokens, k});
    run.topk_weights = TensorView(input.topk_weights.data(), DType::kF32, {tokens, k});
  }
  run.topk_ids_out = TensorView(outcome.ids.data(), DType::kI32, {tokens, k});
  run.topk_weights_out = TensorView(outcome.weights.data(), DType::kF32, {tokens, k});
  if (wants_logits) {
    outcome.logits.assign(tokens * experts, NAN);
    run.logits_out = TensorView(outcome.logits.data(), DType::kF32, {tokens, experts});
  }
  call(run);
  for (std::int64_t i = 0; i < tokens * config.hidden; ++i) outcome.y.push_back(load_element(y.data(), out, i));
  return outcome;
}

}  // namespace

Outcome run_reference(const RandomLayer& layer, ReferenceMode mode, const Input& input, DType out, bool wants_logits) {
  return run_layer(layer, input, out, wants_logits,
                   [&](const MoeRun& run) { reference_layer(layer.config, layer.weights, mode, run); });
}

Outcome run_fast(const RandomLayer& layer, const Input& input, DType out, bool wants_logits) {
  Buffer prepared(fast_prepared_bytes(layer.config));
  Buffer workspace(fast_workspace_bytes(layer.config, input.tokens));
  fast_prepare(layer.config, layer.weights, prepared.data());
  return run_layer(layer, input, out, wants_logits, [&](MoeRun run) {
    run.prepared = prepared.data();
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    fast_run(layer.config, run);
  });
}

Distance distance(const Outcome& got, const Outcome& wanted, int hidden, double element_rel, double element_rms) {
  Distance result;
  std::vector<double> rows;
  for (std::size_t begin = 0; begin < wanted.y.size(); begin += static_cast<std::size_t>(hidden)) {
    double difference = 0.0, norm = 0.0;
    for (std::size_t i = begin; i < begin + hidden; ++i) {
      difference += (got.y[i] - wanted.y[i]) * (got.y[i] - wanted.y[i]);
      norm += wanted.y[i] * wanted.y[i];
    }
    // A row of zeros must be met exactly. Written so that NaN counts as infinitely far.
    const double ratio = norm > 0.0 ? std::sqrt(difference / norm) : difference == 0.0 ? 0.0 : HUGE_VAL;
    rows.push_back(std::isnan(ratio) ? HUGE_VAL : ratio);
    const double rms = std::sqrt(norm / hidden);
    for (std::size_t i = begin; i < begin + hidden; ++i) {
      const double bound = element_rel * std::fabs(wanted.y[i]) + element_rms * rms;
      const double over = std::fabs(got.y[i] - wanted.y[i]) / (bound > 0.0 ? bound : 1.0);
      if (!(over <= result.element)) result.element = std::isnan(over) ? HUGE_VAL : over;
    }
  }
  if (rows.empty()) return result;
  std::sort(rows.begin(), rows.end());
  result.row_l2 = rows.back();
  result.median_row_l2 = rows[rows.size() / 2];
  return result;
}

}  // namespace moesaic::cpu
