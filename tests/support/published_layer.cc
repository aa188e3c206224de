// SPDX-License-Identifier: Apache-2.0
// Words of random bytes by their number, made to codes and scales.
#include "support/published_layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "backend_cpu/backend_cpu.h"
#include "module/jobs.h"
#include "moesaic/quantize.h"
#include "tables/stored_matrix.h"

namespace moesaic::testing {
namespace {

constexpr std::uint64_t kBytesOfOne = 0x0101010101010101u;

/// Word `index` of a stream: SplitMix64 (Steele, Lea and Flood, 2014), which any thread can enter anywhere.
std::uint64_t random_word(std::uint64_t seed, std::int64_t index) {
  std::uint64_t z = seed + (static_cast<std::uint64_t>(index) + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/// e4m3's NaN, 0x7f and 0xff, becomes the number before it: the low seven bits carry into the eighth for 0x7f alone.
std::uint64_t without_nan(std::uint64_t codes) {
  const std::uint64_t carries = (codes & 0x7f * kBytesOfOne) + kBytesOfOne;
  return codes ^ (carries >> 7 & kBytesOfOne);
}

/// Fills memory with words, each changed by `shape`.
template <typename Shape>
void fill_words(void* memory, std::int64_t bytes, std::uint64_t seed, const Shape& shape) {
  auto* to = static_cast<std::byte*>(memory);
  for (std::int64_t at = 0; at < bytes; at += 8) {
    const std::uint64_t word = shape(random_word(seed, at / 8));
    std::memcpy(to + at, &word, static_cast<std::size_t>(std::min<std::int64_t>(8, bytes - at)));
  }
}

/// Root mean square of the numbers of all codes.
double code_rms(CodeFormat format) {
  const int codes = format == CodeFormat::kE2M1 ? 8 : 127;  // without signs and NaN
  double sum = 0;
  for (int code = 0; code < codes; ++code) {
    const double value = cpu::decode_code(format, static_cast<std::uint8_t>(code));
    sum += value * value;
  }
  return std::sqrt(sum / codes);
}

/// Scales around `middle`, which differ by up to three or four times: a block that has another's is seen.
void fill_scales(const Quantization& q, void* memory, std::int64_t count, std::uint64_t seed, double middle) {
  if (q.scale_format == ScaleFormat::kE8M0) {
    const auto lowest = static_cast<std::uint64_t>(126 + std::lround(std::log2(middle)));
    fill_words(memory, count, seed, [lowest](std::uint64_t word) {  // 0.5, 1 and 2 times as much
      return lowest * kBytesOfOne + (word & kBytesOfOne) + (word >> 1 & kBytesOfOne);
    });
    return;
  }
  if (q.scale_format != ScaleFormat::kF32) throw std::invalid_argument("only FP32 and E8M0 scales are made");
  for (std::int64_t i = 0; i < count; ++i) {
    const double share = static_cast<double>(random_word(seed, i) >> 11) * 0x1p-53;
    static_cast<float*>(memory)[i] = static_cast<float>(middle * (0.5 + share));
  }
}

struct MatrixSizes {
  QuantSpec spec;
  QuantSizes sizes;
};
MatrixSizes matrix_sizes(const std::string& recipe, std::int64_t rows, std::int64_t cols) {
  const QuantSpec spec = weight_spec(recipe, {}).value();
  return {spec, quant_sizes(spec, rows, cols)};
}

}  // namespace

std::size_t PublishedLayer::weight_bytes(const tables::ModelRow& model, const std::string& recipe) {
  const auto expert = [&](int intermediate) {
    const QuantSizes gate = matrix_sizes(recipe, intermediate, model.hidden).sizes;
    const QuantSizes down = matrix_sizes(recipe, model.hidden, intermediate).sizes;
    return 2 * (gate.code_bytes + gate.scale_bytes) + down.code_bytes + down.scale_bytes;
  };
  const std::int64_t shared = model.shared_intermediate > 0 ? expert(model.shared_intermediate) : 0;
  return static_cast<std::size_t>(model.num_experts * expert(model.intermediate) + shared);
}

PublishedLayer::PublishedLayer(const tables::ModelRow& model, const PublishedFormat& format, unsigned seed)
    : config(tables::model_config(model)), random_(seed) {
  config.recipe = format.recipe;
  for (int e = 0; e < model.num_experts; ++e) {
    weights.experts.push_back(add_expert(model.intermediate, format.gate_up_interleaved));
    if (model.biases) add_biases(weights.experts.back());
  }
  if (model.shared_intermediate > 0) weights.shared = add_expert(model.shared_intermediate, false);
  add_router(model);
  module::run_jobs(module::usable_cores(), stored_.size(), [this](std::size_t i) {
    const Stored& s = stored_[i];
    const Quantization& q = s.view.quantization;
    const bool has_nan = q.codes == CodeFormat::kE4M3;
    fill_words(const_cast<void*>(s.view.data), s.code_bytes, s.seed,
               [has_nan](std::uint64_t word) { return has_nan ? without_nan(word) : word; });
    const double middle = 1.0 / (code_rms(q.codes) * std::sqrt(static_cast<double>(s.view.cols)));
    fill_scales(q, const_cast<void*>(q.scales), s.scales, ~s.seed, middle);
  });
}

std::byte* PublishedLayer::keep(std::int64_t bytes) {
  // Not set to anything: its pages are first touched by the thread that fills them.
  memory_.push_back(std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(bytes)));
  return memory_.back().get();
}

MatrixView PublishedLayer::add_matrix(std::int64_t rows, std::int64_t cols) {
  const auto [spec, sizes] = matrix_sizes(config.recipe, rows, cols);
  MatrixView view{keep(sizes.code_bytes), DType::kU8, rows, cols, cols, 1};
  view.quantization = tables::stored_quantization(spec, rows, cols);
  view.quantization.scales = keep(sizes.scale_bytes);
  const std::uint64_t high = random_();
  stored_.push_back({view, sizes.code_bytes, sizes.scale_rows * sizes.scale_cols, high << 32 | random_()});
  return view;
}

ExpertWeights PublishedLayer::add_expert(std::int64_t intermediate, bool interleaved) {
  ExpertWeights expert;
  if (interleaved) {
    expert.gate = add_matrix(2 * intermediate, config.hidden);  // rows of 4-bit codes with scales of their own
    const std::int64_t row_bytes = config.hidden / 2, row_scales = expert.gate.quantization.scale_row_stride;
    expert.gate.rows = intermediate;
    expert.gate.row_stride *= 2;
    expert.gate.quantization.scale_row_stride *= 2;
    expert.up = expert.gate;
    expert.up.data = static_cast<const std::byte*>(expert.gate.data) + row_bytes;
    expert.up.quantization.scales = static_cast<const std::byte*>(expert.gate.quantization.scales) + row_scales;
  } else {
    expert.gate = add_matrix(intermediate, config.hidden);
    expert.up = add_matrix(intermediate, config.hidden);
  }
  expert.down = add_matrix(config.hidden, intermediate);
  return expert;
}

VectorView PublishedLayer::add_vector(std::int64_t size, DType dtype, double scale) {
  arrays_.push_back(std::make_unique<HostArray>(random_array(random_, size, dtype, scale)));
  return {arrays_.back()->bytes.data(), dtype, size, 1};
}

void PublishedLayer::add_biases(ExpertWeights& expert) {
  // Of gate and up they alternate, as their rows may.
  const VectorView both = add_vector(2 * std::int64_t{config.intermediate}, DType::kBF16, 0.5);
  expert.gate_bias = {both.data, both.dtype, config.intermediate, 2};
  expert.up_bias = {static_cast<const std::byte*>(both.data) + 2, both.dtype, config.intermediate, 2};
  expert.down_bias = add_vector(config.hidden, DType::kBF16, 0.5);
}

void PublishedLayer::add_router(const tables::ModelRow& model) {
  const std::int64_t experts = model.num_experts, hidden = model.hidden;
  const VectorView all = add_vector(experts * hidden, DType::kBF16, 1.0 / std::sqrt(model.hidden));
  weights.router = {all.data, all.dtype, experts, hidden, hidden, 1};
  if (model.biases) weights.router_bias = add_vector(experts, DType::kBF16, 0.3);
  if (has_selection_bias(model.routing)) weights.selection_bias = add_vector(experts, DType::kF32, 0.05);
}

}  // namespace moesaic::testing
