// SPDX-License-Identifier: Apache-2.0
// The oracle's layer: plain FP64 loops over experts, rows and tokens. In `kExact` only the output is rounded; in
// `kOracle` x and GEMM 1's activated result are rounded as the recipe's activations are (to 16 bits, or quantised and
// decoded), weights of 16-bit recipes to their type. Stored codes decode exactly in both. Router logits, routing
// weights and the shared gate are FP32 values in both; the weighted sum is FP64 with one rounding at the end.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend_cpu/arguments.h"
#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/oracle_loops.h"
#include "tables/given_codes.h"
#include "tables/recipe_table.h"

namespace moesaic::cpu {
namespace {

// How one set of experts rounds its operands.
struct Rounding {
  DType type = DType::kF64;             // of 16-bit operands; kF64: not rounded
  std::optional<QuantSpec> activation;  // quantised activations
  float input_scale = 0.0f, down_input_scale = 0.0f;

  // A row of GEMM operands in place.
  void activations(double* row, std::int64_t size, float static_scale) const {
    if (!activation) {
      for (std::int64_t i = 0; i < size; ++i) row[i] = round_to(row[i], type);
      return;
    }
    std::vector<float> values(row, row + size);
    oracle_round_row(*activation, static_scale, values.data(), size, row);
  }
};

// The largest of all experts' scales, or 0 when one has none.
float common_scale(std::span<const ExpertWeights> experts, float ExpertWeights::*scale) {
  float largest = 0.0f;
  for (const ExpertWeights& expert : experts) {
    if (expert.*scale == 0.0f) return 0.0f;
    largest = std::max(largest, expert.*scale);
  }
  return largest;
}

Rounding rounding_of(const std::string& recipe, ReferenceMode mode, std::span<const ExpertWeights> experts) {
  Rounding rounding;
  if (mode == ReferenceMode::kExact) return rounding;
  rounding.type = tables::get_recipe(recipe).io;
  rounding.input_scale = common_scale(experts, &ExpertWeights::input_scale);
  rounding.down_input_scale = common_scale(experts, &ExpertWeights::down_input_scale);
  rounding.activation = activation_spec(recipe, rounding.input_scale != 0.0f && rounding.down_input_scale != 0.0f);
  return rounding;
}

struct Layer {
  const MoeConfig& config;
  Rounding rounding;
  bool rounded;  // x is codes' numbers already

  // x [tokens][H] as these experts' GEMM 1 reads it.
  std::vector<double> rounded_input(std::vector<double> x) const {
    if (rounded) return x;
    const std::int64_t hidden = config.hidden;
    for_each_index(static_cast<std::int64_t>(x.size()) / hidden,
                   [&](std::int64_t t) { rounding.activations(&x[t * hidden], hidden, rounding.input_scale); });
    return x;
  }

  // One expert on rows of x. input_scale[i] multiplies GEMM 1's sums before their bias. Result [rows of x][H].
  std::vector<double> expert(const ExpertWeights& weights, const std::vector<const double*>& x,
                             const std::vector<double>& input_scale) const {
    const std::int64_t intermediate = weights.gate.rows, hidden = config.hidden;
    const std::size_t rows = x.size();
    std::vector<double> h(rows * intermediate), y(rows * hidden);
    for_each_index(intermediate, [&](std::int64_t i) {
      const std::vector<double> gate = load_row(weights.gate, i, rounding.type);
      const std::vector<double> up =
          weights.up.empty() ? std::vector<double>{} : load_row(weights.up, i, rounding.type);
      for (std::size_t r = 0; r < rows; ++r) {
        const double g = dot(x[r], gate.data(), hidden) * input_scale[r] + bias_at(weights.gate_bias, i);
        const double u = up.empty() ? 0.0 : dot(x[r], up.data(), hidden) * input_scale[r] + bias_at(weights.up_bias, i);
        h[r * intermediate + i] = activate(config.activation, g, u);
      }
    });
    for_each_index(static_cast<std::int64_t>(rows), [&](std::int64_t r) {
      rounding.activations(&h[r * intermediate], intermediate, rounding.down_input_scale);
    });
    for_each_index(hidden, [&](std::int64_t j) {
      const std::vector<double> down = load_row(weights.down, j, rounding.type);
      for (std::size_t r = 0; r < rows; ++r) {
        const double bias = config.tp.rank == 0 ? bias_at(weights.down_bias, j) : 0.0;
        y[r * hidden + j] = dot(&h[r * intermediate], down.data(), intermediate) + bias;
      }
    });
    return y;
  }
};

MatrixView row_matrix(const VectorView& vector) {
  return {vector.data, vector.dtype, 1, vector.size, 0, vector.stride};
}

// x [rows][H] as it is given: numbers rounded to `type`, or decoded codes.
std::vector<double> given_input(const MoeConfig& config, const MoeRun& run, std::int64_t rows, DType type) {
  std::vector<double> x(static_cast<std::size_t>(rows * config.hidden));
  if (gives_codes(run)) {
    const GivenRows given{tables::given_codes(config.recipe, rows, config.hidden).value(),
                          static_cast<const std::uint8_t*>(run.x.data),
                          run.x_scale,
                          run.x_row_scale,
                          config.hidden,
                          false};
    for (std::int64_t row = 0; row < rows; ++row) decode_given_row(given, row, &x[row * config.hidden]);
    return x;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = round_to(load_element(run.x.data, run.x.dtype, static_cast<std::int64_t>(i)), type);
  }
  return x;
}

struct Routed {
  std::vector<std::int32_t> ids;  // [T][k]
  std::vector<float> weights;     // [T][k]
};

template <typename T>
void copy_out(const std::vector<T>& values, const TensorView& tensor) {
  if (!tensor.empty()) std::copy(values.begin(), values.end(), static_cast<T*>(tensor.data));
}

std::vector<std::int64_t> integers(const TensorView& tensor) {
  std::vector<std::int64_t> values;
  for (std::int64_t i = 0; !tensor.empty() && i < tensor.shape[0]; ++i) {
    values.push_back(tensor.dtype == DType::kI64 ? static_cast<const std::int64_t*>(tensor.data)[i]
                                                 : static_cast<const std::int32_t*>(tensor.data)[i]);
  }
  return values;
}

// The ids of the experts that the layer holds, in the order of its weights.
std::vector<int> held_experts(const MoeConfig& config) {
  std::vector<int> held(static_cast<std::size_t>(num_local_experts(config)));
  const std::vector<int>& slots = config.experts.slots;
  for (int id = 0; id < config.num_experts; ++id) {
    const int slot = slots.empty() ? id - config.experts.first : slots[static_cast<std::size_t>(id)];
    if (slot >= 0 && slot < static_cast<int>(held.size())) held[static_cast<std::size_t>(slot)] = id;
  }
  return held;
}

Routed choose_experts(const MoeConfig& config, const MoeWeights& weights, const MoeRun& run,
                      const std::vector<double>& x) {
  const std::int64_t tokens = run.x.shape[0];
  std::vector<float> logits;
  if (needs_logits(run)) {
    logits.resize(static_cast<std::size_t>(tokens * config.num_experts));
    if (run.router_logits.empty()) {
      project(x.data(), DType::kF64, tokens, weights.router, weights.router_bias, logits.data());
    } else {
      std::copy_n(static_cast<const float*>(run.router_logits.data), logits.size(), logits.begin());
    }
    copy_out(logits, run.logits_out);
  }
  Routed routed;
  const std::size_t pairs = static_cast<std::size_t>(tokens * config.top_k);
  routed.ids.resize(pairs);
  routed.weights.resize(pairs);
  if (run.topk_ids.empty()) {
    std::vector<float> selection_bias;
    for (std::int64_t e = 0; e < weights.selection_bias.size; ++e) {
      selection_bias.push_back(static_cast<float>(bias_at(weights.selection_bias, e)));
    }
    RouteTask task;
    task.tokens = tokens;
    task.num_experts = config.num_experts;
    task.top_k = config.top_k;
    task.logits = logits.data();
    task.selection_bias = selection_bias.empty() ? nullptr : selection_bias.data();
    const std::vector<std::int64_t> token_ids = integers(run.token_ids);
    task.token_ids = token_ids.data();
    task.token_experts = static_cast<const std::int32_t*>(weights.token_experts.data);
    task.ids = routed.ids.data();
    task.weights = routed.weights.data();
    route(config.routing, task);
  } else {
    std::copy_n(static_cast<const std::int32_t*>(run.topk_ids.data), pairs, routed.ids.begin());
    std::copy_n(static_cast<const float*>(run.topk_weights.data), pairs, routed.weights.begin());
  }
  copy_out(routed.ids, run.topk_ids_out);
  copy_out(routed.weights, run.topk_weights_out);
  return routed;
}

// Adds the shared experts' output, times sig(x . shared_gate) where they have a gate, to y [T][H].
void add_shared(const Layer& layer, const MoeWeights& weights, const std::vector<double>& x, std::vector<double>& y) {
  const std::int64_t hidden = layer.config.hidden;
  const std::int64_t tokens = static_cast<std::int64_t>(x.size()) / hidden;
  const std::vector<double> input = layer.rounded_input(x);
  std::vector<const double*> rows;
  for (std::int64_t t = 0; t < tokens; ++t) rows.push_back(&input[t * hidden]);
  const std::vector<double> shared = layer.expert(weights.shared, rows, std::vector<double>(tokens, 1.0));
  std::vector<float> gates(tokens, 1.0f);
  if (layer.config.shared.gated) {
    project(x.data(), DType::kF64, tokens, row_matrix(weights.shared_gate), {}, gates.data());
    for (float& gate : gates) gate = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(gate))));
  }
  for (std::int64_t i = 0; i < tokens * hidden; ++i) y[i] += gates[i / hidden] * shared[i];
}

// [R]: the local expert of every dispatched row, -1: none.
std::vector<int> dispatched_experts(const MoeConfig& config, const MoeRun& run, std::int64_t rows) {
  std::vector<int> experts(static_cast<std::size_t>(rows), -1);
  const auto numbers = [](const TensorView& tensor) { return static_cast<const std::int32_t*>(tensor.data); };
  const int held = num_local_experts(config);
  for (int e = 0; e < held; ++e) {
    const std::int64_t each = rows / held;
    const bool masked = run.expert_offsets.empty();
    const std::int64_t begin = masked ? e * each : numbers(run.expert_offsets)[e];
    const std::int64_t end = masked ? begin + numbers(run.expert_counts)[e] : numbers(run.expert_offsets)[e + 1];
    for (std::int64_t row = begin; row < end; ++row) experts[static_cast<std::size_t>(row)] = e;
  }
  return experts;
}

void reference_dispatched(const Layer& layer, const MoeWeights& weights, const MoeRun& run, DType input_type) {
  const std::int64_t hidden = layer.config.hidden, rows = run.out.num_elements() / hidden;
  const std::vector<double> x = given_input(layer.config, run, rows, input_type);
  const std::vector<double> input = layer.rounded_input(x);
  const std::vector<int> experts = dispatched_experts(layer.config, run, rows);
  std::vector<double> y(x.size(), 0.0);
  for (std::size_t e = 0; e < weights.experts.size(); ++e) {
    std::vector<const double*> own;
    std::vector<std::int64_t> places;
    for (std::int64_t row = 0; row < rows; ++row) {
      if (experts[static_cast<std::size_t>(row)] != static_cast<int>(e)) continue;
      own.push_back(&input[row * hidden]);
      places.push_back(row);
    }
    if (own.empty()) continue;
    const std::vector<double> result = layer.expert(weights.experts[e], own, std::vector<double>(own.size(), 1.0));
    for (std::size_t r = 0; r < places.size(); ++r) {
      std::copy_n(&result[r * hidden], hidden, &y[places[r] * hidden]);
    }
  }
  for (std::size_t i = 0; i < y.size(); ++i) store(run.out, static_cast<std::int64_t>(i), y[i]);
}

}  // namespace

void project(const void* x, DType x_dtype, std::int64_t tokens, const MatrixView& weight, const VectorView& bias,
             float* logits) {
  std::vector<double> values(static_cast<std::size_t>(tokens * weight.cols));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = load_element(x, x_dtype, static_cast<std::int64_t>(i));
  for_each_index(weight.rows, [&](std::int64_t row) {
    const std::vector<double> w = load_row(weight, row, DType::kF64);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const double sum = dot(&values[t * weight.cols], w.data(), weight.cols) + bias_at(bias, row);
      logits[t * weight.rows + row] = static_cast<float>(sum);
    }
  });
}

void reference_layer(const MoeConfig& config, const MoeWeights& weights, ReferenceMode mode, const MoeRun& run) {
  check_config("reference_moe", config);
  check_weights("reference_moe", config, weights, mode == ReferenceMode::kExact);
  const DType io = tables::get_recipe(config.recipe).io;
  const DType input_type = mode == ReferenceMode::kOracle ? io : DType::kF64;
  if (is_dispatched(run)) {
    reference_dispatched({config, rounding_of(config.recipe, mode, weights.experts), gives_codes(run)}, weights, run,
                         input_type);
    return;
  }
  const DType x_types[] = {io, DType::kF32}, out_types[] = {io, DType::kF32, DType::kF64};
  check_run("reference_moe", config, run, x_types, out_types);

  const std::int64_t tokens = run.x.shape[0], hidden = config.hidden;
  if (tokens == 0) return;
  const Layer layer{config, rounding_of(config.recipe, mode, weights.experts), gives_codes(run)};
  const std::vector<double> x = given_input(config, run, tokens, input_type);
  const std::vector<double> input = layer.rounded_input(x);
  const Routed routed = choose_experts(config, weights, run, x);

  std::vector<double> slots(routed.ids.size() * hidden, 0.0);  // [T][k][H], weighted; 0 for other ids
  const std::vector<int> held = held_experts(config);
  for (std::size_t e = 0; e < held.size(); ++e) {
    std::vector<const double*> rows;
    std::vector<double> input_scale, output_scale;
    std::vector<std::size_t> pairs;
    for (std::size_t pair = 0; pair < routed.ids.size(); ++pair) {
      if (routed.ids[pair] != held[e]) continue;
      pairs.push_back(pair);
      rows.push_back(&input[pair / config.top_k * hidden]);
      input_scale.push_back(config.weights_on_input ? routed.weights[pair] : 1.0);
      output_scale.push_back(config.weights_on_input ? 1.0 : routed.weights[pair]);
    }
    if (rows.empty()) continue;
    const std::vector<double> y = layer.expert(weights.experts[e], rows, input_scale);
    for (std::size_t r = 0; r < pairs.size(); ++r) {
      for (std::int64_t j = 0; j < hidden; ++j) slots[pairs[r] * hidden + j] = output_scale[r] * y[r * hidden + j];
    }
  }

  std::vector<double> y(x.size(), 0.0);
  for (std::size_t pair = 0; pair < routed.ids.size(); ++pair) {
    for (std::int64_t j = 0; j < hidden; ++j) y[pair / config.top_k * hidden + j] += slots[pair * hidden + j];
  }
  if (config.shared.intermediate > 0) {
    const Layer shared{config, rounding_of(shared_recipe(config), mode, std::span(&weights.shared, 1)),
                       gives_codes(run)};
    add_shared(shared, weights, x, y);
  }
  for (std::size_t i = 0; i < y.size(); ++i) store(run.out, static_cast<std::int64_t>(i), y[i]);
}

}  // namespace moesaic::cpu
