// SPDX-License-Identifier: Apache-2.0
// What each launch of a layer takes of its time.
#pragma once

#include <string>
#include <vector>

namespace moesaic::cli {

/// One launch. Its time is what it adds: that of a graph of all launches up to it, less that of a graph without it.
/// Events around launches would keep a kernel from coming up while the one before ends, and add their own microseconds.
/// So the times add up to the layer's; the first one has the start of the graph in it.
struct LaunchShare {
  std::string step;    // "GEMM 1"
  std::string kernel;  // row/config
  double us = 0;
};

/// The launches of a layer, in order, by the entry names of their kernels (module::entry_name). Names that are no
/// layer's kernels are steps of their own.
std::vector<LaunchShare> name_launches(const std::vector<std::string>& entries);
/// Fills the times. prefix_us: of the first launch, the first two, ..., all.
void fill_shares(const std::vector<double>& prefix_us, std::vector<LaunchShare>& launches);

}  // namespace moesaic::cli
