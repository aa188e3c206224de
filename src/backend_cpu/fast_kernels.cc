// SPDX-License-Identifier: Apache-2.0
// Projection, activations and conversions in Highway, and the choice of an instruction set.
#include "backend_cpu/fast_kernels.h"

#include "backend_cpu/fast_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend_cpu/fast_kernels.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, which chooses the target.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "backend_cpu/fast_gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moesaic::cpu::HWY_NAMESPACE {

extern const CodeKernels kCodeKernels;  // fast_codes.cc

namespace {

constexpr hn::CappedTag<double, 8> kF64;
constexpr hn::Rebind<float, decltype(kF64)> kHalfF32;
using F64 = hn::Vec<decltype(kF64)>;

template <int kTokens>
void project_tile(const double* HWY_RESTRICT x, const float* HWY_RESTRICT rows, std::int64_t depth,
                  double* HWY_RESTRICT sums) {
  F64 tile[kTokens][kProjectRows];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kProjectRows; ++r) tile[t][r] = hn::Zero(kF64);
  }
  for (std::int64_t k = 0; k < depth; k += static_cast<std::int64_t>(hn::MaxLanes(kF64))) {
    for (int r = 0; r < kProjectRows; ++r) {
      const F64 weights = hn::PromoteTo(kF64, hn::LoadU(kHalfF32, rows + r * depth + k));
      for (int t = 0; t < kTokens; ++t)
        tile[t][r] = hn::MulAdd(weights, hn::LoadU(kF64, x + t * depth + k), tile[t][r]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kProjectRows; ++r) {
      sums[t * kProjectRows + r] = hn::GetLane(hn::SumOfLanes(kF64, tile[t][r]));
    }
  }
}

// Comparisons are false for NaN, so it passes through.
HWY_INLINE F32 at_most(F32 value, F32 limit) { return hn::IfThenElse(hn::Gt(value, limit), limit, value); }
HWY_INLINE F32 at_least(F32 value, F32 limit) { return hn::IfThenElse(hn::Lt(value, limit), limit, value); }
HWY_INLINE F32 clamped(F32 value, F32 limit) { return at_least(at_most(value, limit), hn::Neg(limit)); }

HWY_INLINE F32 sigmoid(F32 x) {
  const F32 one = hn::Set(kF32, 1.0f);
  const F32 minus_x = hn::Neg(x);
  // Highway's Exp ends before 89; beyond, FP32 has only infinity.
  const F32 largest = hn::Set(kF32, 88.0f);
  const F32 e = hn::IfThenElse(hn::Gt(minus_x, largest), hn::Inf(kF32), hn::Exp(kF32, at_most(minus_x, largest)));
  const F32 result = hn::Div(one, hn::Add(one, e));
  return hn::IfThenElse(hn::Eq(x, x), result, x);
}
HWY_INLINE F32 silu(F32 x) { return hn::Mul(x, sigmoid(x)); }

template <ActivationKind kKind>
void activate_all(const FastActivation& activation, const float* g, const float* u, int count, float* h) {
  const F32 alpha = hn::Set(kF32, activation.alpha), beta = hn::Set(kF32, activation.beta);
  const F32 limit = hn::Set(kF32, activation.limit), zero = hn::Zero(kF32);
  for (int i = 0; i < count; i += kLanes) {
    const F32 gate = hn::LoadU(kF32, g + i);
    F32 result = gate;
    if constexpr (kKind == ActivationKind::kRelu) result = at_least(gate, zero);
    if constexpr (kKind == ActivationKind::kRelu2) result = hn::Mul(at_least(gate, zero), at_least(gate, zero));
    if constexpr (kKind == ActivationKind::kSilu) result = silu(gate);
    if constexpr (kKind == ActivationKind::kSwiglu) result = hn::Mul(silu(gate), hn::LoadU(kF32, u + i));
    if constexpr (kKind == ActivationKind::kSwigluBias) {
      const F32 bounded = at_most(gate, limit);
      const F32 up = hn::Add(clamped(hn::LoadU(kF32, u + i), limit), beta);
      result = hn::Mul(hn::Mul(bounded, sigmoid(hn::Mul(alpha, bounded))), up);
    }
    if constexpr (kKind == ActivationKind::kSwigluStep) {
      result = hn::Mul(at_most(silu(gate), limit), clamped(hn::LoadU(kF32, u + i), limit));
    }
    hn::StoreU(result, kF32, h + i);
  }
}

bool activate_vector(const FastActivation& activation, const float* g, const float* u, int count, float* h) {
  switch (activation.kind) {
    case ActivationKind::kRelu:
      activate_all<ActivationKind::kRelu>(activation, g, u, count, h);
      return true;
    case ActivationKind::kRelu2:
      activate_all<ActivationKind::kRelu2>(activation, g, u, count, h);
      return true;
    case ActivationKind::kIdentity:
      activate_all<ActivationKind::kIdentity>(activation, g, u, count, h);
      return true;
    case ActivationKind::kSilu:
      activate_all<ActivationKind::kSilu>(activation, g, u, count, h);
      return true;
    case ActivationKind::kSwiglu:
      activate_all<ActivationKind::kSwiglu>(activation, g, u, count, h);
      return true;
    case ActivationKind::kSwigluBias:
      activate_all<ActivationKind::kSwigluBias>(activation, g, u, count, h);
      return true;
    case ActivationKind::kSwigluStep:
      activate_all<ActivationKind::kSwigluStep>(activation, g, u, count, h);
      return true;
    default:
      return false;
  }
}

void widen_row(const std::uint16_t* from, std::int64_t count, Io io, float* to) {
  std::int64_t i = 0;
  if (io == Io::kFp16) {
    for (; i + kLanes <= count; i += kLanes) hn::StoreU(load_half(from + i), kF32, to + i);
  } else {
    for (; i + kLanes <= count; i += kLanes) {
      const U32 bits = hn::PromoteTo(kU32, hn::LoadU(kU16, from + i));
      hn::StoreU(hn::BitCast(kF32, hn::ShiftLeft<16>(bits)), kF32, to + i);
    }
  }
  for (; i < count; ++i) to[i] = to_float(from[i], io);
}

void narrow_row(const float* from, std::int64_t count, Io io, std::uint16_t* to) {
  std::int64_t i = 0;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  if (io == Io::kFp16) {
    const hn::Rebind<hwy::float16_t, decltype(kF32)> f16;
    for (; i + kLanes <= count; i += kLanes) {
      hn::StoreU(hn::DemoteTo(f16, hn::LoadU(kF32, from + i)), f16, reinterpret_cast<hwy::float16_t*>(to + i));
    }
  }
#endif
  for (; i < count; ++i) to[i] = from_float(from[i], io);
}

constexpr FastKernels make_kernels(const char* name) {
  FastKernels kernels{};
  kernels.name = name;
  kernels.max_tokens = kTileTokens;
  kernels.gemm[static_cast<int>(PanelCodes::kBf16)] = &kGemmBf16;
  kernels.gemm[static_cast<int>(PanelCodes::kFp16)] = &kGemmFp16;
  kernels.gemm[static_cast<int>(PanelCodes::kE4m3)] = &kGemmE4m3;
  kernels.gemm[static_cast<int>(PanelCodes::kE4m3Blocks)] = &kGemmE4m3Blocks;
  kernels.gemm[static_cast<int>(PanelCodes::kE2m1Blocks)] = &kGemmE2m1Blocks;
  kernels.gemm[static_cast<int>(PanelCodes::kInt4Blocks)] = &kGemmInt4Blocks;
  kernels.project[0] = &project_tile<1>;
  kernels.project[1] = &project_tile<2>;
  kernels.project[2] = &project_tile<3>;
  kernels.project[3] = &project_tile<4>;
  kernels.activate = &activate_vector;
  kernels.widen = &widen_row;
  kernels.narrow = &narrow_row;
  kernels.codes = &kCodeKernels;
  return kernels;
}

}  // namespace

// Constant data: reading it runs no code of the target.
extern const FastKernels kKernels;
constexpr FastKernels kKernels = make_kernels(HWY_TARGET == HWY_AVX3   ? "avx512"
                                              : HWY_TARGET == HWY_AVX2 ? "avx2"
                                              : HWY_TARGET == HWY_SSE4 ? "sse4"
                                                                       : "scalar");

}  // namespace moesaic::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#if HWY_ARCH_X86
#include <cpuid.h>
#endif

#include <atomic>
#include <vector>

namespace moesaic::cpu {
namespace {

#if HWY_ARCH_X86
// clang 14's __builtin_cpu_supports does not know "f16c".
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

std::vector<const FastKernels*> find_kernels() {
  std::vector<const FastKernels*> found;
#if HWY_ARCH_X86 && (HWY_TARGETS & HWY_AVX3)
  // The instruction sets that Highway's target attributes name.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    found.push_back(&N_AVX3::kKernels);
  }
#endif
#if HWY_ARCH_X86 && (HWY_TARGETS & HWY_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
      __builtin_cpu_supports("bmi2") && has_f16c()) {
    found.push_back(&N_AVX2::kKernels);
  }
#endif
#if HWY_ARCH_X86 && (HWY_TARGETS & HWY_SSE4)
  if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul")) {
    found.push_back(&N_SSE4::kKernels);
  }
#endif
  // The target of the compiler's own flags, which the code around this already needs.
  if (found.empty() || found.back() != &HWY_NAMESPACE::kKernels) found.push_back(&HWY_NAMESPACE::kKernels);
  return found;
}

std::atomic<const FastKernels*> chosen{nullptr};

}  // namespace

std::span<const FastKernels* const> available_kernels() {
  static const std::vector<const FastKernels*> kernels = find_kernels();
  return kernels;
}

const FastKernels& fast_kernels() {
  const FastKernels* kernels = chosen.load(std::memory_order_relaxed);
  return kernels != nullptr ? *kernels : *available_kernels().front();
}

void use_kernels(const FastKernels* kernels) { chosen.store(kernels, std::memory_order_relaxed); }

}  // namespace moesaic::cpu
#endif  // HWY_ONCE
