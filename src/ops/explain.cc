// SPDX-License-Identifier: Apache-2.0
// The plan of a layer on every architecture, as text.
#include "moesaic/explain.h"

#include <fmt/format.h>

#include "backend_cpu/backend_cpu.h"
#include "base/env.h"
#include "ops/moe_impl.h"
#include "plan/moe_plan.h"
#include "tables/arch_table.h"
#include "tables/kernel_table.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic {
namespace {

/// Who quantises GEMM 1's result.
std::string hidden_text(const char* name, const std::string& recipe, bool is_operand) {
  if (!tables::quantises_activations(tables::get_recipe(recipe))) return "";
  return fmt::format("  {}: quantised by {}\n", name, is_operand ? "GEMM 1" : "a launch of operand");
}

std::string explain_arch(const MoeConfig& config, std::int64_t tokens, const tables::ArchRow& arch,
                         const std::string& force_kernel) {
  std::string text = fmt::format("SM{}:\n", arch.sm);
  try {
    const plan::MoeSteps steps = plan::plan_moe(config, tokens, arch, {}, force_kernel);
    for (const plan::Choice& c : steps.all()) {
      text += fmt::format("  {}: {}/{}\n", tables::op_name(c.row->op), c.row->name,
                          tables::config_name(*c.row, c.config()));
    }
    text += hidden_text("h", config.recipe, steps.hidden_is_operand);
    if (plan::shared_is_expert(config)) {
      text += "  shared experts: one more expert of the routed GEMMs\n";
    } else if (config.shared.intermediate > 0) {
      text += hidden_text("shared h", tables::shared_recipe(config), steps.shared_hidden_is_operand);
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    text += fmt::format("  not served: {}\n", error.what());
  }
  return text;
}

/// Why no GPU serves sizes of the layer; empty: they are served.
std::string why_no_gpu(const MoeConfig& config) {
  try {
    plan::check_depths(config);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string explain_cpu(const MoeConfig& config) {
  try {
    cpu::fast_prepared_bytes(config);
  } catch (const Error& error) {
    return fmt::format("CPU:\n  not served: {}\n", error.what());
  }
  return fmt::format("CPU:\n  every step: cpu_fast_{}\n", cpu::fast_target());
}

}  // namespace

std::string explain(const MoeConfig& config, std::int64_t tokens) {
  plan::check_config(config);
  if (tokens < 1 || tokens > config.max_tokens) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("explain: tokens is {}, wanted 1 to max_tokens {}", tokens, config.max_tokens));
  }
  const std::string force_kernel = base::env_value(base::Env::kForceKernel).value_or("");
  std::string text = explain_cpu(config);
  const std::string why = why_no_gpu(config);
  const MoeConfig planned = ops::planned_config(config);
  for (const tables::ArchRow& arch : tables::kArchTable) {
    text += why.empty() ? explain_arch(planned, tokens, arch, force_kernel)
                        : fmt::format("SM{}:\n  not served: {}\n", arch.sm, why);
  }
  return text;
}

}  // namespace moesaic
