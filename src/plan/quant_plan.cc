// SPDX-License-Identifier: Apache-2.0
// Which rows serve a quantiser.
#include "plan/quant_plan.h"

#include <fmt/format.h>

#include "tables/quant_table.h"

namespace moesaic::plan {
namespace {

using tables::ArchRow;
using tables::KernelRow;
using tables::Op;

/// Why a row of the op cannot serve the format on the architecture, or empty. Recipes are not asked: a quantiser is
/// used without one too.
std::string why_not(const KernelRow& row, const QuantSpec& spec, const ArchRow& arch) {
  if ((row.formats >> static_cast<unsigned>(spec.format) & 1u) == 0) {
    return fmt::format("does not serve {}", quant_format_name(spec.format));
  }
  if ((row.families & tables::family_bit(arch.family)) == 0) {
    return fmt::format("not built for family {}", tables::family_name(arch.family));
  }
  if (const std::uint32_t missing = row.needs & ~arch.caps; missing != 0) {
    return fmt::format("SM{} lacks {}", arch.sm, tables::capability_names(missing));
  }
  return {};
}

int config_of_role(const KernelRow& row, int role) {
  for (std::size_t i = 0; i < row.configs.size(); ++i) {
    if (row.configs[i].role == role) return static_cast<int>(i);
  }
  return -1;
}

/// The first row with that role that serves.
Choice pick(Op op, const QuantSpec& spec, int role, const ArchRow& arch, const KernelRow* forced) {
  if (forced != nullptr && (forced->op != op || config_of_role(*forced, role) < 0)) forced = nullptr;
  std::string reasons;
  for (const KernelRow& row : tables::kernel_table()) {
    const int config = row.op == op ? config_of_role(row, role) : -1;
    if (config < 0) continue;
    std::string why = why_not(row, spec, arch);
    if (why.empty() && forced != nullptr && forced != &row) {
      why = fmt::format("MOESAIC_FORCE_KERNEL asks for {}", forced->name);
    }
    if (why.empty()) return {&row, config};
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", row.name, why);
  }
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{}({}): no kernel for SM{}: {}; `moesaic explain --op {}` lists what is served",
                          tables::op_name(op), quant_format_name(spec.format), arch.sm, reasons, tables::op_name(op)));
}

}  // namespace

std::vector<Choice> QuantSteps::all() const {
  std::vector<Choice> set;
  for (const Choice& c : {amax, quantize, dequantize, swizzle}) {
    if (c.row != nullptr) set.push_back(c);
  }
  return set;
}

QuantSteps plan_quantize(const QuantSpec& spec, std::optional<ActivationKind> activation, const ArchRow& arch,
                         const std::string& force_kernel) {
  tables::check_quant_spec("quantize", spec);
  const KernelRow* forced = forced_row(force_kernel);
  const int role = activation ? abi::kRoleGated : 0;
  QuantSteps steps;
  if (spec.format == QuantFormat::kFp8Tensor) {
    steps.amax = pick(Op::kQuantize, spec, role | abi::kRoleAmax, arch, forced);
  }
  steps.quantize = pick(Op::kQuantize, spec, role, arch, forced);
  steps.dequantize = pick(Op::kDequantize, spec, 0, arch, forced);
  if (tables::quant_row(spec.format).padded_layouts) steps.swizzle = pick(Op::kSwizzle, spec, 0, arch, forced);
  return steps;
}

}  // namespace moesaic::plan
