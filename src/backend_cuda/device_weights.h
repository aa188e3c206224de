// SPDX-License-Identifier: Apache-2.0
// A layer's weights on a GPU: the memory under all host views, copied once, and the same views over the copy. For the
// command line, tests and benchmarks.
#pragma once

#include <cstddef>
#include <vector>

#include "backend_cuda/device_memory.h"
#include "moesaic/moe.h"

namespace moesaic::cuda {

/// Bytes [begin, end) of host memory.
struct ByteRange {
  const std::byte *begin = nullptr, *end = nullptr;

  std::size_t size() const noexcept { return static_cast<std::size_t>(end - begin); }
  bool operator==(const ByteRange&) const = default;
};

/// The bytes that the elements of a view lie in: numbers, or codes of any NibbleOrder. Empty for a view of none.
ByteRange element_range(const MatrixView& matrix);
ByteRange element_range(const VectorView& vector);
ByteRange element_range(const TensorView& tensor);
/// Those of a quantised matrix's scales and zero points; empty where it has none.
ByteRange scale_range(const MatrixView& matrix);
ByteRange zero_range(const MatrixView& matrix);

/// The ranges of all views, ascending; ranges that touch or overlap are one.
std::vector<ByteRange> host_ranges(const MoeWeights& weights);

class DeviceWeights {
 public:
  /// Copies host_ranges(host). Addresses keep their remainder modulo 16, so that views stay as aligned as they were.
  /// Throws Error(kCuda).
  DeviceWeights(Device device, const MoeWeights& host);

  /// Views into device memory that lives as long as this object.
  const MoeWeights& views() const noexcept { return views_; }

 private:
  MoeWeights views_;
  DeviceBuffer memory_;
};

}  // namespace moesaic::cuda
