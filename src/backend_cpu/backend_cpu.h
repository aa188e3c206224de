// SPDX-License-Identifier: Apache-2.0
// The CPU backend: reference loops (exact, oracle) that share no code with kernels/, and the fast path.
#pragma once

#include <cstddef>
#include <cstdint>

#include "moesaic/moe.h"

namespace moesaic::cpu {

// --- oracle pieces: FP64 inside, plain loops ------------------------------------------------------------------------

/// Value of element `index` (in elements) of an array of `dtype`; own bf16 / fp16 decoding.
double load_element(const void* data, DType dtype, std::int64_t index);
/// Rounds to nearest even to `dtype` (kBF16, kF16, kF32; kF64 returns it as it is).
double round_to(double value, DType dtype);

/// act(g, u) in FP64 by the formulas of moe.h.
double activate(const Activation& activation, double g, double u);
/// Parameters after defaults, as fp32 numbers.
struct ActivationParameters {
  float alpha, beta, limit;
};
ActivationParameters activation_parameters(const Activation& activation);

/// ids [T, k], weights [T, k] from logits [T, E]; `selection_bias` [E] or nullptr. Scores in FP32 as the routers of the
/// model families compute them; ties to the lower id. Throws Error on sizes that the method cannot serve.
void route(const Routing& routing, const float* logits, const float* selection_bias, std::int64_t tokens,
           int num_experts, int top_k, std::int32_t* ids, float* weights);

/// logits [T, rows] = x [T, K] weight^T + bias, FP32 result of FP64 sums, no rounding of operands.
void project(const void* x, DType x_dtype, std::int64_t tokens, const MatrixView& weight, const VectorView& bias,
             float* logits);

/// The whole layer by plain loops; see reference_moe of moe.h.
void reference_layer(const MoeConfig& config, const MoeWeights& weights, ReferenceMode mode, const MoeRun& run);

// --- fast: threads and SIMD; weights packed by `prepare` ------------------------------------------------------------

std::size_t fast_prepared_bytes(const MoeConfig& config);
void fast_prepare(const MoeConfig& config, const MoeWeights& weights, void* prepared);
std::size_t fast_workspace_bytes(const MoeConfig& config, std::int64_t tokens);
void fast_run(const MoeConfig& config, const MoeRun& run);
/// The instruction set in use: "avx512", "avx2", "sse4" or "scalar".
const char* fast_target() noexcept;

}  // namespace moesaic::cpu
