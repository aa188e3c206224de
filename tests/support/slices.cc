// SPDX-License-Identifier: Apache-2.0
// Parts of a random layer.
#include "support/slices.h"

namespace moesaic::testing {
namespace {

LayerPart part_of(const HostLayer& whole, const std::vector<int>& held, bool with_shared) {
  LayerPart part{whole.config, whole.weights};
  part.weights.experts.clear();
  for (const int id : held) part.weights.experts.push_back(whole.weights.experts[static_cast<std::size_t>(id)]);
  if (!with_shared) {
    part.config.shared = {};
    part.weights.shared = {};
    part.weights.shared_gate = {};
  }
  return part;
}

MatrixView rows_of(MatrixView m, std::int64_t first, std::int64_t end) {
  if (m.empty()) return m;
  m.data = static_cast<const char*>(m.data) + first * m.row_stride * static_cast<std::int64_t>(dtype_size(m.dtype));
  m.rows = end - first;
  return m;
}

MatrixView cols_of(MatrixView m, std::int64_t first, std::int64_t end) {
  m.data = static_cast<const char*>(m.data) + first * m.col_stride * static_cast<std::int64_t>(dtype_size(m.dtype));
  m.cols = end - first;
  return m;
}

VectorView span_of(VectorView v, std::int64_t first, std::int64_t end) {
  if (v.empty()) return v;
  v.data = static_cast<const char*>(v.data) + first * v.stride * static_cast<std::int64_t>(dtype_size(v.dtype));
  v.size = end - first;
  return v;
}

ExpertWeights slice_of(ExpertWeights e, std::int64_t first, std::int64_t end) {
  e.gate = rows_of(e.gate, first, end);
  e.up = rows_of(e.up, first, end);
  e.gate_bias = span_of(e.gate_bias, first, end);
  e.up_bias = span_of(e.up_bias, first, end);
  e.down = cols_of(e.down, first, end);
  return e;
}

}  // namespace

LayerPart expert_slice(const HostLayer& whole, int first, int count) {
  std::vector<int> held;
  for (int id = first; id < first + count; ++id) held.push_back(id);
  LayerPart part = part_of(whole, held, first == 0);
  part.config.experts.first = first;
  part.config.experts.count = count;
  return part;
}

LayerPart expert_selection(const HostLayer& whole, const std::vector<int>& held, bool with_shared) {
  LayerPart part = part_of(whole, held, with_shared);
  part.config.experts.slots.assign(static_cast<std::size_t>(whole.config.num_experts), -1);
  for (std::size_t slot = 0; slot < held.size(); ++slot) {
    part.config.experts.slots[static_cast<std::size_t>(held[slot])] = static_cast<int>(slot);
  }
  return part;
}

LayerPart tensor_slice(const HostLayer& whole, int rank, int size) {
  LayerPart part{whole.config, whole.weights};
  part.config.tp = {rank, size};
  const auto cut = [&](int of, int at) { return static_cast<std::int64_t>(of) * at / size; };
  const int routed = whole.config.intermediate, shared = whole.config.shared.intermediate;
  part.config.intermediate = static_cast<int>(cut(routed, rank + 1) - cut(routed, rank));
  for (ExpertWeights& e : part.weights.experts) e = slice_of(e, cut(routed, rank), cut(routed, rank + 1));
  if (shared > 0) {
    part.config.shared.intermediate = static_cast<int>(cut(shared, rank + 1) - cut(shared, rank));
    part.weights.shared = slice_of(part.weights.shared, cut(shared, rank), cut(shared, rank + 1));
  }
  return part;
}

std::vector<std::vector<LayerPart>> all_partitions(const HostLayer& whole) {
  const int experts = whole.config.num_experts;
  std::vector<int> odd_backwards, even;
  for (int id = 0; id < experts; ++id) {
    if (id % 2 == 0) even.push_back(id);
    if (id % 2 == 1) odd_backwards.insert(odd_backwards.begin(), id);
  }
  return {
      {expert_slice(whole, 0, experts / 2), expert_slice(whole, experts / 2, experts - experts / 2)},
      {expert_slice(whole, 0, 1), expert_slice(whole, 1, 2), expert_slice(whole, 3, experts - 3)},
      {expert_selection(whole, odd_backwards, true), expert_selection(whole, even, false)},
      {tensor_slice(whole, 0, 2), tensor_slice(whole, 1, 2)},
      {tensor_slice(whole, 0, 3), tensor_slice(whole, 1, 3), tensor_slice(whole, 2, 3)},
  };
}

}  // namespace moesaic::testing
