// SPDX-License-Identifier: Apache-2.0
// Weights from one stored format to another: decoded to fp32, then quantised or rounded.
#include "ops/convert_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/decode_rows.h"
#include "backend_cpu/fast_threads.h"
#include "ops/argument_check.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"
#include "tables/stored_matrix.h"

namespace moesaic {
namespace ops {
namespace {

std::vector<float> decode_matrix(const MatrixView& matrix) {
  std::vector<float> values(static_cast<std::size_t>(matrix.rows * matrix.cols));
  cpu::parallel_for(matrix.rows,
                    [&](std::int64_t row, int) { cpu::decode_row(matrix, row, &values[row * matrix.cols]); });
  return values;
}

// NaN values do not count: the blocks they lie in become NaN by themselves.
float amax_of(const std::vector<float>& values) {
  float largest = 0.0f;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  return std::min(largest, std::numeric_limits<float>::max());
}

// Zero points as bytes -> 4 bits, two groups of a row in a byte, as views read them.
std::vector<std::uint8_t> packed_zeros(const std::vector<std::uint8_t>& zeros) {
  std::vector<std::uint8_t> packed((zeros.size() + 1) / 2);
  for (std::size_t i = 0; i < zeros.size(); ++i) {
    packed[i / 2] = static_cast<std::uint8_t>(packed[i / 2] | zeros[i] << (i % 2 * 4));
  }
  return packed;
}

}  // namespace

ConvertedMatrix quantize_matrix(const MatrixView& matrix, const QuantSpec& spec) {
  const QuantSizes sizes = quant_sizes(spec, matrix.rows, matrix.cols);
  const std::vector<float> values = decode_matrix(matrix);
  ConvertedMatrix result;
  result.rows = matrix.rows;
  result.cols = matrix.cols;
  result.codes.resize(static_cast<std::size_t>(sizes.code_bytes));
  result.scales.resize(static_cast<std::size_t>(sizes.scale_bytes));
  result.zeros.resize(static_cast<std::size_t>(sizes.zero_bytes));
  float encode_scale = 1.0f;
  if (spec.format == QuantFormat::kNvfp4) {
    const float amax = amax_of(values);
    // A maximum so small that the scale would vanish leaves codes 0, not a division by 0.
    result.multiplier = amax > 0.0f ? std::max(amax / 2688.0f, std::numeric_limits<float>::min()) : 1.0f;
    encode_scale = 1.0f / result.multiplier;
  }
  const bool four_bits = tables::code_bits(quant_traits(spec).codes) == 4;
  QuantizeRun run;
  run.x = TensorView(values.data(), DType::kF32, {matrix.rows, matrix.cols});
  run.codes = TensorView(result.codes.data(), DType::kU8, {matrix.rows, matrix.cols / (four_bits ? 2 : 1)});
  run.scales = TensorView(result.scales.data(), DType::kU8, {sizes.scale_bytes});
  run.zeros = TensorView(result.zeros.data(), DType::kU8, {matrix.rows, sizes.scale_cols});
  run.global_scale = TensorView(&encode_scale, DType::kF32, {1});
  cpu::fast_quantize(spec, run, nullptr);
  return result;
}

ConvertedMatrix round_matrix(const MatrixView& matrix, DType dtype) {
  ConvertedMatrix result;
  result.rows = matrix.rows;
  result.cols = matrix.cols;
  result.codes.resize(static_cast<std::size_t>(matrix.rows * matrix.cols) * 2);
  cpu::parallel_for(matrix.rows, [&](std::int64_t row, int) {
    std::vector<float> values(static_cast<std::size_t>(matrix.cols));
    cpu::decode_row(matrix, row, values.data());
    for (std::int64_t c = 0; c < matrix.cols; ++c) {
      const std::uint16_t bits = cpu::encode_16bit(values[c], dtype);
      std::memcpy(&result.codes[(row * matrix.cols + c) * 2], &bits, sizeof(bits));
    }
  });
  return result;
}

}  // namespace ops

namespace {

constexpr ops::ArgumentCheck kCheck{"convert_weights"};

// Keeps converted matrices and makes views of them.
class Converter {
 public:
  explicit Converter(const MoeConfig& config)
      : config_(config), store_(std::make_shared<std::deque<ops::ConvertedMatrix>>()) {}

  /// `name`: of the expert, for messages; `intermediate`: its own.
  void expert(const std::string& name, ExpertWeights& expert, const std::string& recipe, std::int64_t intermediate) {
    bool converted = false;
    const auto in_recipe = [&](const char* part, MatrixView& matrix, std::int64_t rows, std::int64_t cols) {
      if (matrix.empty() || fits_recipe(recipe, config_.int4, matrix)) return;
      kCheck.matrix(name + part, matrix, rows, cols);  // memory is taken for what it says
      matrix = convert(matrix, recipe);
      converted = true;
    };
    in_recipe(".gate", expert.gate, intermediate, config_.hidden);
    in_recipe(".up", expert.up, intermediate, config_.hidden);
    in_recipe(".down", expert.down, config_.hidden, intermediate);
    // A static scale belongs to the codes that the checkpoint's activations have.
    if (converted) expert.input_scale = expert.down_input_scale = 0.0f;
  }

  std::shared_ptr<const void> storage() const { return store_; }

 private:
  MatrixView convert(const MatrixView& matrix, const std::string& recipe) {
    const std::optional<QuantSpec> spec = weight_spec(recipe, config_.int4);
    const DType io = tables::get_recipe(recipe).io;
    store_->push_back(spec ? ops::quantize_matrix(matrix, *spec) : ops::round_matrix(matrix, io));
    ops::ConvertedMatrix& made = store_->back();
    MatrixView view{made.codes.data(), spec ? DType::kU8 : io, made.rows, made.cols, made.cols, 1};
    if (!spec) return view;
    const QuantSizes sizes = quant_sizes(*spec, made.rows, made.cols);
    Quantization& q = view.quantization;
    q = tables::stored_quantization(*spec, made.rows, made.cols);
    q.scales = made.scales.data();
    q.multiplier = made.multiplier;
    if (!made.zeros.empty()) {
      made.zeros = ops::packed_zeros(made.zeros);
      q.zeros = made.zeros.data();
      q.zero_row_stride = sizes.scale_cols;
      q.zero_col_stride = 1;
    }
    return view;
  }

  const MoeConfig& config_;
  std::shared_ptr<std::deque<ops::ConvertedMatrix>> store_;
};

}  // namespace

OwnedWeights convert_weights(const MoeConfig& config, const MoeWeights& weights) {
  Converter converter(config);
  OwnedWeights owned{weights, nullptr};
  std::vector<ExpertWeights>& experts = owned.weights.experts;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    converter.expert(fmt::format("weights.experts[{}]", e), experts[e], config.recipe, config.intermediate);
  }
  if (config.shared.intermediate > 0) {
    converter.expert("weights.shared", owned.weights.shared, tables::shared_recipe(config), config.shared.intermediate);
  }
  owned.storage = converter.storage();
  return owned;
}

}  // namespace moesaic
