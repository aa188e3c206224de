// SPDX-License-Identifier: Apache-2.0
// Layers of published sizes: gigabytes of random codes and scales in a recipe's formats, made on all cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "moesaic/moe.h"
#include "support/random_layer.h"
#include "tables/model_table.h"

namespace moesaic::testing {

/// How a checkpoint stores what a layer is made of.
struct PublishedFormat {
  std::string recipe;                // of e4m3 codes with FP32 scales, or MX
  bool gate_up_interleaved = false;  // rows of gate and up alternate, as gpt-oss stores them
};

/// A layer of a model's sizes, with router and, where its routing has one, selection bias. Codes are any but NaN, each
/// as likely as the other; with their scales the variance of weights is about 1 / columns, so that sums are about 1.
class PublishedLayer {
 public:
  PublishedLayer(const tables::ModelRow& model, const PublishedFormat& format, unsigned seed);

  /// Bytes of the codes and scales of all experts of such a layer.
  static std::size_t weight_bytes(const tables::ModelRow& model, const std::string& recipe);

  MoeConfig config;
  MoeWeights weights;

 private:
  /// Memory of a matrix; filled when there is all of it.
  struct Stored {
    MatrixView view;
    std::int64_t code_bytes, scales;
    std::uint64_t seed;
  };

  std::byte* keep(std::int64_t bytes);
  MatrixView add_matrix(std::int64_t rows, std::int64_t cols);
  ExpertWeights add_expert(std::int64_t intermediate, bool interleaved);
  VectorView add_vector(std::int64_t size, DType dtype, double scale);
  void add_biases(ExpertWeights& expert);
  void add_router(const tables::ModelRow& model);

  std::mt19937 random_;
  std::vector<Stored> stored_;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
  std::vector<std::unique_ptr<HostArray>> arrays_;
};

}  // namespace moesaic::testing
