// SPDX-License-Identifier: Apache-2.0
// Random codes and scales: bits, masked so that each is a number of moderate size; random 16-bit numbers: normal ones.
#include "cli/bench_weights.h"

#include <array>
#include <cstring>
#include <optional>
#include <random>
#include <string>

#include "backend_cpu/fast_number.h"
#include "moesaic/quantize.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"
#include "tables/stored_matrix.h"

namespace moesaic::cli {
namespace {

/// Random words: `word & random | set`.
class MaskedBits {
 public:
  template <typename Word>
  void fill(void* data, std::size_t bytes, Word random, Word set) {
    auto* at = static_cast<std::uint8_t*>(data);
    for (; bytes >= sizeof(Word); bytes -= sizeof(Word), at += sizeof(Word)) {
      const auto word = static_cast<Word>((static_cast<Word>(next()) & random) | set);
      std::memcpy(at, &word, sizeof(Word));
    }
  }

  std::uint32_t next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<std::uint32_t>(state_ >> 32);
  }

 private:
  std::uint64_t state_ = 0x9e3779b97f4a7c15ull;
};

constexpr float kDeviation = 0.02f;

/// Normal ones, as weights and activations of models are: a GPU that its power holds is 3% slower by them than by
/// numbers of two exponents (docs/performance-log.md). Drawn from 65536: drawing all would take longer than the
/// measurement.
void fill_numbers(MaskedBits& bits, void* data, std::size_t bytes, DType dtype) {
  static const auto drawn = [] {
    std::array<std::vector<std::uint16_t>, 2> tables;  // bf16, fp16
    std::mt19937 rng(1);
    std::normal_distribution<float> normal(0.0f, kDeviation);
    for (int i = 0; i < 1 << 16; ++i) {
      const float number = normal(rng);
      tables[0].push_back(cpu::float_to_bf16(number));
      tables[1].push_back(cpu::float_to_half(number));
    }
    return tables;
  }();
  const std::vector<std::uint16_t>& numbers = drawn[dtype == DType::kBF16 ? 0 : 1];
  auto* to = static_cast<std::uint8_t*>(data);
  for (; bytes >= 2; bytes -= 2, to += 2) std::memcpy(to, &numbers[bits.next() >> 16], 2);
}

/// Every nibble is a code; e4m3: magnitudes of 1/2 to 2, so that none is NaN.
void fill_codes(MaskedBits& bits, std::vector<std::uint8_t>& codes, CodeFormat format) {
  const bool four_bits = tables::code_bits(format) == 4;
  bits.fill<std::uint8_t>(codes.data(), codes.size(), four_bits ? 0xff : 0x8f, four_bits ? 0 : 0x30);
}

/// Scales that bring codes to numbers of size 0.02: 2^-8 for 4 bits, 2^-6 for 8, and up to twice that. e4m3 has no such
/// numbers; it is 1 to 2, and the multiplier does the rest.
void fill_scales(MaskedBits& bits, std::vector<std::uint8_t>& scales, const QuantTraits& traits) {
  const auto exponent = static_cast<std::uint32_t>(127 - (tables::code_bits(traits.codes) == 4 ? 8 : 6));
  void* data = scales.data();
  switch (traits.scales) {
    case ScaleFormat::kF32:
      return bits.fill<std::uint32_t>(data, scales.size(), 0x7fffff, exponent << 23);
    case ScaleFormat::kBF16:
      return bits.fill<std::uint16_t>(data, scales.size(), 0x7f, static_cast<std::uint16_t>(exponent << 7));
    case ScaleFormat::kF16:
      return bits.fill<std::uint16_t>(data, scales.size(), 0x3ff, static_cast<std::uint16_t>((exponent - 112) << 10));
    case ScaleFormat::kE4M3:
      return bits.fill<std::uint8_t>(data, scales.size(), 0x07, 0x38);
    case ScaleFormat::kE8M0:
      return bits.fill<std::uint8_t>(data, scales.size(), 0x01, static_cast<std::uint8_t>(exponent & ~1u));
  }
}

constexpr double kE4m3Multiplier = 0x1p-8;
constexpr float kStaticScale = 0x1p-8f;  // inputs of size 0.02 become codes of a few units

}  // namespace

std::vector<std::uint16_t> bench_numbers(std::size_t count, DType dtype) {
  std::vector<std::uint16_t> numbers(count);
  MaskedBits bits;
  fill_numbers(bits, numbers.data(), 2 * count, dtype);
  return numbers;
}

std::vector<std::uint8_t>& BenchMatrices::keep(std::int64_t bytes) {
  storage_.emplace_back(static_cast<std::size_t>(bytes));
  return storage_.back();
}

VectorView BenchMatrices::vector(std::int64_t size) {
  std::vector<std::uint8_t>& memory = keep(2 * size);
  MaskedBits bits;
  fill_numbers(bits, memory.data(), memory.size(), DType::kBF16);
  return {memory.data(), DType::kBF16, size, 1};
}

MatrixView BenchMatrices::matrix(const std::string& recipe, const Int4Groups& int4, std::int64_t rows,
                                 std::int64_t cols) {
  MaskedBits bits;
  const std::optional<QuantSpec> spec = weight_spec(recipe, int4);
  if (!spec) {
    const DType io = tables::get_recipe(recipe).io;
    std::vector<std::uint8_t>& numbers = keep(2 * rows * cols);
    fill_numbers(bits, numbers.data(), numbers.size(), io);
    return {numbers.data(), io, rows, cols, cols, 1};
  }
  const QuantTraits traits = quant_traits(*spec);
  const QuantSizes sizes = quant_sizes(*spec, rows, cols);
  std::vector<std::uint8_t>&codes = keep(sizes.code_bytes), &scales = keep(sizes.scale_bytes);
  fill_codes(bits, codes, traits.codes);
  fill_scales(bits, scales, traits);
  MatrixView view{codes.data(), DType::kU8, rows, cols, cols, 1};
  Quantization& q = view.quantization;
  q = tables::stored_quantization(*spec, rows, cols);
  q.scales = scales.data();
  if (traits.scales == ScaleFormat::kE4M3) q.multiplier = kE4m3Multiplier;
  return view;
}

BenchWeights::BenchWeights(const MoeConfig& config, bool biases) : config_(config) {
  views_.experts.assign(static_cast<std::size_t>(num_local_experts(config)),
                        expert(config.recipe, config.intermediate, biases));
  if (config.shared.intermediate > 0) {
    views_.shared = expert(tables::shared_recipe(config), config.shared.intermediate, biases);
  }
  if (config.shared.gated) views_.shared_gate = memory_.vector(config.hidden);
}

ExpertWeights BenchWeights::expert(const std::string& recipe, std::int64_t intermediate, bool biases) {
  const bool gated = is_gated(config_.activation.kind);
  ExpertWeights e;
  e.gate = memory_.matrix(recipe, config_.int4, intermediate, config_.hidden);
  if (gated) e.up = memory_.matrix(recipe, config_.int4, intermediate, config_.hidden);
  e.down = memory_.matrix(recipe, config_.int4, config_.hidden, intermediate);
  if (config_.static_scales) e.input_scale = e.down_input_scale = kStaticScale;
  if (!biases) return e;
  e.gate_bias = memory_.vector(intermediate);
  if (gated) e.up_bias = memory_.vector(intermediate);
  e.down_bias = memory_.vector(config_.hidden);
  return e;
}

}  // namespace moesaic::cli
