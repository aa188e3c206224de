// SPDX-License-Identifier: Apache-2.0
// Packs weights of any strides and format into the fast path's panels.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <mutex>
#include <span>
#include <vector>

#include "backend_cpu/arguments.h"
#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_layout.h"
#include "backend_cpu/fast_read.h"
#include "backend_cpu/fast_threads.h"

namespace moesaic::cpu {
namespace {

// The weights that a packed matrix is made of; `second` is the up projection of a gated GEMM 1.
struct Source {
  const MatrixView* first;
  const MatrixView* second;
  const VectorView* first_bias;
  const VectorView* second_bias;
};

// One panel's memory.
struct Panel {
  const PanelFormat& format;
  const PackedMatrix& matrix;
  std::byte *codes, *scales;
  std::int8_t* zeros;
  float *multipliers, *bias;

  Panel(const PanelFormat& format_, const PackedMatrix& packed, std::int64_t index, std::byte* expert)
      : format(format_),
        matrix(packed),
        codes(expert + packed.codes + static_cast<std::size_t>(index) * packed.panel_codes),
        scales(expert + packed.scales + static_cast<std::size_t>(index) * packed.panel_scales),
        zeros(reinterpret_cast<std::int8_t*>(expert + packed.zeros +
                                             static_cast<std::size_t>(index) * packed.panel_zeros)),
        multipliers(reinterpret_cast<float*>(expert + packed.multipliers) + index * kPanelRows),
        bias(reinterpret_cast<float*>(expert + packed.bias) + index * kPanelRows) {}

  void clear() {
    std::memset(codes, 0, matrix.panel_codes);
    std::memset(scales, 0, matrix.panel_scales);
    std::memset(zeros, 0, matrix.panel_zeros);
    std::fill_n(multipliers, kPanelRows, 1.0f);
    std::fill_n(bias, kPanelRows, 0.0f);
  }
};

void pack_numbers(const Panel& panel, int r, const MatrixView& matrix, std::int64_t row,
                  std::vector<std::uint16_t>& values) {
  values.resize(static_cast<std::size_t>(matrix.cols));
  read_numbers(matrix, row, panel.format.codes == PanelCodes::kFp16 ? Io::kFp16 : Io::kBf16, values.data());
  auto* lines = reinterpret_cast<std::uint16_t*>(panel.codes) + panel_position(r, panel.format.codes);
  for (std::int64_t k = 0; k < matrix.cols; ++k) lines[k * kPanelRows] = values[k];
}

void pack_codes(const Panel& panel, int r, const std::vector<std::uint8_t>& codes) {
  const std::int64_t depth = panel.matrix.stored_depth;
  if (panel_code_bits(panel.format.codes) == 8) {
    auto* lines = reinterpret_cast<std::uint16_t*>(panel.codes) + r;
    for (std::int64_t k = 0; k < depth; k += 2) {
      lines[k / 2 * kPanelRows] = static_cast<std::uint16_t>(codes[k] | codes[k + 1] << 8);
    }
    return;
  }
  auto* lines = reinterpret_cast<std::uint32_t*>(panel.codes) + r;
  for (std::int64_t k = 0; k < depth; k += 8) {
    std::uint32_t word = 0;
    for (int i = 0; i < 8; ++i) word |= static_cast<std::uint32_t>(codes[k + i]) << (4 * i);
    lines[k / 8 * kPanelRows] = word;
  }
}

// A row's scales, in its stored order of blocks.
struct RowScales {
  std::vector<double> values;
  bool nan = false;
};

RowScales row_scales(const MatrixView& matrix, std::int64_t row, std::int64_t blocks, std::int64_t block) {
  RowScales scales;
  for (std::int64_t b = 0; b < blocks; ++b) {
    scales.values.push_back(read_scale(matrix.quantization, row, b * block));
    scales.nan = scales.nan || !std::isfinite(scales.values.back());
  }
  return scales;
}

// Exponent e with largest magnitude in [2^e, 2^(e + 1)); 0 for a row of zeros.
int largest_exponent(const RowScales& scales) {
  double largest = 0.0;
  for (const double scale : scales.values) largest = std::max(largest, std::fabs(scale));
  return largest == 0.0 ? 0 : std::ilogb(largest);
}

// Writes the scales of row r and returns what they leave to its multiplier.
double pack_scales(const Panel& panel, int r, const RowScales& scales) {
  const bool bytes = panel_code_bits(panel.format.codes) == 8;
  const double decoded = bytes ? kE4m3AsHalf : 1.0;  // what the decoding of codes leaves to the scale
  const int exponent = largest_exponent(scales);
  const auto blocks = static_cast<std::int64_t>(scales.values.size());
  for (std::int64_t b = 0; b < blocks; ++b) {
    const double scale = scales.values[b];
    const std::int64_t at = b * kPanelRows + r;
    switch (panel.format.scale) {
      case PanelScale::kNone:
        return scale * decoded;
      case PanelScale::kE4m3:
        reinterpret_cast<std::uint8_t*>(panel.scales)[at] = float_to_e4m3(static_cast<float>(scale));
        break;
      case PanelScale::kE8m0: {
        // So far below the row's largest scale, the product with any code is below fp32's range beside it.
        const int stored = std::ilogb(scale) - exponent + (bytes ? 135 : 127);
        reinterpret_cast<std::uint8_t*>(panel.scales)[at] = static_cast<std::uint8_t>(std::max(0, stored));
        break;
      }
      case PanelScale::kF16: {
        const double moved = std::ldexp(scale, 14 - exponent);
        const std::uint16_t half = float_to_half(static_cast<float>(moved));
        if (std::fabs(moved) >= 0x1p-14 && half_to_float(half) != moved) {
          throw Error(ErrorKind::kInvalidArgument,
                      "prepare on the CPU: int4 scales are numbers that neither bf16 nor fp16 holds, wanted scales "
                      "rounded to one of them, or a configuration with int4.f32_scales");
        }
        reinterpret_cast<std::uint16_t*>(panel.scales)[at] = half;
        break;
      }
      case PanelScale::kF32:
        reinterpret_cast<float*>(panel.scales)[at] = static_cast<float>(std::ldexp(scale, -exponent) * decoded);
        break;
    }
  }
  switch (panel.format.scale) {
    case PanelScale::kE8m0:
    case PanelScale::kF32:
      return std::ldexp(1.0, exponent);
    case PanelScale::kF16:
      return std::ldexp(1.0, exponent - 14);
    default:
      return 1.0;
  }
}

void pack_quantized(const Panel& panel, int r, const MatrixView& matrix, std::int64_t row,
                    std::vector<std::uint8_t>& codes) {
  codes.assign(static_cast<std::size_t>(panel.matrix.stored_depth), 0);
  read_codes(matrix, row, codes.data());
  const std::int64_t block = panel.format.block == 0 ? matrix.cols : panel.format.block;
  RowScales scales = row_scales(matrix, row, panel.matrix.blocks, block);
  if (matrix.quantization.codes == CodeFormat::kE4M3) {
    for (const std::uint8_t code : codes) scales.nan = scales.nan || (code & 0x7f) == 0x7f;
  }
  if (scales.nan) {
    panel.multipliers[r] = std::numeric_limits<float>::quiet_NaN();
    return;  // codes and scales stay 0
  }
  pack_codes(panel, r, codes);
  panel.multipliers[r] = static_cast<float>(pack_scales(panel, r, scales) * matrix.quantization.multiplier);
  for (std::int64_t b = 0; panel.format.zeros && b < panel.matrix.blocks; ++b) {
    panel.zeros[b * kPanelRows + r] = static_cast<std::int8_t>(read_zero(matrix.quantization, row, b * block));
  }
}

void pack_panel(const PanelFormat& format, const PackedMatrix& packed, const Source& source, std::int64_t index,
                std::byte* expert) {
  Panel panel(format, packed, index, expert);
  panel.clear();
  std::vector<std::uint16_t> numbers;
  std::vector<std::uint8_t> codes;
  for (int r = 0; r < kPanelRows; ++r) {
    const bool is_second = r >= packed.outputs_per_panel;
    const std::int64_t row = index * packed.outputs_per_panel + r % packed.outputs_per_panel;
    if (row >= packed.outputs) continue;
    const MatrixView& matrix = is_second ? *source.second : *source.first;
    const VectorView& vector = is_second ? *source.second_bias : *source.first_bias;
    if (!vector.empty()) panel.bias[r] = read_float(vector.data, vector.dtype, row * vector.stride);
    if (panel_code_bits(format.codes) == 16) {
      pack_numbers(panel, r, matrix, row, numbers);
    } else {
      pack_quantized(panel, r, matrix, row, codes);
    }
  }
}

void pack_expert(const PackedExpert& packed, const ExpertWeights& weights, std::byte* expert) {
  const Source up{&weights.gate, &weights.up, &weights.gate_bias, &weights.up_bias};
  const Source down{&weights.down, nullptr, &weights.down_bias, nullptr};
  std::mutex mutex;
  std::exception_ptr failure;  // of any panel: workers must not throw
  parallel_for(packed.up.panels + packed.down.panels, [&](std::int64_t task, int) {
    try {
      if (task < packed.up.panels) {
        pack_panel(packed.format, packed.up, up, task, expert);
      } else {
        pack_panel(packed.format, packed.down, down, task - packed.up.panels, expert);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
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

// An expert as its rank adds it: GEMM 2's bias is rank 0's.
void pack_slice(const MoeConfig& config, const PackedExpert& packed, ExpertWeights expert, std::byte* to) {
  if (config.tp.rank != 0) expert.down_bias = {};
  pack_expert(packed, expert, to);
}

// One scale for all experts, because a token is quantised once for all of them; 0 when one has none.
float common_scale(std::span<const ExpertScales> experts, float ExpertScales::*member) {
  float largest = 0.0f;
  for (const ExpertScales& expert : experts) {
    if (expert.*member == 0.0f) return 0.0f;
    largest = std::max(largest, expert.*member);
  }
  return largest;
}

void set_expert_scales(const PreparedLayout& layout, int expert, const ExpertWeights& weights, std::byte* memory) {
  auto* scales = reinterpret_cast<ExpertScales*>(memory + layout.expert_scales);
  scales[expert] = {weights.input_scale, weights.down_input_scale};
}

// From the experts' own scales, which are there.
void set_common_scales(const PreparedLayout& layout, const MoeConfig& config, std::byte* memory) {
  const std::span experts(reinterpret_cast<const ExpertScales*>(memory + layout.expert_scales),
                          static_cast<std::size_t>(num_local_experts(config)));
  auto* common = reinterpret_cast<StaticScales*>(memory + layout.static_scales);
  common->input = common_scale(experts, &ExpertScales::input);
  common->down_input = common_scale(experts, &ExpertScales::down_input);
}

void set_static_scales(const PreparedLayout& layout, const MoeConfig& config, const MoeWeights& weights,
                       std::byte* memory) {
  StaticScales scales{};
  if (config.shared.intermediate > 0) {
    scales.shared_input = weights.shared.input_scale;
    scales.shared_down_input = weights.shared.down_input_scale;
  }
  std::memcpy(memory + layout.static_scales, &scales, sizeof(scales));
  for (int e = 0; e < num_local_experts(config); ++e) set_expert_scales(layout, e, weights.experts[e], memory);
  set_common_scales(layout, config, memory);
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
  clear_gaps(config, memory);
  pack_router(layout, config, weights, memory);
  set_static_scales(layout, config, weights, memory);
  if (config.routing.method == RoutingMethod::kHash) {
    std::memcpy(memory + layout.token_experts, weights.token_experts.data,
                static_cast<std::size_t>(weights.token_experts.num_elements()) * sizeof(std::int32_t));
  }
  for (std::size_t e = 0; e < weights.experts.size(); ++e) {
    pack_slice(config, layout.expert, weights.experts[e], memory + layout.experts + e * layout.expert.bytes);
  }
  if (config.shared.intermediate > 0) pack_slice(config, layout.shared_expert, weights.shared, memory + layout.shared);
  const PreparedHeader header = prepared_header(config);
  std::memcpy(memory, &header, sizeof(header));
}

void fast_prepare_expert(const MoeConfig& config, int expert, const ExpertWeights& weights, void* prepared) {
  constexpr const char* kOperation = "prepare_expert on the CPU";
  check_expert(kOperation, config, expert, weights);
  fast_check_prepared(kOperation, config, prepared);
  const PreparedLayout layout = prepared_layout(config);
  auto* memory = static_cast<std::byte*>(prepared);
  pack_slice(config, layout.expert, weights, memory + layout.experts + expert * layout.expert.bytes);
  set_expert_scales(layout, expert, weights, memory);
  set_common_scales(layout, config, memory);
}

std::string fast_prepared_layout() { return kLayoutTag; }

void fast_check_prepared(const char* operation, const MoeConfig& config, const void* prepared) {
  const PreparedHeader header = prepared_header(config);
  const bool aligned = reinterpret_cast<std::uintptr_t>(prepared) % 64 == 0;
  if (prepared != nullptr && aligned && std::memcmp(prepared, &header, sizeof(header)) == 0) return;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("{}: prepared is {}, wanted what prepare wrote for this configuration, at a multiple of 256 "
                          "bytes",
                          operation,
                          prepared == nullptr ? "a null pointer"
                          : aligned           ? "memory without this configuration's header"
                                              : "not aligned"));
}

}  // namespace moesaic::cpu
