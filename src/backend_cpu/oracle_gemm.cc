// SPDX-License-Identifier: Apache-2.0
// The oracle's products: plain FP64 loops over groups, columns and rows. Rows of x are rounded as the recipe's
// activations are, or decoded where they are codes; the result is rounded once.
#include <optional>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/oracle_loops.h"
#include "plan/gemm_plan.h"
#include "tables/recipe_table.h"

namespace moesaic::cpu {
namespace {

// [rows]: the group of every row, -1: none.
std::vector<int> groups_of_rows(const GemmConfig& config, const GemmRun& run, std::int64_t rows) {
  const auto numbers = [](const TensorView& tensor) { return static_cast<const std::int32_t*>(tensor.data); };
  std::vector<int> groups(static_cast<std::size_t>(rows), -1);
  for (int g = 0; g < config.groups; ++g) {
    std::int64_t begin = 0, end = rows;
    if (!run.group_offsets.empty()) {
      begin = numbers(run.group_offsets)[g];
      end = numbers(run.group_offsets)[g + 1];
    } else if (!run.group_counts.empty()) {
      begin = g * (rows / config.groups);
      end = begin + numbers(run.group_counts)[g];
    }
    for (std::int64_t row = begin; row < end; ++row) groups[static_cast<std::size_t>(row)] = g;
  }
  return groups;
}

// Row `row` of x as the product reads it, [k].
void load_operand(const GemmConfig& config, ReferenceMode mode, const GemmRun& run, std::int64_t rows, std::int64_t row,
                  double* operand) {
  const std::int64_t k = config.k;
  if (run.x.dtype == DType::kU8) {
    const GivenRows given{tables::given_codes(config.recipe, rows, k, config.e5m2).value(),
                          static_cast<const std::uint8_t*>(run.x.data),
                          run.x_scale,
                          run.x_row_scale,
                          k,
                          run.scale_major == ScaleMajor::kMn};
    return decode_given_row(given, row, operand);
  }
  for (std::int64_t i = 0; i < k; ++i) operand[i] = load_element(run.x.data, run.x.dtype, row * k + i);
  if (mode == ReferenceMode::kExact) return;
  for (std::int64_t i = 0; i < k; ++i) operand[i] = round_to(operand[i], tables::get_recipe(config.recipe).io);
  const float static_scale = run.input_scale.empty() ? 0.0f : *static_cast<const float*>(run.input_scale.data);
  const std::optional<QuantSpec> spec = plan::gemm_activation(config, static_scale != 0.0f);
  if (!spec) return;
  const std::vector<float> values(operand, operand + k);
  oracle_round_row(*spec, static_scale, values.data(), k, operand);
}

}  // namespace

void reference_gemm(const GemmConfig& config, std::span<const GemmWeights> weights, ReferenceMode mode,
                    std::int64_t rows, const GemmRun& run) {
  const std::int64_t k = config.k, n = config.n;
  const DType weight_type = mode == ReferenceMode::kExact ? DType::kF64 : tables::get_recipe(config.recipe).io;
  std::vector<std::vector<std::int64_t>> rows_of(weights.size());
  const std::vector<int> groups = groups_of_rows(config, run, rows);
  std::vector<double> operands(static_cast<std::size_t>(rows * k));  // [rows][k]
  for_each_index(rows, [&](std::int64_t row) {
    if (groups[row] >= 0) load_operand(config, mode, run, rows, row, &operands[row * k]);
  });
  for (std::int64_t row = 0; row < rows; ++row) {
    if (groups[row] >= 0) rows_of[groups[row]].push_back(row);
  }
  for (std::size_t g = 0; g < weights.size(); ++g) {
    if (rows_of[g].empty()) continue;
    for_each_index(n, [&](std::int64_t column) {
      const std::vector<double> w = load_row(weights[g].w, column, weight_type);
      for (const std::int64_t row : rows_of[g]) {
        const double sum = dot(&operands[row * k], w.data(), k);
        store(run.out, row * n + column, run.alpha * sum + bias_at(weights[g].bias, column));
      }
    });
  }
}

}  // namespace moesaic::cpu
