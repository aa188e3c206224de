// SPDX-License-Identifier: Apache-2.0
// `moesaic bench`: what is measured, shared by the CPU and the GPU measurement.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moesaic/moe.h"
#include "tables/model_table.h"

namespace moesaic::cli {

inline constexpr int kBenchRoutings = 16;  // seeded uniform routings; times are means over them

struct BenchOptions {
  std::string model, recipe;
  std::vector<int> tokens;
  Device device;
  ModuleOptions modules;
  Int4Groups int4 = {128, false};  // int4 recipes; most checkpoints have groups of 128
  int experts = 0;                 // instead of the model's: one rank of an expert-parallel layer
};

/// Rates of the machine, measured in this process.
struct Ceilings {
  double read_bytes_per_us = 0, copy_bytes_per_us = 0;
  double matrix_flops_per_us = 0;  // published rate of the device class; 0: unknown
  std::string device;
};

/// Of several repeats.
struct BenchTime {
  double us = 0;      // median
  double spread = 0;  // (slowest - fastest repeat) / median
};

/// One point.
struct BenchPoint {
  int tokens = 0;
  BenchTime time;              // on a GPU, a repeat is a mean over routings
  double touched_experts = 0;  // mean over routings
  double weight_bytes = 0;     // of touched and shared experts
  double flops = 0;
  double floor_us = 0;
  double bf16_us = 0;  // the CPU's time for the same shape with 16-bit weights, measured in turns; 0: not measured
  std::vector<std::string> kernels;
};

struct BenchResult {
  Ceilings ceilings;
  std::vector<BenchPoint> points;
};

/// The upper of two middle values. Requires: not empty.
double median(std::vector<double> values);
/// Requires: not empty.
BenchTime bench_time(const std::vector<double>& times_us);

/// Layer of the options: from logits, no router.
MoeConfig bench_config(const BenchOptions& options);
/// Logits of routing `seed`: [tokens, E], uniform over experts.
std::vector<float> bench_logits(int tokens, int experts, int seed);
/// Bytes of a weight matrix as the recipe stores it, scales and zero points included.
double weight_matrix_bytes(const std::string& recipe, const Int4Groups& int4, std::int64_t rows, std::int64_t cols);
/// Bytes of the weights of that many experts and of the shared ones, as the recipe stores them.
double touched_weight_bytes(const MoeConfig& config, double touched_experts);
/// The larger of reading so many bytes and computing so much.
double floor_us(const Ceilings& ceilings, double bytes, double flops);
/// Fills touched_experts, weight_bytes, flops and floor from the routings.
void fill_floor(const MoeConfig& config, const Ceilings& ceilings, double touched_experts, BenchPoint& point);
/// Mean over the routings of the number of experts that get a token.
double mean_touched(const MoeConfig& config, int tokens);

BenchResult bench_moe_cpu(const BenchOptions& options);
BenchResult bench_moe_cuda(const BenchOptions& options);

}  // namespace moesaic::cli
