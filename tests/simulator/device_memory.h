// SPDX-License-Identifier: Apache-2.0
// Allocations of the simulated GPU: host memory at host addresses, every access checked against them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simulator/program.h"

namespace moesaic::sim {

/// Filled with 0xff: NaN in every floating point type but e2m1.
u64 allocate(std::size_t bytes);
/// False where no allocation begins.
bool release(u64 address);
/// The bytes; throws Fault where they are not in one allocation, or not aligned to `bytes` (a power of two; `alignment`
/// where that is another).
std::byte* device_bytes(u64 address, std::size_t bytes, std::size_t alignment);

}  // namespace moesaic::sim
