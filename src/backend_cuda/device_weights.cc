// SPDX-License-Identifier: Apache-2.0
// Which bytes views read, by the formulas of moesaic/tensor.h, and their copy.
#include "backend_cuda/device_weights.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "tables/quant_table.h"

namespace moesaic::cuda {
namespace {

/// Smallest and largest index.
struct Extent {
  std::int64_t first, last;
};

/// The indices that 0 .. count - 1 get. Those of one remainder modulo 8 are evenly spaced in every order, so that the
/// extremes are among the first and the last eight.
template <class IndexOf>
Extent extent_of(std::int64_t count, IndexOf index_of) {
  Extent extent{index_of(0), index_of(0)};
  for (std::int64_t i = 0; i < std::min<std::int64_t>(count, 8); ++i) {
    for (const std::int64_t index : {index_of(i), index_of(count - 1 - i)}) {
      extent = {std::min(extent.first, index), std::max(extent.last, index)};
    }
  }
  return extent;
}

Extent linear_extent(std::int64_t count, std::int64_t stride) {
  return extent_of(count, [stride](std::int64_t i) { return i * stride; });
}

/// In every order, an index is a part of the row plus a part of the column.
Extent sum(const Extent& rows, const Extent& cols) { return {rows.first + cols.first, rows.last + cols.last}; }

struct Grid {
  std::int64_t rows, cols, row_stride, col_stride;

  bool empty() const { return rows == 0 || cols == 0; }
};

Extent nibble_extent(NibbleOrder order, const Grid& g) {
  const auto in_words = [](std::int64_t stride) {
    return [stride](std::int64_t i) { return i / 8 * 8 * stride + i % 8; };
  };
  switch (order) {
    case NibbleOrder::kLinear:
      break;
    case NibbleOrder::kWordsAlongC:
      return sum(linear_extent(g.rows, 8), extent_of(g.cols, in_words(g.row_stride)));
    case NibbleOrder::kWordsAlongR:
      return sum(extent_of(g.rows, in_words(g.row_stride)), linear_extent(g.cols, 8));
    case NibbleOrder::kAwq: {
      const auto row_part = [](std::int64_t r) {
        constexpr int kPosition[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of r % 8 in 0 2 4 6 1 3 5 7
        return r / 8 * 8 + kPosition[r % 8];
      };
      return sum(extent_of(g.rows, row_part), linear_extent(g.cols, g.col_stride));
    }
  }
  return sum(linear_extent(g.rows, g.row_stride), linear_extent(g.cols, g.col_stride));
}

ByteRange nibble_range(const void* data, NibbleOrder order, const Grid& grid) {
  const auto* bytes = static_cast<const std::byte*>(data);
  if (data == nullptr || grid.empty()) return {bytes, bytes};
  const Extent extent = nibble_extent(order, grid);
  return {bytes + (extent.first >> 1), bytes + (extent.last >> 1) + 1};
}

ByteRange whole_range(const void* data, std::size_t element_bytes, const Grid& g) {
  const auto* bytes = static_cast<const std::byte*>(data);
  if (data == nullptr || g.empty()) return {bytes, bytes};
  const Extent extent = sum(linear_extent(g.rows, g.row_stride), linear_extent(g.cols, g.col_stride));
  const auto size = static_cast<std::int64_t>(element_bytes);
  return {bytes + extent.first * size, bytes + (extent.last + 1) * size};
}

std::int64_t blocks(std::int64_t size, std::int64_t block) { return (size + block - 1) / block; }

/// Every pointer of the weights, as visit(pointer, range of what is read through it).
template <class Visit>
void visit_matrix(MatrixView& m, const Visit& visit) {
  visit(m.data, element_range(m));
  visit(m.quantization.scales, scale_range(m));
  visit(m.quantization.zeros, zero_range(m));
}

template <class Visit>
void visit_vectors(std::initializer_list<VectorView*> vectors, const Visit& visit) {
  for (VectorView* v : vectors) visit(v->data, element_range(*v));
}

template <class Visit>
void visit_expert(ExpertWeights& expert, const Visit& visit) {
  for (MatrixView* m : {&expert.gate, &expert.up, &expert.down}) visit_matrix(*m, visit);
  visit_vectors({&expert.gate_bias, &expert.up_bias, &expert.down_bias}, visit);
}

template <class Visit>
void visit_weights(MoeWeights& weights, const Visit& visit) {
  for (ExpertWeights& expert : weights.experts) visit_expert(expert, visit);
  visit_expert(weights.shared, visit);
  visit_matrix(weights.router, visit);
  visit_vectors({&weights.router_bias, &weights.selection_bias, &weights.shared_gate}, visit);
  const void* token_experts = weights.token_experts.data;
  visit(token_experts, element_range(weights.token_experts));
  weights.token_experts.data = const_cast<void*>(token_experts);
}

constexpr std::size_t kAlignment = 16;

std::size_t remainder_of(const ByteRange& range) { return reinterpret_cast<std::uintptr_t>(range.begin) % kAlignment; }

/// Where each range goes in one buffer, and behind them the size of the buffer.
std::vector<std::size_t> places_of(const std::vector<ByteRange>& ranges) {
  std::vector<std::size_t> places;
  std::size_t at = 0;
  for (const ByteRange& range : ranges) {
    places.push_back(at + remainder_of(range));
    at = (places.back() + range.size() + kAlignment - 1) / kAlignment * kAlignment;
  }
  places.push_back(at);
  return places;
}

}  // namespace

ByteRange element_range(const MatrixView& m) {
  const Grid grid{m.rows, m.cols, m.row_stride, m.col_stride};
  if (m.quantized() && tables::code_bits(m.quantization.codes) == 4) {
    return nibble_range(m.data, m.quantization.order, grid);
  }
  return whole_range(m.data, dtype_size(m.dtype), grid);
}

ByteRange element_range(const VectorView& v) {
  return whole_range(v.data, dtype_size(v.dtype), {1, v.size, 0, v.stride});
}

ByteRange element_range(const TensorView& t) {
  return whole_range(t.data, dtype_size(t.dtype), {1, t.empty() ? 0 : t.num_elements(), 0, 1});
}

ByteRange scale_range(const MatrixView& m) {
  if (!m.quantized()) return {};
  const Quantization& q = m.quantization;
  return whole_range(
      q.scales, static_cast<std::size_t>(tables::scale_size(q.scale_format)),
      {blocks(m.rows, q.block_rows), blocks(m.cols, q.block_cols), q.scale_row_stride, q.scale_col_stride});
}

ByteRange zero_range(const MatrixView& m) {
  if (!m.quantized()) return {};
  const Quantization& q = m.quantization;
  return nibble_range(
      q.zeros, q.zero_order,
      {blocks(m.rows, q.block_rows), blocks(m.cols, q.block_cols), q.zero_row_stride, q.zero_col_stride});
}

std::vector<ByteRange> host_ranges(const MoeWeights& weights) {
  MoeWeights copy = weights;
  std::vector<ByteRange> ranges;
  visit_weights(copy, [&](const void*, const ByteRange& range) {
    if (range.size() > 0) ranges.push_back(range);
  });
  std::sort(ranges.begin(), ranges.end(), [](const ByteRange& a, const ByteRange& b) { return a.begin < b.begin; });
  std::vector<ByteRange> merged;
  for (const ByteRange& range : ranges) {
    if (merged.empty() || range.begin > merged.back().end) {
      merged.push_back(range);
    } else {
      merged.back().end = std::max(merged.back().end, range.end);
    }
  }
  return merged;
}

DeviceWeights::DeviceWeights(Device device, const MoeWeights& host) : views_(host) {
  const std::vector<ByteRange> ranges = host_ranges(host);
  const std::vector<std::size_t> places = places_of(ranges);
  memory_ = DeviceBuffer(device, places.back());
  for (std::size_t i = 0; i < ranges.size(); ++i) memory_.upload(ranges[i].begin, ranges[i].size(), places[i]);
  visit_weights(views_, [&](const void*& data, const ByteRange& range) {
    if (range.size() == 0) return;
    const auto after =
        std::upper_bound(ranges.begin(), ranges.end(), range.begin,
                         [](const std::byte* at, const ByteRange& candidate) { return at < candidate.begin; });
    const auto i = static_cast<std::size_t>(after - 1 - ranges.begin());
    auto* base = static_cast<std::byte*>(memory_.data()) + places[i];
    data = base + (static_cast<const std::byte*>(data) - ranges[i].begin);
  });
}

}  // namespace moesaic::cuda
