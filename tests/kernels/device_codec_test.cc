// SPDX-License-Identifier: Apache-2.0
// The kernels' codecs over every 16-bit input and the table's FP32 ones, by software and by conversion instructions;
// fused activations against the same activation in a kernel of its own, and against the oracle by value.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>
#include <sstream>

#include "backend_cpu/backend_cpu.h"
#include "backend_cuda/device.h"
#include "backend_cuda/kernel.h"
#include "kernels/abi/quant_params.h"
#include "support/device_layer.h"
#include "support/device_quantizer.h"
#include "support/safetensors_reader.h"
#include "tables/quant_table.h"

namespace moesaic::abi {
// Host twin of the struct in quant_probe.cuh, which the text defines for NVRTC.
struct ProbeParams {
  const void* input;
  unsigned char* codes;
  float* values;
  float* activated;
  QuantizeParams quantize;
  int count, source;
};
}  // namespace moesaic::abi

namespace moesaic {
namespace {

using testing::DeviceQuantizer;
using testing::HostArray;
using testing::QuantBuffers;
using testing::QuantCase;

constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr std::array kConfigs = {abi::KernelConfig{.role = 0, .warps_tokens = 8, .warps_rows = 1, .warps_k = 1},
                                 abi::KernelConfig{.role = 1, .warps_tokens = 8, .warps_rows = 1, .warps_k = 1}};
const tables::KernelRow kProbeRow = {"test_quant_probe",
                                     tables::Op::kWeightedSum,
                                     1,
                                     tables::kAllFamilies,
                                     tables::kMmaSync,
                                     tables::CodeKind::kExact,
                                     "tests/kernels/quant_probe.cuh",
                                     "probe::probe",
                                     "ProbeParams",
                                     kConfigs,
                                     [](const tables::Problem&) -> const char* { return nullptr; }};

/// The probe of one role on the device, for the architecture's exact target: all conversions that it has.
cuda::Kernel load_probe(int role) {
  std::ifstream file(std::string(MOESAIC_SOURCE_ROOT) + "/tests/kernels/quant_probe.cuh");
  std::stringstream text;
  text << file.rdbuf();
  module::override_source_for_test("tests/kernels/quant_probe.cuh", text.str());
  module::Store store;
  const tables::ArchRow* arch = tables::find_arch(cuda::device_info(0).sm);
  if (arch == nullptr) throw std::runtime_error("the device's SM is not in the table");
  return cuda::Kernel::load(*store.get({&kProbeRow, role, module::target_for(kProbeRow, *arch)}), 0, 0);
}

template <typename T>
cuda::DeviceBuffer to_device(const std::vector<T>& values) {
  cuda::DeviceBuffer buffer(kGpu, values.size() * sizeof(T));
  buffer.upload(values.data(), values.size() * sizeof(T));
  return buffer;
}

template <typename T>
std::vector<T> fetch(const cuda::DeviceBuffer& buffer) {
  std::vector<T> values(buffer.size() / sizeof(T));
  buffer.download(values.data(), buffer.size());
  return values;
}

struct Codes {
  std::vector<unsigned char> codes;  // [3][count]
  std::vector<float> values;         // [4][256]
};

Codes probe_codes(int role, const void* input, std::size_t bytes, int source, int count) {
  const cuda::Kernel kernel = load_probe(role);
  cuda::DeviceBuffer from(kGpu, bytes), codes(kGpu, static_cast<std::size_t>(3 * count)), values(kGpu, 4 * 256 * 4);
  from.upload(input, bytes);
  codes.fill(0xEE);
  abi::ProbeParams p{};
  p.input = from.data();
  p.codes = static_cast<unsigned char*>(codes.data());
  p.values = static_cast<float*>(values.data());
  p.count = count;
  p.source = source;
  const cuda::DeviceGuard guard(0);
  kernel.launch({static_cast<unsigned>((count + 255) / 256)}, 256, &p, nullptr);
  return {fetch<unsigned char>(codes), fetch<float>(values)};
}

class DeviceCodecTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
  }
  static const testing::StoredFile& table() {
    static const testing::StoredFile file = testing::read_safetensors(MOESAIC_TEST_DATA "/tables/codecs.safetensors");
    return file;
  }
  static void expect_codes(const Codes& got, const std::string& input) {
    int format = 0;
    for (const char* name : {"e2m1", "e4m3fn", "e5m2"}) {
      const auto wanted = table().at("encode." + input + "." + name).values<unsigned char>();
      const auto count = static_cast<std::ptrdiff_t>(wanted.size());
      const std::vector<unsigned char> mine(got.codes.begin() + format * count,
                                            got.codes.begin() + (format + 1) * count);
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        ASSERT_EQ(int{mine[i]}, int{wanted[i]}) << name << " of " << input << " input " << i;
      }
      ++format;
    }
  }
};

TEST_P(DeviceCodecTest, EncodesEvery16BitNumber) {
  std::vector<std::uint16_t> all(0x10000);
  std::iota(all.begin(), all.end(), std::uint16_t{0});
  expect_codes(probe_codes(GetParam(), all.data(), 2 * all.size(), abi::kSourceBf16, 0x10000), "bf16");
  expect_codes(probe_codes(GetParam(), all.data(), 2 * all.size(), abi::kSourceFp16, 0x10000), "fp16");
}

TEST_P(DeviceCodecTest, EncodesFp32AndDecodesEveryCode) {
  const auto input = table().at("input.fp32").values<float>();
  const Codes got =
      probe_codes(GetParam(), input.data(), 4 * input.size(), abi::kSourceF32, static_cast<int>(input.size()));
  expect_codes(got, "fp32");
  int format = 0;
  for (const char* name : {"e2m1", "e4m3fn", "e5m2", "e8m0"}) {
    const auto wanted = table().at(std::string("decode.") + name).values<float>();
    const std::vector<float> mine(got.values.begin() + format * 256,
                                  got.values.begin() + format * 256 + static_cast<std::ptrdiff_t>(wanted.size()));
    EXPECT_TRUE(testing::same_floats(mine, wanted)) << name;
    ++format;
  }
}

INSTANTIATE_TEST_SUITE_P(Branches, DeviceCodecTest, ::testing::Values(0, 1),
                         [](const auto& info) { return info.param == 0 ? "software" : "instructions"; });

// --- fused activations ----------------------------------------------------------------------------------------------

struct FusedCase {
  const char* name;
  Activation activation;
};

Activation activation_of(ActivationKind kind, std::optional<float> alpha = {}, std::optional<float> beta = {},
                         std::optional<float> limit = {}) {
  Activation a;
  a.kind = kind;
  a.alpha = alpha;
  a.beta = beta;
  a.limit = limit;
  return a;
}

const FusedCase kFused[] = {
    {"swiglu", activation_of(ActivationKind::kSwiglu)},
    {"geglu", activation_of(ActivationKind::kGeglu)},
    {"swiglu_bias", activation_of(ActivationKind::kSwigluBias, 1.702f, 1.0f, 7.0f)},
    {"swiglu_step", activation_of(ActivationKind::kSwigluStep)},
    {"geglu_tanh", activation_of(ActivationKind::kGegluTanh)},
    {"situ", activation_of(ActivationKind::kSitu)},
};

class DeviceFusedTest : public ::testing::TestWithParam<FusedCase> {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
  }
};

QuantSpec spec_of(QuantFormat format) {
  QuantSpec spec{.format = format};
  spec.int4.size = 32;
  spec.int4.zero_points = format == QuantFormat::kInt4;
  if (tables::quant_row(format).padded_layouts) spec.layout = ScaleLayout::k128x4;
  return spec;
}

/// act(x) in FP32 by the kernels' text, in a launch of its own.
HostArray activate_on_device(const QuantCase& c, const HostArray& x, const Activation& activation) {
  const cuda::Kernel kernel = load_probe(0);
  const cuda::DeviceBuffer from = to_device(x.bytes);
  cuda::DeviceBuffer to(kGpu, static_cast<std::size_t>(c.rows * c.cols) * 4);
  to.fill(0xFF);
  const ActivationParameters parameters = activation_parameters(activation);
  abi::ProbeParams p{};
  p.activated = static_cast<float*>(to.data());
  p.quantize.x = from.data();
  p.quantize.source = c.dtype == DType::kF32    ? abi::kSourceF32
                      : c.dtype == DType::kBF16 ? abi::kSourceBf16
                                                : abi::kSourceFp16;
  p.quantize.rows = static_cast<int>(c.rows);
  p.quantize.cols = static_cast<int>(c.cols);
  p.quantize.aligned = c.cols % abi::kUnit == 0 ? 1 : 0;
  p.quantize.activation = static_cast<int>(activation.kind);
  p.quantize.alpha = parameters.alpha;
  p.quantize.beta = parameters.beta;
  p.quantize.limit = parameters.limit;
  const std::int64_t units = c.rows * ((c.cols + abi::kUnit - 1) / abi::kUnit);
  const cuda::DeviceGuard guard(0);
  // Whole rows of units: threads beyond them have no elements.
  kernel.launch({static_cast<unsigned>((units + 255) / 256)}, 256, &p, nullptr);
  return {DType::kF32, fetch<unsigned char>(to)};
}

std::vector<float> values_of(const QuantCase& c, QuantBuffers b) {
  QuantCase plain = c;
  plain.activation = false;
  plain.dtype = DType::kF32;
  HostArray x{DType::kF32, std::vector<unsigned char>(static_cast<std::size_t>(c.rows * c.cols) * 4)};
  cpu::oracle_dequantize(c.spec, testing::quant_run(plain, x, b));
  return testing::to_floats(x);
}

/// A code may move by one step where the activation's last bit decides: a third of the number for e2m1, an eighth or a
/// quarter for 8 bits, a step of the row's largest number for int4; and seldom.
void expect_near(const std::vector<float>& got, const std::vector<float>& wanted, const QuantCase& c) {
  const CodeFormat codes = quant_traits(c.spec).codes;
  const double relative = codes == CodeFormat::kE2M1 ? 0.5 : codes == CodeFormat::kE5M2 ? 0.27 : 0.135;
  const double of_largest = codes == CodeFormat::kE2M1 ? 0.6 / 6 : codes == CodeFormat::kInt4 ? 1.1 / 7.5 : 1e-3;
  std::int64_t different = 0;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    double largest = 0;
    for (std::int64_t k = 0; k < c.cols; ++k) {
      largest = std::max(largest, std::fabs(double{wanted[static_cast<std::size_t>(r * c.cols + k)]}));
    }
    for (std::int64_t k = 0; k < c.cols; ++k) {
      const double a = got[static_cast<std::size_t>(r * c.cols + k)],
                   b = wanted[static_cast<std::size_t>(r * c.cols + k)];
      ASSERT_LE(std::fabs(a - b), relative * std::max(std::fabs(a), std::fabs(b)) + of_largest * largest)
          << c.name() << " row " << r << " column " << k;
      // Scales of FP32 differ in their last bit when the maximum does: the codes are still the same.
      different += std::fabs(a - b) > 1e-5 * std::fabs(b) ? 1 : 0;
    }
  }
  EXPECT_LE(static_cast<double>(different), 0.01 * static_cast<double>(c.rows * c.cols) + 2) << c.name();
}

TEST_P(DeviceFusedTest, IsTheActivationThenTheQuantiser) {
  std::mt19937 rng(testing::fresh_seed());
  const Activation& activation = GetParam().activation;
  for (const tables::QuantRow& row : tables::kQuantTable) {
    const DeviceQuantizer fused(spec_of(row.format), &activation), plain(spec_of(row.format), nullptr);
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      for (const std::int64_t cols :
           {160, 1408, row.cols_multiple == 1 && row.format != QuantFormat::kInt4 ? 77 : 96}) {
        QuantCase c{spec_of(row.format), dtype, 70, cols, true};
        const float global = row.format == QuantFormat::kNvfp4 ? 300.0f : 0.02f;
        const HostArray x = testing::random_array(rng, c.rows * 2 * cols, dtype, 1.5);
        const QuantBuffers got = fused.quantize(c, x, global);
        QuantCase after = c;
        after.activation = false;
        after.dtype = DType::kF32;
        const QuantBuffers apart = plain.quantize(after, activate_on_device(c, x, activation), global);
        EXPECT_EQ(got.codes, apart.codes) << c.name();
        EXPECT_EQ(got.scales, apart.scales) << c.name();
        EXPECT_EQ(got.zeros, apart.zeros) << c.name();
        EXPECT_TRUE(testing::same_floats(got.row_scales, apart.row_scales)) << c.name();
        const QuantBuffers wanted = testing::oracle_buffers(c, x, global, &activation);
        expect_near(values_of(c, got), values_of(c, wanted), c);
        if (HasFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Activations, DeviceFusedTest, ::testing::ValuesIn(kFused),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace moesaic
