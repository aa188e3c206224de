// SPDX-License-Identifier: Apache-2.0
// Names and times of launches.
#include "cli/bench_shares.h"

#include <string_view>

#include "tables/kernel_table.h"

namespace moesaic::cli {
namespace {

constexpr std::string_view kEntryPrefix = "moesaic_";

/// The row that an entry is named for; one row's name may begin with another's.
const tables::KernelRow* row_of(std::string_view entry) {
  const tables::KernelRow* found = nullptr;
  if (entry.substr(0, kEntryPrefix.size()) != kEntryPrefix) return found;
  entry.remove_prefix(kEntryPrefix.size());
  for (const tables::KernelRow& row : tables::kernel_table()) {
    const std::string_view name = row.name;
    const bool fits = entry.substr(0, name.size()) == name && entry.substr(name.size(), 1) == "_";
    if (fits && (found == nullptr || name.size() > std::string_view(found->name).size())) found = &row;
  }
  return found;
}

/// Of an operand's launch, by the number of GEMMs before it.
const char* operand_step(int gemms) {
  switch (gemms) {
    case 0:
      return "quantise x";
    case 1:
      return "quantise h";
    default:
      return "quantise shared h";
  }
}

std::string step_of(tables::Op op, int gemms) {
  constexpr const char* kGemms[] = {"GEMM 1", "GEMM 2", "shared GEMM 1", "shared GEMM 2"};
  switch (op) {
    case tables::Op::kProjection:
      return "projection";
    case tables::Op::kRouting:
      return "routing";
    case tables::Op::kOperand:
      return operand_step(gemms);
    case tables::Op::kGemm:
      return kGemms[gemms < 4 ? gemms : 3];
    case tables::Op::kWeightedSum:
      return "weighted sum";
    default:
      return tables::op_name(op);
  }
}

}  // namespace

std::vector<LaunchShare> name_launches(const std::vector<std::string>& entries) {
  std::vector<LaunchShare> launches;
  int gemms = 0;
  for (const std::string& entry : entries) {
    const tables::KernelRow* row = row_of(entry);
    if (row == nullptr) {
      launches.push_back({entry, entry});
      continue;
    }
    const std::string config = entry.substr(kEntryPrefix.size() + std::string_view(row->name).size() + 1);
    launches.push_back({step_of(row->op, gemms), std::string(row->name) + "/" + config});
    if (row->op == tables::Op::kGemm) ++gemms;
  }
  return launches;
}

void fill_shares(const std::vector<double>& prefix_us, std::vector<LaunchShare>& launches) {
  for (std::size_t i = 0; i < launches.size(); ++i) launches[i].us = prefix_us[i] - (i > 0 ? prefix_us[i - 1] : 0.0);
}

}  // namespace moesaic::cli
