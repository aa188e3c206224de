// SPDX-License-Identifier: Apache-2.0
// GEMM tiles of weights of 16 bits.
#include "backend_cpu/fast_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend_cpu/fast_gemm_16bit.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, which chooses the target.
#include "backend_cpu/fast_gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moesaic::cpu::HWY_NAMESPACE {

constexpr GemmTable kGemmBf16 = make_gemm_table<PanelCodes::kBf16>();
constexpr GemmTable kGemmFp16 = make_gemm_table<PanelCodes::kFp16>();

}  // namespace moesaic::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
