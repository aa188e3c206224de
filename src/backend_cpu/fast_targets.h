// SPDX-License-Identifier: Apache-2.0
// Included before hwy/foreach_target.h by every file that it compiles once for each instruction set. Such files are
// built with baseline flags: only functions between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE may use more, and they
// call nothing of the C++ library, so no wider instruction reaches a template that baseline code shares.
// Highway is used without its library (Debian has no static one): no HWY_EXPORT, no HWY_ABORT, no debug assertions.
#pragma once

#define HWY_IS_DEBUG_BUILD 0
#define HWY_DISABLED_TARGETS (HWY_AVX3_DL | HWY_SSSE3)
