// SPDX-License-Identifier: Apache-2.0
// A layer's weights on a GPU.
#include "cli/device_weights.h"

#include <algorithm>
#include <cstdint>

namespace moesaic::cli {
namespace {

struct Range {
  const std::byte *begin, *end;
};

Range range_of(const void* data, std::int64_t elements, DType dtype) {
  const auto* begin = static_cast<const std::byte*>(data);
  return {begin, begin + static_cast<std::size_t>(elements) * dtype_size(dtype)};
}

Range range_of(const MatrixView& m) {
  return range_of(m.data, (m.rows - 1) * m.row_stride + (m.cols - 1) * m.col_stride + 1, m.dtype);
}

Range range_of(const VectorView& v) { return range_of(v.data, (v.size - 1) * v.stride + 1, v.dtype); }

template <class Visit>
void visit_expert(ExpertWeights& expert, Visit visit) {
  for (MatrixView* m : {&expert.gate, &expert.up, &expert.down}) {
    if (!m->empty()) visit(*m);
  }
  for (VectorView* v : {&expert.gate_bias, &expert.up_bias, &expert.down_bias}) {
    if (!v->empty()) visit(*v);
  }
}

template <class Visit>
void visit_views(MoeWeights& weights, Visit visit) {
  for (ExpertWeights& expert : weights.experts) visit_expert(expert, visit);
  visit_expert(weights.shared, visit);
  if (!weights.router.empty()) visit(weights.router);
  for (VectorView* v : {&weights.router_bias, &weights.selection_bias, &weights.shared_gate}) {
    if (!v->empty()) visit(*v);
  }
}

std::vector<Range> merged_ranges(MoeWeights& weights) {
  std::vector<Range> ranges;
  visit_views(weights, [&](auto& view) { ranges.push_back(range_of(view)); });
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Range> merged;
  for (const Range& range : ranges) {
    if (merged.empty() || range.begin > merged.back().end) {
      merged.push_back(range);
    } else {
      merged.back().end = std::max(merged.back().end, range.end);
    }
  }
  return merged;
}

constexpr std::size_t kAlignment = 16;  // the copy keeps host addresses modulo this, so that views stay aligned

std::size_t lead(const Range& range) { return reinterpret_cast<std::uintptr_t>(range.begin) % kAlignment; }

}  // namespace

DeviceWeights::DeviceWeights(Device device, const MoeWeights& host) : views_(host) {
  std::vector<Range> ranges = merged_ranges(views_);
  for (const Range& range : ranges) {
    auto bytes = static_cast<std::size_t>(range.end - range.begin);
    buffers_.emplace_back(device, lead(range) + bytes);
    buffers_.back().upload(range.begin, bytes, lead(range));
  }
  visit_views(views_, [&](auto& view) {
    const auto* data = static_cast<const std::byte*>(view.data);
    auto after = std::upper_bound(ranges.begin(), ranges.end(), data,
                                  [](const std::byte* at, const Range& range) { return at < range.begin; });
    const Range& range = *(after - 1);
    auto* base = static_cast<std::byte*>(buffers_[static_cast<std::size_t>(after - 1 - ranges.begin())].data());
    view.data = base + lead(range) + (data - range.begin);
  });
}

}  // namespace moesaic::cli
