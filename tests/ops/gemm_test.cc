// SPDX-License-Identifier: Apache-2.0
// Gemm on the CPU: every recipe against a product that is written out here, groups in every form, codes given by the
// caller, and everything that is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backend_cpu/backend_cpu.h"
#include "moesaic/quantize.h"
#include "support/expect_error.h"
#include "support/gemm_case.h"
#include "support/guarded_memory.h"
#include "tables/given_codes.h"
#include "tables/quant_table.h"

namespace moesaic {
namespace {

using testing::expect_error;
using testing::GemmCodes;
using testing::GemmRows;
using testing::Grouping;
using testing::GuardedMemory;
using testing::HostGemm;

constexpr Grouping kGroupings[] = {Grouping::kNone, Grouping::kOffsets, Grouping::kCounts};

GemmConfig config_of(const std::string& recipe, Grouping grouping) {
  GemmConfig c;
  c.recipe = recipe;
  c.n = 19, c.k = 128;
  c.groups = grouping == Grouping::kNone ? 1 : 3;
  c.max_rows = 64;
  return c;
}

std::vector<int> counts_of(Grouping grouping) {
  return grouping == Grouping::kNone ? std::vector<int>{5} : std::vector<int>{4, 0, 3};
}

bool is_quantised(const std::string& recipe) { return tables::given_codes(recipe, 0, 128).has_value(); }

/// Values of x as the operand has them: what the recipe's quantiser makes of them, decoded in FP32.
std::vector<float> operand_values(const GemmConfig& c, const GemmRows& rows) {
  if (!is_quantised(c.recipe)) return testing::to_floats(rows.x);
  GemmCodes codes = testing::quantise_rows(c, rows);
  const tables::GivenCodes form = tables::given_codes(c.recipe, rows.rows, c.k, c.e5m2).value();
  const QuantSizes sizes = quant_sizes({form.format}, rows.rows, c.k);
  std::vector<float> values(static_cast<std::size_t>(rows.rows * c.k));
  QuantizeRun run;
  run.x = TensorView(values.data(), DType::kF32, {rows.rows, c.k});
  run.codes = TensorView(codes.codes.data(), DType::kU8, {rows.rows, form.codes.shape[1]});
  run.scales = TensorView(codes.scales.data(), form.scale.dtype, {sizes.scale_rows, sizes.scale_cols});
  if (form.row_scale) run.row_scales = TensorView(codes.row_scales.data(), DType::kF32, {rows.rows});
  Quantizer::create({form.format}, {}).dequantize(run);
  return values;
}

int group_of(const GemmRows& rows, std::int64_t row) {
  if (rows.grouping == Grouping::kNone) return 0;
  if (rows.grouping == Grouping::kCounts) return static_cast<int>(row / (rows.rows / rows.groups));
  int group = 0;
  while (row >= rows.numbers[static_cast<std::size_t>(group) + 1]) ++group;
  return group;
}

/// alpha sum + bias, in FP64; NaN for rows of nobody.
std::vector<double> written_out(const HostGemm& gemm, const GemmRows& rows, float alpha) {
  const GemmConfig& c = gemm.config;
  const std::vector<float> x = operand_values(c, rows);
  std::vector<double> y;
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    for (std::int64_t j = 0; j < c.n; ++j) {
      if (!rows.used[static_cast<std::size_t>(r)]) {
        y.push_back(std::nan(""));
        continue;
      }
      const GemmWeights& w = gemm.weights[static_cast<std::size_t>(group_of(rows, r))];
      double sum = 0;
      for (std::int64_t i = 0; i < c.k; ++i) {
        sum += double{x[static_cast<std::size_t>(r * c.k + i)]} * cpu::matrix_element(w.w, j, i);
      }
      const double bias = w.bias.empty() ? 0.0 : cpu::load_element(w.bias.data, w.bias.dtype, j);
      y.push_back(alpha * sum + bias);
    }
  }
  return y;
}

/// Runs on the CPU; every byte of out is 0xff before.
class CpuRunner {
 public:
  explicit CpuRunner(const HostGemm& gemm)
      : gemm_(Gemm::create(gemm.config)), prepared_(gemm_.prepared_bytes()), n_(gemm.config.n) {
    gemm_.prepare(gemm.weights, prepared_.data());
  }

  template <typename Change>
  std::vector<float> run(const GemmRows& rows, DType type, const Change& change) const {
    GuardedMemory out(static_cast<std::size_t>(rows.rows * n_) * dtype_size(type));
    GemmRun run = rows.run(out.data(), type, n_);
    run.prepared = prepared_.data();
    change(run);
    gemm_.run(run);
    EXPECT_TRUE(out.intact());
    const std::string bytes = out.text();
    return testing::to_floats({type, {bytes.begin(), bytes.end()}});
  }
  std::vector<float> run(const GemmRows& rows, DType type) const {
    return run(rows, type, [](GemmRun&) {});
  }
  const Gemm& gemm() const { return gemm_; }
  void* prepared() const { return prepared_.data(); }

 private:
  Gemm gemm_;
  mutable GuardedMemory prepared_;
  std::int64_t n_;
};

/// Rows of nobody keep their 0xff bytes; the others are as near as `bound` relative to their row.
void expect_near(const std::vector<float>& got, const std::vector<double>& wanted, std::int64_t cols, double bound) {
  ASSERT_EQ(got.size(), wanted.size());
  for (std::size_t first = 0; first < got.size(); first += static_cast<std::size_t>(cols)) {
    double error = 0, size = 0;
    for (std::size_t i = first; i < first + static_cast<std::size_t>(cols); ++i) {
      ASSERT_EQ(std::isnan(got[i]), std::isnan(wanted[i])) << "row " << first / static_cast<std::size_t>(cols);
      if (std::isnan(wanted[i])) continue;
      error += (got[i] - wanted[i]) * (got[i] - wanted[i]);
      size += wanted[i] * wanted[i];
    }
    EXPECT_LE(std::sqrt(error), bound * std::sqrt(size)) << "row " << first / static_cast<std::size_t>(cols);
  }
}

TEST(Gemm, EveryRecipeAndFormOfGroupsIsTheProductWrittenOut) {
  std::mt19937 rng(testing::fresh_seed());
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    for (const Grouping grouping : kGroupings) {
      SCOPED_TRACE(std::string(recipe.name) + " grouping " + std::to_string(static_cast<int>(grouping)));
      GemmConfig c = config_of(recipe.name, grouping);
      c.int4 = {64, grouping == Grouping::kCounts};
      const HostGemm gemm = testing::random_gemm(rng, c, grouping != Grouping::kOffsets);
      const GemmRows rows = testing::random_gemm_rows(rng, c, counts_of(grouping), grouping);
      const float alpha = grouping == Grouping::kNone ? 1.0f : -0.75f;
      const std::vector<double> wanted = written_out(gemm, rows, alpha);
      const CpuRunner runner(gemm);
      const auto scaled = [alpha](GemmRun& run) { run.alpha = alpha; };
      expect_near(runner.run(rows, DType::kF32, scaled), wanted, c.n, 1e-6);
      expect_near(runner.run(rows, DType::kBF16, scaled), wanted, c.n, 0x1p-8);
      expect_near(runner.run(rows, DType::kF16, scaled), wanted, c.n, 0x1p-11);
    }
  }
}

TEST(Gemm, ResultsAreRoundedOnce) {
  std::mt19937 rng(testing::fresh_seed());
  const GemmConfig c = config_of("bf16", Grouping::kNone);
  const HostGemm gemm = testing::random_gemm(rng, c, true);
  const GemmRows rows = testing::random_gemm_rows(rng, c, {5}, Grouping::kNone);
  std::vector<double> exact(static_cast<std::size_t>(rows.rows * c.n));
  reference_gemm(c, gemm.weights, ReferenceMode::kOracle, rows.run(exact.data(), DType::kF64, c.n));
  const CpuRunner runner(gemm);
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32}) {
    const std::vector<float> got = runner.run(rows, type);
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], cpu::round_to(exact[i], type)) << dtype_name(type);
  }
}

TEST(Gemm, ExactModeRoundsNothing) {
  std::mt19937 rng(testing::fresh_seed());
  const GemmConfig c = config_of("nvfp4", Grouping::kNone);
  const HostGemm gemm = testing::random_gemm(rng, c, false);
  GemmRows rows = testing::random_gemm_rows(rng, c, {5}, Grouping::kNone);
  rows.x = testing::random_array(rng, rows.rows * c.k, DType::kF32, 1.0);
  std::vector<double> got(static_cast<std::size_t>(rows.rows * c.n)), wanted;
  reference_gemm(c, gemm.weights, ReferenceMode::kExact, rows.run(got.data(), DType::kF64, c.n));
  const std::vector<float> x = testing::to_floats(rows.x);
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    for (std::int64_t j = 0; j < c.n; ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < c.k; ++i) {
        sum += double{x[static_cast<std::size_t>(r * c.k + i)]} * cpu::matrix_element(gemm.weights[0].w, j, i);
      }
      EXPECT_NEAR(got[static_cast<std::size_t>(r * c.n + j)], sum, 1e-12);
    }
  }
}

TEST(Gemm, GivenCodesGiveWhatOwnQuantisationDoes) {
  std::mt19937 rng(testing::fresh_seed());
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    if (!is_quantised(recipe.name)) continue;
    for (const Grouping grouping : kGroupings) {
      SCOPED_TRACE(std::string(recipe.name) + " grouping " + std::to_string(static_cast<int>(grouping)));
      GemmConfig c = config_of(recipe.name, grouping);
      c.k = recipe.activation.scale == tables::Scale::kBlock1x128 ? 200 : 192;  // a last block that is not whole
      c.int4 = {64, false};
      const bool by_block = recipe.activation.scale == tables::Scale::kBlock1x128;
      for (const bool e5m2 : {false, true}) {
        if (e5m2 && recipe.activation.scale != tables::Scale::kE8m0x32) continue;
        c.e5m2 = e5m2;
        const HostGemm gemm = testing::random_gemm(rng, c, true);
        const GemmRows rows = testing::random_gemm_rows(rng, c, counts_of(grouping), grouping);
        const CpuRunner runner(gemm);
        const std::vector<float> own = runner.run(rows, DType::kF32);
        expect_near(own, written_out(gemm, rows, 1.0f), c.n, 1e-6);
        for (const ScaleMajor major : {ScaleMajor::kK, ScaleMajor::kMn}) {
          if (major == ScaleMajor::kMn && !by_block) continue;
          GemmCodes codes = testing::quantise_rows(c, rows);
          const std::vector<float> given =
              runner.run(rows, DType::kF32, [&](GemmRun& run) { codes.give(c, major, run); });
          EXPECT_EQ(std::memcmp(own.data(), given.data(), own.size() * 4), 0);
        }
      }
    }
  }
}

TEST(Gemm, E5m2HasItsOwnCodes) {
  std::mt19937 rng(testing::fresh_seed());
  GemmConfig c = config_of("mxfp8_mxfp4", Grouping::kNone);
  const HostGemm e4m3 = testing::random_gemm(rng, c, false);
  const GemmRows rows = testing::random_gemm_rows(rng, c, {5}, Grouping::kNone);
  HostGemm e5m2;
  e5m2.config = c;
  e5m2.config.e5m2 = true;
  e5m2.weights = e4m3.weights;
  EXPECT_NE(CpuRunner(e4m3).run(rows, DType::kF32), CpuRunner(e5m2).run(rows, DType::kF32));
}

// A static scale is the one that the static quantiser divides by, whoever quantises.
TEST(Gemm, StaticScales) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* recipe : {"fp8_tensor", "nvfp4"}) {
    SCOPED_TRACE(recipe);
    const GemmConfig c = config_of(recipe, Grouping::kNone);
    const HostGemm gemm = testing::random_gemm(rng, c, false);
    const GemmRows rows = testing::random_gemm_rows(rng, c, {5}, Grouping::kNone);
    const bool fp4 = c.recipe == "nvfp4";
    float scale = fp4 ? 0x1p-9f : 0.011f, none = 0.0f;
    float given_to_quantiser = fp4 ? 1.0f / scale : scale;
    const QuantSpec spec{.format = fp4 ? QuantFormat::kNvfp4 : QuantFormat::kFp8Static};
    const QuantSizes sizes = quant_sizes(spec, rows.rows, c.k);
    std::vector<unsigned char> codes(static_cast<std::size_t>(sizes.code_bytes)),
        scales(static_cast<std::size_t>(sizes.scale_bytes));
    QuantizeRun quantise;
    quantise.x = TensorView(rows.x.bytes.data(), rows.x.dtype, {rows.rows, c.k});
    quantise.codes = TensorView(codes.data(), DType::kU8, {rows.rows, sizes.code_bytes / rows.rows});
    quantise.scales = TensorView(scales.data(), fp4 ? DType::kU8 : DType::kF32, {sizes.scale_rows, sizes.scale_cols});
    quantise.global_scale = TensorView(&given_to_quantiser, DType::kF32, {1});
    Quantizer::create(spec, {}).quantize(quantise);
    const CpuRunner runner(gemm);
    const auto with_scale = [&](float* number) {
      return runner.run(rows, DType::kF32,
                        [&](GemmRun& run) { run.input_scale = TensorView(number, DType::kF32, {1}); });
    };
    const std::vector<float> own = with_scale(&scale);
    const std::vector<float> given = runner.run(rows, DType::kF32, [&](GemmRun& run) {
      run.x = quantise.codes;
      run.x_scale = fp4 ? quantise.scales : TensorView(&scale, DType::kF32, {1});
      if (fp4) run.x_row_scale = TensorView(&scale, DType::kF32, {1});
    });
    EXPECT_EQ(own, given);
    EXPECT_NE(own, runner.run(rows, DType::kF32));
    EXPECT_EQ(with_scale(&none), runner.run(rows, DType::kF32)) << "0 is no scale";
  }
}

TEST(Gemm, NoRowsAndEmptyGroups) {
  std::mt19937 rng(testing::fresh_seed());
  for (const Grouping grouping : {Grouping::kOffsets, Grouping::kCounts}) {
    const GemmConfig c = config_of("mxfp8", grouping);
    const HostGemm gemm = testing::random_gemm(rng, c, false);
    const CpuRunner runner(gemm);
    const GemmRows none = testing::random_gemm_rows(rng, c, {0, 0, 0}, grouping);
    for (const float v : runner.run(none, DType::kF32)) EXPECT_TRUE(std::isnan(v)) << "written";
    GemmRun run = none.run(nullptr, DType::kF32, c.n);
    run.x.shape[grouping == Grouping::kCounts ? 1 : 0] = run.out.shape[grouping == Grouping::kCounts ? 1 : 0] = 0;
    run.x.data = nullptr;
    runner.gemm().run(run);  // no memory is needed
  }
  EXPECT_EQ(CpuRunner(testing::random_gemm(rng, config_of("bf16", Grouping::kNone), false)).gemm().workspace_bytes(7),
            0u);
}

TEST(Gemm, RefusesWhatIsNoProduct) {
  const auto refused = [](const char* recipe, auto change, const std::vector<std::string>& words) {
    GemmConfig c = config_of(recipe, Grouping::kNone);
    change(c);
    expect_error(ErrorKind::kInvalidArgument, words, [&] { Gemm::create(c); });
  };
  refused("bf16", [](GemmConfig& c) { c.n = 0; }, {"gemm(bf16)", "n is 0", "1 to"});
  refused("bf16", [](GemmConfig& c) { c.k = -8; }, {"gemm(bf16)", "k is -8"});
  refused("bf16", [](GemmConfig& c) { c.groups = 0; }, {"groups is 0"});
  refused("bf16", [](GemmConfig& c) { c.max_rows = 0; }, {"max_rows is 0"});
  refused("bf16", [](GemmConfig& c) { c.e5m2 = true; }, {"e5m2", "mxfp8, mxfp8_mxfp4"});
  refused("bf16", [](GemmConfig& c) { c.device.index = 1; }, {"gemm", "device"});
  refused("mxfp8", [](GemmConfig& c) { c.k = 48; }, {"gemm(mxfp8)", "k is 48", "multiple of 32"});
  refused("nvfp4", [](GemmConfig& c) { c.k = 40; }, {"k is 40", "multiple of 16"});
  refused("bf16_int4", [](GemmConfig& c) { c.int4.size = 48; }, {"gemm", "48", "32, 64 or 128"});
  refused("fp8_int4", [](GemmConfig& c) { c.k = 72; }, {"k is 72", "multiple of 32"});
  refused("fp3", [](GemmConfig&) {}, {"fp3", "mxfp8_mxfp4"});
}

TEST(Gemm, RefusesWeightsByName) {
  std::mt19937 rng(7);
  const GemmConfig c = config_of("mxfp8_mxfp4", Grouping::kOffsets);
  const HostGemm gemm = testing::random_gemm(rng, c, true);
  const Gemm op = Gemm::create(c);
  GuardedMemory prepared(op.prepared_bytes());
  const auto refused = [&](auto change, const std::vector<std::string>& words) {
    std::vector<GemmWeights> weights = gemm.weights;
    change(weights);
    expect_error(ErrorKind::kInvalidArgument, words, [&] { op.prepare(weights, prepared.data()); });
  };
  using Weights = std::vector<GemmWeights>;
  refused([](Weights& w) { w.pop_back(); }, {"gemm: weights is 2 matrices", "3: one a group"});
  refused([](Weights& w) { w[1].w = {}; }, {"weights[1].w is empty", "[19, 128]"});
  refused([](Weights& w) { w[2].w.rows = 18; }, {"weights[2].w is [18, 128]"});
  refused([](Weights& w) { w[0].w.quantization.block_cols = 16; }, {"weights[0].w", "mxfp8_mxfp4", "Quantizer"});
  refused([](Weights& w) { w[0].w.quantization = {}, w[0].w.dtype = DType::kF32; }, {"weights[0].w is f32"});
  refused([](Weights& w) { w[1].bias.size = 20; }, {"weights[1].bias is [20]", "[19]"});
  refused([](Weights& w) { w[1].bias.dtype = DType::kI32; }, {"weights[1].bias is i32"});
  expect_error(ErrorKind::kInvalidArgument, {"prepared is a null pointer"}, [&] { op.prepare(gemm.weights, nullptr); });
  expect_error(ErrorKind::kInvalidArgument, {"prepared is at", "256"},
               [&] { op.prepare(gemm.weights, static_cast<char*>(prepared.data()) + 8); });
}

/// Every change must be refused with these words, and nothing written.
class RefusedRuns {
 public:
  RefusedRuns(const std::string& recipe, Grouping grouping)
      : config_(config_of(recipe, grouping)),
        gemm_(testing::random_gemm(rng_, config_, false)),
        rows_(testing::random_gemm_rows(rng_, config_, counts_of(grouping), grouping)),
        runner_(gemm_),
        out_(static_cast<std::size_t>(rows_.rows * config_.n), -7.0f) {
    if (is_quantised(recipe)) codes_ = testing::quantise_rows(config_, rows_);
  }

  template <typename Change>
  void operator()(bool codes, const Change& change, const std::vector<std::string>& words) {
    GemmRun run = rows_.run(out_.data(), DType::kF32, config_.n);
    run.prepared = runner_.prepared();
    if (codes) codes_.give(config_, ScaleMajor::kK, run);
    change(run);
    expect_error(ErrorKind::kInvalidArgument, words, [&] { runner_.gemm().run(run); });
    EXPECT_EQ(out_, std::vector<float>(out_.size(), -7.0f));
  }
  GemmRows& rows() { return rows_; }

 private:
  std::mt19937 rng_{3};
  GemmConfig config_;
  HostGemm gemm_;
  GemmRows rows_;
  CpuRunner runner_;
  std::vector<float> out_;
  GemmCodes codes_;
};

TEST(Gemm, RefusesRunsByName) {
  RefusedRuns one("bf16", Grouping::kNone);
  one(false, [](GemmRun& r) { r.x = {}; }, {"gemm: x is empty", "[M, 128]"});
  one(false, [](GemmRun& r) { r.x.dtype = DType::kF16; }, {"gemm: x is f16", "bf16 [5, 128]"});
  one(false, [](GemmRun& r) { r.x.shape[1] = 64; }, {"x is bf16 [5, 64]"});
  one(false, [](GemmRun& r) { r.x.shape[0] = 65; }, {"x is bf16 [65, 128]", "64"});
  one(false, [](GemmRun& r) { r.x.shape[0] = -1; }, {"x is"});
  one(false, [](GemmRun& r) { r.x.data = nullptr; }, {"x is a null pointer"});
  one(false, [](GemmRun& r) { r.x.data = static_cast<char*>(r.x.data) + 1; }, {"x is at", "2 bytes"});
  one(false, [](GemmRun& r) { r.x.dtype = DType::kU8; }, {"x is u8", "16-bit activations", "mxfp8"});
  one(false, [](GemmRun& r) { r.out.dtype = DType::kF64; }, {"out is f64", "bf16 or f16 or f32 [5, 19]"});
  one(false, [](GemmRun& r) { r.out.shape[1] = 20; }, {"out is f32 [5, 20]"});
  one(false, [](GemmRun& r) { r.out.data = nullptr; }, {"out is a null pointer"});
  one(false, [](GemmRun& r) { r.alpha = std::nanf(""); }, {"alpha is nan"});
  one(false, [](GemmRun& r) { r.input_scale = r.out; }, {"input_scale", "bf16 have no static scale"});
  one(false, [](GemmRun& r) { r.x_scale = r.out; }, {"x_scale", "empty"});
  one(false, [](GemmRun& r) { r.prepared = nullptr; }, {"prepared is a null pointer"});
  const std::vector<char> other(4096, 1);
  const auto* aligned = other.data() + (256 - reinterpret_cast<std::uintptr_t>(other.data()) % 256) % 256;
  one(false, [&](GemmRun& r) { r.prepared = aligned; }, {"prepared is memory of something else"});
}

TEST(Gemm, RefusesGroupsByName) {
  RefusedRuns offsets("bf16", Grouping::kOffsets), counts("bf16", Grouping::kCounts);
  offsets(false, [](GemmRun& r) { r.group_offsets = {}; }, {"group_offsets is empty", "[4]", "[3]", "3 groups"});
  offsets(false, [](GemmRun& r) { r.group_counts = r.group_offsets; }, {"group_counts", "one of them"});
  offsets(false, [](GemmRun& r) { r.group_offsets.shape[0] = 3; }, {"group_offsets is i32 [3]", "i32 [4]"});
  offsets(false, [](GemmRun& r) { r.group_offsets.dtype = DType::kI64; }, {"group_offsets is i64"});
  offsets(false, [](GemmRun& r) { r.group_offsets.data = nullptr; }, {"group_offsets is a null pointer"});
  counts(false, [](GemmRun& r) { r.group_counts.shape[0] = 4; }, {"group_counts is i32 [4]"});
  counts(false, [](GemmRun& r) { r.x.shape[0] = 2; }, {"x is bf16 [2, 5, 128]", "[3, max, 128]"});
  counts(false, [](GemmRun& r) { r.x.rank = 2; }, {"x is bf16 [3, 5]"});
  counts(false, [](GemmRun& r) { r.out.rank = 2; }, {"out is f32 [3, 5]"});
  counts(false, [](GemmRun& r) { r.x.shape[1] = r.out.shape[1] = 22; }, {"x is bf16 [3, 22, 128]", "64"});
  // Numbers that the host can look at.
  counts.rows().numbers[2] = 6;
  counts(false, [](GemmRun&) {}, {"group_counts[2] is 6", "0 to 5"});
  counts.rows().numbers[2] = -1;
  counts(false, [](GemmRun&) {}, {"group_counts[2] is -1"});
  offsets.rows().numbers = {0, 5, 4, 7};
  offsets(false, [](GemmRun&) {}, {"group_offsets[2] is 4", "5 to 10"});
  offsets.rows().numbers = {0, 5, 6, 11};
  offsets(false, [](GemmRun&) {}, {"group_offsets[3] is 11", "6 to 10"});
  offsets.rows().numbers = {1, 5, 6, 7};
  offsets(false, [](GemmRun&) {}, {"group_offsets[0] is 1"});
}

TEST(Gemm, RefusesCodesByName) {
  RefusedRuns mx("mxfp8", Grouping::kNone), block("fp8_block", Grouping::kNone), nvfp4("nvfp4", Grouping::kNone),
      tensor("fp8_tensor", Grouping::kNone), masked("fp8_block", Grouping::kCounts);
  mx(true, [](GemmRun& r) { r.x_scale = {}; }, {"gemm: x_scale is empty", "u8 [5, 4]"});
  mx(true, [](GemmRun& r) { r.x_scale.dtype = DType::kF32; }, {"x_scale is f32 [5, 4]"});
  mx(true, [](GemmRun& r) { r.x_scale.shape[1] = 8; }, {"x_scale is u8 [5, 8]"});
  mx(true, [](GemmRun& r) { r.x_scale.data = nullptr; }, {"x_scale is a null pointer"});
  mx(true, [](GemmRun& r) { r.x_row_scale = r.x_scale; }, {"x_row_scale"});
  mx(true, [](GemmRun& r) { r.scale_major = ScaleMajor::kMn; }, {"scale_major is kMn", "mxfp8"});
  mx(true, [](GemmRun& r) { r.scale_major = static_cast<ScaleMajor>(7); }, {"scale_major is value 7"});
  mx(false, [](GemmRun& r) { r.x_scale = r.out; }, {"x_scale", "numbers"});
  block(true, [](GemmRun& r) { r.x_scale.shape[1] = 2; }, {"x_scale is f32 [5, 2]", "f32 [5, 1]"});
  block(true, [](GemmRun& r) { r.scale_major = ScaleMajor::kMn; }, {"x_scale is f32 [5, 1]", "f32 [1, 5]"});
  masked(true, [](GemmRun& r) { r.x.shape[2] = 64; }, {"x is"});
  nvfp4(true, [](GemmRun& r) { r.x_row_scale = {}; }, {"x_row_scale is empty"});
  nvfp4(true, [](GemmRun& r) { r.x.shape[1] = 128; }, {"x is u8 [5, 128]", "u8 [5, 64]"});
  float scale = 1.0f;
  tensor(true, [&](GemmRun& r) { r.input_scale = TensorView(&scale, DType::kF32, {1}); },
         {"input_scale", "quantised already"});
  tensor(false, [&](GemmRun& r) { r.input_scale = TensorView(&scale, DType::kF32, {2}); }, {"input_scale is f32 [2]"});
}

TEST(Gemm, QuestionsRefuseRowsBeyondTheLargest) {
  const Gemm op = Gemm::create(config_of("bf16", Grouping::kNone));
  EXPECT_EQ(op.kernels(64), std::vector<std::string>{"cpu_oracle"});
  expect_error(ErrorKind::kInvalidArgument, {"gemm: kernels of 65 rows", "max_rows 64"}, [&] { op.kernels(65); });
  expect_error(ErrorKind::kInvalidArgument, {"workspace_bytes of -1 rows"}, [&] { op.workspace_bytes(-1); });
}

}  // namespace
}  // namespace moesaic
