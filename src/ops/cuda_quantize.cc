// SPDX-License-Identifier: Apache-2.0
// Quantizer on a GPU: kernels are planned and loaded once; what follows fills a parameter struct and launches.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "backend_cuda/device.h"
#include "backend_cuda/device_memory.h"
#include "kernels/abi/quant_params.h"
#include "moesaic/error.h"
#include "ops/cuda_serve.h"
#include "ops/quant_impl.h"
#include "plan/quant_plan.h"
#include "tables/quant_table.h"

namespace moesaic::ops {
namespace {

static_assert(static_cast<int>(QuantFormat::kNvfp4Row) == abi::kQuantNvfp4Row &&
              static_cast<int>(QuantFormat::kMxfp4) == abi::kQuantMxfp4 &&
              static_cast<int>(QuantFormat::kMxfp8E5m2) == abi::kQuantMxfp8E5m2 &&
              static_cast<int>(QuantFormat::kFp8Tensor) == abi::kQuantFp8Tensor &&
              static_cast<int>(QuantFormat::kFp8Row) == abi::kQuantFp8Row &&
              static_cast<int>(QuantFormat::kFp8Block128x128) == abi::kQuantFp8Block128x128 &&
              static_cast<int>(QuantFormat::kInt4) == abi::kQuantInt4);
static_assert(static_cast<int>(ScaleLayout::k128x4) == abi::kLayout128x4 &&
              static_cast<int>(ScaleLayout::k8x4) == abi::kLayout8x4);

std::int64_t div_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return div_up(a, b) * b; }

bool is_aligned(const void* data, std::uintptr_t bytes) { return reinterpret_cast<std::uintptr_t>(data) % bytes == 0; }

/// Where scales of [rows, cols] lie; grouped ones are padded by columns alone.
abi::ScaleShape scale_shape(ScaleLayout layout, std::int64_t rows, std::int64_t cols, const TensorView& groups) {
  const std::int64_t tile_rows = layout == ScaleLayout::k128x4 ? 128 : layout == ScaleLayout::k8x4 ? 8 : 1;
  abi::ScaleShape s{};
  s.layout = static_cast<int>(layout);
  s.rows = static_cast<int>(rows);
  s.cols = static_cast<int>(cols);
  s.padded_cols = static_cast<int>(layout == ScaleLayout::kLinear ? cols : round_up(cols, 4));
  s.padded_rows = static_cast<int>(groups.empty() ? round_up(rows, tile_rows) : rows);
  s.group_offsets = static_cast<const int*>(groups.data);
  s.groups = groups.empty() ? 0 : static_cast<int>(groups.shape[0] - 1);
  return s;
}

/// Counts `per_row` pieces of each of `rows` rows. Kernels divide 31-bit numbers.
long long count_pieces(std::int64_t per_row, std::int64_t rows, abi::Divider& divider) {
  const std::int64_t total = per_row * rows;
  if (total >= std::int64_t{1} << 31) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("quantizer: a matrix of {} pieces of 16 elements on a GPU, at most {}; quantise fewer rows "
                            "at a time",
                            total, (std::int64_t{1} << 31) - 1));
  }
  divider = abi::make_divider(static_cast<unsigned>(std::max<std::int64_t>(per_row, 1)));
  return total;
}

class CudaQuantizer final : public QuantImpl {
 public:
  CudaQuantizer(const QuantSpec& spec, Device device, const ModuleOptions& modules,
                const std::optional<Activation>& activation)
      : spec_(spec), device_(device), activation_(activation), traits_(quant_traits(spec)) {
    const cuda::DeviceInfo info = cuda::device_info(device.index);
    sm_count_ = info.sm_count;
    const Served served = serve(info.sm, modules);
    std::optional<ActivationKind> kind;
    if (activation) kind = activation->kind;
    steps_ = plan::plan_quantize(spec, kind, served.arch, served.force_kernel);
    kernels_.load(steps_.all(), served, device, modules);
  }

  void quantize(const QuantShape& shape, const QuantizeRun& run, void* stream) const override {
    abi::QuantizeParams p = quantize_params(shape, run);
    const cuda::DeviceGuard guard(device_.index);
    if (spec_.format == QuantFormat::kFp8Tensor) find_maximum(p, stream);
    if (p.total_units > 0) launch_quantize(p, stream);
    if (spec_.format == QuantFormat::kFp8Tensor) {
      p.finish = 1;
      kernels_.at(steps_.amax).launch({1}, 32, &p, stream);
    }
  }

  void dequantize(const QuantShape& shape, const QuantizeRun& run, void* stream) const override {
    abi::DequantizeParams p{};
    p.x = run.x.data;
    p.codes = static_cast<const unsigned char*>(run.codes.data);
    p.scales = run.scales.data;
    p.zeros = static_cast<const unsigned char*>(run.zeros.data);
    p.global_scale = static_cast<const float*>(run.global_scale.data);
    p.row_scales = static_cast<const float*>(run.row_scales.data);
    p.shape = scale_shape(spec_.layout, shape.rows, shape.sizes.scale_cols, run.group_offsets);
    p.total_units = count_pieces(div_up(shape.cols, abi::kUnit), shape.rows, p.units);
    p.source = source_type(run.x.dtype);
    p.format = static_cast<int>(spec_.format);
    p.rows = static_cast<int>(shape.rows);
    p.cols = static_cast<int>(shape.cols);
    p.block_shift = block_shift();
    p.aligned = vector_rows(shape, run) ? 1 : 0;
    if (p.total_units == 0) return;
    const cuda::DeviceGuard guard(device_.index);
    launch_pieces(steps_.dequantize, p.total_units, 1, &p, stream);
  }

  void swizzle(std::int64_t rows, std::int64_t cols, void* linear, void* tiles, bool to_linear,
               void* stream) const override {
    abi::SwizzleParams p{};
    p.linear = static_cast<unsigned char*>(linear);
    p.tiles = static_cast<unsigned char*>(tiles);
    p.shape = scale_shape(spec_.layout, rows, cols, {});
    p.total = count_pieces(div_up(cols, 4), p.shape.padded_rows, p.quads);
    p.to_linear = to_linear ? 1 : 0;
    if (p.total == 0) return;
    const cuda::DeviceGuard guard(device_.index);
    launch_pieces(steps_.swizzle, p.total, 1, &p, stream);
  }

 private:
  /// log2 of the units in a scale block's row; formats with one scale for more than that have their own kernels.
  int block_shift() const {
    const int units = std::max(traits_.block_cols, abi::kUnit) / abi::kUnit;
    return std::countr_zero(static_cast<unsigned>(units));
  }

  bool by_tiles() const { return spec_.format == QuantFormat::kFp8Block128x128; }
  bool by_rows() const { return spec_.format == QuantFormat::kNvfp4Row || spec_.format == QuantFormat::kFp8Row; }

  /// True when every row of x and of codes can be moved in whole 16-element units.
  static bool vector_rows(const QuantShape& shape, const QuantizeRun& run) {
    return shape.cols % abi::kUnit == 0 && is_aligned(run.x.data, 16) && is_aligned(run.codes.data, 16);
  }

  abi::QuantizeParams quantize_params(const QuantShape& shape, const QuantizeRun& run) const {
    abi::QuantizeParams p{};
    p.x = run.x.data;
    p.codes = static_cast<unsigned char*>(run.codes.data);
    p.scales = run.scales.data;
    p.zeros = static_cast<unsigned char*>(run.zeros.data);
    p.global_scale = static_cast<const float*>(run.global_scale.data);
    p.row_scales = static_cast<float*>(run.row_scales.data);
    p.shape = scale_shape(spec_.layout, shape.rows, shape.sizes.scale_cols, run.group_offsets);
    p.block_shift = block_shift();
    // Blocks that hang over the last column have lanes of their own.
    const std::int64_t row_units =
        traits_.block_cols == 0 ? div_up(shape.cols, abi::kUnit) : std::int64_t{p.shape.padded_cols} << p.block_shift;
    p.total_units = count_pieces(row_units, p.shape.padded_rows, p.units);
    p.source = source_type(run.x.dtype);
    p.format = static_cast<int>(spec_.format);
    p.rows = static_cast<int>(shape.rows);
    p.cols = static_cast<int>(shape.cols);
    p.floor_e8m0 = spec_.e8m0 == E8m0Rounding::kFloor ? 1 : 0;
    p.aligned = vector_rows(shape, run) ? 1 : 0;
    const abi::KernelConfig& c = steps_.quantize.config();
    const std::int64_t kept = std::max(c.tile_k / abi::kUnit, 1);  // units that a thread of the row kernel holds
    p.row_shift = 5;
    while (1 << p.row_shift < abi::threads(c) && kept << p.row_shift < row_units) ++p.row_shift;
    if (activation_) {
      const ActivationParameters parameters = activation_parameters(*activation_);
      p.activation = static_cast<int>(activation_->kind);
      p.alpha = parameters.alpha;
      p.beta = parameters.beta;
      p.limit = parameters.limit;
    }
    return p;
  }

  void launch_pieces(const plan::Choice& c, long long pieces, int per_thread, const void* params, void* stream) const {
    const int threads = abi::threads(c.config());
    kernels_.at(c).launch({static_cast<unsigned>(div_up(pieces, std::int64_t{threads} * per_thread))}, threads, params,
                          stream);
  }

  void launch_quantize(const abi::QuantizeParams& p, void* stream) const {
    const abi::KernelConfig& c = steps_.quantize.config();
    if (by_tiles()) {
      const std::int64_t tiles = div_up(p.rows, abi::kTile) * p.shape.cols;
      kernels_.at(steps_.quantize).launch({static_cast<unsigned>(tiles)}, abi::threads(c), &p, stream);
    } else if (by_rows()) {
      const int threads = abi::threads(c);  // small rows share a block
      const std::int64_t blocks = div_up(std::int64_t{p.shape.padded_rows} << p.row_shift, threads);
      kernels_.at(steps_.quantize).launch({static_cast<unsigned>(blocks)}, threads, &p, stream);
    } else {
      launch_pieces(steps_.quantize, p.total_units, c.tile_k / abi::kUnit, &p, stream);
    }
  }

  void find_maximum(const abi::QuantizeParams& p, void* stream) const {
    const abi::KernelConfig& c = steps_.amax.config();
    cuda::fill_async(p.scales, 0, sizeof(float), stream);
    const std::int64_t needed = div_up(p.total_units, std::int64_t{abi::threads(c)} * (c.tile_k / abi::kUnit));
    const std::int64_t resident = std::int64_t{sm_count_} * c.min_blocks;
    const auto blocks = static_cast<unsigned>(std::clamp<std::int64_t>(needed, 1, resident));
    kernels_.at(steps_.amax).launch({blocks}, abi::threads(c), &p, stream);
  }

  QuantSpec spec_;
  Device device_;
  std::optional<Activation> activation_;
  QuantTraits traits_;
  int sm_count_ = 0;
  plan::QuantSteps steps_;
  LoadedKernels kernels_;
};

}  // namespace

std::unique_ptr<const QuantImpl> make_cuda_quantizer(const QuantSpec& spec, Device device, const ModuleOptions& modules,
                                                     const std::optional<Activation>& activation) {
  return std::make_unique<CudaQuantizer>(spec, device, modules, activation);
}

}  // namespace moesaic::ops
