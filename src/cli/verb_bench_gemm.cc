// SPDX-License-Identifier: Apache-2.0
// `moesaic bench gemm`: time of a product or of the products of groups, against the floor of this machine.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/bench_gemm.h"
#include "cli/bench_report.h"
#include "cli/text_table.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

struct Arguments {
  GemmBenchOptions options;
  std::string device = "cpu";
  bool json = false;
};

bool on_cpu(const GemmBenchOptions& o) { return o.gemm.device.type == DeviceType::kCpu; }

nlohmann::json to_json(const GemmBenchOptions& o, const GemmBenchResult& r) {
  nlohmann::json points = nlohmann::json::array();
  for (const GemmBenchPoint& p : r.points) {
    points.push_back({{"rows", p.rows},
                      {"time_us", p.time.us},
                      {"spread", p.time.spread},
                      {"touched_groups", p.touched_groups},
                      {"weight_bytes", p.weight_bytes},
                      {"activation_bytes", p.activation_bytes},
                      {"floor_us", p.floor_us},
                      {"fraction_of_floor", p.floor_us / p.time.us},
                      {"tb_per_s", p.bytes() / p.time.us / 1e6},
                      {"tflop_per_s", p.flops / p.time.us / 1e6},
                      {"kernels", p.kernels}});
    const bool compared = p.cublas.us > 0;
    points.back()["cublas_us"] = compared ? nlohmann::json(p.cublas.us) : nlohmann::json();
    points.back()["cublas_tflop_per_s"] = compared ? nlohmann::json(p.flops / p.cublas.us / 1e6) : nlohmann::json();
    points.back()["fraction_of_cublas"] = compared ? nlohmann::json(p.cublas.us / p.time.us) : nlohmann::json();
    add_conditions(p.conditions, points.back());
  }
  nlohmann::json report = {
      {"recipe", o.gemm.recipe},        {"n", o.gemm.n},      {"k", o.gemm.k},  {"groups", o.gemm.groups},
      {"int4_group", o.gemm.int4.size}, {"cublas", r.cublas}, {"nvml", r.nvml}, {"points", points}};
  add_ceilings(r.ceilings, report);
  return report;
}

void print_text(const GemmBenchOptions& o, const GemmBenchResult& r) {
  fmt::print("{} {} x [{}, {}] on {}: {}{}\n{}", o.gemm.recipe, o.gemm.groups, o.gemm.n, o.gemm.k, r.ceilings.device,
             ceilings_text(r.ceilings), on_cpu(o) ? "; on the CPU this op is the FP64 oracle, slow on purpose" : "",
             faults_text(r.ceilings));
  const bool compared =
      std::any_of(r.points.begin(), r.points.end(), [](const GemmBenchPoint& p) { return p.cublas.us > 0; });
  std::vector<std::string> header = {"rows", "us", "spread", "floor us", "of floor", "TB/s", "TFLOP/s", "groups"};
  if (compared) header.insert(header.end(), {"cuBLASLt us", "TFLOP/s", "of cuBLASLt"});
  if (!on_cpu(o)) header.insert(header.end(), {"W", "SM MHz"});
  header.emplace_back("kernels");
  TextTable table(header);
  const int places = on_cpu(o) ? 6 : 2;  // the oracle's rates need more than a GPU's
  for (const GemmBenchPoint& p : r.points) {
    std::vector<std::string> row = {fmt::format("{}", p.rows),
                                    fmt::format("{:.1f}", p.time.us),
                                    fmt::format("{:.0f}%", 100 * p.time.spread),
                                    fmt::format("{:.1f}", p.floor_us),
                                    fmt::format("{:.0f}%", 100 * p.floor_us / p.time.us),
                                    fmt::format("{:.{}f}", p.bytes() / p.time.us / 1e6, places),
                                    fmt::format("{:.{}f}", p.flops / p.time.us / 1e6, places),
                                    fmt::format("{}", p.touched_groups)};
    if (compared && p.cublas.us == 0) row.insert(row.end(), 3, "-");
    if (p.cublas.us > 0) {
      row.insert(row.end(), {fmt::format("{:.1f}", p.cublas.us), fmt::format("{:.1f}", p.flops / p.cublas.us / 1e6),
                             fmt::format("{:.0f}%", 100 * p.cublas.us / p.time.us)});
    }
    if (!on_cpu(o)) row.insert(row.end(), {number_text(p.conditions.watts), number_text(p.conditions.sm_mhz)});
    row.push_back(fmt::format("{}", fmt::join(p.kernels, " ")));
    table.add(row);
  }
  fmt::print("{}", table.aligned());
  if (!on_cpu(o)) fmt::print("{}{}\n", compared ? "compared in turns with " : "", r.cublas);
  if (!r.nvml.empty()) fmt::print("no power and clocks: {}\n", r.nvml);
}

GemmBenchResult measure(const GemmBenchOptions& o) {
  GemmBenchResult result = on_cpu(o) ? bench_gemm_cpu(o) : bench_gemm_cuda(o);
  for (GemmBenchPoint& p : result.points) p.floor_us = floor_us(result.ceilings, p.bytes(), p.flops);
  return result;
}

int bench_gemm(Arguments a) {
  GemmBenchOptions& o = a.options;
  o.gemm.max_rows = *std::max_element(o.rows.begin(), o.rows.end());
  const GemmBenchResult result = as_usage([&] {
    o.gemm.device = parse_device(a.device);
    return measure(o);
  });
  if (a.json) {
    fmt::print("{}\n", to_json(o, result).dump(2));
  } else {
    print_text(o, result);
  }
  return 0;
}

}  // namespace

void add_bench_gemm(CLI::App& bench, Action& action) {
  CLI::App* verb =
      bench.add_subcommand("gemm", "Rows times W [n, k], or rows of groups times theirs. On the CPU: the slow oracle");
  const auto a = std::make_shared<Arguments>();
  GemmConfig& gemm = a->options.gemm;
  verb->add_option("--recipe", gemm.recipe, "Number formats; `moesaic recipes` lists them");
  gemm.n = gemm.k = 4096;
  verb->add_option("--n", gemm.n, "Rows of W: columns of the result; default: 4096")->check(CLI::Range(1, 1 << 20));
  verb->add_option("--k", gemm.k, "Columns of W, summed over; default: 4096")->check(CLI::Range(1, 1 << 20));
  verb->add_option("--groups", gemm.groups, "Groups with a W each; default: 1")->check(CLI::Range(1, 1 << 16));
  a->options.rows = {1, 16, 128, 1024};
  verb->add_option("--rows", a->options.rows, "Numbers of rows in all, spread evenly over the groups, by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  gemm.int4.size = BenchOptions{}.int4.size;
  verb->add_option("--int4-group", gemm.int4.size, "Elements of K that share a scale, of int4 recipes")
      ->check(CLI::IsMember({32, 64, 128}));
  verb->add_option("--device", a->device, "cpu or cuda:N");
  verb->add_option("--bundle", a->options.modules.bundles, "Kernel bundle (zip); may be given more than once");
  verb->add_flag("--json", a->json, "Print JSON");
  verb->callback([&action, a] { action = [a] { return bench_gemm(*a); }; });
}

}  // namespace moesaic::cli
