// SPDX-License-Identifier: Apache-2.0
// Options to a request, and a build with its progress.
#include "cli/kernel_build.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "cli/build_progress.h"
#include "cli/interrupt.h"
#include "cli/kernel_masks.h"
#include "moesaic/error.h"
#include "tables/model_table.h"

namespace moesaic::cli {
namespace {

// Sizes are run-time arguments of kernels: a model only leaves out rows that cannot serve it.
tables::Problem problem_of(const std::string& model) {
  if (model.empty()) return {};
  try {
    const tables::ModelRow& row = tables::get_model(model);
    return {0, row.hidden, row.intermediate, row.num_experts, row.top_k};
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
}

}  // namespace

void add_kernel_choice(CLI::App& verb, KernelChoice& choice) {
  verb.add_option("--arch", choice.archs, "Architectures by comma or blank: 90, 9.0, sm_90a, 12.0f, all, native")
      ->required();
  verb.add_option("--recipe", choice.recipes, "Recipes by comma or blank; default: all");
  verb.add_option("--op", choice.ops, "Ops by comma or blank; default: all");
  verb.add_option("--model", choice.model, "Leave out kernels that cannot serve this model (`moesaic models`)");
  verb.add_option("--jobs", choice.jobs, "Kernels compiled at once; default: by cores and free memory")
      ->check(CLI::PositiveNumber);
}

module::BuildRequest request_for(const KernelChoice& choice) {
  module::BuildRequest request;
  request.archs = arch_list(choice.archs);
  request.recipes = recipe_mask(choice.recipes);
  request.ops = op_mask(choice.ops);
  request.problem = problem_of(choice.model);
  request.jobs = choice.jobs;
  return request;
}

module::BuildResult build_kernels(const module::BuildRequest& request, const char* verb) {
  const std::shared_ptr<BuildProgressPrinter> printer(new BuildProgressPrinter, [](BuildProgressPrinter* p) {
    p->finish();
    delete p;
  });
  module::BuildResult result = module::build_set(
      request, {}, [&](const module::BuildProgress& progress) { printer->show(progress); },
      InterruptGuard::interrupted);
  if (result.stopped) {
    throw Error(ErrorKind::kCompile, fmt::format("{}: interrupted; kernels that were done are cached", verb));
  }
  return result;
}

void require_writable(const std::string& option, const std::string& value, const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    throw Error(ErrorKind::kIo, fmt::format("{} {}: there is no folder {}", option, value, folder));
  }
  if (::access(folder.c_str(), W_OK) != 0) {
    throw Error(ErrorKind::kIo, fmt::format("{} {}: folder {} is not writable", option, value, folder));
  }
}

}  // namespace moesaic::cli
