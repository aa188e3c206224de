// SPDX-License-Identifier: Apache-2.0
// One quantisation for tests: an input of rows of many kinds, host buffers of the right sizes, poisoned.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "moesaic/quantize.h"
#include "support/random_layer.h"

namespace moesaic::testing {

/// What the numbers of a row (or tile, or tensor: whatever shares a scale) look like.
enum class DataKind { kNormal, kWide, kZeroBlocks, kTiny, kHuge, kSpecials, kTies, kCount };

struct QuantCase {
  QuantSpec spec = {};
  DType dtype = DType::kBF16;
  std::int64_t rows = 0, cols = 0;  // of what is quantised
  bool activation = false;          // x has twice the columns
  std::vector<std::int32_t> group_offsets = {};
  std::size_t misalign = 0;  // elements that x begins behind a 16-byte boundary, and bytes of codes

  std::string name() const;
};

/// Input of a case: every kind of data occurs. `first` rotates the kinds where a tensor has room for one only.
HostArray quant_input(std::mt19937& rng, const QuantCase& c, int first);

/// Memory of one run without x. Output bytes are 0xFF before.
struct QuantBuffers {
  std::vector<unsigned char> codes, scales, zeros;
  std::vector<float> global_scale, row_scales;
};
QuantBuffers quant_buffers(const QuantCase& c, float global_scale);

/// Shapes of a case's tensors at the given addresses; null pointers for those that it has not.
struct QuantAddresses {
  void *x = nullptr, *codes = nullptr, *scales = nullptr, *zeros = nullptr, *global_scale = nullptr,
       *row_scales = nullptr, *group_offsets = nullptr;
};
QuantizeRun quant_run(const QuantCase& c, const QuantAddresses& at);
/// The same, in host buffers.
QuantizeRun quant_run(const QuantCase& c, const HostArray& x, QuantBuffers& buffers);

/// What the oracle makes of a case. Grouped: the padding columns of written rows are 0, the rest stays poisoned.
QuantBuffers oracle_buffers(const QuantCase& c, const HostArray& x, float global_scale, const Activation* activation);

/// The scales of a grouped case in linear order.
std::vector<unsigned char> linear_scales(const QuantCase& c, const QuantBuffers& b);

/// Same bits, but that every NaN equals every other.
bool same_floats(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace moesaic::testing
