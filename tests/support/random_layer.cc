// SPDX-License-Identifier: Apache-2.0
// Random layers, inputs, and the comparison of results.
#include "support/random_layer.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "backend_cpu/backend_cpu.h"

namespace moesaic::testing {
namespace {

void store(HostArray& array, std::size_t i, double value) {
  if (array.dtype == DType::kF32) {
    const auto f = static_cast<float>(value);
    std::memcpy(array.bytes.data() + 4 * i, &f, 4);
    return;
  }
  // The nearest 16-bit value comes from the oracle's rounding; its bits from the exact decode of a candidate.
  const double rounded = cpu::round_to(value, array.dtype);
  std::uint16_t bits = 0;
  if (array.dtype == DType::kBF16) {
    const auto f = static_cast<float>(rounded);
    std::uint32_t word = 0;
    std::memcpy(&word, &f, 4);
    bits = static_cast<std::uint16_t>(word >> 16);
  } else {
    const auto half = static_cast<_Float16>(rounded);
    std::memcpy(&bits, &half, 2);
  }
  std::memcpy(array.bytes.data() + 2 * i, &bits, 2);
}

const HostArray* keep(HostLayer& layer, HostArray array) {
  layer.storage.push_back(std::make_unique<HostArray>(std::move(array)));
  return layer.storage.back().get();
}

MatrixView view(const HostArray* a, std::int64_t offset, std::int64_t rows, std::int64_t cols, std::int64_t row_stride,
                std::int64_t col_stride) {
  const auto at = static_cast<std::size_t>(offset) * dtype_size(a->dtype);
  return {a->bytes.data() + at, a->dtype, rows, cols, row_stride, col_stride};
}

/// gate and up of one expert: two halves, or alternating rows; either may be stored transposed.
void make_gate_up(std::mt19937& rng, HostLayer& layer, ExpertWeights& e, int rows, int cols, DType dtype, bool gated,
                  const LayerOptions& o) {
  const int n = gated ? 2 * rows : rows;
  const HostArray* a =
      keep(layer, random_array(rng, static_cast<std::int64_t>(n) * cols, dtype, 1.0 / std::sqrt(cols)));
  const std::int64_t row = o.transposed ? 1 : cols, col = o.transposed ? n : 1;
  const bool interleaved = o.fused_interleaved && gated;
  e.gate = view(a, 0, rows, cols, interleaved ? 2 * row : row, col);
  if (gated) e.up = view(a, interleaved ? row : rows * row, rows, cols, interleaved ? 2 * row : row, col);
}

ExpertWeights make_expert(std::mt19937& rng, HostLayer& layer, int hidden, int intermediate, DType dtype, bool gated,
                          const LayerOptions& o) {
  ExpertWeights e;
  make_gate_up(rng, layer, e, intermediate, hidden, dtype, gated, o);
  const HostArray* d = keep(
      layer, random_array(rng, static_cast<std::int64_t>(hidden) * intermediate, dtype, 1.0 / std::sqrt(intermediate)));
  e.down =
      o.transposed ? view(d, 0, hidden, intermediate, 1, hidden) : view(d, 0, hidden, intermediate, intermediate, 1);
  if (o.biases && rng() % 4 != 0) {  // some experts have none
    const HostArray* b = keep(layer, random_array(rng, 2 * intermediate + hidden, dtype, 0.5));
    const auto at = [&](std::int64_t i) { return b->bytes.data() + static_cast<std::size_t>(i) * dtype_size(dtype); };
    e.gate_bias = {at(0), dtype, intermediate, 2};
    if (gated) e.up_bias = {at(1), dtype, intermediate, 2};
    e.down_bias = {at(2 * intermediate), dtype, hidden, 1};
  }
  return e;
}

}  // namespace

HostArray random_array(std::mt19937& rng, std::int64_t size, DType dtype, double scale) {
  HostArray array{dtype, std::vector<unsigned char>(static_cast<std::size_t>(size) * dtype_size(dtype))};
  std::normal_distribution<double> normal(0.0, scale);
  for (std::int64_t i = 0; i < size; ++i) store(array, static_cast<std::size_t>(i), normal(rng));
  return array;
}

HostArray to_array(const std::vector<float>& values, DType dtype) {
  HostArray array{dtype, std::vector<unsigned char>(values.size() * dtype_size(dtype))};
  for (std::size_t i = 0; i < values.size(); ++i) store(array, i, static_cast<double>(values[i]));
  return array;
}

std::vector<float> to_floats(const HostArray& array) {
  std::vector<float> values(static_cast<std::size_t>(array.size()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(cpu::load_element(array.bytes.data(), array.dtype, static_cast<std::int64_t>(i)));
  }
  return values;
}

HostLayer random_layer(std::mt19937& rng, const MoeConfig& config, const LayerOptions& options) {
  HostLayer layer;
  layer.config = config;
  const DType dtype = tables::get_recipe(config.recipe).io;
  const bool gated = is_gated(config.activation.kind);
  for (int e = 0; e < config.num_experts; ++e) {
    layer.weights.experts.push_back(make_expert(rng, layer, config.hidden, config.intermediate, dtype, gated, options));
  }
  if (config.router) {
    const HostArray* r = keep(layer, random_array(rng, static_cast<std::int64_t>(config.num_experts) * config.hidden,
                                                  dtype, 2.0 / std::sqrt(config.hidden)));
    layer.weights.router = view(r, 0, config.num_experts, config.hidden, config.hidden, 1);
  }
  if (options.biases) {
    const HostArray* b = keep(layer, random_array(rng, 2 * config.num_experts, DType::kF32, 0.3));
    layer.weights.router_bias = {b->bytes.data(), DType::kF32, config.num_experts, 1};
    if (has_selection_bias(config.routing.method)) {
      layer.weights.selection_bias = {b->bytes.data() + 4 * static_cast<std::size_t>(config.num_experts), DType::kF32,
                                      config.num_experts, 1};
    }
  }
  if (config.shared.intermediate > 0) {
    layer.weights.shared = make_expert(rng, layer, config.hidden, config.shared.intermediate, dtype, gated, options);
  }
  if (config.shared.gated) {
    const HostArray* g = keep(layer, random_array(rng, config.hidden, dtype, 1.0 / std::sqrt(config.hidden)));
    layer.weights.shared_gate = {g->bytes.data(), dtype, config.hidden, 1};
  }
  return layer;
}

Distance compare(const std::vector<float>& got, const std::vector<double>& wanted, std::int64_t cols,
                 const tables::Tolerance& tolerance) {
  Distance worst;
  const auto width = static_cast<std::size_t>(cols);
  for (std::size_t begin = 0; begin < wanted.size(); begin += width) {
    double error = 0, norm = 0;
    for (std::size_t i = begin; i < begin + width; ++i) {
      if (std::isfinite(wanted[i]) && !std::isfinite(got[i])) worst.finite = false;
      error += (static_cast<double>(got[i]) - wanted[i]) * (static_cast<double>(got[i]) - wanted[i]);
      norm += wanted[i] * wanted[i];
    }
    const double l2 = error == 0 ? 0 : norm > 0 ? std::sqrt(error / norm) : std::numeric_limits<double>::infinity();
    if (!(l2 <= worst.row_l2)) {
      worst.row_l2 = std::isnan(l2) ? std::numeric_limits<double>::infinity() : l2;
      worst.row = static_cast<std::int64_t>(begin / width);
    }
    const double rms = std::sqrt(norm / static_cast<double>(cols));
    for (std::size_t i = begin; i < begin + width; ++i) {
      const double bound = tolerance.element_rel * std::abs(wanted[i]) + tolerance.element_rms * rms;
      const double ratio = std::abs(static_cast<double>(got[i]) - wanted[i]) / (bound > 0 ? bound : 1e-30);
      if (!(ratio <= worst.element))
        worst.element = std::isnan(ratio) ? std::numeric_limits<double>::infinity() : ratio;
    }
  }
  return worst;
}

std::vector<double> oracle_output(const HostLayer& layer, const HostArray& x, const std::vector<float>& logits,
                                  ReferenceMode mode) {
  const std::int64_t tokens = x.size() / layer.config.hidden;
  std::vector<double> out(static_cast<std::size_t>(x.size()), std::numeric_limits<double>::quiet_NaN());
  MoeRun run;
  run.x = TensorView(x.bytes.data(), x.dtype, {tokens, layer.config.hidden});
  if (!logits.empty()) run.router_logits = TensorView(logits.data(), DType::kF32, {tokens, layer.config.num_experts});
  run.out = TensorView(out.data(), DType::kF64, {tokens, layer.config.hidden});
  reference_moe(layer.config, layer.weights, mode, run);
  return out;
}

unsigned fresh_seed() {
  const char* fixed = std::getenv("MOESAIC_TEST_SEED");
  const unsigned seed =
      fixed != nullptr ? static_cast<unsigned>(std::strtoul(fixed, nullptr, 10)) : std::random_device{}();
  std::printf("MOESAIC_TEST_SEED=%u\n", seed);
  return seed;
}

}  // namespace moesaic::testing
