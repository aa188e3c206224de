// SPDX-License-Identifier: Apache-2.0
// The command line: one verb a file, exit codes 0 (done), 1 (failed), 2 (wrong use).
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>

#include "cli/cli.h"
#include "module/bundle.h"
#include "module/compile_limit.h"
#include "moesaic/error.h"

namespace {

constexpr int kFailed = 1;
constexpr int kWrongUse = 2;

int complain(const std::string& message, int exit_code) {
  fmt::print(stderr, "moesaic: error: {}\n", message);
  return exit_code;
}

void add_verbs(CLI::App& app, moesaic::cli::Action& action) {
  using namespace moesaic::cli;  // NOLINT(google-build-using-namespace): the verbs' names, this function only
  add_doctor(app, action);
  add_archs(app, action);
  add_recipes(app, action);
  add_kernels(app, action);
  add_models(app, action);
  add_explain(app, action);
  add_compile(app, action);
  add_bundle(app, action);
  add_package(app, action);
  add_cache(app, action);
  add_run(app, action);
  add_quantize(app, action);
  add_bench(app, action);
}

int run(int argc, char** argv) {
  moesaic::cli::Action action;
  CLI::App app{"Mixture-of-Experts layers on NVIDIA GPUs and CPUs; kernels compiled just in time or ahead of time.",
               "moesaic"};
  app.set_version_flag("--version", std::string("moesaic ") + moesaic::module::library_version());
  app.failure_message(CLI::FailureMessage::simple);
  add_verbs(app, action);
  // Verbs that are added later would take it over.
  app.footer(fmt::format("Exit codes: 0 done, {} failed, {} wrong use.", kFailed, kWrongUse));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help and --version
    return complain(std::string(error.what()) + "; see --help", kWrongUse);
  }
  if (!action) {
    // No verb, or a verb that wants one of its own ("moesaic bundle").
    const auto chosen = app.get_subcommands();
    fmt::print(stderr, "{}", chosen.empty() ? app.help() : chosen.front()->help());
    return kWrongUse;
  }
  return action();
}

}  // namespace

int main(int argc, char** argv) {
  int exit_code = kFailed;
  try {
    exit_code = run(argc, argv);
  } catch (const moesaic::cli::UsageError& error) {
    exit_code = complain(error.what(), kWrongUse);
  } catch (const std::exception& error) {
    exit_code = complain(error.what(), kFailed);
  }
  if (moesaic::module::compiler_hangs()) {
    // Destructors of libnvrtc would pull the ground from under its thread.
    std::fflush(nullptr);
    _exit(exit_code);
  }
  return exit_code;
}
