// SPDX-License-Identifier: Apache-2.0
// `moesaic bench`: what is measured, shared by the CPU and the GPU measurement.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/bench_conditions.h"
#include "cli/bench_routing.h"
#include "cli/bench_shares.h"
#include "moesaic/moe.h"
#include "tables/model_table.h"

namespace moesaic::cli {

/// Tokens of a step of decoding, of several, and of a prefill: what is measured where nothing else is asked for.
inline constexpr int kBenchTokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};

struct BenchOptions {
  std::string model, recipe;
  std::vector<int> tokens;
  std::vector<BenchRouting> routings = {{}};
  Device device;
  ModuleOptions modules;
  Int4Groups int4 = {128, false};  // int4 recipes; most checkpoints have groups of 128
  bool shares = false;             // what each launch takes, too; on a GPU
  bool static_scales = false;      // of activations, where the recipe takes them
  int experts = 0;                 // instead of the model's: one rank of an expert-parallel layer
};

/// Rates of the machine, measured in this process.
struct Ceilings {
  double read_bytes_per_us = 0, copy_bytes_per_us = 0;
  double matrix_flops_per_us = 0;  // 0: unknown
  bool matrix_measured = false;    // else the published rate of the device class
  std::string matrix_source;       // what measured or published it, and why not the other; empty: nothing is said
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
  BenchRouting routing;
  BenchTime time;  // on a GPU, a repeat is a mean over routings
  RoutingLoad load;
  double weight_bytes = 0;  // of touched and shared experts
  double flops = 0;
  double floor_us = 0;
  // Time over the one that the same number of uniformly routed tokens predicts: theirs in proportion to the floors. 0:
  // these were not measured, or these are they.
  double of_prediction = 0;
  Conditions conditions;
  double bf16_us = 0;  // the CPU's time for the same shape with 16-bit weights, measured in turns; 0: not measured
  std::vector<std::string> kernels;
  std::vector<LaunchShare> launches;  // with BenchOptions::shares
};

struct BenchResult {
  Ceilings ceilings;
  std::string nvml;  // why there are no conditions; empty: there are
  std::vector<BenchPoint> points;
};

/// The upper of two middle values. Requires: not empty.
double median(std::vector<double> values);
/// Requires: not empty.
BenchTime bench_time(const std::vector<double>& times_us);

/// Layer of the options: from logits, no router.
MoeConfig bench_config(const BenchOptions& options);
/// Bytes of a weight matrix as the recipe stores it, scales and zero points included.
double weight_matrix_bytes(const std::string& recipe, const Int4Groups& int4, std::int64_t rows, std::int64_t cols);
/// Bytes of the weights of that many experts and of the shared ones, as the recipe stores them.
double touched_weight_bytes(const MoeConfig& config, double touched_experts);
/// The larger of reading so many bytes and computing so much.
double floor_us(const Ceilings& ceilings, double bytes, double flops);
/// Fills load, weight_bytes, flops and floor from the point's routings. The expert with most tokens adds nothing to the
/// floor: its products are among the layer's, and all SMs can share them.
void fill_floor(const MoeConfig& config, const Ceilings& ceilings, BenchPoint& point);
/// Fills of_prediction wherever there is a uniform point of as many tokens.
void fill_predictions(std::vector<BenchPoint>& points);

BenchResult bench_moe_cpu(const BenchOptions& options);
BenchResult bench_moe_cuda(const BenchOptions& options);

}  // namespace moesaic::cli
