// SPDX-License-Identifier: Apache-2.0
// `moesaic bench moe`: time of a published layer from logits, against the floor of this machine. Each of the other
// measurements has a file of its own, verb_bench_<name>.cc.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/bench.h"
#include "cli/bench_gemm.h"
#include "cli/bench_quantize.h"
#include "cli/bench_report.h"
#include "cli/bench_route.h"
#include "cli/cli.h"
#include "cli/text_table.h"
#include "moesaic/error.h"
#include "tables/kernel_table.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

struct Arguments {
  BenchOptions options;
  std::string device = "cpu";
  std::vector<std::string> bundles, routings = {BenchRouting{}.name()};
  bool json = false;
};

constexpr const char* kPredictionNote =
    "time_over_prediction: (time / floor) over the same of uniform routings of as many tokens";

nlohmann::json launches_json(const BenchPoint& p) {
  nlohmann::json launches = nlohmann::json::array();
  double total = 0;
  for (const LaunchShare& launch : p.launches) total += launch.us;
  for (const LaunchShare& launch : p.launches) {
    launches.push_back(
        {{"step", launch.step}, {"kernel", launch.kernel}, {"us", launch.us}, {"share", launch.us / total}});
  }
  return launches;
}

nlohmann::json to_json(const BenchOptions& o, const BenchResult& r) {
  nlohmann::json points = nlohmann::json::array();
  for (const BenchPoint& p : r.points) {
    points.push_back(
        {{"tokens", p.tokens},
         {"routing", p.routing.name()},
         {"time_us", p.time.us},
         {"spread", p.time.spread},
         {"touched_experts", p.load.touched_experts},
         {"largest_load", p.load.largest_load},
         {"floor_us", p.floor_us},
         {"fraction_of_floor", p.floor_us / p.time.us},
         {"time_over_floor", p.time.us / p.floor_us},
         {"time_over_prediction", p.of_prediction > 0 ? nlohmann::json(p.of_prediction) : nlohmann::json()},
         {"bf16_us", p.bf16_us},
         {"weight_tb_per_s", p.weight_bytes / p.time.us / 1e6},
         {"tflop_per_s", p.flops / p.time.us / 1e6},
         {"kernels", p.kernels}});
    add_conditions(p.conditions, points.back());
    if (o.shares) points.back()["launches"] = launches_json(p);
  }
  nlohmann::json report = {{"model", o.model},
                           {"recipe", o.recipe},
                           {"int4_group", o.int4.size},
                           {"int4_zeros", o.int4.zero_points},
                           {"static_scales", o.static_scales},
                           {"experts", o.experts},
                           {"routings", kBenchRoutings},
                           {"nvml", r.nvml},
                           {"note", kPredictionNote},
                           {"points", points}};
  add_ceilings(r.ceilings, report);
  return report;
}

/// The GEMM 1 of a point, or its first kernel.
std::string gemm1_of(const BenchPoint& p) {
  for (const std::string& name : p.kernels) {
    const tables::KernelRow* row = tables::find_kernel(name.substr(0, name.find('/')));
    if (row != nullptr && row->op == tables::Op::kGemm) return name;
  }
  return p.kernels.front();
}

void print_text(const BenchOptions& o, const BenchResult& r) {
  fmt::print("{} {} on {}: {}\n{}", o.model, o.recipe, r.ceilings.device, ceilings_text(r.ceilings),
             faults_text(r.ceilings));
  const auto any = [&r](const auto& has) { return std::any_of(r.points.begin(), r.points.end(), has); };
  // Where 16-bit weights were measured in turns with the recipe's: how much faster these are.
  const bool compared = any([](const BenchPoint& p) { return p.bf16_us > 0; });
  const bool skewed = any([](const BenchPoint& p) { return p.routing.zipf > 0; });
  const bool on_cpu = o.device.type == DeviceType::kCpu;
  const bool predicted = any([](const BenchPoint& p) { return p.of_prediction > 0; });
  // A CPU's rates need more places than a GPU's.
  const int places = on_cpu ? 2 : 0;
  std::vector<std::string> header = {"tokens"};
  const auto add = [](std::vector<std::string>& cells, bool wanted, std::initializer_list<std::string> more) {
    if (wanted) cells.insert(cells.end(), more);
  };
  add(header, skewed, {"routing"});
  add(header, true, {"us", "spread"});
  add(header, compared, {"bf16 us", "faster"});
  add(header, true, {"floor us", "of floor"});
  add(header, predicted, {"us / prediction"});
  add(header, true, {"TB/s", "TFLOP/s", "experts", "most loaded"});
  add(header, !on_cpu, {"W", "SM MHz"});
  add(header, true, {"GEMM 1"});
  TextTable table(header);
  for (const BenchPoint& p : r.points) {
    std::vector<std::string> row = {fmt::format("{}", p.tokens)};
    add(row, skewed, {p.routing.name()});
    add(row, true, {fmt::format("{:.1f}", p.time.us), fmt::format("{:.0f}%", 100 * p.time.spread)});
    add(row, compared, {fmt::format("{:.1f}", p.bf16_us), fmt::format("{:.2f}x", p.bf16_us / p.time.us)});
    add(row, true, {fmt::format("{:.1f}", p.floor_us), fmt::format("{:.0f}%", 100 * p.floor_us / p.time.us)});
    add(row, predicted, {p.of_prediction > 0 ? fmt::format("{:.2f}", p.of_prediction) : "-"});
    add(row, true,
        {fmt::format("{:.{}f}", p.weight_bytes / p.time.us / 1e6, 2 + places),
         fmt::format("{:.{}f}", p.flops / p.time.us / 1e6, 1 + places), fmt::format("{:.1f}", p.load.touched_experts),
         fmt::format("{:.1f}", p.load.largest_load)});
    add(row, !on_cpu, {number_text(p.conditions.watts), number_text(p.conditions.sm_mhz)});
    add(row, true, {gemm1_of(p)});
    table.add(row);
  }
  fmt::print("{}", table.aligned());
  if (predicted)
    fmt::print("us / prediction: time over floor, against the same of uniform routings of as many tokens\n");
}

/// A line for each point and launch.
void print_launches(const BenchResult& r) {
  TextTable table({"tokens", "routing", "launch", "us", "share", "kernel"});
  for (const BenchPoint& p : r.points) {
    for (const nlohmann::json& launch : launches_json(p)) {
      table.add({fmt::format("{}", p.tokens), p.routing.name(), launch["step"],
                 fmt::format("{:.2f}", launch["us"].get<double>()),
                 fmt::format("{:.0f}%", 100 * launch["share"].get<double>()), launch["kernel"]});
    }
  }
  fmt::print("\nWhat each launch adds to a graph of those before it (the first has the graph's start in it):\n{}",
             table.aligned());
}

int bench_moe(Arguments a) {
  try {
    a.options.device = parse_device(a.device);
    tables::get_model(a.options.model);
    tables::get_recipe(a.options.recipe);
    a.options.routings.clear();
    for (const std::string& name : a.routings) a.options.routings.push_back(parse_routing(name));
  } catch (const Error& e) {
    throw UsageError(e.what());
  }
  a.options.modules.bundles = a.bundles;
  const bool on_cpu = a.options.device.type == DeviceType::kCpu;
  if (on_cpu && a.options.shares) throw UsageError("--shares is about launches on a GPU: --device cuda:N");
  if (a.options.tokens.empty() && on_cpu) a.options.tokens = {1, 8, 64, 512};  // thousands take minutes a layer there
  if (a.options.tokens.empty()) a.options.tokens.assign(std::begin(kBenchTokens), std::end(kBenchTokens));
  BenchResult result = on_cpu ? bench_moe_cpu(a.options) : bench_moe_cuda(a.options);
  fill_predictions(result.points);
  if (a.json) {
    fmt::print("{}\n", to_json(a.options, result).dump(2));
  } else {
    print_text(a.options, result);
    if (a.options.shares) print_launches(result);
    if (!result.nvml.empty()) fmt::print("no power and clocks: {}\n", result.nvml);
  }
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("bench", "Measure a layer or one of its steps against the floor of this machine");
  verb->require_subcommand(1);
  CLI::App* moe = verb->add_subcommand("moe", "A whole layer, from router logits to output");
  const auto a = std::make_shared<Arguments>();
  moe->add_option("--model", a->options.model, "Published shape; `moesaic models` lists them")->required();
  a->options.recipe = "bf16";
  moe->add_option("--recipe", a->options.recipe, "Number formats; `moesaic recipes` lists them");
  moe->add_option("--tokens", a->options.tokens,
                  "Numbers of tokens, separated by commas; default: 1 to 8192, on the CPU to 512")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  moe->add_option("--routing", a->routings,
                  "Which experts are popular: uniform, zipf or zipf:S; by commas: several, compared with uniform")
      ->delimiter(',');
  moe->add_option("--device", a->device, "cpu or cuda:N");
  moe->add_option("--experts", a->options.experts, "Experts on this rank instead of the model's (no groups then)")
      ->check(CLI::Range(1, 1024));
  moe->add_option("--int4-group", a->options.int4.size, "Elements of K that share a scale, of int4 recipes")
      ->check(CLI::IsMember({32, 64, 128}));
  moe->add_flag("--int4-zeros", a->options.int4.zero_points, "int4 recipes with zero points");
  moe->add_flag("--static-scales", a->options.static_scales,
                "Weights with static scales of activations (fp8_tensor, nvfp4); MOESAIC_QUANTISE_HIDDEN=off compares");
  moe->add_flag("--shares", a->options.shares, "What each launch takes, too (GPU)");
  moe->add_option("--bundle", a->bundles, "Kernel bundle (zip); may be given more than once");
  moe->add_flag("--json", a->json, "Print JSON");
  moe->callback([&action, a] { action = [a] { return bench_moe(*a); }; });
  add_bench_gemm(*verb, action);
  add_bench_quantize(*verb, action);
  add_bench_route(*verb, action);
}

}  // namespace moesaic::cli
