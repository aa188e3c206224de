// SPDX-License-Identifier: Apache-2.0
// Gemm on a GPU against the CPU oracle: every recipe, rows of one and of several groups, odd shapes, result types,
// codes given by the caller, poisoned and guarded memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "backend_cuda/device_memory.h"
#include "support/device_gemm.h"
#include "support/device_layer.h"
#include "support/expect_error.h"
#include "tables/given_codes.h"
#include "tables/kernel_table.h"
#include "tables/stored_matrix.h"

namespace moesaic {
namespace {

using cuda::DeviceBuffer;
using testing::DeviceGemm;
using testing::GemmCodes;
using testing::GemmRows;
using testing::Grouping;
using testing::HostArray;
using testing::HostGemm;
using testing::kPoison;
using testing::PoisonedBuffer;

constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr DType kOuts[] = {DType::kBF16, DType::kF16, DType::kF32};

struct DeviceGemmTest : testing::DeviceTest {};

void expect_untouched(const GemmRows& rows, const HostArray& out, std::int64_t n) {
  const std::size_t bytes = static_cast<std::size_t>(n) * dtype_size(out.dtype);
  for (std::size_t r = 0; r < rows.used.size(); ++r) {
    if (rows.used[r]) continue;
    for (std::size_t i = r * bytes; i < (r + 1) * bytes; ++i) {
      ASSERT_EQ(out.bytes[i], kPoison) << "row " << r << ", which is nobody's, was written";
    }
  }
}

/// Below 2^-14 numbers of fp16 are 2^-24 apart: as much of a difference as half of that, none of them can avoid.
void allow_half_a_step(const std::vector<float>& got, std::vector<double>& wanted) {
  constexpr double kHalf = 0x1p-25;
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] += std::clamp(got[i] - wanted[i], -kHalf, kHalf);
}

/// `change` sets what else the run has, in host memory.
template <typename Change>
void check_run(const HostGemm& host, const DeviceGemm& device, const GemmRows& rows, DType out, const Change& change) {
  SCOPED_TRACE(std::string(dtype_name(out)) + " of " + std::to_string(rows.rows) + " rows");
  const std::int64_t n = host.config.n;
  std::vector<double> wanted(static_cast<std::size_t>(rows.rows * n), 0.0);
  GemmRun run = rows.run(wanted.data(), DType::kF64, n);
  change(run);
  reference_gemm(host.config, host.weights, ReferenceMode::kOracle, run);
  run.out.dtype = out;
  const HostArray result = device.run(run);
  expect_untouched(rows, result, n);
  const tables::Tolerance& tolerance = testing::gemm_tolerance(out);
  const std::vector<float> got = testing::used_rows(rows, testing::to_floats(result), n);
  std::vector<double> expected = testing::used_rows(rows, wanted, n);
  if (out == DType::kF16) allow_half_a_step(got, expected);
  // A row of few numbers can be all cancellation: such rows count together.
  const std::int64_t columns = n < 16 ? static_cast<std::int64_t>(got.size()) : n;
  const testing::Distance d = testing::compare(got, expected, columns, tolerance);
  EXPECT_TRUE(d.finite);
  EXPECT_LE(d.row_l2, tolerance.oracle_row_l2) << "row " << d.row;
  EXPECT_LE(d.element, 1.0);
}

std::string case_name(const GemmConfig& c, Grouping grouping) {
  return c.recipe + (c.e5m2 ? " e5m2" : "") + " n " + std::to_string(c.n) + " k " + std::to_string(c.k) + " groups " +
         std::to_string(c.groups) + " grouping " + std::to_string(static_cast<int>(grouping));
}

/// k that recipe can have and that is odd where it may be.
std::vector<int> depths_of(const tables::RecipeRow& recipe) {
  if (!tables::quantises_activations(recipe) && recipe.weight.scale == tables::Scale::kNone) return {8, 200};
  if (recipe.weight.scale == tables::Scale::kGroup) return {64, 320};
  if (recipe.weight.scale == tables::Scale::kE4m3x16) return {16, 208};
  if (recipe.weight.scale == tables::Scale::kE8m0x32) return {32, 352};
  return {1, 131};  // FP32 scales alone
}

struct RowsOfGroups {
  Grouping grouping;
  std::vector<int> counts;
};
const std::vector<RowsOfGroups>& rows_of_groups() {
  static const std::vector<RowsOfGroups> all = {{Grouping::kNone, {1}},
                                                {Grouping::kNone, {67}},
                                                {Grouping::kNone, {300}},
                                                {Grouping::kOffsets, {1, 0, 7}},
                                                {Grouping::kOffsets, {65, 0, 130}},
                                                {Grouping::kOffsets, {0, 0, 0}},
                                                {Grouping::kOffsets, {9}},
                                                {Grouping::kCounts, {3, 0, 1}},
                                                {Grouping::kCounts, {0, 129, 64}},
                                                {Grouping::kCounts, {0, 0, 250}},
                                                {Grouping::kCounts, {33}}};
  return all;
}

void check_shape(std::mt19937& rng, GemmConfig c, bool biases, std::set<std::string>& ran) {
  for (const int groups : {1, 3}) {
    c.groups = groups;
    c.max_rows = 1024;
    const HostGemm host = testing::random_gemm(rng, c, biases);
    const DeviceGemm device(host);
    for (const RowsOfGroups& r : rows_of_groups()) {
      if (static_cast<int>(r.counts.size()) != groups) continue;
      SCOPED_TRACE(case_name(c, r.grouping));
      const GemmRows rows = testing::random_gemm_rows(rng, c, r.counts, r.grouping);
      for (const DType out : kOuts) {
        check_run(host, device, rows, out, [&](GemmRun& run) { run.alpha = out == DType::kF32 ? 1.0f : -0.375f; });
      }
      for (const std::string& name : device.gemm().kernels(rows.rows)) ran.insert(name);
    }
  }
}

TEST_F(DeviceGemmTest, EveryRecipeOnOddShapesMatchesTheOracle) {
  std::mt19937 rng(testing::fresh_seed());
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    std::set<std::string> ran;
    for (const int k : depths_of(recipe)) {
      for (const int n : {1, 83, 272}) {
        GemmConfig c;
        c.recipe = recipe.name;
        c.n = n, c.k = k;
        c.int4 = {n == 83 ? 64 : 32, n != 1, n != 1 && (n == 83) == (k == 64)};
        check_shape(rng, c, n != 272, ran);
      }
    }
    bool own = false;  // a GEMM row of this recipe
    for (const tables::KernelRow& row : tables::kernel_table()) {
      if (row.op != tables::Op::kGemm || (row.recipes >> tables::recipe_index(recipe.name) & 1u) == 0) continue;
      for (const std::string& name : ran) own = own || name.rfind(std::string(row.name) + "/", 0) == 0;
    }
    EXPECT_TRUE(own) << recipe.name << ": no row under test ran";
  }
}

/// Numbers of rows from one tile of the smallest kind to many of the largest. `kernel`: "row/config".
void run_kernel(std::mt19937& rng, const std::string& kernel, GemmConfig c, ModuleOptions modules) {
  const DType io = tables::get_recipe(c.recipe).io;
  c.k = 192, c.max_rows = 8192;
  c.int4.size = 64;
  modules.force_kernel = kernel;
  for (const int groups : {1, 2}) {
    c.groups = groups;
    c.n = groups == 1 ? 150 : 264;  // rows of results in any places, or all on boundaries of 16 bytes
    const HostGemm host = testing::random_gemm(rng, c, true);
    const DeviceGemm device(host, modules);
    for (const int each : {1, 12, 90, 1000}) {
      SCOPED_TRACE(kernel + " " + case_name(c, Grouping::kOffsets) + " " + std::to_string(each));
      std::vector<int> counts = {each, each / 2};
      counts.resize(static_cast<std::size_t>(groups));
      const GemmRows rows = testing::random_gemm_rows(rng, c, counts, Grouping::kOffsets);
      for (const DType out : {DType::kF32, io}) check_run(host, device, rows, out, [](GemmRun&) {});
      const std::vector<std::string> names = device.gemm().kernels(rows.rows);
      ASSERT_EQ(std::count(names.begin(), names.end(), kernel), 1);
    }
  }
}

/// run(kernel, configuration, a product of a recipe, options of modules) for every configuration of a row, in every
/// recipe that it serves.
template <typename Run>
void for_every_config(const std::string& name, Run run) {
  const tables::KernelRow& row = *tables::find_kernel(name);
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    const auto modules = testing::modules_that_serve(row, tables::recipe_index(recipe.name));
    if (!modules) continue;
    for (const abi::KernelConfig& config : row.configs) {
      GemmConfig c;
      c.recipe = recipe.name;
      run(name + "/" + tables::config_name(row, config), config, c, *modules);
    }
  }
}

struct DeviceGemmRow : DeviceGemmTest, ::testing::WithParamInterface<std::string> {};

TEST_P(DeviceGemmRow, EveryConfigMatchesTheOracle) {
  std::mt19937 rng(testing::fresh_seed());
  for_every_config(GetParam(), [&](const std::string& kernel, const abi::KernelConfig&, const GemmConfig& c,
                                   const ModuleOptions& modules) { run_kernel(rng, kernel, c, modules); });
}

/// Every number of tokens that is multiplied in a form of its own (kernels/sm90/products.cuh), full depths and half
/// ones, last tiles of few weight rows, of half of them, of more. Blocks of clusters multiply as many as parts of a
/// tile, the last of several where it would be a narrow one otherwise, and alone.
void run_forms(std::mt19937& rng, const std::string& kernel, const abi::KernelConfig& config, GemmConfig c,
               ModuleOptions modules) {
  const DType io = tables::get_recipe(c.recipe).io;
  const int full = abi::block_tokens(config);
  modules.force_kernel = kernel;
  c.max_rows = 1024;
  for (const auto& [n, k] : std::vector<std::pair<int, int>>{{8, 64}, {264, 96}, {384, 96}, {400, 160}, {520, 64}}) {
    c.n = n, c.k = k, c.groups = config.cluster;
    const HostGemm host = testing::random_gemm(rng, c, true);
    const DeviceGemm device(host, modules);
    for (int most = 16; most <= abi::most_block_tokens(config); most += most < full ? 16 : 8) {  // of a block
      std::vector<int> counts = {most - std::uniform_int_distribution(0, 7)(rng)};
      if (config.cluster > 1) {
        const int last = config.cluster * most - std::uniform_int_distribution(0, 7)(rng);
        counts.push_back(last <= abi::narrow_rows(config) ? config.tile_tokens + last : last);
      }
      SCOPED_TRACE(kernel + " " + case_name(c, Grouping::kOffsets) + " " + std::to_string(counts.back()));
      const GemmRows rows = testing::random_gemm_rows(rng, c, counts, Grouping::kOffsets);
      for (const DType out : {DType::kF32, io}) check_run(host, device, rows, out, [](GemmRun&) {});
    }
  }
}

std::vector<std::string> gemm_rows(bool persistent_only = false) {
  std::vector<std::string> names;
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (row.op != tables::Op::kGemm || (persistent_only && !abi::is_persistent(row.configs[0]))) continue;
    names.emplace_back(row.name);
  }
  return names;
}
INSTANTIATE_TEST_SUITE_P(Rows, DeviceGemmRow, ::testing::ValuesIn(gemm_rows()),
                         [](const auto& info) { return info.param; });

struct DevicePersistentRow : DeviceGemmTest, ::testing::WithParamInterface<std::string> {};

TEST_P(DevicePersistentRow, EveryFormOfATileMatchesTheOracle) {
  std::mt19937 rng(testing::fresh_seed());
  for_every_config(GetParam(), [&](const std::string& kernel, const abi::KernelConfig& config, const GemmConfig& c,
                                   const ModuleOptions& modules) { run_forms(rng, kernel, config, c, modules); });
}

INSTANTIATE_TEST_SUITE_P(Rows, DevicePersistentRow, ::testing::ValuesIn(gemm_rows(true)),
                         [](const auto& info) { return info.param; });

TEST_F(DeviceGemmTest, GivenCodesGiveWhatOwnQuantisationDoes) {
  std::mt19937 rng(testing::fresh_seed());
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    if (!tables::quantises_activations(recipe)) continue;
    const bool by_block = recipe.activation.scale == tables::Scale::kBlock1x128;
    for (const bool e5m2 : {false, true}) {
      if (e5m2 && recipe.activation.scale != tables::Scale::kE8m0x32) continue;
      for (const RowsOfGroups& r : rows_of_groups()) {
        GemmConfig c;
        c.recipe = recipe.name;
        c.n = 67, c.k = depths_of(recipe)[1];
        c.groups = static_cast<int>(r.counts.size()), c.max_rows = 1024;
        c.e5m2 = e5m2;
        SCOPED_TRACE(case_name(c, r.grouping));
        const HostGemm host = testing::random_gemm(rng, c, true);
        const DeviceGemm device(host);
        const GemmRows rows = testing::random_gemm_rows(rng, c, r.counts, r.grouping);
        std::vector<float> memory(static_cast<std::size_t>(rows.rows * c.n));
        const HostArray own = device.run(rows.run(memory.data(), DType::kF32, c.n));
        if (e5m2) check_run(host, device, rows, DType::kF32, [](GemmRun&) {});
        for (const ScaleMajor major : {ScaleMajor::kK, ScaleMajor::kMn}) {
          if (major == ScaleMajor::kMn && !by_block) continue;
          GemmCodes codes = testing::quantise_rows(c, rows);
          GemmRun run = rows.run(memory.data(), DType::kF32, c.n);
          codes.give(c, major, run);
          EXPECT_EQ(own.bytes, device.run(run).bytes);
          GemmCodes again = testing::quantise_rows(c, rows);
          check_run(host, device, rows, DType::kF32, [&](GemmRun& given) { again.give(c, major, given); });
        }
      }
    }
  }
}

TEST_F(DeviceGemmTest, StaticScales) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* recipe : {"fp8_tensor", "nvfp4"}) {
    GemmConfig c;
    c.recipe = recipe;
    c.n = 40, c.k = 208, c.groups = 3, c.max_rows = 512;
    const HostGemm host = testing::random_gemm(rng, c, true);
    const DeviceGemm device(host);
    const GemmRows rows = testing::random_gemm_rows(rng, c, {70, 0, 5}, Grouping::kOffsets);
    for (float scale : {0.013f, 0.002f, 0.0f}) {
      SCOPED_TRACE(recipe);
      check_run(host, device, rows, DType::kF32,
                [&](GemmRun& run) { run.input_scale = TensorView(&scale, DType::kF32, {1}); });
    }
  }
}

TEST_F(DeviceGemmTest, NanStaysInItsRow) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* recipe : {"bf16", "mxfp8_mxfp4", "fp8_block", "nvfp4", "bf16_int4"}) {
    GemmConfig c;
    c.recipe = recipe;
    c.n = 48, c.k = 256, c.max_rows = 256;
    const HostGemm host = testing::random_gemm(rng, c, false);
    const DeviceGemm device(host);
    GemmRows rows = testing::random_gemm_rows(rng, c, {90}, Grouping::kNone);
    std::vector<float> memory(static_cast<std::size_t>(rows.rows * c.n));
    const std::vector<float> clean = testing::to_floats(device.run(rows.run(memory.data(), DType::kF32, c.n)));
    std::vector<float> values = testing::to_floats(rows.x);
    values[static_cast<std::size_t>(7 * c.k + 130)] = std::nanf("");
    rows.x = testing::to_array(values, rows.x.dtype);
    const std::vector<float> dirty = testing::to_floats(device.run(rows.run(memory.data(), DType::kF32, c.n)));
    for (std::size_t i = 0; i < clean.size(); ++i) {
      if (i / 48 == 7) {
        EXPECT_TRUE(std::isnan(dirty[i])) << recipe;
      } else {
        EXPECT_EQ(dirty[i], clean[i]) << recipe << " row " << i / 48;
      }
    }
  }
}

TEST_F(DeviceGemmTest, EqualBitsEveryTimeAndWhateverTheOtherRowsAre) {
  std::mt19937 rng(testing::fresh_seed());
  GemmConfig c;
  c.recipe = "mxfp8_mxfp4";
  c.n = 136, c.k = 512, c.groups = 3, c.max_rows = 1024;
  const HostGemm host = testing::random_gemm(rng, c, true);
  const DeviceGemm device(host);
  GemmRows rows = testing::random_gemm_rows(rng, c, {50, 70, 200}, Grouping::kOffsets);
  std::vector<float> memory(static_cast<std::size_t>(rows.rows * c.n));
  const HostArray first = device.run(rows.run(memory.data(), DType::kF32, c.n));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(device.run(rows.run(memory.data(), DType::kF32, c.n)).bytes, first.bytes);
  }
  GemmRows others = testing::random_gemm_rows(rng, c, {50, 70, 200}, Grouping::kOffsets);
  const std::size_t row_bytes = static_cast<std::size_t>(c.k) * 2;
  std::memcpy(&others.x.bytes[60 * row_bytes], &rows.x.bytes[60 * row_bytes], row_bytes);
  const HostArray second = device.run(others.run(memory.data(), DType::kF32, c.n));
  const std::size_t out_bytes = static_cast<std::size_t>(c.n) * 4;
  EXPECT_EQ(std::memcmp(&first.bytes[60 * out_bytes], &second.bytes[60 * out_bytes], out_bytes), 0);
}

// The first run ever is a capture; the rows that the groups have change between replays.
TEST_F(DeviceGemmTest, CapturedRunsFollowTheNumbersOnTheDevice) {
  std::mt19937 rng(testing::fresh_seed());
  GemmConfig c;
  c.recipe = "fp8_block";
  c.n = 72, c.k = 256, c.groups = 3, c.max_rows = 512;
  const HostGemm host = testing::random_gemm(rng, c, true);
  const DeviceGemm device(host);
  const std::int64_t rows = 300;
  DeviceBuffer x(kGpu, rows * c.k * 2), offsets(kGpu, 16);
  PoisonedBuffer out(kGpu, rows * c.n * 4);
  const PoisonedBuffer workspace(kGpu, device.gemm().workspace_bytes(rows));
  GemmRun run;
  run.x = TensorView(x.data(), DType::kBF16, {rows, c.k});
  run.group_offsets = TensorView(offsets.data(), DType::kI32, {4});
  run.out = TensorView(out.data(), DType::kF32, {rows, c.n});
  run.prepared = device.prepared();
  run.workspace = workspace.data();
  run.workspace_bytes = workspace.size();
  const cuda::Stream stream(kGpu);
  const cuda::Graph graph(kGpu, stream, [&](void* s) { device.gemm().run(run, s); });
  for (const std::vector<int>& counts : std::vector<std::vector<int>>{{100, 100, 97}, {0, 297, 0}, {297, 0, 0}}) {
    const GemmRows made = testing::random_gemm_rows(rng, c, counts, Grouping::kOffsets);
    x.upload(made.x.bytes.data(), made.x.bytes.size());
    offsets.upload(made.numbers.data(), 16);
    out.poison();
    graph.launch(stream);
    stream.synchronize();
    const HostArray result{DType::kF32, out.fetch<unsigned char>()};
    expect_untouched(made, result, c.n);
    std::vector<double> wanted(static_cast<std::size_t>(rows * c.n));
    reference_gemm(c, host.weights, ReferenceMode::kOracle, made.run(wanted.data(), DType::kF64, c.n));
    const testing::Distance d = testing::compare(testing::used_rows(made, testing::to_floats(result), c.n),
                                                 testing::used_rows(made, wanted, c.n), c.n, tables::kTolFp16);
    EXPECT_LE(d.row_l2, tables::kTolFp16.oracle_row_l2);
    EXPECT_TRUE(out.intact() && workspace.intact());
  }
}

TEST_F(DeviceGemmTest, RefusesWhatItCannotServe) {
  GemmConfig c;
  c.n = 16, c.k = 100, c.device = kGpu;
  testing::expect_error(ErrorKind::kUnsupported, {"gemm(bf16)", "k is 100", "multiple of 8"}, [&] { Gemm::create(c); });
  c.k = 64;
  const Gemm gemm = Gemm::create(c);
  DeviceBuffer memory(kGpu, 1 << 20);
  GemmRun run;
  run.x = TensorView(static_cast<char*>(memory.data()) + 8, DType::kBF16, {4, 64});
  run.out = TensorView(memory.data(), DType::kF32, {4, 16});
  run.prepared = memory.data();
  run.workspace = memory.data();
  testing::expect_error(ErrorKind::kInvalidArgument, {"gemm: x is at", "16 bytes"}, [&] { gemm.run(run); });
  run.x.data = memory.data();
  run.workspace_bytes = gemm.workspace_bytes(4) - 1;
  testing::expect_error(ErrorKind::kInvalidArgument, {"gemm: workspace is", "bytes"}, [&] { gemm.run(run); });
}

// They are stored as fp16 unless the configuration keeps them.
TEST_F(DeviceGemmTest, RefusesInt4ScalesOfFp32NumbersWhereTheyAreNotKept) {
  GemmConfig c;
  c.recipe = "bf16_int4";
  c.n = 16, c.k = 64, c.device = kGpu;
  const Gemm gemm = Gemm::create(c);
  DeviceBuffer memory(kGpu, 1 << 20);
  GemmWeights weights;
  weights.w = MatrixView{memory.data(), DType::kU8, 16, 64, 64, 1};
  weights.w.quantization = tables::stored_quantization(*weight_spec(c.recipe, c.int4), 16, 64);
  weights.w.quantization.scales = memory.data();
  gemm.prepare({&weights, 1}, memory.data());
  cuda::synchronize(kGpu);
  weights.w.quantization.scale_format = ScaleFormat::kF32;
  testing::expect_error(ErrorKind::kUnsupported, {"gemm: weights[0].w", "f32", "bf16 or f16", "int4.f32_scales"}, [&] {
    gemm.prepare({&weights, 1}, memory.data());
  });
  c.int4.f32_scales = true;
  Gemm::create(c).prepare({&weights, 1}, memory.data());
  cuda::synchronize(kGpu);
}

}  // namespace
}  // namespace moesaic
