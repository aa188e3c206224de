// SPDX-License-Identifier: Apache-2.0
// Compiles and launches naive_gemm.cuh.
#include "kernels/naive_gemm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <sstream>

#include "backend_cuda/device.h"
#include "module/store.h"

namespace moesaic::testing {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kScanBlocks = 1024;

constexpr std::array kConfigs = {abi::KernelConfig{.warps_tokens = kThreads / 32, .warps_rows = 1, .warps_k = 1}};
constexpr const char* kSource = "tests/kernels/naive_gemm.cuh";
const tables::KernelRow kNaiveRow = {"test_naive_gemm",
                                     tables::Op::kWeightedSum,
                                     1,
                                     tables::kAllFamilies,
                                     tables::kMmaSync,
                                     tables::CodeKind::kBaseline,
                                     kSource,
                                     "naive::gemm",
                                     "NaiveGemmParams",
                                     kConfigs,
                                     [](const tables::Problem&) -> const char* { return nullptr; }};

void add_text(const std::string& path) {
  std::ifstream file(std::string(MOESAIC_SOURCE_ROOT) + "/" + path);
  std::stringstream text;
  text << file.rdbuf();
  module::override_source_for_test(path, text.str());
}

cuda::Kernel load_naive(Device device) {
  add_text(kSource);
  add_text("tests/kernels/naive_gemm_params.h");
  module::Store store;
  const int sm = cuda::device_info(device.index).sm;
  return cuda::Kernel::load(*store.get({&kNaiveRow, 0, {"sm_" + std::to_string(sm)}}), device.index, 0);
}

/// Room for `bytes`, as much as was ever asked for.
void* room(cuda::DeviceBuffer& buffer, Device device, std::size_t bytes) {
  if (buffer.size() < bytes) buffer = cuda::DeviceBuffer(device, bytes);
  return buffer.data();
}

unsigned blocks(int count, int each) { return static_cast<unsigned>((count + each - 1) / each); }

}  // namespace

NaiveGemm::NaiveGemm(Device device) : device_(device), kernel_(load_naive(device)) {}

void NaiveGemm::launch(abi::NaiveGemmPhase phase, cuda::Grid grid) const {
  abi::NaiveGemmParams p = p_;
  p.phase = phase;
  const cuda::DeviceGuard guard(device_.index);
  kernel_.launch(grid, kThreads, &p, nullptr);
}

void NaiveGemm::fill(void* data, long long count, unsigned seed, unsigned low, unsigned range) const {
  abi::NaiveGemmParams p{};
  p.phase = abi::kFill;
  p.fill = data;
  p.fill_count = count;
  p.fill_seed = seed;
  p.fill_low = low;
  p.fill_range = range;
  const cuda::DeviceGuard guard(device_.index);
  kernel_.launch({1024}, kThreads, &p, nullptr);
}

void NaiveGemm::multiply(const NaiveOperands& o, const std::vector<int>& samples) {
  const auto count = samples.size(), n = static_cast<std::size_t>(o.n), k = static_cast<std::size_t>(o.k);
  p_ = {};
  p_.x_codes = static_cast<const unsigned char*>(o.x_codes);
  p_.x_scales = static_cast<const unsigned char*>(o.x_scales);
  p_.w_codes = static_cast<const unsigned char*>(o.w_codes);
  p_.w_scales = static_cast<const unsigned char*>(o.w_scales);
  p_.samples = static_cast<const int*>(room(samples_, device_, count * 4));
  samples_.upload(samples.data(), count * 4);
  p_.operands = static_cast<double*>(room(operands_, device_, count * k * 8));
  p_.sums = static_cast<double*>(room(sums_, device_, count * n * 8));
  p_.found = static_cast<double*>(room(found_, device_, count * 3 * 8));
  p_.not_finite = static_cast<unsigned*>(room(not_finite_, device_, kScanBlocks * 4));
  p_.count = static_cast<int>(count);
  p_.rows_per_group = o.rows_per_group;
  p_.n = o.n;
  p_.k = o.k;
  p_.e5m2 = o.e5m2 ? 1 : 0;
  p_.alpha = o.alpha;
  launch(abi::kDecode, {static_cast<unsigned>(count)});
  constexpr int kRowsTogether = abi::kNaiveRowsTogether;
  launch(abi::kMultiply, {blocks(o.n, kThreads), blocks(p_.count, kRowsTogether)});
}

std::vector<double> NaiveGemm::sums() const {
  std::vector<double> values(static_cast<std::size_t>(p_.count) * static_cast<std::size_t>(p_.n));
  sums_.download(values.data(), values.size() * 8);
  return values;
}

NaiveDifference NaiveGemm::compare(const void* out, DType type, long long rows, double tolerance,
                                   const tables::Tolerance& tight) {
  p_.out = out;
  p_.out_size = rows * p_.n;
  p_.fp16 = type == DType::kF16 ? 1 : 0;
  p_.tolerance = tolerance;
  p_.element_rel = tight.element_rel;
  p_.element_rms = tight.element_rms;
  launch(abi::kCompare, {static_cast<unsigned>(p_.count)});
  launch(abi::kScan, {kScanBlocks});
  std::vector<double> found(static_cast<std::size_t>(p_.count) * 3);
  std::vector<unsigned> not_finite(kScanBlocks);
  found_.download(found.data(), found.size() * 8);
  not_finite_.download(not_finite.data(), not_finite.size() * 4);
  NaiveDifference d;
  d.compared = static_cast<long long>(p_.count) * p_.n;
  for (std::size_t i = 0; i < found.size(); i += 3) {
    d.beyond += static_cast<long long>(found[i]);
    // A NaN is as bad as can be.
    const auto worse = [](double a, double b) { return std::isnan(b) ? HUGE_VAL : std::max(a, b); };
    d.element = worse(d.element, found[i + 1]);
    d.row_l2 = worse(d.row_l2, std::sqrt(found[i + 2]));
  }
  for (const unsigned blocks_count : not_finite) d.not_finite += blocks_count;
  return d;
}

}  // namespace moesaic::testing
