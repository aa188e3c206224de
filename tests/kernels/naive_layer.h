// SPDX-License-Identifier: Apache-2.0
// Runs naive_layer.cuh: FP64 results of sampled tokens, for shapes that the CPU oracle is too slow for.
#pragma once

#include <vector>

#include "backend_cuda/device_memory.h"
#include "backend_cuda/kernel.h"
#include "moesaic/moe.h"

namespace moesaic::testing {

/// bf16 weights of a SwiGLU layer in device memory, made by a hash on the device.
struct NaiveWeights {
  cuda::DeviceBuffer w13;  // [E, 2I, H], gate rows first
  cuda::DeviceBuffer w2;   // [E, H, I]
};

class NaiveGpu {
 public:
  explicit NaiveGpu(Device device);
  /// Uniform bf16 values in +-scale.
  void fill(void* data, long long count, unsigned seed, float scale) const;
  NaiveWeights make_weights(const MoeConfig& config, unsigned seed) const;
  /// Layer output [tokens.size(), H] for the listed tokens; x [T, H] bf16, ids and weights [T, k] on the host.
  std::vector<double> run(const MoeConfig& config, const void* x, const NaiveWeights& weights,
                          const std::vector<int>& tokens, const std::vector<int>& ids,
                          const std::vector<float>& slot_weights) const;

 private:
  Device device_;
  cuda::Kernel kernel_;
};

}  // namespace moesaic::testing
