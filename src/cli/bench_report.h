// SPDX-License-Identifier: Apache-2.0
// What the reports of all measurements say in the same words.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/bench_conditions.h"

namespace moesaic::cli {

/// Why the machine is not what its kind should be, by the rates just measured; empty: nothing is known against it.
std::vector<std::string> faults_of(const Ceilings& ceilings);

/// Adds device, rates and faults.
void add_ceilings(const Ceilings& ceilings, nlohmann::json& report);
/// "read 3.100 TB/s, copy 3.000 TB/s (measured now), matrix rate 780 TFLOP/s (cuBLASLt 13.1.0 at 8192^3)".
std::string ceilings_text(const Ceilings& ceilings);
/// A line for each fault, to be printed below the first one.
std::string faults_text(const Ceilings& ceilings);

/// Adds power and clocks; null where unknown.
void add_conditions(const Conditions& conditions, nlohmann::json& point);
/// "690", or "-".
std::string number_text(const std::optional<double>& value);

}  // namespace moesaic::cli
