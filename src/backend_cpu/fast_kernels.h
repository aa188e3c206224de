// SPDX-License-Identifier: Apache-2.0
// The inner loops of the fast path, one set for each instruction set.
#pragma once

#include <cstdint>
#include <span>

#include "backend_cpu/fast_codes.h"
#include "backend_cpu/fast_number.h"
#include "backend_cpu/fast_panels.h"
#include "moesaic/moe.h"

namespace moesaic::cpu {

inline constexpr int kMaxTileTokens = 12;
inline constexpr int kMaxTilePanels = 4;
inline constexpr int kProjectRows = 4;
inline constexpr int kProjectTokens = 4;

/// Activation with parameters after defaults.
struct FastActivation {
  ActivationKind kind;
  float alpha, beta, limit;
};

/// sums [panels][tokens][32] FP32 = panels times x [depth][tokens]; multipliers are left to the caller. Every sum is
/// one chain of additions in order of k, so it does not depend on how many tokens or panels share the tile.
struct GemmTable {
  using Gemm = void (*)(const PanelView& panels, const float* x, float* sums);
  /// By tokens - 1, panels - 1; nullptr where the registers do not suffice. One panel: 1..max_tokens exist.
  Gemm tile[kMaxTileTokens][kMaxTilePanels];
};

struct FastKernels {
  const char* name;  // "avx512", "avx2", "sse4", "scalar"

  const GemmTable* gemm[kNumPanelCodes];  // by PanelCodes
  int max_tokens;

  /// sums [tokens][4] = x [tokens][depth] times four rows [4][depth], FP64 products and sums; depth % 8 == 0.
  using Project = void (*)(const double* x, const float* rows, std::int64_t depth, double* sums);
  Project project[kProjectTokens];  // by tokens - 1

  /// h[i] = act(g[i], u[i]), count % 16 == 0. False: this kind has no vector code.
  bool (*activate)(const FastActivation& activation, const float* g, const float* u, int count, float* h);
  /// 16-bit to FP32 and back, any count.
  void (*widen)(const std::uint16_t* from, std::int64_t count, Io io, float* to);
  void (*narrow)(const float* from, std::int64_t count, Io io, std::uint16_t* to);
  const CodeKernels* codes;
};

/// Sets that this machine can run, best first; never empty.
std::span<const FastKernels* const> available_kernels();
/// The set in use: the first of `available_kernels` unless a test chose another one.
const FastKernels& fast_kernels();
/// For tests and benchmarks: uses `kernels` from the next run on; nullptr goes back to the best.
void use_kernels(const FastKernels* kernels);

}  // namespace moesaic::cpu
