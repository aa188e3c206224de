// SPDX-License-Identifier: Apache-2.0
// Packs weights of any strides and type into the fast path's panels.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend_cpu/arguments.h"
#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_layout.h"
#include "backend_cpu/fast_threads.h"

namespace moesaic::cpu {
namespace {

float read_float(const void* data, DType type, std::int64_t index) {
  if (type == DType::kF32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return type == DType::kBF16 ? bf16_to_float(bits) : half_to_float(bits);
}

// Columns [first, first + count) of a row as 16-bit numbers; a type that is stored already is copied bit by bit.
void read_row(const MatrixView& matrix, std::int64_t row, std::int64_t first, std::int64_t count, Io io,
              std::uint16_t* to) {
  const std::int64_t start = row * matrix.row_stride + first * matrix.col_stride;
  const bool same = matrix.dtype == (io == Io::kBf16 ? DType::kBF16 : DType::kF16);
  if (same) {
    const auto* from = static_cast<const std::uint16_t*>(matrix.data) + start;
    for (std::int64_t i = 0; i < count; ++i) to[i] = from[i * matrix.col_stride];
  } else {
    for (std::int64_t i = 0; i < count; ++i) {
      to[i] = from_float(read_float(matrix.data, matrix.dtype, start + i * matrix.col_stride), io);
    }
  }
}

// The weights that a packed matrix is made of; `second` is the up projection of a gated GEMM 1.
struct Source {
  const MatrixView* first;
  const MatrixView* second;
  const VectorView* first_bias;
  const VectorView* second_bias;
};

void pack_panel(const PackedMatrix& packed, const Source& source, std::int64_t panel, Io io, std::byte* expert) {
  constexpr std::int64_t kBlock = 256;
  auto* lines = reinterpret_cast<std::uint16_t*>(expert + packed.weights) + panel * packed.depth * kPanelRows;
  auto* bias = reinterpret_cast<float*>(expert + packed.bias) + panel * kPanelRows;
  std::memset(lines, 0, static_cast<std::size_t>(packed.depth) * kPanelRows * sizeof(std::uint16_t));
  std::memset(bias, 0, kPanelRows * sizeof(float));
  for (int r = 0; r < kPanelRows; ++r) {
    const bool is_second = r >= packed.outputs_per_panel;
    const std::int64_t row = panel * packed.outputs_per_panel + r % packed.outputs_per_panel;
    if (row >= packed.outputs) continue;
    const MatrixView& matrix = is_second ? *source.second : *source.first;
    const VectorView& vector = is_second ? *source.second_bias : *source.first_bias;
    if (!vector.empty()) bias[r] = read_float(vector.data, vector.dtype, row * vector.stride);
    std::uint16_t values[kBlock];
    const int position = panel_position(r, io);
    for (std::int64_t k = 0; k < packed.depth; k += kBlock) {
      const std::int64_t count = std::min(kBlock, packed.depth - k);
      read_row(matrix, row, k, count, io, values);
      for (std::int64_t i = 0; i < count; ++i) lines[(k + i) * kPanelRows + position] = values[i];
    }
  }
}

void pack_expert(const PackedExpert& packed, const ExpertWeights& weights, Io io, std::byte* expert) {
  const Source up{&weights.gate, &weights.up, &weights.gate_bias, &weights.up_bias};
  const Source down{&weights.down, nullptr, &weights.down_bias, nullptr};
  parallel_for(packed.up.panels + packed.down.panels, [&](std::int64_t task, int) {
    if (task < packed.up.panels) {
      pack_panel(packed.up, up, task, io, expert);
    } else {
      pack_panel(packed.down, down, task - packed.up.panels, io, expert);
    }
  });
}

void pack_vector(const VectorView& vector, float* to) {
  for (std::int64_t i = 0; i < vector.size; ++i) to[i] = read_float(vector.data, vector.dtype, i * vector.stride);
}

void pack_router(const PreparedLayout& layout, const MoeConfig& config, const MoeWeights& weights, std::byte* memory) {
  auto* router = reinterpret_cast<float*>(memory + layout.router);
  auto* router_bias = reinterpret_cast<float*>(memory + layout.router_bias);
  auto* selection_bias = reinterpret_cast<float*>(memory + layout.selection_bias);
  std::fill_n(router, layout.router_rows * layout.router_cols, 0.0f);
  std::fill_n(router_bias, layout.router_rows, 0.0f);
  std::fill_n(selection_bias, config.num_experts, 0.0f);
  for (std::int64_t e = 0; e < weights.router.rows; ++e) {
    for (std::int64_t h = 0; h < weights.router.cols; ++h) {
      router[e * layout.router_cols + h] = read_float(weights.router.data, weights.router.dtype,
                                                      e * weights.router.row_stride + h * weights.router.col_stride);
    }
  }
  if (!weights.router_bias.empty()) pack_vector(weights.router_bias, router_bias);
  if (!weights.selection_bias.empty()) pack_vector(weights.selection_bias, selection_bias);
  if (config.shared.gated) pack_vector(weights.shared_gate, router + config.num_experts * layout.router_cols);
}

}  // namespace

std::size_t fast_prepared_bytes(const MoeConfig& config) {
  check_config("fused_moe on the CPU", config);
  return prepared_layout(config).bytes;
}

void fast_prepare(const MoeConfig& config, const MoeWeights& weights, void* prepared) {
  check_config("prepare on the CPU", config);
  check_weights("prepare on the CPU", config, weights);
  if (prepared == nullptr || reinterpret_cast<std::uintptr_t>(prepared) % 64 != 0) {
    throw Error(ErrorKind::kInvalidArgument,
                "prepare on the CPU: prepared is null or not aligned, wanted memory of "
                "prepared_bytes() at a multiple of 256 bytes");
  }
  const PreparedLayout layout = prepared_layout(config);
  auto* memory = static_cast<std::byte*>(prepared);
  pack_router(layout, config, weights, memory);
  for (int e = 0; e < config.num_experts; ++e) {
    pack_expert(layout.expert, weights.experts[e], layout.io, memory + layout.experts + e * layout.expert.bytes);
  }
  if (config.shared.intermediate > 0) {
    pack_expert(layout.shared_expert, weights.shared, layout.io, memory + layout.shared);
  }
  const PreparedHeader header = prepared_header(config);
  std::memcpy(memory, &header, sizeof(header));
}

}  // namespace moesaic::cpu
