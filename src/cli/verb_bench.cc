// SPDX-License-Identifier: Apache-2.0
// `moesaic bench moe`: time of a published layer from logits, against the floor of this machine. Each of the other
// measurements has a file of its own, verb_bench_<name>.cc.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/bench.h"
#include "cli/bench_gemm.h"
#include "cli/bench_quantize.h"
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
  std::vector<std::string> bundles;
  bool json = false;
};

nlohmann::json to_json(const BenchOptions& o, const BenchResult& r) {
  nlohmann::json points = nlohmann::json::array();
  for (const BenchPoint& p : r.points) {
    points.push_back({{"tokens", p.tokens},
                      {"time_us", p.time.us},
                      {"spread", p.time.spread},
                      {"touched_experts", p.touched_experts},
                      {"floor_us", p.floor_us},
                      {"fraction_of_floor", p.floor_us / p.time.us},
                      {"bf16_us", p.bf16_us},
                      {"weight_tb_per_s", p.weight_bytes / p.time.us / 1e6},
                      {"tflop_per_s", p.flops / p.time.us / 1e6},
                      {"kernels", p.kernels}});
  }
  return {{"model", o.model},
          {"recipe", o.recipe},
          {"int4_group", o.int4.size},
          {"int4_zeros", o.int4.zero_points},
          {"experts", o.experts},
          {"device", r.ceilings.device},
          {"routings", kBenchRoutings},
          {"read_tb_per_s", r.ceilings.read_bytes_per_us / 1e6},
          {"copy_tb_per_s", r.ceilings.copy_bytes_per_us / 1e6},
          {"matrix_tflop_per_s", r.ceilings.matrix_flops_per_us / 1e6},
          {"points", points}};
}

void print_text(const BenchOptions& o, const BenchResult& r) {
  fmt::print("{} {} on {}: read {:.3f} TB/s, copy {:.3f} TB/s (measured now){}\n", o.model, o.recipe, r.ceilings.device,
             r.ceilings.read_bytes_per_us / 1e6, r.ceilings.copy_bytes_per_us / 1e6,
             r.ceilings.matrix_flops_per_us > 0
                 ? fmt::format(", matrix rate {:.0f} TFLOP/s (published)", r.ceilings.matrix_flops_per_us / 1e6)
                 : "");
  // Where 16-bit weights were measured in turns with the recipe's: how much faster these are.
  const bool compared = !r.points.empty() && r.points.front().bf16_us > 0;
  std::vector<std::string> header = {"tokens", "us", "floor us", "of floor", "TB/s", "TFLOP/s", "experts", "GEMM 1"};
  if (compared) header.insert(header.begin() + 2, {"bf16 us", "faster"});
  TextTable table(header);
  for (const BenchPoint& p : r.points) {
    std::string gemm = p.kernels.front();
    for (const std::string& name : p.kernels) {
      const tables::KernelRow* row = tables::find_kernel(name.substr(0, name.find('/')));
      if (row != nullptr && row->op == tables::Op::kGemm) {
        gemm = name;
        break;
      }
    }
    // A CPU's rates need more places than a GPU's.
    const int places = o.device.type == DeviceType::kCpu ? 2 : 0;
    std::vector<std::string> row = {fmt::format("{}", p.tokens),
                                    fmt::format("{:.1f}", p.time.us),
                                    fmt::format("{:.1f}", p.floor_us),
                                    fmt::format("{:.0f}%", 100 * p.floor_us / p.time.us),
                                    fmt::format("{:.{}f}", p.weight_bytes / p.time.us / 1e6, 2 + places),
                                    fmt::format("{:.{}f}", p.flops / p.time.us / 1e6, 1 + places),
                                    fmt::format("{:.1f}", p.touched_experts),
                                    gemm};
    if (compared) {
      row.insert(row.begin() + 2, {fmt::format("{:.1f}", p.bf16_us), fmt::format("{:.2f}x", p.bf16_us / p.time.us)});
    }
    table.add(row);
  }
  fmt::print("{}", table.aligned());
}

int bench_moe(Arguments a) {
  try {
    a.options.device = parse_device(a.device);
    tables::get_model(a.options.model);
    tables::get_recipe(a.options.recipe);
  } catch (const Error& e) {
    throw UsageError(e.what());
  }
  a.options.modules.bundles = a.bundles;
  const BenchResult result =
      a.options.device.type == DeviceType::kCpu ? bench_moe_cpu(a.options) : bench_moe_cuda(a.options);
  if (a.json) {
    fmt::print("{}\n", to_json(a.options, result).dump(2));
  } else {
    print_text(a.options, result);
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
  a->options.tokens = {1, 8, 64, 512};
  moe->add_option("--tokens", a->options.tokens, "Numbers of tokens, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  moe->add_option("--device", a->device, "cpu or cuda:N");
  moe->add_option("--experts", a->options.experts, "Experts on this rank instead of the model's (no groups then)")
      ->check(CLI::Range(1, 1024));
  moe->add_option("--int4-group", a->options.int4.size, "Elements of K that share a scale, of int4 recipes")
      ->check(CLI::IsMember({32, 64, 128}));
  moe->add_flag("--int4-zeros", a->options.int4.zero_points, "int4 recipes with zero points");
  moe->add_option("--bundle", a->bundles, "Kernel bundle (zip); may be given more than once");
  moe->add_flag("--json", a->json, "Print JSON");
  moe->callback([&action, a] { action = [a] { return bench_moe(*a); }; });
  add_bench_gemm(*verb, action);
  add_bench_quantize(*verb, action);
  add_bench_route(*verb, action);
}

}  // namespace moesaic::cli
