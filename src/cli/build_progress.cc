// SPDX-License-Identifier: Apache-2.0
// The bar and the lines.
#include "cli/build_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace moesaic::cli {
namespace {
constexpr std::size_t kBarWidth = 30;
}  // namespace

BuildProgressPrinter::BuildProgressPrinter() : terminal_(::isatty(STDERR_FILENO) == 1) {}

void BuildProgressPrinter::show(const module::BuildProgress& progress) {
  const module::Cubin& cubin = *progress.kernel.cubin;
  if (!terminal_) {
    // A cached kernel is no progress worth a line each.
    if (cubin.origin != module::Origin::kCompiled && progress.done != progress.total) return;
    fmt::print(stderr, "[{}/{}] {} for {}: {}\n", progress.done, progress.total, cubin.entry, cubin.target,
               cubin.origin == module::Origin::kCompiled ? fmt::format("{:.2f} s", cubin.facts.compile_seconds)
                                                         : module::origin_name(cubin.origin));
    return;
  }
  const std::size_t filled = progress.total == 0 ? kBarWidth : kBarWidth * progress.done / progress.total;
  // \x1b[K clears what a longer name left behind.
  fmt::print(stderr, "\r[{:=<{}}{: <{}}] {}/{} {:.60}\x1b[K", "", filled, "", kBarWidth - filled, progress.done,
             progress.total, fmt::format("{} {}", cubin.target, cubin.entry));
  std::fflush(stderr);
  open_ = true;
}

void BuildProgressPrinter::finish() {
  if (open_) fmt::print(stderr, "\n");
  open_ = false;
}

}  // namespace moesaic::cli
