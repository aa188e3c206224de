// SPDX-License-Identifier: Apache-2.0
// What the verbs of the command line share. One verb a file: verb_<name>.cc defines add_<name>.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <stdexcept>
#include <string>

#include "moesaic/error.h"

namespace moesaic::cli {

/// What a parsed command line does; returns the exit code: 0, or 1 when it ran and the answer is "failed".
using Action = std::function<int()>;

/// Wrong use of the command line (exit code 2). Any other exception is exit code 1.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What `work` returns. Its arguments are the command line's alone: one that the library refuses is wrong use.
template <typename Work>
auto as_usage(const Work& work) {
  try {
    return work();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInvalidArgument) throw UsageError(error.what());
    throw;
  }
}

// Each adds its subcommand to `app`; when that is parsed, `action` is set.
void add_archs(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_bundle(CLI::App& app, Action& action);
void add_cache(CLI::App& app, Action& action);
void add_compile(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_explain(CLI::App& app, Action& action);
void add_kernels(CLI::App& app, Action& action);
void add_models(CLI::App& app, Action& action);
void add_package(CLI::App& app, Action& action);
void add_quantize(CLI::App& app, Action& action);
void add_recipes(CLI::App& app, Action& action);
void add_run(CLI::App& app, Action& action);

}  // namespace moesaic::cli
