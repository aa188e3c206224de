// SPDX-License-Identifier: Apache-2.0
// What CPU and GPU benchmarks share: bytes, floors, what routings compare with.
#include <algorithm>
#include <optional>

#include "cli/bench.h"
#include "moesaic/quantize.h"
#include "tables/quant_table.h"

namespace moesaic::cli {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

BenchTime bench_time(const std::vector<double>& times_us) {
  const double middle = median(times_us);
  const auto [fastest, slowest] = std::minmax_element(times_us.begin(), times_us.end());
  return {middle, (*slowest - *fastest) / middle};
}

MoeConfig bench_config(const BenchOptions& o) {
  MoeConfig config = tables::model_config(tables::get_model(o.model));
  config.recipe = o.recipe;
  config.int4 = o.int4;
  config.static_scales = o.static_scales;
  config.device = o.device;
  config.router = false;
  if (o.experts > 0) {
    config.num_experts = o.experts;
    if (config.routing.n_group > 1) config.routing.n_group = config.routing.topk_group = 1;
  }
  config.max_tokens = std::max(1, *std::max_element(o.tokens.begin(), o.tokens.end()));
  return config;
}

double weight_matrix_bytes(const std::string& recipe, const Int4Groups& int4, std::int64_t rows, std::int64_t cols) {
  const std::optional<QuantSpec> spec = weight_spec(recipe, int4);
  if (!spec) return 2.0 * static_cast<double>(rows) * static_cast<double>(cols);
  const QuantSizes sizes = quant_sizes(*spec, rows, cols);
  return static_cast<double>(sizes.code_bytes + sizes.scale_bytes + sizes.zero_bytes);
}

namespace {

/// Bytes of one expert's weights.
double expert_bytes(const MoeConfig& c, const std::string& recipe, std::int64_t intermediate) {
  const auto bytes = [&](std::int64_t rows, std::int64_t cols) {
    return weight_matrix_bytes(recipe, c.int4, rows, cols);
  };
  const double inputs = is_gated(c.activation.kind) ? 2.0 : 1.0;
  return intermediate == 0 ? 0.0 : inputs * bytes(intermediate, c.hidden) + bytes(c.hidden, intermediate);
}

}  // namespace

double touched_weight_bytes(const MoeConfig& c, double touched) {
  return touched * expert_bytes(c, c.recipe, c.intermediate) +
         expert_bytes(c, tables::shared_recipe(c), c.shared.intermediate);
}

double floor_us(const Ceilings& ceilings, double bytes, double flops) {
  const double memory = bytes / ceilings.read_bytes_per_us;
  const double matrix = ceilings.matrix_flops_per_us > 0 ? flops / ceilings.matrix_flops_per_us : 0;
  return std::max(memory, matrix);
}

void fill_floor(const MoeConfig& c, const Ceilings& ceilings, BenchPoint& p) {
  const double matrices = is_gated(c.activation.kind) ? 3.0 : 2.0;
  const double expert = matrices * c.hidden * c.intermediate, shared = matrices * c.hidden * c.shared.intermediate;
  p.load = routing_load(p.routing, c, p.tokens);
  p.weight_bytes = touched_weight_bytes(c, p.load.touched_experts);
  p.flops = 2.0 * p.tokens * (c.top_k * expert + shared);
  p.floor_us = floor_us(ceilings, p.weight_bytes, p.flops);
}

void fill_predictions(std::vector<BenchPoint>& points) {
  for (BenchPoint& p : points) {
    for (const BenchPoint& uniform : points) {
      if (p.routing == BenchRouting{} || !(uniform.routing == BenchRouting{}) || uniform.tokens != p.tokens) continue;
      p.of_prediction = p.time.us / (uniform.time.us * p.floor_us / uniform.floor_us);
    }
  }
}

}  // namespace moesaic::cli
