// SPDX-License-Identifier: Apache-2.0
// Ceilings, faults and conditions as JSON and as text.
#include "cli/bench_report.h"

#include <fmt/format.h>

#include "tables/device_table.h"

namespace moesaic::cli {
namespace {

nlohmann::json json_of(const std::optional<double>& value) { return value ? nlohmann::json(*value) : nlohmann::json(); }

}  // namespace

std::vector<std::string> faults_of(const Ceilings& c) {
  std::vector<std::string> faults;
  const tables::DeviceRow* row = tables::find_device(c.device);
  if (row == nullptr) return faults;
  if (c.read_bytes_per_us < row->least_read_bytes_per_us) {
    faults.push_back(fmt::format("it reads {:.2f} TB/s, a healthy {} at least {:.2f}", c.read_bytes_per_us / 1e6,
                                 row->name, row->least_read_bytes_per_us / 1e6));
  }
  if (c.matrix_measured && c.matrix_flops_per_us < row->least_matrix_flops_per_us) {
    faults.push_back(fmt::format("its matrix rate is {:.0f} TFLOP/s, a healthy {}'s at least {:.0f}",
                                 c.matrix_flops_per_us / 1e6, row->name, row->least_matrix_flops_per_us / 1e6));
  }
  return faults;
}

void add_ceilings(const Ceilings& c, nlohmann::json& report) {
  report["device"] = c.device;
  report["read_tb_per_s"] = c.read_bytes_per_us / 1e6;
  report["copy_tb_per_s"] = c.copy_bytes_per_us / 1e6;
  report["matrix_tflop_per_s"] = c.matrix_flops_per_us / 1e6;
  report["matrix_measured"] = c.matrix_measured;
  report["matrix_source"] = c.matrix_source;
  report["faults"] = faults_of(c);
  report["faulty"] = !faults_of(c).empty();
}

std::string ceilings_text(const Ceilings& c) {
  std::string text = fmt::format("read {:.3f} TB/s, copy {:.3f} TB/s (measured now)", c.read_bytes_per_us / 1e6,
                                 c.copy_bytes_per_us / 1e6);
  if (!c.matrix_source.empty()) {
    text +=
        fmt::format(", matrix rate {} ({})",
                    c.matrix_flops_per_us > 0 ? fmt::format("{:.0f} TFLOP/s", c.matrix_flops_per_us / 1e6) : "unknown",
                    c.matrix_source);
  }
  return text;
}

std::string faults_text(const Ceilings& c) {
  std::string text;
  for (const std::string& fault : faults_of(c)) text += fmt::format("FAULTY: do not use these times: {}\n", fault);
  return text;
}

void add_conditions(const Conditions& c, nlohmann::json& point) {
  point["power_w"] = json_of(c.watts);
  point["sm_mhz"] = json_of(c.sm_mhz);
  point["least_sm_mhz"] = json_of(c.least_sm_mhz);
  point["memory_mhz"] = json_of(c.memory_mhz);
}

std::string number_text(const std::optional<double>& value) { return value ? fmt::format("{:.0f}", *value) : "-"; }

}  // namespace moesaic::cli
