// SPDX-License-Identifier: Apache-2.0
// A time limit for a compiler that runs in this process (docs/architecture.md, "A compiler that hangs").
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "module/nvrtc.h"

namespace moesaic::module {

/// MOESAIC_COMPILE_TIMEOUT, or its default; 0: no limit. Throws Error(kInvalidArgument).
std::chrono::seconds compile_limit();

/// `nvrtc->compile(instance)` in a thread of its own, which is left behind when it has not ended within `limit`. Until
/// it does end, this process compiles nothing more. Throws Error(kCompile): the compiler's, or that it hangs.
NvrtcOutput compile_within(std::chrono::seconds limit, const std::shared_ptr<const Nvrtc>& nvrtc,
                           const KernelInstance& instance);

/// Whether a thread that was left behind is still running: the process should then end without destructors.
bool compiler_hangs() noexcept;

}  // namespace moesaic::module
