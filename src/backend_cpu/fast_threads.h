// SPDX-License-Identifier: Apache-2.0
// The worker threads of the fast path: started once, shared by all layers.
#pragma once

#include <cstdint>
#include <functional>

namespace moesaic::cpu {

/// Threads that `parallel_for` can use, the caller included: MOESAIC_THREADS, else all cores; read once.
int max_threads();

/// Runs body(index, thread) for every index in [0, count), thread in [0, max_threads()), no two at once with the same
/// thread. Returns when all are done; `body` must not throw. When another caller has the workers, this one does all
/// the work itself as thread 0, so concurrent runs neither wait for each other nor lock up.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t index, int thread)>& body);

/// For tests: at most `threads` take part from now on; 0 lifts the limit.
void limit_threads(int threads);

}  // namespace moesaic::cpu
