// SPDX-License-Identifier: Apache-2.0
// Progress of a build on stderr: a bar on a terminal, else one line a kernel.
#pragma once

#include "module/aot.h"

namespace moesaic::cli {

class BuildProgressPrinter {
 public:
  BuildProgressPrinter();
  void show(const module::BuildProgress& progress);
  /// Ends the bar's line. Call before anything else is printed.
  void finish();

 private:
  bool terminal_;
  bool open_ = false;
};

}  // namespace moesaic::cli
