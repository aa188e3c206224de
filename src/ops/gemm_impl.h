// SPDX-License-Identifier: Apache-2.0
// What Gemm asks of a device.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "moesaic/gemm.h"
#include "ops/moe_impl.h"

namespace moesaic::ops {

class GemmImpl {
 public:
  virtual ~GemmImpl() = default;
  virtual std::size_t prepared_bytes() const noexcept = 0;
  virtual std::size_t workspace_bytes(std::int64_t rows) const = 0;
  virtual void prepare(std::span<const GemmWeights> weights, void* prepared, void* stream) const = 0;
  /// Requires: checked; x and out flat, [rows, ...].
  virtual void run(const GemmRun& run, void* stream) const = 0;
  virtual std::vector<std::string> kernels(std::int64_t rows) const = 0;
};

std::unique_ptr<GemmImpl> make_cuda_gemm(const GemmConfig& config, const ModuleOptions& modules);
std::unique_ptr<GemmImpl> make_cpu_gemm(const GemmConfig& config);

/// Each throws Error(kInvalidArgument) that names the argument, what was got and what is wanted.
void check_gemm_weights(const GemmConfig& config, std::span<const GemmWeights> weights, WeightFormats formats);
/// The number of rows of a run, M or groups * max, when every tensor fits.
std::int64_t check_gemm_run(const GemmConfig& config, const GemmRun& run, Precision precision);
/// Prepared weights and workspace.
void check_gemm_memory(const GemmRun& run, std::size_t prepared, std::size_t workspace);
/// Offsets or counts in host memory: in the order and within the rows that gemm.h asks for.
void check_group_values(const GemmConfig& config, const GemmRun& run, std::int64_t rows);

/// True when x of a run are codes.
inline bool gives_codes(const GemmRun& run) { return run.x.dtype == DType::kU8; }
/// True when rows of a run are groups'.
inline bool has_groups(const GemmRun& run) { return !run.group_offsets.empty() || !run.group_counts.empty(); }

}  // namespace moesaic::ops
