// SPDX-License-Identifier: Apache-2.0
// The CPU backend: reference loops (exact, oracle) that share no code with kernels/, and the fast path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "moesaic/activation.h"
#include "moesaic/gemm.h"
#include "moesaic/moe.h"
#include "moesaic/quantize.h"
#include "moesaic/route.h"

namespace moesaic::cpu {

// --- oracle pieces: FP64 inside, plain loops ------------------------------------------------------------------------

/// Value of element `index` (in elements) of an array of `dtype`; own bf16 / fp16 decoding.
double load_element(const void* data, DType dtype, std::int64_t index);
/// Rounds to nearest even to `dtype` (kBF16, kF16, kF32; kF64 returns it as it is).
double round_to(double value, DType dtype);

/// The code of kBF16 or kF16 whose value is nearest, ties to even.
std::uint16_t encode_16bit(double value, DType dtype);
/// Value of a code (kInt4: the code itself, 0..15) and of a scale byte or number; own decoding.
double decode_code(CodeFormat format, std::uint8_t code);
double decode_scale(ScaleFormat format, const void* scales, std::int64_t index);
/// Nearest code, ties to even, saturating; NaN gives 0x7F (8 bits) or 7 (e2m1). Not for kInt4.
std::uint8_t encode_code(CodeFormat format, double value);
/// Element (row, col) of any matrix view, quantised or not, in FP64.
double matrix_element(const MatrixView& matrix, std::int64_t row, std::int64_t col);
/// Index of a scale in a layout: the oracle's own way to it.
std::int64_t oracle_scale_index(ScaleLayout layout, std::int64_t row, std::int64_t col, std::int64_t cols);

/// The quantisers by plain loops, one row and block after the other. Arguments as Quantizer checks them.
void oracle_quantize(const QuantSpec& spec, const QuantizeRun& run, const Activation* activation);
void oracle_dequantize(const QuantSpec& spec, const QuantizeRun& run);
/// A row of fp32 values as the recipe's GEMMs see it: quantised by `spec` and decoded. `static_scale`: value = code *
/// scale (kFp8Static; kNvfp4: encode scale fl(1 / static_scale)).
void oracle_round_row(const QuantSpec& spec, float static_scale, const float* row, std::int64_t size, double* rounded);

/// act(g, u) in FP64 by the formulas of moe.h.
double activate(const Activation& activation, double g, double u);

/// Tokens to route, and where their experts go.
struct RouteTask {
  std::int64_t tokens = 0;
  int num_experts = 0, top_k = 0;
  const float* logits = nullptr;                // [T, E]
  const float* selection_bias = nullptr;        // [E] or nullptr
  const std::int64_t* token_ids = nullptr;      // [T]: kHash
  const std::int32_t* token_experts = nullptr;  // [Routing::vocabulary, k]: kHash
  std::int32_t* ids = nullptr;                  // [T, k]
  float* weights = nullptr;                     // [T, k]
};

/// Chooses and weighs. Scores in FP32 as the routers of the model families compute them; ties to the lower id. Throws
/// Error on sizes that the method cannot serve.
void route(const Routing& routing, const RouteTask& task);
/// The same for methods that go by scores.
void route(const Routing& routing, const float* logits, const float* selection_bias, std::int64_t tokens,
           int num_experts, int top_k, std::int32_t* ids, float* weights);

/// logits [T, rows] = x [T, K] weight^T + bias, FP32 result of FP64 sums, no rounding of operands.
void project(const void* x, DType x_dtype, std::int64_t tokens, const MatrixView& weight, const VectorView& bias,
             float* logits);

/// The whole layer by plain loops; see reference_moe of moe.h.
void reference_layer(const MoeConfig& config, const MoeWeights& weights, ReferenceMode mode, const MoeRun& run);

/// Products of `rows` rows by plain loops; see reference_gemm of gemm.h. Arguments as it checks them.
void reference_gemm(const GemmConfig& config, std::span<const GemmWeights> weights, ReferenceMode mode,
                    std::int64_t rows, const GemmRun& run);

// --- fast: threads and SIMD; weights packed by `prepare` ------------------------------------------------------------

std::size_t fast_prepared_bytes(const MoeConfig& config);
void fast_prepare(const MoeConfig& config, const MoeWeights& weights, void* prepared);
/// One expert of memory that fast_prepare wrote.
void fast_prepare_expert(const MoeConfig& config, int expert, const ExpertWeights& weights, void* prepared);
/// Names the byte layout, version included.
std::string fast_prepared_layout();
/// Throws Error(kInvalidArgument) on memory that is null, not aligned, or not what fast_prepare wrote for `config`.
void fast_check_prepared(const char* operation, const MoeConfig& config, const void* prepared);
std::size_t fast_workspace_bytes(const MoeConfig& config, std::int64_t tokens);
void fast_run(const MoeConfig& config, const MoeRun& run);
/// Rows that were dispatched: x and out [R, H]. Arguments as FusedMoe checks them.
void fast_run_dispatched(const MoeConfig& config, const MoeRun& run);
/// The router's run on `tokens` tokens. Arguments as Router checks them.
void fast_route(const RouterConfig& config, const RouteRun& run, std::int64_t tokens);
/// Where gate and up of output column c lie in a row: gate + c step, up + c step.
struct GateUpColumns {
  std::int64_t gate, up;
  int step;
};
/// The activation's run. Arguments as ActivationOp checks them.
void fast_activate(const Activation& activation, const GateUpColumns& columns, const ActivationRun& run);
/// The quantisers by threads and SIMD: the same bytes as the oracle's.
void fast_quantize(const QuantSpec& spec, const QuantizeRun& run, const Activation* activation);
void fast_dequantize(const QuantSpec& spec, const QuantizeRun& run);
/// The instruction set in use: "avx512", "avx2", "sse4" or "scalar".
const char* fast_target() noexcept;

}  // namespace moesaic::cpu
