// SPDX-License-Identifier: Apache-2.0
// A layer's weights on a GPU: the memory under all host views, copied once, and the same views over the copy.
#pragma once

#include <vector>

#include "backend_cuda/device_memory.h"
#include "moesaic/moe.h"

namespace moesaic::cli {

class DeviceWeights {
 public:
  /// Copies the byte ranges that the views of `host` span; ranges that touch are copied together. Throws Error(kCuda).
  DeviceWeights(Device device, const MoeWeights& host);

  /// Views into device memory that lives as long as this object.
  const MoeWeights& views() const noexcept { return views_; }

 private:
  MoeWeights views_;
  std::vector<cuda::DeviceBuffer> buffers_;
};

}  // namespace moesaic::cli
