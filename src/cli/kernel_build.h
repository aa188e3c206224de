// SPDX-License-Identifier: Apache-2.0
// What the verbs that compile kernels ahead of time share: which kernels, compiling with progress, where files may go.
#pragma once

#include <string>
#include <vector>

#include "cli/cli.h"
#include "module/aot.h"

namespace moesaic::cli {

/// Which kernels, as the command line says it.
struct KernelChoice {
  std::vector<std::string> archs, recipes, ops;
  std::string model;
  int jobs = 0;
};

void add_kernel_choice(CLI::App& verb, KernelChoice& choice);
/// Throws UsageError on names that are not known.
module::BuildRequest request_for(const KernelChoice& choice);

/// Makes the kernels; progress goes to stderr. Wants an InterruptGuard; throws Error(kCompile) when `verb` was
/// interrupted, and what build_set throws.
module::BuildResult build_kernels(const module::BuildRequest& request, const char* verb);

/// Throws Error(kIo) unless files can be made in a folder: minutes of compiling must not end in one that cannot.
void require_writable(const std::string& option, const std::string& value, const std::string& folder);

}  // namespace moesaic::cli
