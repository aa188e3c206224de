// SPDX-License-Identifier: Apache-2.0
// Compiles and launches naive_layer.cuh.
#include "kernels/naive_layer.h"

#include <array>
#include <cmath>
#include <fstream>
#include <sstream>

#include "backend_cuda/device.h"
#include "module/store.h"

namespace moesaic::abi {
// Host twin of the struct in naive_layer.cuh, which the text defines for NVRTC.
struct NaiveParams {
  const void* x;
  const void* w13;
  const void* w2;
  const void* tokens;
  const void* ids;
  const void* weights;
  void* h;
  void* y;
  int hidden, intermediate, top_k, phase;
  void* fill;
  long long fill_count;
  unsigned fill_seed;
  float fill_scale;
};
}  // namespace moesaic::abi

namespace moesaic::testing {
namespace {

constexpr std::array kConfigs = {abi::KernelConfig{.warps_tokens = 8, .warps_rows = 1, .warps_k = 1}};
const tables::KernelRow kNaiveRow = {"test_naive_layer",
                                     tables::Op::kWeightedSum,
                                     1,
                                     tables::kAllFamilies,
                                     tables::kMmaSync,
                                     tables::CodeKind::kBaseline,
                                     "tests/kernels/naive_layer.cuh",
                                     "naive::layer",
                                     "NaiveParams",
                                     kConfigs,
                                     [](const tables::Problem&) -> const char* { return nullptr; }};

cuda::Kernel load_naive(Device device) {
  std::ifstream file(std::string(MOESAIC_SOURCE_ROOT) + "/tests/kernels/naive_layer.cuh");
  std::stringstream text;
  text << file.rdbuf();
  module::override_source_for_test("tests/kernels/naive_layer.cuh", text.str());
  module::Store store;
  const int sm = cuda::device_info(device.index).sm;
  return cuda::Kernel::load(*store.get({&kNaiveRow, 0, {"sm_" + std::to_string(sm)}}), device.index, 0);
}

template <typename T>
cuda::DeviceBuffer to_device(Device device, const std::vector<T>& values) {
  cuda::DeviceBuffer buffer(device, values.size() * sizeof(T));
  buffer.upload(values.data(), values.size() * sizeof(T));
  return buffer;
}

}  // namespace

NaiveGpu::NaiveGpu(Device device) : device_(device), kernel_(load_naive(device)) {}

void NaiveGpu::fill(void* data, long long count, unsigned seed, float scale) const {
  abi::NaiveParams p{};
  p.phase = 2;
  p.fill = data;
  p.fill_count = count;
  p.fill_seed = seed;
  p.fill_scale = scale;
  const cuda::DeviceGuard guard(device_.index);
  kernel_.launch({1024}, 256, &p, nullptr);
}

NaiveWeights NaiveGpu::make_weights(const MoeConfig& c, unsigned seed) const {
  const long long per_expert = static_cast<long long>(c.hidden) * c.intermediate;
  NaiveWeights w{{device_, static_cast<std::size_t>(4 * per_expert * c.num_experts)},
                 {device_, static_cast<std::size_t>(2 * per_expert * c.num_experts)}};
  fill(w.w13.data(), 2 * per_expert * c.num_experts, seed, static_cast<float>(1.7 / std::sqrt(c.hidden)));
  fill(w.w2.data(), per_expert * c.num_experts, seed + 1, static_cast<float>(1.7 / std::sqrt(c.intermediate)));
  return w;
}

std::vector<double> NaiveGpu::run(const MoeConfig& c, const void* x, const NaiveWeights& weights,
                                  const std::vector<int>& tokens, const std::vector<int>& ids,
                                  const std::vector<float>& slot_weights) const {
  const auto count = tokens.size();
  const cuda::DeviceBuffer token_list = to_device(device_, tokens), id_list = to_device(device_, ids),
                           weight_list = to_device(device_, slot_weights);
  const cuda::DeviceBuffer h(device_, count * static_cast<std::size_t>(c.top_k * c.intermediate) * 8);
  const cuda::DeviceBuffer y(device_, count * static_cast<std::size_t>(c.hidden) * 8);
  abi::NaiveParams p{};
  p.x = x;
  p.w13 = weights.w13.data();
  p.w2 = weights.w2.data();
  p.tokens = token_list.data();
  p.ids = id_list.data();
  p.weights = weight_list.data();
  p.h = h.data();
  p.y = y.data();
  p.hidden = c.hidden;
  p.intermediate = c.intermediate;
  p.top_k = c.top_k;
  const cuda::DeviceGuard guard(device_.index);
  const auto blocks = [](int columns) { return static_cast<unsigned>((columns + 255) / 256); };
  kernel_.launch({blocks(c.intermediate), static_cast<unsigned>(count) * static_cast<unsigned>(c.top_k)}, 256, &p,
                 nullptr);
  p.phase = 1;
  kernel_.launch({blocks(c.hidden), static_cast<unsigned>(count)}, 256, &p, nullptr);
  std::vector<double> out(count * static_cast<std::size_t>(c.hidden));
  y.download(out.data(), out.size() * 8);
  return out;
}

}  // namespace moesaic::testing
