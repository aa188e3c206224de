// SPDX-License-Identifier: Apache-2.0
// The products of a layer alone: a matrix times one weight matrix, or rows of groups times their group's.
//
//     out[m, n] = alpha * sum_k a[m, k] * W_g[n, k] + bias_g[n]      g the group of row m; FP32 sums, one rounding
//
// a is x as the recipe's activations are: 16-bit numbers, or quantised row by row as docs/numerics.md says; W as
// stored.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "moesaic/module.h"
#include "moesaic/moe.h"
#include "moesaic/tensor.h"

#pragma GCC visibility push(default)
namespace moesaic {

/// A product, or those of groups; immutable once given to `Gemm::create`.
struct GemmConfig {
  int n = 0, k = 0;  // of every group's W [n, k]
  int groups = 1;
  std::string recipe = "bf16";  // a name of `moesaic recipes`
  Int4Groups int4;              // recipes with int4 weights
  bool e5m2 = false;            // activations of mxfp8 and mxfp8_mxfp4 are e5m2 instead of e4m3
  int max_rows = 8192;          // `run` refuses more; kernels for any number of rows up to it are loaded by `create`
  Device device;
};

/// Weights of one group: W [n, k] in the recipe's format (16-bit recipes: bf16, fp16 or f32), bias [n] or empty.
struct GemmWeights {
  MatrixView w;
  VectorView bias;
};

/// Order of FP32 scales of given codes, per 1 x 128: [M, ceil(k / 128)], or [ceil(k / 128), M].
enum class ScaleMajor : std::uint8_t { kK, kMn };

/// Arguments of one run. Memory is the caller's and on the op's device; out overlaps nothing.
struct GemmRun {
  TensorView x;  // [M, k] io type, or codes u8 [M, k], of 4 bits [M, k / 2]; with counts [groups, max, k] (or k / 2)
  // Scales of given codes: recipes quantised per token [M] f32, by a static scale [1] f32, 1 x 128 f32 in the order of
  // scale_major, MX [M, k / 32] u8, NVFP4 [M, k / 16] u8 and x_row_scale. With counts, M is groups * max.
  TensorView x_scale;
  TensorView x_row_scale;  // NVFP4: f32 [M] or [1], value = code * scale * x_row_scale
  ScaleMajor scale_major = ScaleMajor::kK;
  TensorView input_scale;  // f32 [1]: x is quantised by it (fp8_tensor, nvfp4) instead of row by row; or empty
  // Which rows are a group's, as in MoeRun. Neither: all rows are the one group's.
  TensorView group_offsets;  // [groups + 1] i32, ascending from 0
  TensorView group_counts;   // [groups] i32, 0 to max
  TensorView out;            // [M, n], with counts [groups, max, n]: bf16, f16 or f32. Rows of no group stay untouched
  float alpha = 1.0f;
  const void* prepared = nullptr;
  void* workspace = nullptr;  // any content
  std::size_t workspace_bytes = 0;
};

/// `gemm` (one group) and `grouped_gemm`, bound to a device. `run` is const and reentrant. On the CPU: plain FP64
/// loops, to be right, not fast.
class Gemm {
 public:
  /// Checks, plans and loads kernels. Throws Error as FusedMoe::create.
  static Gemm create(const GemmConfig& config, const ModuleOptions& modules = {});

  Gemm(Gemm&&) noexcept;
  Gemm& operator=(Gemm&&) noexcept;
  ~Gemm();

  /// The configuration given to `create`.
  const GemmConfig& config() const noexcept;

  /// Bytes of the kernels' form of all weights; 256-byte aligned memory of that size is the caller's to give.
  std::size_t prepared_bytes() const noexcept;
  /// Writes that form. On the CPU the views are copied, so what they point to must stay as long as `run` is called.
  void prepare(std::span<const GemmWeights> weights, void* prepared, void* stream = nullptr) const;
  /// Workspace that a run of `rows` rows (M, or groups * max) needs, bytes. 256-byte aligned.
  std::size_t workspace_bytes(std::int64_t rows) const;
  /// Enqueues; on a GPU kernel launches alone, capturable. Throws Error before anything is enqueued.
  void run(const GemmRun& run, void* stream = nullptr) const;
  /// The kernels that a run of `rows` uses, in launch order; with several groups, of a run that says where they are.
  std::vector<std::string> kernels(std::int64_t rows) const;

 private:
  struct Impl;
  explicit Gemm(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

/// Runs a product on the CPU by plain FP64 loops. `run.x` may be bf16, f16, f32 or codes, `run.out` f64 too; all in
/// host memory; `prepared` and `workspace` are not used. kExact: no rounding of x, weights in any format. Throws Error
/// as `Gemm::run` does, and on offsets and counts that do not fit the rows.
void reference_gemm(const GemmConfig& config, std::span<const GemmWeights> weights, ReferenceMode mode,
                    const GemmRun& run);

}  // namespace moesaic
#pragma GCC visibility pop
