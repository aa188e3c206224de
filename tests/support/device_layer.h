// SPDX-License-Identifier: Apache-2.0
// A host layer brought to a GPU: weights uploaded, prepared, run with poisoned buffers.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "backend_cuda/device_memory.h"
#include "support/random_layer.h"

namespace moesaic::testing {

/// Host views -> device views; every distinct start address is uploaded once.
class DeviceWeights {
 public:
  explicit DeviceWeights(Device device) : device_(device) {}
  MoeWeights upload(const MoeWeights& host);

 private:
  void measure(const MatrixView& m);
  void measure(const VectorView& v);
  MatrixView rebase(MatrixView m) const;
  VectorView rebase(VectorView v) const;
  template <typename Visit>
  static void for_each(MoeWeights& w, Visit visit);

  Device device_;
  std::map<const char*, std::size_t> extents_;  // host start -> bytes
  std::map<const char*, cuda::DeviceBuffer> buffers_;
};

/// What a run gave.
struct DeviceResult {
  std::vector<float> out;      // [T, H], f32 output
  std::vector<float> rounded;  // the same in the io type
  std::vector<float> logits;   // when computed by the layer
  std::vector<int> ids;
  std::vector<float> weights;
  bool guard_intact = true;  // bytes behind workspace and output
};

/// A layer created and prepared on a device.
class DeviceLayer {
 public:
  DeviceLayer(const HostLayer& host, const MoeConfig& config, const ModuleOptions& modules = {});

  const FusedMoe& layer() const { return layer_; }
  const void* prepared() const { return prepared_.data(); }
  Device device() const { return layer_.config().device; }

  /// Runs with every buffer poisoned with NaN bytes; logits empty: the layer's router; `ids` non-empty: routing given;
  /// `token_ids`: for routing by them.
  DeviceResult run(const HostArray& x, const std::vector<float>& logits, const std::vector<int>& ids = {},
                   const std::vector<float>& weights = {}, const std::vector<std::int64_t>& token_ids = {}) const;

 private:
  FusedMoe layer_;
  cuda::DeviceBuffer prepared_;
};

/// True when a CUDA device is there; else the reason is printed and the test skipped by its caller.
bool have_gpu();

}  // namespace moesaic::testing
