// SPDX-License-Identifier: Apache-2.0
// The C interface against the C++ interface: the same bytes. The C side is compiled as C11.
#include <gtest/gtest.h>

#include <barrier>
#include <thread>

#include "base/log.h"
#include "fixture.h"
#include "moesaic/checkpoint.h"
#include "moesaic/quantize.h"
#include "support/temporary_folder.h"

extern "C" void capi_fail(const char* file, int line, const char* what, const char* text) {
  ADD_FAILURE_AT(file, line) << what << ": " << text;
}

namespace moesaic {
namespace {

TEST_F(CapiTest, LayerGivesWhatTheCxxInterfaceGives) {
  std::vector<float> fused(kTokens * kHidden), views(kTokens * kHidden);
  capi_layer(&data, fused.data(), views.data());
  const std::vector<float> wanted = run(config(), weights());
  EXPECT_NE(wanted, std::vector<float>(wanted.size()));
  EXPECT_EQ(fused, wanted);
  EXPECT_EQ(views, wanted);
}

TEST_F(CapiTest, ReferenceInBothModes) {
  for (const ReferenceMode mode : {ReferenceMode::kExact, ReferenceMode::kOracle}) {
    std::vector<double> got(kTokens * kHidden), wanted(kTokens * kHidden);
    capi_reference(&data, static_cast<int>(mode), got.data());
    MoeRun r;
    r.x = x();
    r.out = TensorView(wanted.data(), DType::kF64, {kTokens, kHidden});
    reference_moe(config(), weights(), mode, r);
    EXPECT_EQ(got, wanted);
  }
}

TEST_F(CapiTest, ConvertedWeights) {
  for (const char* recipe : {"nvfp4", "fp8_block", "bf16_int4"}) {
    std::vector<float> got(kTokens * kHidden);
    capi_converted(&data, recipe, got.data());
    MoeConfig c = config();
    c.recipe = recipe;
    const OwnedWeights owned = convert_weights(c, weights());
    EXPECT_EQ(got, run(c, owned.weights)) << recipe;
  }
}

TEST_F(CapiTest, WeightsAsCodesAndScales) {
  std::vector<float> got(kTokens * kHidden);
  capi_quantized_views(&data, got.data());
  MoeConfig c = config();
  c.recipe = "bf16_mxfp4";
  EXPECT_EQ(got, run(c, convert_weights(c, weights()).weights));
}

TEST_F(CapiTest, QuantizersOfEveryFormat) {
  for (int format = MOESAIC_NVFP4; format <= MOESAIC_INT4; ++format) {
    QuantSpec spec;
    spec.format = static_cast<QuantFormat>(format);
    SCOPED_TRACE(quant_format_name(spec.format));
    const QuantSizes sizes = quant_sizes(spec, kTokens, kHidden);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(sizes.code_bytes)), wanted_codes = codes;
    std::vector<std::uint8_t> scales(static_cast<std::size_t>(sizes.scale_bytes)), wanted_scales = scales;
    std::vector<float> back(kTokens * kHidden), wanted_back = back, rows(kTokens);
    capi_quantizer(format, &data, codes.data(), scales.data(), back.data());
    const ScaleFormat stored = quant_traits(spec).scales;
    const DType scale_type =
        stored == ScaleFormat::kF32 ? DType::kF32 : (stored == ScaleFormat::kBF16 ? DType::kBF16 : DType::kU8);
    const float global = spec.format == QuantFormat::kNvfp4 ? 2688.0f : 0.5f;
    QuantizeRun r;
    r.x = TensorView(data.x, DType::kBF16, {kTokens, kHidden});
    r.codes = TensorView(wanted_codes.data(), DType::kU8, {kTokens, sizes.code_bytes / kTokens});
    r.scales = TensorView(wanted_scales.data(), scale_type, {sizes.scale_rows, sizes.scale_cols});
    if (spec.format == QuantFormat::kNvfp4 || spec.format == QuantFormat::kFp8Static) {
      r.global_scale = TensorView(&global, DType::kF32, {1});
    }
    if (spec.format == QuantFormat::kNvfp4Row) r.row_scales = TensorView(rows.data(), DType::kF32, {kTokens});
    const Quantizer quantizer = Quantizer::create(spec, {});
    quantizer.quantize(r);
    r.x = TensorView(wanted_back.data(), DType::kF32, {kTokens, kHidden});
    quantizer.dequantize(r);
    EXPECT_EQ(codes, wanted_codes);
    EXPECT_EQ(scales, wanted_scales);
    EXPECT_EQ(back, wanted_back);
  }
}

TEST_F(CapiTest, MemoryOfTheLibrary) { capi_memory(&data); }

TEST_F(CapiTest, FormatsOfRecipesWeights) {
  for (const char* recipe :
       {"bf16", "fp8_tensor", "fp8_channel", "fp8_block", "mxfp8", "bf16_mxfp4", "nvfp4", "bf16_int4", "fp8_int4"}) {
    const std::optional<QuantSpec> wanted = weight_spec(recipe, {64, true});
    EXPECT_EQ(capi_weight_format(recipe, 64, 1), wanted ? static_cast<int>(wanted->format) : -1) << recipe;
  }
}

TEST_F(CapiTest, ScalesInAnotherLayout) {
  constexpr int kRows = 130, kCols = 5;
  std::vector<std::uint8_t> linear(kRows * kCols);
  for (std::size_t i = 0; i < linear.size(); ++i) linear[i] = static_cast<std::uint8_t>(i % 251 + 1);
  std::vector<std::uint8_t> tiles(static_cast<std::size_t>(scale_layout_bytes(ScaleLayout::k128x4, kRows, kCols)), 9);
  capi_swizzle(linear.data(), kRows, kCols, tiles.data());
  std::vector<std::uint8_t> wanted(tiles.size());
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kCols; ++c) {
      wanted[static_cast<std::size_t>(scale_index(ScaleLayout::k128x4, r, c, kCols))] =
          linear[static_cast<std::size_t>(r * kCols + c)];
    }
  }
  EXPECT_EQ(tiles, wanted);
}

TEST_F(CapiTest, CheckpointLayers) {
  const std::string folder = MOESAIC_TEST_DATA "/checkpoints/deepseek_v3";
  const CheckpointLayer layer = Checkpoint::open(folder).load(2);
  constexpr std::int64_t kRows = 5;
  const auto hidden = static_cast<std::size_t>(layer.config.hidden);
  std::vector<std::uint16_t> x(kRows * hidden);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = data.x[i / kHidden % kTokens][i % kHidden];
  std::vector<float> got(x.size()), wanted(x.size());
  std::int32_t layers[2] = {};
  capi_checkpoint(folder.c_str(), layers, got.data(), kRows, x.data());
  EXPECT_EQ(layers[0], 1);
  EXPECT_EQ(layers[1], 2);
  MoeRun r;
  r.x = TensorView(x.data(), DType::kBF16, {kRows, layer.config.hidden});
  r.out = TensorView(wanted.data(), DType::kF32, {kRows, layer.config.hidden});
  reference_moe(layer.config, layer.weights, ReferenceMode::kExact, r);
  EXPECT_EQ(got, wanted);
}

TEST_F(CapiTest, PreparedFilesAndOneExpert) {
  const testing::TemporaryFolder folder;
  std::vector<float> replaced(kTokens * kHidden), loaded(replaced.size());
  capi_prepared_file(&data, (folder / "layer").c_str(), replaced.data(), loaded.data());
  MoeWeights w = weights();
  EXPECT_EQ(loaded, run(config(), w));
  w.experts[0] = w.experts[1];
  w.experts[0].gate_bias = w.experts[0].up_bias = w.experts[0].down_bias = {};
  EXPECT_EQ(replaced, run(config(), w));
  EXPECT_NE(replaced, loaded);
}

TEST_F(CapiTest, TextsAndVersions) { capi_texts(); }
TEST_F(CapiTest, StructSizes) { capi_struct_sizes(); }
TEST_F(CapiTest, NullPointersAndEnumerators) { capi_null_pointers(); }
TEST_F(CapiTest, WrongTensors) { capi_wrong_tensors(&data); }
TEST_F(CapiTest, WrongMatrices) { capi_wrong_matrices(); }
TEST_F(CapiTest, WrongQuantizerArguments) { capi_wrong_quantizer_arguments(); }
TEST_F(CapiTest, WrongParts) { capi_wrong_parts(&data); }
TEST_F(CapiTest, WrongRouterArguments) { capi_wrong_router_arguments(&data); }
TEST_F(CapiTest, WrongCodes) { capi_wrong_codes(&data); }
TEST_F(CapiTest, WrongGemmArguments) { capi_wrong_gemm_arguments(&data); }
TEST_F(CapiTest, WrongActivationArguments) { capi_wrong_activation_arguments(&data); }
TEST_F(CapiTest, LogCallback) {
  capi_log([] { base::log(LogLevel::kWarning, "one line"); });
}

constexpr int kThreads = 8;
std::barrier<>& all_failed() {
  static std::barrier<> barrier(kThreads);
  return barrier;
}

TEST_F(CapiTest, EveryThreadHasItsOwnErrorText) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([i] { capi_thread(100 + i, [] { all_failed().arrive_and_wait(); }); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace moesaic
