// SPDX-License-Identifier: Apache-2.0
// Names for the architecture table and the checks that its rows are sound.
#include "tables/arch_table.h"

#include <fmt/format.h>

namespace moesaic::tables {
namespace {

constexpr std::string_view digits_of(std::string_view target) {
  const std::size_t first = target.find_first_of("0123456789");
  const std::size_t last = target.find_last_of("0123456789");
  return target.substr(first, last - first + 1);
}

constexpr int number_in(std::string_view target) {
  int number = 0;
  for (const char digit : digits_of(target)) number = 10 * number + (digit - '0');
  return number;
}

consteval bool rows_ascend() {
  for (std::size_t i = 1; i < kArchTable.size(); ++i) {
    if (kArchTable[i].sm <= kArchTable[i - 1].sm) return false;
  }
  return true;
}

consteval bool targets_fit() {
  for (const ArchRow& row : kArchTable) {
    // A family target may be that of an older member of the family, never of a newer one or of another family.
    if (number_in(row.exact_target) != row.sm || number_in(row.family_target) > row.sm) return false;
    bool found = false;
    for (const ArchRow& other : kArchTable) {
      found = found || (other.sm == number_in(row.family_target) && other.family == row.family);
    }
    if (!found) return false;
  }
  return true;
}

consteval bool families_are_counted() {
  std::uint32_t seen = 0;
  for (const ArchRow& row : kArchTable) seen |= family_bit(row.family);
  return seen == kAllFamilies;
}

static_assert(families_are_counted(), "kAllFamilies must be the families that rows have");
static_assert(rows_ascend(), "architecture rows must ascend: no SM twice");
static_assert(targets_fit(), "a row's exact target must be its own, its family target that of a member of its family");

struct CapabilityName {
  Capability bit;
  const char* name;
};
constexpr CapabilityName kCapabilityNames[] = {
    {kMmaSync, "mma_sync"},
    {kMmaFp8, "mma_fp8"},
    {kTma, "tma"},
    {kWgmma, "wgmma"},
    {kTcgen05, "tcgen05"},
    {kMmaBlockScale, "mma_block_scale"},
    {kFp4Convert, "fp4_convert"},
    {kFp8Convert, "fp8_convert"},
};

consteval bool capabilities_have_names() {
  std::uint32_t named = 0, had = 0;
  for (const CapabilityName& name : kCapabilityNames) named |= name.bit;
  for (const ArchRow& row : kArchTable) had |= row.caps;
  return (had & ~named) == 0;
}
static_assert(capabilities_have_names(), "a capability of a row has no name");

}  // namespace

const char* family_name(Family family) noexcept {
  switch (family) {
    case Family::kSm80:
      return "sm80";
    case Family::kSm90:
      return "sm90";
    case Family::kSm100:
      return "sm100";
    case Family::kSm107:
      return "sm107";
    case Family::kSm110:
      return "sm110";
    case Family::kSm120:
      return "sm120";
  }
  return "unknown";
}

std::string capability_names(std::uint32_t capabilities) {
  std::string names;
  for (const auto& [bit, name] : kCapabilityNames) {
    if ((capabilities & bit) == 0) continue;
    if (!names.empty()) names += ' ';
    names += name;
  }
  return names;
}

const ArchRow* find_arch(int sm) noexcept {
  for (const ArchRow& row : kArchTable) {
    if (row.sm == sm) return &row;
  }
  return nullptr;
}

std::string cuda_version_name(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

}  // namespace moesaic::tables
