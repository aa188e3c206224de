// SPDX-License-Identifier: Apache-2.0
// GEMM tiles of weights of 4 bits.
#include "backend_cpu/fast_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend_cpu/fast_gemm_4bit.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, which chooses the target.
#include "backend_cpu/fast_gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moesaic::cpu::HWY_NAMESPACE {

constexpr GemmTable kGemmE2m1Blocks = make_gemm_table<PanelCodes::kE2m1Blocks>();
constexpr GemmTable kGemmInt4Blocks = make_gemm_table<PanelCodes::kInt4Blocks>();

}  // namespace moesaic::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
