// SPDX-License-Identifier: Apache-2.0
// GEMM tiles of weights of 8 bits.
#include "backend_cpu/fast_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend_cpu/fast_gemm_8bit.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, which chooses the target.
#include "backend_cpu/fast_gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moesaic::cpu::HWY_NAMESPACE {

constexpr GemmTable kGemmE4m3 = make_gemm_table<PanelCodes::kE4m3>();
constexpr GemmTable kGemmE4m3Blocks = make_gemm_table<PanelCodes::kE4m3Blocks>();

}  // namespace moesaic::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
