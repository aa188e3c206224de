// SPDX-License-Identifier: Apache-2.0
// Weights in a recipe's format, and their codes, scales and zero points moved to other orders.
#include "quantized_layer.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "backend_cpu/arguments.h"
#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_number.h"
#include "moesaic/quantize.h"
#include "tables/stored_matrix.h"

namespace moesaic::cpu {
namespace {

std::uint8_t nibble_of(const std::uint8_t* bytes, std::int64_t index) {
  return index % 2 == 0 ? bytes[index / 2] & 15 : bytes[index / 2] >> 4;
}

// Where NibbleOrder puts (r, c) of [rows, cols], and the stride that its formula needs.
struct NibblePlace {
  NibbleOrder order;
  std::int64_t rows, cols;

  std::int64_t operator()(std::int64_t r, std::int64_t c) const {
    static constexpr int kAwq[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const std::int64_t padded = (rows + 7) / 8 * 8;
    switch (order) {
      case NibbleOrder::kLinear:
        return r * cols + c;
      case NibbleOrder::kWordsAlongC:
        return c / 8 * 8 * rows + 8 * r + c % 8;
      case NibbleOrder::kWordsAlongR:
        return r / 8 * 8 * cols + 8 * c + r % 8;
      case NibbleOrder::kAwq:
        break;
    }
    return c * padded + r / 8 * 8 + kAwq[r % 8];
  }
  std::int64_t row_stride() const { return order == NibbleOrder::kWordsAlongC ? rows : cols; }
  std::int64_t col_stride() const { return order == NibbleOrder::kAwq ? (rows + 7) / 8 * 8 : 1; }
  std::int64_t bytes() const { return (rows + 7) / 8 * 8 * ((cols + 7) / 8 * 8) / 2; }
};

class Storer {
 public:
  Storer(RandomLayer& layer, std::mt19937& random, bool fp32_group_scales)
      : layer_(layer), random_(random), group_scale_formats_(fp32_group_scales ? 3 : 2) {}

  void store(MatrixView& matrix, const std::string& recipe) {
    const std::optional<QuantSpec> spec = weight_spec(recipe, layer_.config.int4);
    if (!spec || matrix.empty()) return;
    const std::int64_t rows = matrix.rows, cols = matrix.cols;
    const QuantSizes sizes = quant_sizes(*spec, rows, cols);
    Buffer codes(sizes.code_bytes), zeros(std::max<std::int64_t>(sizes.zero_bytes, 1));
    void* scales = keep(sizes.scale_bytes);
    std::vector<float> dense(rows * cols);
    float amax = 0.0f;
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      dense[i] = static_cast<float>(matrix_element(matrix, i / cols, i % cols));
      amax = std::max(amax, std::fabs(dense[i]));
    }
    const float global = 2688.0f / amax;
    QuantizeRun run;
    run.x = TensorView(dense.data(), DType::kF32, {rows, cols});
    run.codes = TensorView(codes.data(), DType::kU8, {sizes.code_bytes});
    run.scales = TensorView(scales, DType::kU8, {sizes.scale_bytes});
    run.zeros = TensorView(zeros.data(), DType::kU8, {sizes.zero_bytes});
    run.global_scale = TensorView(&global, DType::kF32, {1});
    fast_quantize(*spec, run, nullptr);

    MatrixView view{nullptr, DType::kU8, rows, cols, cols, 1};
    Quantization& q = view.quantization;
    q = tables::stored_quantization(*spec, rows, cols);
    q.scales = scales;
    if (spec->format == QuantFormat::kNvfp4) q.multiplier = 1.0 / global;
    store_codes(view, static_cast<const std::uint8_t*>(codes.data()));
    if (q.codes == CodeFormat::kInt4) change_scales(view, sizes);
    if (spec->int4.zero_points && sizes.zero_bytes > 0) {
      store_zeros(view, static_cast<const std::uint8_t*>(zeros.data()), sizes);
    }
    matrix = view;
  }

 private:
  void* keep(std::int64_t bytes) {
    layer_.storage.push_back(std::make_shared<Buffer>(static_cast<std::size_t>(bytes), 0));
    return layer_.storage.back()->data();
  }
  int pick(int count) { return std::uniform_int_distribution<int>(0, count - 1)(random_); }

  void store_codes(MatrixView& view, const std::uint8_t* codes) {
    const std::int64_t rows = view.rows, cols = view.cols;
    if (view.quantization.codes == CodeFormat::kE4M3) {
      const bool transposed = pick(2) == 1;
      auto* to = static_cast<std::uint8_t*>(keep(rows * cols));
      for (std::int64_t i = 0; i < rows * cols; ++i) to[transposed ? i % cols * rows + i / cols : i] = codes[i];
      view.data = to;
      view.row_stride = transposed ? 1 : cols;
      view.col_stride = transposed ? rows : 1;
      return;
    }
    const NibblePlace place{static_cast<NibbleOrder>(pick(4)), rows, cols};
    view.data = store_nibbles(place, [&](std::int64_t r, std::int64_t c) { return nibble_of(codes, r * cols + c); });
    view.row_stride = place.row_stride();
    view.col_stride = place.col_stride();
    view.quantization.order = place.order;
  }

  template <typename CodeAt>
  const void* store_nibbles(const NibblePlace& place, const CodeAt& code_at) {
    auto* to = static_cast<std::uint8_t*>(keep(place.bytes()));
    for (std::int64_t r = 0; r < place.rows; ++r) {
      for (std::int64_t c = 0; c < place.cols; ++c) {
        const std::int64_t at = place(r, c);
        to[at / 2] = static_cast<std::uint8_t>(to[at / 2] | code_at(r, c) << (at % 2 * 4));
      }
    }
    return to;
  }

  // bf16, fp16 or fp32 scales, also transposed. The numbers are bf16's that fp16 holds, too; where FP32 scales are
  // kept, most matrices have ones that no 16 bits hold.
  void change_scales(MatrixView& view, const QuantSizes& sizes) {
    Quantization& q = view.quantization;
    const auto* scales = static_cast<const std::uint16_t*>(q.scales);
    const ScaleFormat kFormats[] = {ScaleFormat::kBF16, ScaleFormat::kF16, ScaleFormat::kF32};
    const bool wide = layer_.config.int4.f32_scales && pick(4) != 0;
    const ScaleFormat format = wide ? ScaleFormat::kF32 : kFormats[pick(group_scale_formats_)];
    std::uniform_real_distribution<float> factor(1.0f, 1.5f);
    const bool transposed = pick(2) == 1;
    const std::int64_t rows = view.rows, cols = sizes.scale_cols;
    void* to = keep(rows * cols * 4);
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      const std::int64_t at = transposed ? i % cols * rows + i / cols : i;
      const float scale = bf16_to_float(scales[i]);
      if (format == ScaleFormat::kF32) {
        static_cast<float*>(to)[at] = wide ? scale * factor(random_) : scale;
      } else {
        static_cast<std::uint16_t*>(to)[at] = from_float(scale, format == ScaleFormat::kBF16 ? Io::kBf16 : Io::kFp16);
      }
    }
    q.scale_format = format;
    q.scales = to;
    q.scale_row_stride = transposed ? 1 : cols;
    q.scale_col_stride = transposed ? rows : 1;
  }

  void store_zeros(MatrixView& view, const std::uint8_t* zeros, const QuantSizes& sizes) {
    Quantization& q = view.quantization;
    const std::int64_t cols = sizes.scale_cols;
    const NibblePlace place{static_cast<NibbleOrder>(pick(4)), view.rows, cols};
    q.zero_offset = pick(2);  // 1: a zero point of 0 becomes 16, which is as good a weight
    q.zeros = store_nibbles(
        place, [&](std::int64_t r, std::int64_t c) { return (zeros[r * cols + c] - q.zero_offset + 16) % 16; });
    q.zero_order = place.order;
    q.zero_row_stride = place.row_stride();
    q.zero_col_stride = place.col_stride();
  }

  RandomLayer& layer_;
  std::mt19937& random_;
  int group_scale_formats_;
};

}  // namespace

RandomLayer quantized_layer(const LayerShape& shape, const Int4Groups& int4, std::mt19937& random,
                            bool fp32_group_scales) {
  RandomLayer layer(shape, random);
  layer.config.int4 = int4;
  Storer storer(layer, random, fp32_group_scales);
  for (ExpertWeights& expert : layer.weights.experts) {
    for (MatrixView* matrix : {&expert.gate, &expert.up, &expert.down}) storer.store(*matrix, shape.recipe);
  }
  ExpertWeights& shared = layer.weights.shared;
  for (MatrixView* matrix : {&shared.gate, &shared.up, &shared.down}) {
    storer.store(*matrix, shared_recipe(layer.config));
  }
  return layer;
}

void give_input_scales(MoeWeights& weights, std::mt19937& random) {
  std::uniform_real_distribution<float> scale(0.001f, 0.02f);
  for (ExpertWeights& expert : weights.experts) {
    expert.input_scale = scale(random);
    expert.down_input_scale = scale(random);
  }
  if (weights.shared.gate.empty()) return;
  weights.shared.input_scale = scale(random);
  weights.shared.down_input_scale = scale(random);
}

}  // namespace moesaic::cpu
