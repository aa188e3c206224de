// SPDX-License-Identifier: Apache-2.0
// ActivationOp on the CPU: every order and type against the oracle, refusals by name.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backend_cpu/backend_cpu.h"
#include "moesaic/activation.h"
#include "support/expect_error.h"
#include "support/random_layer.h"

namespace moesaic {
namespace {

using testing::HostArray;

constexpr int kKinds = static_cast<int>(ActivationKind::kSitu) + 1;

/// The oracle's values of x [rows, columns], rounded to `out_type`.
std::vector<float> oracle(const Activation& activation, const std::vector<float>& x, int rows, int cols,
                          GateUpOrder order, DType out_type) {
  const bool gated = is_gated(activation.kind);
  const bool interleaved = order == GateUpOrder::kInterleavedGateFirst || order == GateUpOrder::kInterleavedUpFirst;
  const bool up_first = order == GateUpOrder::kUpFirst || order == GateUpOrder::kInterleavedUpFirst;
  std::vector<float> out;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) {
      const auto at = [&](bool second) {
        const int half = second ? 1 : 0;
        const int column = !gated ? c : interleaved ? 2 * c + half : half * cols + c;
        return static_cast<double>(x[static_cast<std::size_t>(r * cols * (gated ? 2 : 1) + column)]);
      };
      const double h = cpu::activate(activation, at(gated && up_first), gated ? at(!up_first) : 0.0);
      out.push_back(static_cast<float>(cpu::round_to(h, out_type)));
    }
  }
  return out;
}

TEST(ActivationOp, MatchesTheOracleInEveryOrderAndType) {
  std::mt19937 rng(testing::fresh_seed());
  for (int number = 0; number < kKinds; ++number) {
    Activation activation{static_cast<ActivationKind>(number), {}, {}, {}};
    if (number % 2 == 1) activation.limit = 1.5f;
    for (const GateUpOrder order : {GateUpOrder::kGateFirst, GateUpOrder::kUpFirst, GateUpOrder::kInterleavedGateFirst,
                                    GateUpOrder::kInterleavedUpFirst}) {
      const ActivationOp op = ActivationOp::create(activation, {}, {}, order);
      for (const DType type : {DType::kBF16, DType::kF16, DType::kF32}) {
        for (const int cols : {1, 37, 300}) {
          constexpr int kRows = 3;
          const int columns = is_gated(activation.kind) ? 2 * cols : cols;
          const HostArray x = testing::random_array(rng, kRows * columns, type, 2.0);
          HostArray y = testing::to_array(std::vector<float>(static_cast<std::size_t>(kRows * cols), -7.0f), type);
          op.run({TensorView(x.bytes.data(), type, {kRows, columns}), TensorView(y.bytes.data(), type, {kRows, cols})});
          const std::vector<float> wanted = oracle(activation, testing::to_floats(x), kRows, cols, order, type);
          const std::vector<float> got = testing::to_floats(y);
          // FP32 arithmetic, then one rounding, which can fall to the other side.
          const float bound = type == DType::kF32 ? 4e-6f : type == DType::kF16 ? 0x1p-10f : 0x1p-7f;
          for (std::size_t i = 0; i < wanted.size(); ++i) {
            ASSERT_NEAR(got[i], wanted[i], bound * std::abs(wanted[i]) + 2e-6f)
                << activation_name(activation.kind) << " " << dtype_name(type) << " at " << i;
          }
        }
      }
    }
  }
}

TEST(ActivationOp, NoRowsAreLegal) {
  float nothing = 0;
  ActivationOp::create({}, {}).run(
      {TensorView(&nothing, DType::kF32, {0, 8}), TensorView(&nothing, DType::kF32, {0, 4})});
}

TEST(ActivationOp, RefusesDevicesThatAreNone) {
  for (const Device device : {Device{static_cast<DeviceType>(9), 0}, Device{DeviceType::kCpu, 1}}) {
    testing::expect_error(ErrorKind::kInvalidArgument, {"activation: device", "wanted the CPU"},
                          [&] { ActivationOp::create({}, device); });
  }
}

TEST(ActivationOp, RefusesByName) {
  std::vector<float> x(16), y(8, -7.0f);
  const ActivationOp op = ActivationOp::create({}, {});
  const auto refused = [&](auto change, const char* word) {
    ActivationRun run{TensorView(x.data(), DType::kF32, {2, 8}), TensorView(y.data(), DType::kF32, {2, 4})};
    change(run);
    testing::expect_error(ErrorKind::kInvalidArgument, {"activation: ", word}, [&] { op.run(run); });
    EXPECT_EQ(y, std::vector<float>(8, -7.0f)) << "nothing is written";
  };
  refused([](ActivationRun& r) { r.x.shape[1] = 4; }, "x is [2, 4]");
  refused([](ActivationRun& r) { r.x.shape[0] = 3; }, "x is [3, 8]");
  refused([](ActivationRun& r) { r.x.dtype = DType::kI32; }, "x is i32");
  refused([](ActivationRun& r) { r.out.rank = 1; }, "out");
  refused([](ActivationRun& r) { r.out.data = nullptr; }, "out");
  refused([](ActivationRun& r) { r.x.data = static_cast<char*>(r.x.data) + 2; }, "a multiple of 4 bytes");
  refused([](ActivationRun& r) { r.out.rank = 100; }, "rank 100");
  refused([](ActivationRun& r) { r.out.shape[1] = std::int64_t{1} << 62; }, "4611686018427387904");
  testing::expect_error(ErrorKind::kInvalidArgument, {"limit"}, [] {
    ActivationOp::create({ActivationKind::kSwigluStep, {}, {}, -1.0f}, {});
  });
  testing::expect_error(ErrorKind::kInvalidArgument, {"alpha"}, [] {
    ActivationOp::create({ActivationKind::kSitu, 0.0f, {}, {}}, {});
  });
}

}  // namespace
}  // namespace moesaic
