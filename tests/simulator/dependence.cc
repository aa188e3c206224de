// SPDX-License-Identifier: Apache-2.0
// Places by pages of bits, and what a chain of kernels may still write.
#include "simulator/dependence.h"

namespace moesaic::sim {

void Places::add(u64 address, std::size_t bytes) {
  for (u64 piece = address / kPieceBytes; piece * kPieceBytes < address + bytes; ++piece) {
    pages_[piece / kPagePieces][piece % kPagePieces / 64] |= u64{1} << piece % 64;
  }
}

bool Places::meet(u64 address, std::size_t bytes) const {
  for (u64 piece = address / kPieceBytes; piece * kPieceBytes < address + bytes; ++piece) {
    const auto page = pages_.find(piece / kPagePieces);
    if (page != pages_.end() && (page->second[piece % kPagePieces / 64] >> piece % 64 & 1) != 0) return true;
  }
  return false;
}

void Places::merge(const Places& others) {
  for (const auto& [number, page] : others.pages_) {
    Page& own = pages_[number];
    for (std::size_t i = 0; i < page.size(); ++i) own[i] |= page[i];
  }
}

std::shared_ptr<const Places> Dependence::behind() const {
  auto places = std::make_shared<Places>(written);
  if (lets_begin_early && under_way != nullptr) places->merge(*under_way);
  return places;
}

}  // namespace moesaic::sim
