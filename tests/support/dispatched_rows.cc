// SPDX-License-Identifier: Apache-2.0
// Rows that were dispatched before.
#include "support/dispatched_rows.h"

#include <algorithm>
#include <limits>

namespace moesaic::testing {

MoeRun DispatchedRows::run(void* out, DType out_type) const {
  MoeRun run;
  const auto held = static_cast<std::int64_t>(numbers.size());
  if (max == 0) {
    run.x = TensorView(x.bytes.data(), x.dtype, {count(), hidden});
    run.out = TensorView(out, out_type, {count(), hidden});
    run.expert_offsets = TensorView(numbers.data(), DType::kI32, {held});
  } else {
    run.x = TensorView(x.bytes.data(), x.dtype, {held, max, hidden});
    run.out = TensorView(out, out_type, {held, max, hidden});
    run.expert_counts = TensorView(numbers.data(), DType::kI32, {held});
  }
  return run;
}

DispatchedRows random_rows(std::mt19937& rng, const MoeConfig& config, const std::vector<int>& counts, bool masked) {
  DispatchedRows rows;
  rows.hidden = config.hidden;
  rows.max = masked ? *std::max_element(counts.begin(), counts.end()) : 0;
  if (!masked) rows.numbers.push_back(0);
  for (std::size_t e = 0; e < counts.size(); ++e) {
    rows.numbers.push_back(masked ? counts[e] : rows.numbers.back() + counts[e]);
    rows.experts.insert(rows.experts.end(), static_cast<std::size_t>(counts[e]), static_cast<int>(e));
    if (masked) rows.experts.insert(rows.experts.end(), static_cast<std::size_t>(rows.max - counts[e]), -1);
  }
  if (!masked) rows.experts.insert(rows.experts.end(), 3, -1);
  const DType io = tables::get_recipe(config.recipe).io;
  std::vector<float> values = to_floats(random_array(rng, rows.count() * config.hidden, io, 1.0));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const int expert = rows.experts[i / static_cast<std::size_t>(config.hidden)];
    if (expert < 0) values[i] = std::numeric_limits<float>::quiet_NaN();
  }
  rows.x = to_array(values, io);
  return rows;
}

std::vector<double> routed_one_by_one(const HostLayer& layer, const DispatchedRows& rows) {
  MoeConfig config = layer.config;
  config.top_k = 1;
  config.shared = {};
  MoeWeights weights = layer.weights;
  weights.shared = {};
  weights.shared_gate = {};
  std::vector<float> ones(rows.experts.size(), 1.0f);
  std::vector<double> y(static_cast<std::size_t>(rows.x.size()));
  MoeRun run;
  run.x = TensorView(rows.x.bytes.data(), rows.x.dtype, {rows.count(), rows.hidden});
  run.topk_ids = TensorView(rows.experts.data(), DType::kI32, {rows.count(), 1});
  run.topk_weights = TensorView(ones.data(), DType::kF32, {rows.count(), 1});
  run.out = TensorView(y.data(), DType::kF64, {rows.count(), rows.hidden});
  reference_moe(config, weights, ReferenceMode::kOracle, run);
  return y;
}

}  // namespace moesaic::testing
