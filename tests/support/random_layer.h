// SPDX-License-Identifier: Apache-2.0
// Random layers for tests: host weights that own their memory, inputs, and the comparison of results.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "moesaic/moe.h"
#include "tables/recipe_table.h"

namespace moesaic::testing {

/// A host array of 16-bit or 32-bit elements.
struct HostArray {
  DType dtype = DType::kF32;
  std::vector<unsigned char> bytes;
  std::int64_t size() const { return static_cast<std::int64_t>(bytes.size() / dtype_size(dtype)); }
};

/// Normal values times `scale`, rounded to `dtype`.
HostArray random_array(std::mt19937& rng, std::int64_t size, DType dtype, double scale);
/// float values rounded to `dtype` (bf16, f16 or f32).
HostArray to_array(const std::vector<float>& values, DType dtype);
std::vector<float> to_floats(const HostArray& array);

struct LayerOptions {
  bool biases = false;
  bool fused_interleaved = false;  // gate and up rows alternate in one tensor
  bool transposed = false;         // [E, H, 2I] and [E, I, H] as gpt-oss and Llama-4 store them
};

/// Weights of a layer in host memory, with their views.
struct HostLayer {
  MoeConfig config;
  MoeWeights weights;
  std::vector<std::unique_ptr<HostArray>> storage;
};

HostLayer random_layer(std::mt19937& rng, const MoeConfig& config, const LayerOptions& options);

/// What a comparison found.
struct Distance {
  double row_l2 = 0;  // worst row, relative
  std::int64_t row = -1;
  double element = 0;  // worst |d| / (element_rel |ref| + element_rms rms(row))
  bool finite = true;  // of the result where the reference is
};

/// Compares [rows, cols]; `tolerance` gives the elementwise bound.
Distance compare(const std::vector<float>& got, const std::vector<double>& wanted, std::int64_t cols,
                 const tables::Tolerance& tolerance);

/// The oracle's output of `x` (io type) with the given logits.
std::vector<double> oracle_output(const HostLayer& layer, const HostArray& x, const std::vector<float>& logits,
                                  ReferenceMode mode = ReferenceMode::kOracle);

/// A seed that changes from run to run, printed; MOESAIC_TEST_SEED fixes it.
unsigned fresh_seed();

}  // namespace moesaic::testing
