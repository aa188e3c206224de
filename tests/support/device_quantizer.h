// SPDX-License-Identifier: Apache-2.0
// A Quantizer on a GPU under test: poisoned and guarded outputs, every run through a captured graph.
#pragma once

#include <vector>

#include "backend_cuda/device_memory.h"
#include "moesaic/quantize.h"
#include "support/quant_case.h"

namespace moesaic::testing {

class DeviceQuantizer {
 public:
  DeviceQuantizer(const QuantSpec& spec, const Activation* activation, const ModuleOptions& modules = {});

  /// Captures a graph, replays it twice, and returns what the second replay wrote. Adds a test failure when bytes
  /// behind an output were touched or the replays differ.
  QuantBuffers quantize(const QuantCase& c, const HostArray& x, float global_scale) const;
  HostArray dequantize(const QuantCase& c, const QuantBuffers& b) const;
  std::vector<unsigned char> swizzle(const std::vector<unsigned char>& linear, std::int64_t rows,
                                     std::int64_t cols) const;
  std::vector<unsigned char> unswizzle(const std::vector<unsigned char>& tiles, std::int64_t rows,
                                       std::int64_t cols) const;

 private:
  QuantSpec spec_;
  Quantizer quantizer_;
};

}  // namespace moesaic::testing
