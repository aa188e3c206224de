// SPDX-License-Identifier: Apache-2.0
// Repeats in turns.
#include "cli/bench_turns.h"

#include <algorithm>

namespace moesaic::cli {
namespace {

constexpr int kMostRepeats = 5000;  // of work that takes next to nothing

}  // namespace

TurnTimes measure_in_turns(const std::vector<Repeated>& work, double least_us, const Nvml& nvml) {
  for (int i = 0; i < kWarmUps; ++i) {
    for (const Repeated& w : work) w.repeat_us();
  }
  ConditionMeter meter(nvml);
  std::vector<double> spent(work.size());
  std::vector<std::vector<double>> times(work.size());
  const auto done = [&](int repeats) {
    return repeats >= kMostRepeats ||
           (repeats >= kLeastRepeats && *std::min_element(spent.begin(), spent.end()) >= least_us);
  };
  for (int repeats = 0; !done(repeats); ++repeats) {
    for (std::size_t i = 0; i < work.size(); ++i) {
      const double us = work[i].repeat_us();
      meter.sample();
      spent[i] += us;
      times[i].push_back(us / work[i].runs);
    }
  }
  TurnTimes result;
  result.conditions = meter.finish();
  for (const std::vector<double>& one : times) result.times.push_back(bench_time(one));
  return result;
}

}  // namespace moesaic::cli
