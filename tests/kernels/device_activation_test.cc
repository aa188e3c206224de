// SPDX-License-Identifier: Apache-2.0
// ActivationOp on a GPU: every kind, order and type against the CPU's, which tests hold against the oracle.
#include <gtest/gtest.h>

#include <cmath>

#include "backend_cuda/device_memory.h"
#include "moesaic/activation.h"
#include "support/device_layer.h"

namespace moesaic {
namespace {

using testing::HostArray;

struct DeviceActivationTest : testing::DeviceTest {};

TEST_F(DeviceActivationTest, MatchesTheCpu) {
  std::mt19937 rng(testing::fresh_seed());
  const Device device{DeviceType::kCuda, 0};
  for (int number = 0; number <= static_cast<int>(ActivationKind::kSitu); ++number) {
    const Activation activation{static_cast<ActivationKind>(number), {}, {}, {}};
    for (const GateUpOrder order : {GateUpOrder::kGateFirst, GateUpOrder::kUpFirst, GateUpOrder::kInterleavedUpFirst}) {
      const ActivationOp on_device = ActivationOp::create(activation, device, {}, order);
      const ActivationOp on_host = ActivationOp::create(activation, {}, {}, order);
      for (const DType type : {DType::kBF16, DType::kF16, DType::kF32}) {
        for (const int cols : {1, 37, 256}) {
          constexpr int kRows = 9;
          const int columns = is_gated(activation.kind) ? 2 * cols : cols;
          const HostArray x = testing::random_array(rng, kRows * columns, type, 2.0);
          std::vector<float> wanted(static_cast<std::size_t>(kRows * cols)), got(wanted);
          on_host.run({TensorView(x.bytes.data(), type, {kRows, columns}),
                       TensorView(wanted.data(), DType::kF32, {kRows, cols})});
          cuda::DeviceBuffer dx(device, x.bytes.size()), dy(device, wanted.size() * 4 + 64);
          dx.upload(x.bytes.data(), x.bytes.size());
          dy.fill(0xff);
          on_device.run(
              {TensorView(dx.data(), type, {kRows, columns}), TensorView(dy.data(), DType::kF32, {kRows, cols})});
          dy.download(got.data(), got.size() * 4);
          for (std::size_t i = 0; i < wanted.size(); ++i) {
            ASSERT_NEAR(got[i], wanted[i], 4e-6f * std::abs(wanted[i]) + 2e-6f)
                << activation_name(activation.kind) << " " << dtype_name(type) << " at " << i;
          }
          std::vector<unsigned char> guard(64);
          dy.download(guard.data(), 64, wanted.size() * 4);
          EXPECT_EQ(guard, std::vector<unsigned char>(64, 0xff));
        }
      }
    }
  }
}

}  // namespace
}  // namespace moesaic
