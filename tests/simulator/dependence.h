// SPDX-License-Identifier: Apache-2.0
// Kernels that may begin before the one before them has ended (programmatic dependent launch): what a thread must not
// touch before it has waited. The simulator runs them one after the other all the same.
#pragma once

#include <array>
#include <memory>
#include <unordered_map>

#include "simulator/program.h"

namespace moesaic::sim {

/// Places in device memory, in pieces of 16 bytes.
class Places {
 public:
  void add(u64 address, std::size_t bytes);
  bool meet(u64 address, std::size_t bytes) const;
  void merge(const Places& others);

 private:
  static constexpr u64 kPieceBytes = 16, kPagePieces = 4096;
  using Page = std::array<u64, kPagePieces / 64>;
  std::unordered_map<u64, Page> pages_;
};

/// Of one kernel, as long as it runs and one behind it does.
struct Dependence {
  /// What kernels before may still write as this one begins; null: nothing of this is under way.
  std::shared_ptr<const Places> under_way;
  Places written;
  /// Bytes that threads have read before they had waited.
  std::size_t read_early = 0;
  /// A thread has let the kernel behind begin, and had not waited.
  bool lets_begin_early = false;

  /// What may still be written as the kernel behind begins.
  std::shared_ptr<const Places> behind() const;
};

}  // namespace moesaic::sim
