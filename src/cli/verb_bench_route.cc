// SPDX-License-Identifier: Apache-2.0
// `moesaic bench route`: time of choosing experts and sorting rows, against a copy of as many bytes.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/bench_route.h"
#include "cli/text_table.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

struct Arguments {
  RouteBenchOptions options;
  std::string device = "cpu", method = routing_method_name(Routing{}.method), routing = BenchRouting{}.name();
  bool json = false;
};

/// Hash routing looks its experts up by token id; logits alone do not make a run of it.
RoutingMethod parse_method(const std::string& name) {
  std::string known;
  for (int i = 0; i < kNumRoutingMethods; ++i) {
    const auto method = static_cast<RoutingMethod>(i);
    if (method == RoutingMethod::kHash) continue;
    if (name == routing_method_name(method)) return method;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", routing_method_name(method));
  }
  throw UsageError(fmt::format("--method '{}' is not a method that routes by logits; known: {}", name, known));
}

nlohmann::json to_json(const RouteBenchOptions& o, const RouteBenchResult& r) {
  nlohmann::json points = nlohmann::json::array();
  for (const RouteBenchPoint& p : r.points) {
    points.push_back({{"tokens", p.tokens},
                      {"time_us", p.time.us},
                      {"spread", p.time.spread},
                      {"bytes_read", p.bytes_read},
                      {"bytes_written", p.bytes_written},
                      {"floor_us", p.floor_us},
                      {"fraction_of_floor", p.floor_us / p.time.us},
                      {"kernels", p.kernels}});
  }
  return {{"method", routing_method_name(o.router.routing.method)},
          {"experts", o.router.num_experts},
          {"top_k", o.router.top_k},
          {"groups", o.router.routing.n_group},
          {"topk_group", o.router.routing.topk_group},
          {"device", r.ceilings.device},
          {"routing", o.routing.name()},
          {"routings", kBenchRoutings},
          {"copy_tb_per_s", r.ceilings.copy_bytes_per_us / 1e6},
          {"points", points}};
}

void print_text(const RouteBenchOptions& o, const RouteBenchResult& r) {
  fmt::print("{} {} of {} experts, {} routings, on {}: copy {:.3f} TB/s (measured now)\n",
             routing_method_name(o.router.routing.method), o.router.top_k, o.router.num_experts, o.routing.name(),
             r.ceilings.device, r.ceilings.copy_bytes_per_us / 1e6);
  TextTable table({"tokens", "us", "spread", "floor us", "of floor", "kernels"});
  for (const RouteBenchPoint& p : r.points) {
    table.add({fmt::format("{}", p.tokens), fmt::format("{:.1f}", p.time.us),
               fmt::format("{:.0f}%", 100 * p.time.spread), fmt::format("{:.2f}", p.floor_us),
               fmt::format("{:.0f}%", 100 * p.floor_us / p.time.us), fmt::format("{}", fmt::join(p.kernels, " "))});
  }
  fmt::print("{}", table.aligned());
}

RouteBenchResult measure(const RouteBenchOptions& o) {
  RouteBenchResult result = o.router.device.type == DeviceType::kCpu ? bench_route_cpu(o) : bench_route_cuda(o);
  for (RouteBenchPoint& p : result.points) {
    p.floor_us = (p.bytes_read + p.bytes_written) / result.ceilings.copy_bytes_per_us;
  }
  return result;
}

int bench_route(Arguments a) {
  RouteBenchOptions& o = a.options;
  o.router.routing.method = parse_method(a.method);
  o.router.max_tokens = *std::max_element(o.tokens.begin(), o.tokens.end());
  const RouteBenchResult result = as_usage([&] {
    o.routing = parse_routing(a.routing);
    o.router.device = parse_device(a.device);
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

void add_bench_route(CLI::App& bench, Action& action) {
  CLI::App* verb = bench.add_subcommand("route", "The router: from logits to ids, weights and sorted rows");
  const auto a = std::make_shared<Arguments>();
  RouterConfig& router = a->options.router;
  router.num_experts = 128;
  verb->add_option("--experts", router.num_experts, "Experts, all on this device; default: 128")
      ->check(CLI::Range(1, 1 << 16));
  router.top_k = 8;
  verb->add_option("--top-k", router.top_k, "Experts of a token; default: 8")->check(CLI::Range(1, 1 << 16));
  verb->add_option("--method", a->method, "Routing method (softmax_topk_renorm, deepseek_v3, ...)");
  verb->add_option("--groups", router.routing.n_group, "Groups of experts: deepseek_v2, deepseek_v3");
  verb->add_option("--topk-group", router.routing.topk_group, "Groups that a token's experts come from");
  a->options.tokens.assign(std::begin(kBenchTokens), std::end(kBenchTokens));
  verb->add_option("--tokens", a->options.tokens, "Numbers of tokens, separated by commas; default: 1 to 8192")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  verb->add_option("--routing", a->routing, "Which logits: uniform, zipf or zipf:S");
  verb->add_option("--device", a->device, "cpu or cuda:N");
  verb->add_option("--bundle", a->options.modules.bundles, "Kernel bundle (zip); may be given more than once");
  verb->add_flag("--json", a->json, "Print JSON");
  verb->callback([&action, a] { action = [a] { return bench_route(*a); }; });
}

}  // namespace moesaic::cli
