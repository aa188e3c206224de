// SPDX-License-Identifier: Apache-2.0
// The groupwise-scaled mxfp8 x mxfp4 grouped product on a grid of 3,456 cases, against a naive FP64 kernel that is
// itself held against the CPU oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "backend_cuda/device.h"
#include "kernels/naive_gemm.h"
#include "moesaic/gemm.h"
#include "moesaic/quantize.h"
#include "support/device_layer.h"

namespace moesaic {
namespace {

using cuda::DeviceBuffer;
using testing::NaiveDifference;
using testing::NaiveGemm;
using testing::NaiveOperands;

constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr double kTolerance = 1e-2;  // rtol and atol
constexpr int kRowsOfGroup[] = {4, 128, 256, 512, 4096, 8192};
constexpr int kColumns[] = {128, 256, 512, 2879, 4096, 8192};
constexpr int kDepths[] = {128, 256, 512, 2880, 4096, 8192};
constexpr int kGroups[] = {1, 2, 4, 8};
constexpr DType kOuts[] = {DType::kBF16, DType::kF16};
constexpr std::size_t kMostRows = 8192 * 8, kMostColumns = 8192, kMostDepth = 8192, kMostGroups = 8;
constexpr int kMostSamples = 128;

// Scales of weights are 2^-3 .. 2^3 times 2^-4; e2m1 codes have a mean square of 8.6, as all 16 are as likely.
constexpr unsigned kLowestScale = 127 - 7, kScales = 7;

/// Makes results of variance 1: the mean of 4^s over s in -3 .. 3 is 12.2.
float alpha_of(int k) { return static_cast<float>(16.0 / std::sqrt(12.2 * 8.6 * k)); }

struct DeviceGemmGrid : testing::DeviceTest {};

/// Weights of n x k for every group as views of memory that holds the largest.
class Weights {
 public:
  explicit Weights(const NaiveGemm& naive)
      : codes_(kGpu, kMostGroups * kMostColumns * kMostDepth / 2),
        scales_(kGpu, kMostGroups * kMostColumns * kMostDepth / 32) {
    naive.fill(codes_.data(), static_cast<long long>(codes_.size()), testing::fresh_seed(), 0, 256);
    naive.fill(scales_.data(), static_cast<long long>(scales_.size()), testing::fresh_seed() + 1, kLowestScale,
               kScales);
  }
  std::vector<GemmWeights> views(int groups, std::int64_t n, std::int64_t k) const {
    std::vector<GemmWeights> all;
    for (int g = 0; g < groups; ++g) {
      MatrixView view{static_cast<const char*>(codes_.data()) + g * n * k / 2, DType::kU8, n, k, k, 1};
      Quantization& q = view.quantization;
      q.codes = CodeFormat::kE2M1;
      q.scale_format = ScaleFormat::kE8M0;
      q.scales = static_cast<const char*>(scales_.data()) + g * n * k / 32;
      q.block_cols = 32;
      q.scale_row_stride = k / 32;
      q.scale_col_stride = 1;
      all.push_back({view, {}});
    }
    return all;
  }
  const void* codes() const { return codes_.data(); }
  const void* scales() const { return scales_.data(); }

 private:
  DeviceBuffer codes_, scales_;
};

/// x [kMostRows, k] as bf16 and as codes of either format.
class Rows {
 public:
  explicit Rows(const NaiveGemm& naive)
      : numbers_(kGpu, kMostRows * kMostDepth * 2),
        codes_{{kGpu, kMostRows * kMostDepth}, {kGpu, kMostRows * kMostDepth}},
        scales_{{kGpu, kMostRows * kMostDepth / 32}, {kGpu, kMostRows * kMostDepth / 32}} {
    naive.fill(numbers_.data(), static_cast<long long>(kMostRows * kMostDepth), testing::fresh_seed() + 2, 0, 0);
  }
  /// Memory as rows of k numbers, quantised.
  void cut(int k) {
    for (const bool e5m2 : {false, true}) {
      const QuantSpec spec{.format = e5m2 ? QuantFormat::kMxfp8E5m2 : QuantFormat::kMxfp8};
      QuantizeRun run;
      run.x = TensorView(numbers_.data(), DType::kBF16, {static_cast<std::int64_t>(kMostRows), k});
      run.codes = TensorView(codes(e5m2), DType::kU8, {static_cast<std::int64_t>(kMostRows), k});
      run.scales = TensorView(scales(e5m2), DType::kU8, {static_cast<std::int64_t>(kMostRows), k / 32});
      Quantizer::create(spec, kGpu).quantize(run);
    }
  }
  void* numbers() const { return numbers_.data(); }
  void* codes(bool e5m2) const { return codes_[e5m2 ? 1 : 0].data(); }
  void* scales(bool e5m2) const { return scales_[e5m2 ? 1 : 0].data(); }

 private:
  DeviceBuffer numbers_, codes_[2], scales_[2];
};

/// Rows of every group, the first and the last among them; all when they are few.
std::vector<int> sample_rows(int rows_of_group, int groups) {
  const int each = std::min(rows_of_group, std::max(2, kMostSamples / groups));
  std::vector<int> samples;
  for (int g = 0; g < groups; ++g) {
    for (int i = 0; i < each; ++i) {
      const long long place = each == rows_of_group ? i : static_cast<long long>(i) * (rows_of_group - 1) / (each - 1);
      samples.push_back(g * rows_of_group + static_cast<int>(place));
    }
  }
  return samples;
}

/// What the whole grid found.
struct Summary {
  int cases = 0, failed = 0;
  long long compared = 0;
  double element[2] = {0, 0}, row_l2[2] = {0, 0};  // worst of bf16, of fp16
  std::set<std::string> kernels;
};

class Grid {
 public:
  Grid()
      : naive_(kGpu),
        weights_(naive_),
        rows_(naive_),
        out_(kGpu, kMostRows * kMostColumns * 2),
        offsets_(kGpu, (kMostGroups + 1) * 4) {}

  void run() {
    for (const int k : kDepths) {
      rows_.cut(k);
      for (const int n : kColumns) {
        for (const int groups : kGroups) run_weights(n, k, groups);
      }
    }
  }
  const Summary& summary() const { return summary_; }

 private:
  void run_weights(int n, int k, int groups) {
    prepared_is_current_ = false;
    for (const bool e5m2 : {false, true}) {
      GemmConfig c;
      c.recipe = "mxfp8_mxfp4";
      c.n = n, c.k = k, c.groups = groups;
      c.e5m2 = e5m2;
      c.max_rows = kRowsOfGroup[std::size(kRowsOfGroup) - 1] * groups;
      c.device = kGpu;
      const Gemm gemm = Gemm::create(c);
      prepare(gemm);
      for (const int rows_of_group : kRowsOfGroup) run_rows(gemm, rows_of_group);
    }
  }

  /// Activations of both formats read the same weights.
  void prepare(const Gemm& gemm) {
    if (prepared_is_current_) return;
    if (prepared_.size() < gemm.prepared_bytes()) prepared_ = DeviceBuffer(kGpu, gemm.prepared_bytes());
    const GemmConfig& c = gemm.config();
    gemm.prepare(weights_.views(c.groups, c.n, c.k), prepared_.data());
    prepared_is_current_ = true;
  }

  void run_rows(const Gemm& gemm, int rows_of_group) {
    const GemmConfig& c = gemm.config();
    const std::int64_t rows = std::int64_t{rows_of_group} * c.groups;
    std::vector<std::int32_t> offsets;
    for (int g = 0; g <= c.groups; ++g) offsets.push_back(g * rows_of_group);
    offsets_.upload(offsets.data(), offsets.size() * 4);
    const NaiveOperands operands{
        rows_.codes(c.e5m2), rows_.scales(c.e5m2), weights_.codes(), weights_.scales(), rows_of_group, c.n, c.k, c.e5m2,
        alpha_of(c.k)};
    naive_.multiply(operands, sample_rows(rows_of_group, c.groups));
    for (const DType type : kOuts) run_case(gemm, rows, type);
    for (const std::string& name : gemm.kernels(rows)) summary_.kernels.insert(name);
  }

  void run_case(const Gemm& gemm, std::int64_t rows, DType type) {
    const GemmConfig& c = gemm.config();
    const std::size_t workspace_bytes = gemm.workspace_bytes(rows);
    if (workspace_.size() < workspace_bytes) workspace_ = DeviceBuffer(kGpu, workspace_bytes);
    const cuda::DeviceGuard guard(kGpu.index);
    cuda::fill_async(out_.data(), 0xff, static_cast<std::size_t>(rows * c.n) * 2, nullptr);
    GemmRun run;
    if (type == DType::kBF16) {  // codes that the caller has quantised; else numbers, quantised on the way
      run.x = TensorView(rows_.codes(c.e5m2), DType::kU8, {rows, c.k});
      run.x_scale = TensorView(rows_.scales(c.e5m2), DType::kU8, {rows, c.k / 32});
    } else {
      run.x = TensorView(rows_.numbers(), DType::kBF16, {rows, c.k});
    }
    run.group_offsets = TensorView(offsets_.data(), DType::kI32, {c.groups + 1});
    run.out = TensorView(out_.data(), type, {rows, c.n});
    run.alpha = alpha_of(c.k);
    run.prepared = prepared_.data();
    run.workspace = workspace_.data();
    run.workspace_bytes = workspace_bytes;
    gemm.run(run);
    add(gemm, rows, type);
  }

  void add(const Gemm& gemm, std::int64_t rows, DType type) {
    const GemmConfig& c = gemm.config();
    const tables::Tolerance& tight = type == DType::kBF16 ? tables::kTolBf16 : tables::kTolFp16;
    const NaiveDifference d = naive_.compare(out_.data(), type, rows, kTolerance, tight);
    const int half = type == DType::kBF16 ? 0 : 1;
    ++summary_.cases;
    summary_.compared += d.compared;
    summary_.element[half] = std::max(summary_.element[half], d.element);
    summary_.row_l2[half] = std::max(summary_.row_l2[half], d.row_l2);
    if (d.beyond == 0 && d.not_finite == 0 && d.element <= 1.0 && d.row_l2 <= tight.oracle_row_l2) return;
    if (++summary_.failed > 20) return;  // enough to see what they have in common
    ADD_FAILURE() << "m " << rows / c.groups << " n " << c.n << " k " << c.k << " groups " << c.groups
                  << (c.e5m2 ? " e5m2 " : " e4m3 ") << dtype_name(type) << ": " << d.beyond << " of " << d.compared
                  << " beyond 1e-2, " << d.not_finite << " not finite or not written, " << d.element
                  << " of the tight bound, row " << d.row_l2;
  }

  NaiveGemm naive_;
  Weights weights_;
  Rows rows_;
  DeviceBuffer out_, offsets_, prepared_, workspace_;
  bool prepared_is_current_ = false;
  Summary summary_;
};

TEST_F(DeviceGemmGrid, AllCasesOfMxfp8TimesMxfp4) {
  const auto start = std::chrono::steady_clock::now();
  Grid grid;
  grid.run();
  const Summary& s = grid.summary();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf(
      "grid of mxfp8 x mxfp4: %d cases, %d failed, %lld elements compared in %.0f s; rtol = atol = 1e-2; of the tight "
      "bound at most %.3f (bf16) and %.3f (fp16), rows %.2e and %.2e\n",
      s.cases, s.failed, s.compared, seconds, s.element[0], s.element[1], s.row_l2[0], s.row_l2[1]);
  for (const std::string& name : s.kernels) std::printf("  ran %s\n", name.c_str());
  EXPECT_EQ(s.cases, 3456);
  EXPECT_EQ(s.failed, 0);
  bool multiplied = false;
  for (const std::string& name : s.kernels) multiplied = multiplied || name.find("_e2m1/") != std::string::npos;
  EXPECT_TRUE(multiplied) << "the rows under test did not run";
}

template <typename T>
std::vector<T> download(const DeviceBuffer& buffer, std::size_t count) {
  std::vector<T> values(count);
  buffer.download(values.data(), count * sizeof(T));
  return values;
}

TEST_F(DeviceGemmGrid, NaiveKernelMatchesTheOracle) {
  NaiveGemm naive(kGpu);
  constexpr int kGroupRows = 11, kGroupCount = 3, kN = 37, kK = 96, kRows = kGroupRows * kGroupCount;
  for (const bool e5m2 : {false, true}) {
    DeviceBuffer x(kGpu, kRows * kK), x_scales(kGpu, kRows * kK / 32), w(kGpu, kGroupCount * kN * kK / 2),
        w_scales(kGpu, kGroupCount * kN * kK / 32);
    const unsigned seed = testing::fresh_seed();
    // Every finite code of a sign: e4m3 below 0x7f, e5m2 below 0x7c.
    naive.fill(x.data(), kRows * kK, seed, e5m2 ? 0x80 : 0, e5m2 ? 0x7c : 0x7f);
    naive.fill(x_scales.data(), kRows * kK / 32, seed + 1, 118, 16);
    naive.fill(w.data(), kGroupCount * kN * kK / 2, seed + 2, 0, 256);
    naive.fill(w_scales.data(), kGroupCount * kN * kK / 32, seed + 3, 0, 200);
    GemmConfig c;
    c.recipe = "mxfp8_mxfp4";
    c.n = kN, c.k = kK, c.groups = kGroupCount, c.max_rows = kRows;
    c.e5m2 = e5m2;
    std::vector<int> samples = {0, 1, 5, 10, 11, 12, 13, 20, 21, 22, 31, 32};
    naive.multiply({x.data(), x_scales.data(), w.data(), w_scales.data(), kGroupRows, kN, kK, e5m2, 0.5}, samples);
    const std::vector<double> got = naive.sums();

    std::vector<unsigned char> codes = download<unsigned char>(x, x.size()),
                               scales = download<unsigned char>(x_scales, x_scales.size());
    const std::vector<unsigned char> host_w = download<unsigned char>(w, w.size()),
                                     host_scales = download<unsigned char>(w_scales, w_scales.size());
    std::vector<GemmWeights> weights;
    for (int g = 0; g < kGroupCount; ++g) {
      MatrixView view{host_w.data() + g * kN * kK / 2, DType::kU8, kN, kK, kK, 1};
      view.quantization.codes = CodeFormat::kE2M1;
      view.quantization.scale_format = ScaleFormat::kE8M0;
      view.quantization.scales = host_scales.data() + g * kN * kK / 32;
      view.quantization.block_cols = 32;
      view.quantization.scale_row_stride = kK / 32;
      view.quantization.scale_col_stride = 1;
      weights.push_back({view, {}});
    }
    std::vector<std::int32_t> offsets = {0, kGroupRows, 2 * kGroupRows, kRows};
    std::vector<double> wanted(static_cast<std::size_t>(kRows * kN));
    GemmRun run;
    run.x = TensorView(codes.data(), DType::kU8, {kRows, kK});
    run.x_scale = TensorView(scales.data(), DType::kU8, {kRows, kK / 32});
    run.group_offsets = TensorView(offsets.data(), DType::kI32, {kGroupCount + 1});
    run.out = TensorView(wanted.data(), DType::kF64, {kRows, kN});
    run.alpha = 0.5f;
    reference_gemm(c, weights, ReferenceMode::kOracle, run);
    for (std::size_t s = 0; s < samples.size(); ++s) {
      double size = 0;
      const double* row = &wanted[static_cast<std::size_t>(samples[s] * kN)];
      for (int j = 0; j < kN; ++j) size = std::max(size, std::fabs(row[j]));
      for (int j = 0; j < kN; ++j) {
        EXPECT_NEAR(got[s * kN + static_cast<std::size_t>(j)], row[j], 1e-10 * size) << "row " << samples[s];
      }
    }
  }
}

// A comparison that finds nothing would make the grid worthless.
TEST_F(DeviceGemmGrid, ComparisonFindsWhatIsWrong) {
  NaiveGemm naive(kGpu);
  constexpr int kRows = 4, kN = 128, kK = 128;
  DeviceBuffer x(kGpu, kRows * kK), x_scales(kGpu, kRows * kK / 32), w(kGpu, kN * kK / 2), w_scales(kGpu, kN * kK / 32);
  naive.fill(x.data(), kRows * kK, 1, 0x30, 16);
  naive.fill(x_scales.data(), kRows * kK / 32, 2, 127, 1);
  naive.fill(w.data(), kN * kK / 2, 3, 0, 256);
  naive.fill(w_scales.data(), kN * kK / 32, 4, 120, 4);
  naive.multiply({x.data(), x_scales.data(), w.data(), w_scales.data(), kRows, kN, kK, false, 1.0}, {0, 1, 2, 3});
  const std::vector<double> sums = naive.sums();
  for (const DType type : kOuts) {
    std::vector<float> values(sums.begin(), sums.end());
    const tables::Tolerance& tight = type == DType::kBF16 ? tables::kTolBf16 : tables::kTolFp16;
    const auto difference = [&](const std::vector<float>& numbers) {
      const testing::HostArray array = testing::to_array(numbers, type);
      DeviceBuffer out(kGpu, array.bytes.size());
      out.upload(array.bytes.data(), array.bytes.size());
      return naive.compare(out.data(), type, kRows, kTolerance, tight);
    };
    const NaiveDifference right = difference(values);
    EXPECT_EQ(right.beyond + right.not_finite, 0);
    EXPECT_GT(right.element, 0.0);
    EXPECT_LE(right.element, 1.0);
    EXPECT_LE(right.row_l2, tight.oracle_row_l2);
    std::vector<float> wrong = values;
    wrong[3 * kN + 77] += 0.1f + 0.1f * std::fabs(wrong[3 * kN + 77]);
    EXPECT_EQ(difference(wrong).beyond, 1);
    EXPECT_GT(difference(wrong).element, 1.0);
    wrong[5] = std::nanf("");
    EXPECT_EQ(difference(wrong).beyond, 2);
    EXPECT_EQ(difference(wrong).not_finite, 1);
    EXPECT_EQ(difference(wrong).element, HUGE_VAL);
  }
}

}  // namespace
}  // namespace moesaic
