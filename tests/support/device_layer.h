// SPDX-License-Identifier: Apache-2.0
// A host layer brought to a GPU: weights uploaded, prepared, run with poisoned buffers.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "backend_cuda/device_memory.h"
#include "support/random_layer.h"
#include "tables/kernel_table.h"

namespace moesaic::testing {

/// What a run is given beside the layer. Logits, or ids with their weights, or neither: the layer's router.
struct LayerInput {
  HostArray x;  // [T, H] io type
  std::vector<float> logits;
  std::vector<int> ids;
  std::vector<float> weights;
  std::vector<std::int64_t> token_ids = {};  // for routing by them
  // Instead of x: codes that the caller has quantised, as tables::given_codes says, or one scale for all rows.
  std::vector<unsigned char> codes = {}, scale = {};
  std::vector<float> row_scale = {};
};

/// What a run wrote.
struct DeviceOutput {
  HostArray y;                // [T, H]
  std::vector<float> logits;  // when computed by the layer
  std::vector<int> ids;
  std::vector<float> weights;
  bool guard_intact = true;  // bytes behind workspace and outputs
};

/// What two runs gave, into f32 and into the io type.
struct DeviceResult {
  std::vector<float> out;      // [T, H], f32 output
  std::vector<float> rounded;  // the same in the io type
  std::vector<float> logits;   // when computed by the layer
  std::vector<int> ids;
  std::vector<float> weights;
  bool guard_intact = true;  // of both
};

/// A layer created and prepared on a device.
class DeviceLayer {
 public:
  DeviceLayer(const MoeWeights& host, const MoeConfig& config, const ModuleOptions& modules = {});
  DeviceLayer(const HostLayer& host, const MoeConfig& config, const ModuleOptions& modules = {})
      : DeviceLayer(host.weights, config, modules) {}

  const FusedMoe& layer() const { return layer_; }
  const void* prepared() const { return prepared_.data(); }
  Device device() const { return layer_.config().device; }
  /// The prepared weights.
  std::vector<unsigned char> prepared_bytes() const;

  /// One run with buffers of its own, poisoned with NaN bytes.
  DeviceOutput run_into(DType out, const LayerInput& input, void* stream = nullptr) const;
  DeviceResult run(const HostArray& x, const std::vector<float>& logits, const std::vector<int>& ids = {},
                   const std::vector<float>& weights = {}, const std::vector<std::int64_t>& token_ids = {}) const;

 private:
  FusedMoe layer_;
  cuda::DeviceBuffer prepared_;
};

/// True when a CUDA device is there; else the reason is printed and the test skipped by its caller.
bool have_gpu();
/// Of tests that need one.
struct DeviceTest : ::testing::Test {
  void SetUp() override {
    if (!have_gpu()) GTEST_SKIP() << "no GPU";
  }
};
/// How a row can run on GPU 0 with a recipe: by its own targets (the options force nothing), or as PTX of the oldest
/// architecture where GPU 0 has other rows instead; std::nullopt: not at all.
std::optional<ModuleOptions> modules_that_serve(const tables::KernelRow& row, int recipe);

}  // namespace moesaic::testing
