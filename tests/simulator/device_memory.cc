// SPDX-License-Identifier: Apache-2.0
// A map of allocations, behind a lock: several host threads allocate and launch.
#include "simulator/device_memory.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace moesaic::sim {
namespace {

struct Allocations {
  std::mutex mutex;
  std::map<u64, u64> ends;  // by first byte
  u64 version = 1;          // counts changes
};

Allocations& allocations() {
  static Allocations all;
  return all;
}

// What this thread found last: most accesses of a kernel go to few buffers.
struct Found {
  u64 begin = 0, end = 0, version = 0;
};
constexpr std::size_t kFound = 8;
thread_local Found found[kFound];
thread_local std::size_t oldest = 0;

bool find(u64 address, u64 end) {
  Allocations& all = allocations();
  const std::scoped_lock lock(all.mutex);
  auto next = all.ends.upper_bound(address);
  if (next == all.ends.begin()) return false;
  --next;
  if (end > next->second) return false;
  found[oldest] = {next->first, next->second, all.version};
  oldest = (oldest + 1) % kFound;
  return true;
}

}  // namespace

u64 allocate(std::size_t bytes) {
  const std::size_t size = (bytes + 255) / 256 * 256;
  void* memory = std::aligned_alloc(256, size == 0 ? 256 : size);
  if (memory == nullptr) return 0;
  std::memset(memory, 0xff, size);
  Allocations& all = allocations();
  const std::scoped_lock lock(all.mutex);
  const u64 address = reinterpret_cast<u64>(memory);
  all.ends[address] = address + bytes;
  return address;
}

bool release(u64 address) {
  Allocations& all = allocations();
  const std::scoped_lock lock(all.mutex);
  if (all.ends.erase(address) == 0) return false;
  ++all.version;
  std::free(reinterpret_cast<void*>(address));
  return true;
}

std::byte* device_bytes(u64 address, std::size_t bytes, std::size_t alignment) {
  if (address % alignment != 0) {
    throw Fault("address " + std::to_string(address) + " is not a multiple of " + std::to_string(alignment));
  }
  const u64 end = address + bytes, version = allocations().version;
  const bool wraps = end < address;  // addresses by a tensor map may be any
  for (const Found& f : found) {
    if (address >= f.begin && end <= f.end && f.version == version && !wraps) {
      return reinterpret_cast<std::byte*>(address);
    }
  }
  if (wraps || !find(address, end)) {
    throw Fault(std::to_string(bytes) + " bytes at " + std::to_string(address) + " are in no allocation");
  }
  return reinterpret_cast<std::byte*>(address);
}

}  // namespace moesaic::sim
