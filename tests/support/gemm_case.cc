// SPDX-License-Identifier: Apache-2.0
// Random products for tests.
#include "support/gemm_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "moesaic/quantize.h"
#include "tables/given_codes.h"
#include "tables/quant_table.h"
#include "tables/stored_matrix.h"

namespace moesaic::testing {
namespace {

unsigned char* keep(HostGemm& gemm, std::int64_t bytes) {
  gemm.storage.push_back(std::make_unique<std::vector<unsigned char>>(static_cast<std::size_t>(bytes) + 1, 0));
  return gemm.storage.back()->data();
}

const unsigned char* keep(HostGemm& gemm, const HostArray& array) {
  gemm.storage.push_back(std::make_unique<std::vector<unsigned char>>(array.bytes));
  return gemm.storage.back()->data();
}

DType scale_type(const QuantTraits& traits) {
  if (tables::scale_size(traits.scales) == 1) return DType::kU8;
  return traits.scales == ScaleFormat::kF32 ? DType::kF32 : DType::kBF16;
}

/// Zero points of a byte each -> nibbles, row by row.
const void* pack_zeros(HostGemm& gemm, const std::vector<unsigned char>& zeros) {
  unsigned char* nibbles = keep(gemm, static_cast<std::int64_t>(zeros.size() + 1) / 2);
  for (std::size_t i = 0; i < zeros.size(); ++i) {
    nibbles[i / 2] = static_cast<unsigned char>(nibbles[i / 2] | zeros[i] << i % 2 * 4);
  }
  return nibbles;
}

/// bf16 scales -> FP32 ones that no 16 bits hold.
const void* widen_scales(std::mt19937& rng, HostGemm& gemm, const unsigned char* scales, std::int64_t count) {
  std::uniform_real_distribution<float> factor(1.0f, 1.5f);
  HostArray array{DType::kBF16, {scales, scales + count * 2}};
  std::vector<float> wide = to_floats(array);
  for (float& scale : wide) scale *= factor(rng);
  unsigned char* to = keep(gemm, count * 4);
  std::memcpy(to, wide.data(), static_cast<std::size_t>(count) * 4);
  return to;
}

MatrixView quantised(std::mt19937& rng, HostGemm& gemm, const QuantSpec& spec, const HostArray& values) {
  const std::int64_t rows = gemm.config.n, cols = gemm.config.k;
  const QuantTraits traits = quant_traits(spec);
  const QuantSizes sizes = quant_sizes(spec, rows, cols);
  unsigned char* codes = keep(gemm, sizes.code_bytes);
  unsigned char* scales = keep(gemm, sizes.scale_bytes);
  std::vector<unsigned char> zeros(static_cast<std::size_t>(sizes.zero_bytes));
  float amax = 0.0f;
  for (const float v : to_floats(values)) amax = std::max(amax, std::fabs(v));
  const float global = 2688.0f / amax;
  QuantizeRun run;
  run.x = TensorView(values.bytes.data(), values.dtype, {rows, cols});
  run.codes = TensorView(codes, DType::kU8, {rows, sizes.code_bytes / rows});
  run.scales = TensorView(scales, scale_type(traits), {sizes.scale_rows, sizes.scale_cols});
  if (!zeros.empty()) run.zeros = TensorView(zeros.data(), DType::kU8, {rows, sizes.scale_cols});
  if (spec.format == QuantFormat::kNvfp4) run.global_scale = TensorView(&global, DType::kF32, {1});
  Quantizer::create(spec, {}).quantize(run);

  MatrixView view{codes, DType::kU8, rows, cols, cols, 1};
  Quantization& q = view.quantization;
  q = tables::stored_quantization(spec, rows, cols);
  q.scales = scales;
  if (spec.format == QuantFormat::kInt4 && spec.int4.f32_scales) {
    q.scales = widen_scales(rng, gemm, scales, sizes.scale_rows * sizes.scale_cols);
    q.scale_format = ScaleFormat::kF32;
  }
  if (spec.format == QuantFormat::kNvfp4) q.multiplier = 1.0 / global;
  if (!zeros.empty()) {
    q.zeros = pack_zeros(gemm, zeros);
    q.zero_row_stride = sizes.scale_cols;
    q.zero_col_stride = 1;
  }
  return view;
}

}  // namespace

HostGemm random_gemm(std::mt19937& rng, const GemmConfig& config, bool biases) {
  HostGemm gemm;
  gemm.config = config;
  const std::optional<QuantSpec> spec = weight_spec(config.recipe, config.int4);
  const DType io = tables::get_recipe(config.recipe).io;
  for (int g = 0; g < config.groups; ++g) {
    const std::int64_t size = std::int64_t{config.n} * config.k;
    const HostArray values = random_array(rng, size, spec ? DType::kF32 : io, 1.0 / std::sqrt(config.k));
    GemmWeights w;
    w.w = spec ? quantised(rng, gemm, *spec, values)
               : MatrixView{keep(gemm, values), io, config.n, config.k, config.k, 1};
    if (biases && rng() % 4 != 0) w.bias = {keep(gemm, random_array(rng, config.n, io, 0.5)), io, config.n, 1};
    gemm.weights.push_back(w);
  }
  return gemm;
}

GemmRun GemmRows::run(void* out, DType type, std::int64_t n) const {
  GemmRun r;
  if (grouping == Grouping::kCounts) {
    r.x = TensorView(x.bytes.data(), x.dtype, {groups, rows / groups, k});
    r.out = TensorView(out, type, {groups, rows / groups, n});
    r.group_counts = TensorView(numbers.data(), DType::kI32, {groups});
    return r;
  }
  r.x = TensorView(x.bytes.data(), x.dtype, {rows, k});
  r.out = TensorView(out, type, {rows, n});
  if (grouping == Grouping::kOffsets) r.group_offsets = TensorView(numbers.data(), DType::kI32, {groups + 1});
  return r;
}

GemmRows random_gemm_rows(std::mt19937& rng, const GemmConfig& config, const std::vector<int>& counts,
                          Grouping grouping) {
  GemmRows rows;
  rows.grouping = grouping;
  rows.groups = config.groups;
  rows.k = config.k;
  const int total = std::accumulate(counts.begin(), counts.end(), 0);
  const int most = *std::max_element(counts.begin(), counts.end());
  // Offsets: three rows behind the last group's. Counts: a row more than the largest group has.
  rows.rows = grouping == Grouping::kNone      ? total
              : grouping == Grouping::kOffsets ? total + 3
                                               : std::int64_t{most + 1} * config.groups;
  rows.used.assign(static_cast<std::size_t>(rows.rows), grouping == Grouping::kNone);
  int before = 0;
  if (grouping == Grouping::kOffsets) rows.numbers.push_back(0);
  for (int g = 0; g < config.groups && grouping != Grouping::kNone; ++g) {
    const int count = counts[static_cast<std::size_t>(g)];
    const int first = grouping == Grouping::kOffsets ? before : g * (most + 1);
    std::fill_n(rows.used.begin() + first, count, true);
    before += count;
    rows.numbers.push_back(grouping == Grouping::kOffsets ? before : count);
  }
  const DType io = tables::get_recipe(config.recipe).io;
  std::vector<float> values = to_floats(random_array(rng, rows.rows * config.k, io, 1.0));
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    if (rows.used[static_cast<std::size_t>(r)]) continue;
    std::fill_n(values.begin() + r * config.k, config.k, std::numeric_limits<float>::quiet_NaN());
  }
  rows.x = to_array(values, io);
  return rows;
}

GemmCodes quantise_rows(const GemmConfig& config, const GemmRows& rows) {
  const tables::GivenCodes form = tables::given_codes(config.recipe, rows.rows, config.k, config.e5m2).value();
  const QuantSizes sizes = quant_sizes({form.format}, rows.rows, config.k);
  GemmCodes made{std::vector<unsigned char>(static_cast<std::size_t>(sizes.code_bytes)),
                 std::vector<unsigned char>(static_cast<std::size_t>(sizes.scale_bytes)),
                 std::vector<float>(form.row_scale ? static_cast<std::size_t>(rows.rows) : 0)};
  QuantizeRun run;
  run.x = TensorView(rows.x.bytes.data(), rows.x.dtype, {rows.rows, config.k});
  run.codes = TensorView(made.codes.data(), DType::kU8, {rows.rows, code_columns(config)});
  run.scales = TensorView(made.scales.data(), form.scale.dtype, {sizes.scale_rows, sizes.scale_cols});
  if (form.row_scale) run.row_scales = TensorView(made.row_scales.data(), DType::kF32, {rows.rows});
  Quantizer::create({form.format}, {}).quantize(run);
  return made;
}

std::int64_t code_columns(const GemmConfig& config) {
  return tables::given_codes(config.recipe, 0, config.k, config.e5m2).value().codes.shape[1];
}

void GemmCodes::give(const GemmConfig& config, ScaleMajor major, GemmRun& run) {
  const std::int64_t rows = run.x.num_elements() / config.k;
  const tables::GivenCodes form = tables::given_codes(config.recipe, rows, config.k, config.e5m2).value();
  run.x.data = codes.data();
  run.x.dtype = DType::kU8;
  run.x.shape[static_cast<std::size_t>(run.x.rank - 1)] = form.codes.shape[1];
  run.x_scale = TensorView(scales.data(), form.scale.dtype, {form.scale.shape[0], form.scale.shape[1]});
  run.x_scale.rank = form.scale.rank;
  if (form.row_scale) run.x_row_scale = TensorView(row_scales.data(), DType::kF32, {rows});
  run.scale_major = major;
  if (major == ScaleMajor::kK) return;
  const std::vector<unsigned char> by_row = scales;
  const std::int64_t blocks = form.scale.shape[1];
  for (std::int64_t i = 0; i < rows * blocks; ++i) {
    std::copy_n(by_row.begin() + i * 4, 4, scales.begin() + (i % blocks * rows + i / blocks) * 4);
  }
  std::swap(run.x_scale.shape[0], run.x_scale.shape[1]);
}

const tables::Tolerance& gemm_tolerance(DType out) { return out == DType::kBF16 ? tables::kTolBf16 : tables::kTolFp16; }

}  // namespace moesaic::testing
