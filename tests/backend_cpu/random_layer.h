// SPDX-License-Identifier: Apache-2.0
// Layers with random weights in any of the storage layouts that views can describe, and runs of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "moesaic/moe.h"

namespace moesaic::cpu {

enum class Storage { kSeparate, kFusedGateFirst, kFusedUpFirst, kInterleaved, kTransposed, kPaddedRows };

struct LayerShape {
  int hidden = 32, intermediate = 37, num_experts = 5, top_k = 2;
  std::string recipe = "bf16";
  Activation activation;
  Routing routing;
  SharedExperts shared;
  bool weights_on_input = false;
  bool biases = false;
  Storage storage = Storage::kSeparate;
  DType stored = DType::kBF16;  // of expert weights
  DType router_stored = DType::kF32;
};

/// 64-byte aligned memory of any initial content.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes, unsigned char fill = 0xff);
  void* data() { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  std::vector<unsigned char> storage_;
  unsigned char* data_;
  std::size_t bytes_;
};

/// A layer whose weights live in `storage`; values are about N(0, 1 / columns), biases N(0, 1).
struct RandomLayer {
  MoeConfig config;
  MoeWeights weights;
  std::vector<std::shared_ptr<Buffer>> storage;

  RandomLayer(const LayerShape& shape, std::mt19937& random);

 private:
  TensorView random_tensor(DType type, std::initializer_list<std::int64_t> shape, double scale, std::mt19937& random);
  MatrixView random_matrix(DType type, std::int64_t rows, std::int64_t cols, std::int64_t padding,
                           std::mt19937& random);
  VectorView random_vector(DType type, std::int64_t size, std::mt19937& random);
  ExpertWeights random_expert(const LayerShape& shape, int intermediate, std::mt19937& random);
  void make_experts(const LayerShape& shape, std::mt19937& random);
};

/// What one run returned.
struct Outcome {
  std::vector<double> y;          // [T][H]
  std::vector<std::int32_t> ids;  // [T][k]
  std::vector<float> weights;     // [T][k]
  std::vector<float> logits;      // [T][E]; empty when not asked for
};

/// Input of a run: x in the layer's io type, optionally with given logits or routing.
struct Input {
  std::vector<std::uint16_t> x;  // [T][H]
  std::int64_t tokens = 0;
  std::vector<float> router_logits, topk_weights;
  std::vector<std::int32_t> topk_ids;
};

Input random_input(const MoeConfig& config, std::int64_t tokens, std::mt19937& random);
/// Outputs and workspaces begin poisoned with NaN bytes. `wants_logits`: logits_out is asked for.
Outcome run_reference(const RandomLayer& layer, ReferenceMode mode, const Input& input, DType out,
                      bool wants_logits = true);
Outcome run_fast(const RandomLayer& layer, const Input& input, DType out, bool wants_logits = true);

/// How far `got` is from `wanted`: relative L2 of the worst and the median row, and the worst element over its bound
/// element_rel |ref| + element_rms rms(row) (above 1: outside).
struct Distance {
  double row_l2 = 0.0, median_row_l2 = 0.0, element = 0.0;
};
Distance distance(const Outcome& got, const Outcome& wanted, int hidden, double element_rel, double element_rms);

}  // namespace moesaic::cpu
