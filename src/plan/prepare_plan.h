// SPDX-License-Identifier: Apache-2.0
// Kernels that bring weights into their prepared form.
#pragma once

#include <vector>

#include "plan/moe_plan.h"

namespace moesaic::plan {

/// shared_matrix: `matrix`, unless shared experts have weights of another kind. static_scales: only where a recipe
/// takes static scales.
struct PreparePlan {
  Choice matrix, vector, shared_matrix, static_scales;

  std::vector<Choice> all() const;  // those that are set
};
/// Throws Error(kUnsupported) with every candidate's reason when a step has no kernel.
PreparePlan plan_preparation(const MoeConfig& config, const tables::ArchRow& arch);

/// The kernel that prepares matrices of a recipe (its index).
Choice plan_matrix_preparation(int recipe, const tables::ArchRow& arch);
/// The kernel that prepares vectors.
Choice plan_vector_preparation(const tables::ArchRow& arch);

}  // namespace moesaic::plan
