// SPDX-License-Identifier: Apache-2.0
// Work that is timed again and again, several kinds in turns.
#pragma once

#include <functional>
#include <vector>

#include "cli/bench.h"
#include "cli/bench_conditions.h"

namespace moesaic::cli {

/// One kind of work.
struct Repeated {
  double runs = 1;                    // of one repeat
  std::function<double()> repeat_us;  // does a repeat, waits for its end, and says what it took
};

/// What a measurement takes at least of each kind of work: clocks settle, and power can be told.
inline constexpr double kMeasuredUs = 0.5e6;
inline constexpr int kWarmUps = 2, kLeastRepeats = 9;

struct TurnTimes {
  std::vector<BenchTime> times;  // of one run of each kind of work
  Conditions conditions;         // behind the warm-up
};

/// kWarmUps repeats, then kLeastRepeats or more, until each kind of work has taken least_us. In turns, so that all of
/// them meet the same clocks.
TurnTimes measure_in_turns(const std::vector<Repeated>& work, double least_us, const Nvml& nvml);

}  // namespace moesaic::cli
