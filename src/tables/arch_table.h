// SPDX-License-Identifier: Apache-2.0
// THE list of architectures: everything that varies by SM is a column here. A new SM of a known family is one row.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace moesaic::tables {

/// Architectures that can share a kernel text and a family target.
enum class Family : std::uint8_t { kSm80, kSm90, kSm100, kSm107, kSm110, kSm120 };
inline constexpr std::uint32_t family_bit(Family family) { return 1u << static_cast<unsigned>(family); }
inline constexpr std::uint32_t kAllFamilies = 0x3f;
const char* family_name(Family family) noexcept;

/// Capabilities that a kernel row can ask for.
enum Capability : std::uint32_t {
  kMmaSync = 1u << 0,        // mma.sync m16n8k16 bf16 / fp16 -> fp32, ldmatrix, cp.async
  kMmaFp8 = 1u << 1,         // mma.sync with e4m3 operands
  kTma = 1u << 2,            // cp.async.bulk.tensor, mbarrier transactions, griddepcontrol, clusters
  kWgmma = 1u << 3,          // wgmma, setmaxnreg
  kTcgen05 = 1u << 4,        // tcgen05 and tensor memory
  kMmaBlockScale = 1u << 5,  // mma.sync with block scales
  kFp4Convert = 1u << 6,     // cvt to and from e2m1 that users have found right; exact and family targets only
  kFp8Convert = 1u << 7,     // cvt to and from e4m3 and e5m2
};
std::string capability_names(std::uint32_t capabilities);

struct ArchRow {
  int sm;  // 10 * major + minor
  Family family;
  const char* exact_target;       // architecture-specific target, or the plain one where there is none
  const char* family_target;      // family-specific target, or the plain one
  int min_cuda, min_cuda_family;  // 1000 * major + 10 * minor: first toolkit for the exact / family target
  int smem_per_block;             // bytes a block can opt in to (CUDA C++ Programming Guide, compute capabilities)
  std::uint32_t caps;
  // 16-bit matrix rate that the vendor's library reaches at 8192^3, FLOP per microsecond (docs/performance-log.md); 0:
  // not measured.
  double matrix_flops_per_us = 0;
};

inline constexpr std::uint32_t kBlackwellCaps = kMmaSync | kMmaFp8 | kFp8Convert | kTma | kTcgen05 | kFp4Convert;

inline constexpr std::array kArchTable = {
    ArchRow{80, Family::kSm80, "sm_80", "sm_80", 11000, 11000, 166912, kMmaSync},
    ArchRow{86, Family::kSm80, "sm_86", "sm_86", 11010, 11010, 101376, kMmaSync},
    ArchRow{87, Family::kSm80, "sm_87", "sm_87", 11040, 11040, 166912, kMmaSync},
    ArchRow{89, Family::kSm80, "sm_89", "sm_89", 11080, 11080, 101376, kMmaSync | kMmaFp8 | kFp8Convert},
    ArchRow{90, Family::kSm90, "sm_90a", "sm_90a", 12030, 12030, 232448,
            kMmaSync | kMmaFp8 | kFp8Convert | kTma | kWgmma, 798e6},
    ArchRow{100, Family::kSm100, "sm_100a", "sm_100f", 12080, 12090, 232448, kBlackwellCaps},
    ArchRow{103, Family::kSm100, "sm_103a", "sm_100f", 12090, 12090, 232448, kBlackwellCaps},
    ArchRow{107, Family::kSm107, "sm_107a", "sm_107f", 13040, 13040, 232448, kBlackwellCaps},
    ArchRow{110, Family::kSm110, "sm_110a", "sm_110f", 13000, 13000, 232448, kBlackwellCaps},
    ArchRow{120, Family::kSm120, "sm_120a", "sm_120f", 12080, 12090, 101376,
            kMmaSync | kMmaFp8 | kFp8Convert | kTma | kMmaBlockScale},
    ArchRow{121, Family::kSm120, "sm_121a", "sm_120f", 12090, 12090, 101376,
            kMmaSync | kMmaFp8 | kFp8Convert | kTma | kMmaBlockScale},
};

/// The row of an SM, or nullptr.
const ArchRow* find_arch(int sm) noexcept;
/// "12.8" for 12080.
std::string cuda_version_name(int version);

}  // namespace moesaic::tables
