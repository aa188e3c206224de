// SPDX-License-Identifier: Apache-2.0
// A host product brought to a GPU: weights uploaded, prepared, run with poisoned and guarded memory.
#pragma once

#include "support/gemm_case.h"
#include "support/poisoned_buffer.h"

namespace moesaic::testing {

/// Adds a test failure when bytes behind any memory were written.
class DeviceGemm {
 public:
  explicit DeviceGemm(const HostGemm& host, const ModuleOptions& modules = {}, Device device = {DeviceType::kCuda, 0},
                      void* stream = nullptr);

  /// A run whose tensors are `host`'s, copied; its result [rows, n].
  HostArray run(const GemmRun& host, void* stream = nullptr) const;
  const Gemm& gemm() const { return gemm_; }
  void* prepared() const { return prepared_.data(); }

 private:
  Device device_;
  Gemm gemm_;
  PoisonedBuffer prepared_;
};

}  // namespace moesaic::testing
