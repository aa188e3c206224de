// SPDX-License-Identifier: Apache-2.0
// Quantisers and scale layouts. Every quantiser is one sequence of IEEE fp32 operations (docs/numerics.md spells them
// out), so the CPU and every GPU give the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "moesaic/module.h"
#include "moesaic/moe.h"
#include "moesaic/tensor.h"

#pragma GCC visibility push(default)
namespace moesaic {

/// Formats of a matrix [M, K]; M are tokens of activations or output channels of weights.
enum class QuantFormat : std::uint8_t {
  kNvfp4,            // e2m1, e4m3 scale per 16 of K, times a global fp32 scale: of the tensor (given) or of each row
  kNvfp4Row,         // the same, row scale = fl(min(row amax, FLT_MAX) / 2688), made by the quantiser
  kMxfp4,            // e2m1, E8M0 scale per 32 of K
  kMxfp8,            // e4m3, E8M0 scale per 32 of K
  kMxfp8E5m2,        // e5m2, E8M0 scale per 32 of K
  kFp8Static,        // e4m3, one fp32 scale that is given
  kFp8Tensor,        // e4m3, one fp32 scale from the tensor's maximum
  kFp8Row,           // e4m3, fp32 scale per row: per token, per output channel
  kFp8Block1x128,    // e4m3, fp32 scale per row and 128 of K
  kFp8Block128x128,  // e4m3, fp32 scale per 128 rows and 128 of K
  kInt4,             // int4 groups of 32, 64 or 128 of K, bf16 scale, zero point 8 or of each group
};

/// Order of block scales in memory. m: row, k: scale column, Ks = ceil(K / block).
enum class ScaleLayout : std::uint8_t {
  kLinear,  // m Ks + k
  k128x4,   // tiles of 128 rows x 4 scales, rows padded to 128 and scales to 4 with 0: within a tile
            // (m % 32) 16 + (m % 128) / 32 * 4 + k % 4; tiles row by row
  k8x4,     // tiles of 8 rows x 4 scales, padded likewise: (m % 8) 4 + k % 4
};

/// How an E8M0 scale is made of a block's maximum.
enum class E8m0Rounding : std::uint8_t {
  kUp,     // smallest byte with which the maximum does not saturate
  kFloor,  // OCP MX: floor(log2 maximum) - exponent of the largest code; the maximum may saturate
};

/// A format with its options.
struct QuantSpec {
  QuantFormat format = QuantFormat::kNvfp4;
  ScaleLayout layout = ScaleLayout::kLinear;  // other layouts: NVFP4, MXFP4, MXFP8
  E8m0Rounding e8m0 = E8m0Rounding::kUp;
  Int4Groups int4 = {};
};

/// "nvfp4", "nvfp4_row", "mxfp4", "mxfp8", "mxfp8_e5m2", "fp8_static", "fp8_tensor", "fp8_row", "fp8_1x128",
/// "fp8_128x128" or "int4".
const char* quant_format_name(QuantFormat format) noexcept;
/// "linear", "128x4" or "8x4".
const char* scale_layout_name(ScaleLayout layout) noexcept;
/// The format of that name; throws Error(kInvalidArgument) that lists what is accepted.
QuantFormat parse_quant_format(const std::string& name);
/// The layout of that name; throws Error(kInvalidArgument) that lists what is accepted.
ScaleLayout parse_scale_layout(const std::string& name);

/// Facts of a format: code format, scale format, and the block that shares a scale (0: all of that dimension).
struct QuantTraits {
  CodeFormat codes;
  ScaleFormat scales;
  int block_rows, block_cols;
};
/// The traits of spec.format; kInt4 has the spec's group as block_cols.
QuantTraits quant_traits(const QuantSpec& spec);

/// Sizes of the quantised form of [rows, cols]. Codes are bytes [rows, cols], 4-bit ones [rows, cols / 2] (even k in
/// the low nibble); linear scales [scale_rows, scale_cols]; zeros (int4 with zero points) bytes [rows, scale_cols].
/// Throws Error(kInvalidArgument): NVFP4 needs cols % 16 == 0, MX cols % 32 == 0, int4 cols % group == 0.
struct QuantSizes {
  std::int64_t code_bytes, scale_rows, scale_cols, scale_bytes, zero_bytes;
};
/// The sizes of a matrix [rows, cols].
QuantSizes quant_sizes(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

/// Index of scale (row, col) of `cols` scale columns, in scales.
std::int64_t scale_index(ScaleLayout layout, std::int64_t row, std::int64_t col, std::int64_t cols);
/// Bytes of byte scales [rows, cols] in a layout, padding included.
std::int64_t scale_layout_bytes(ScaleLayout layout, std::int64_t rows, std::int64_t cols);
/// Grouped layouts: first scale row of group `group` whose first row is `row`: (row + 127 group) / 128 * 128, so that
/// every group begins on a 128-row boundary.
std::int64_t grouped_scale_row(std::int64_t row, std::int64_t group);

/// Arguments of one quantisation. Memory is the caller's and on the quantiser's device.
struct QuantizeRun {
  TensorView x;             // [M, K] bf16, f16 or f32; with an activation [M, 2K], gate in the first half
  TensorView codes;         // u8 [M, K], or [M, K / 2]
  TensorView scales;        // u8 or f32 (bf16 for int4): linear [scale_rows, scale_cols], else [scale_bytes]
  TensorView zeros;         // u8 [M, scale_cols]: int4 with zero points
  TensorView global_scale;  // f32 [1]. kNvfp4: the encode scale (values are multiplied by it: 2688 / amax), given.
                            // kFp8Static: the scale that values are divided by, given
  TensorView row_scales;    // f32 [M], written: kNvfp4Row
  // Grouped: rows [offsets[g], offsets[g + 1]) are group g, whose scales begin at row grouped_scale_row; i32 [G + 1].
  // Layout k128x4 only; `scales` holds grouped_scale_row(M, G) + 128 rows, rows of no token are not written. Rows of x
  // behind the last group get codes without scales, and dequantise to NaN. Offsets ascend from 0 to at most M; on the
  // host that is checked.
  TensorView group_offsets;
};

/// A quantiser bound to a device.
class Quantizer {
 public:
  /// `activation`: applied to x on the way, in FP32 (gated kinds only: x is [M, 2K]). Loads kernels on a GPU. Throws
  /// Error as FusedMoe::create.
  static Quantizer create(const QuantSpec& spec, Device device, const ModuleOptions& modules = {},
                          const Activation* activation = nullptr);

  Quantizer(Quantizer&&) noexcept;
  Quantizer& operator=(Quantizer&&) noexcept;
  ~Quantizer();

  /// Enqueues; on a GPU only launches, capturable in a graph. Bytes of `scales` that pad a layout become 0.
  /// Throws Error(kInvalidArgument) before anything is enqueued.
  void quantize(const QuantizeRun& run, void* stream = nullptr) const;
  /// x [M, K] (bf16, f16 or f32) from codes, scales, zeros, global or row scales: one fp32 operation on the exact
  /// product of code and block scale (NVFP4: / global scale, or * row scale), then rounded to x's type. Static and
  /// tensor formats read `scales` [1, 1].
  void dequantize(const QuantizeRun& run, void* stream = nullptr) const;
  /// Byte scales between linear [rows, cols] and the spec's layout, padding 0. `layout_scales`: scale_layout_bytes.
  void swizzle_scales(const TensorView& linear, const TensorView& layout_scales, void* stream = nullptr) const;
  /// The other way round; padding is not read.
  void unswizzle_scales(const TensorView& layout_scales, const TensorView& linear, void* stream = nullptr) const;

 private:
  struct Impl;
  explicit Quantizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

/// The quantiser that makes a recipe's weights; std::nullopt for 16-bit weights.
std::optional<QuantSpec> weight_spec(const std::string& recipe, const Int4Groups& int4);
/// The quantiser that rounds a recipe's activations, with a static scale or scales per token; std::nullopt for 16 bits.
std::optional<QuantSpec> activation_spec(const std::string& recipe, bool static_scale);

/// True when the matrix is stored in the format that the recipe's weights have.
bool fits_recipe(const std::string& recipe, const Int4Groups& int4, const MatrixView& matrix);

/// Weights with memory of their own, where they have some.
struct OwnedWeights {
  MoeWeights weights;
  std::shared_ptr<const void> storage;
};

/// `weights` (host memory, any format) in the formats of config.recipe and config.shared.recipe: matrices that have
/// them already stay views, others are dequantised to fp32 and quantised again (16-bit recipes: rounded once).
/// NVFP4's global scale is the matrix's own amax / 2688. Throws Error.
OwnedWeights convert_weights(const MoeConfig& config, const MoeWeights& weights);

}  // namespace moesaic
#pragma GCC visibility pop
