// SPDX-License-Identifier: Apache-2.0
// Uniform and Zipf routings, and the experts that they touch.
#include "cli/bench_routing.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <random>

#include "backend_cpu/backend_cpu.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

using Random = std::mt19937_64;

double uniform(Random& rng) { return (static_cast<double>(rng() >> 12) + 0.5) * 0x1p-52; }  // in (0, 1)

/// ln of every expert's popularity. Standard shuffles and distributions differ between libraries: these numbers do not.
std::vector<double> popularities(double exponent, int experts, Random& rng) {
  std::vector<double> ln(static_cast<std::size_t>(experts));
  for (std::size_t i = 0; i < ln.size(); ++i) ln[i] = -exponent * std::log(static_cast<double>(i + 1));
  for (std::size_t i = ln.size(); i > 1; --i) std::swap(ln[i - 1], ln[rng() % i]);
  return ln;
}

}  // namespace

std::string BenchRouting::name() const { return zipf == 0 ? "uniform" : fmt::format("zipf:{}", zipf); }

BenchRouting parse_routing(const std::string& text) {
  if (text == "uniform") return {};
  if (text == "zipf") return {1.0};
  constexpr const char kPrefix[] = "zipf:";
  if (text.rfind(kPrefix, 0) == 0) {
    double exponent = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + sizeof(kPrefix) - 1, end, exponent);
    if (error == std::errc() && stop == end && exponent > 0 && exponent <= 10) return {exponent};
  }
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("routing '{}'; known: uniform, zipf, zipf:S with an exponent S above 0, at most 10", text));
}

std::vector<float> bench_logits(const BenchRouting& routing, int tokens, int experts, int seed) {
  Random rng(static_cast<unsigned>(1000 + seed));
  std::vector<float> logits(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(experts));
  if (routing.zipf == 0) {
    for (float& logit : logits) logit = static_cast<float>(rng() >> 40) * 0x1p-24f;
    return logits;
  }
  // ln(popularity) plus Gumbel noise: the order of such numbers is that of draws without replacement. An eighth of
  // them, an order that methods with sigmoids see, too: at their own size sigmoids are 1.
  const std::vector<double> ln = popularities(routing.zipf, experts, rng);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>((ln[i % ln.size()] - std::log(-std::log(uniform(rng)))) / 8);
  }
  return logits;
}

RoutingLoad routing_load(const BenchRouting& routing, const MoeConfig& c, int tokens) {
  RoutingLoad load;
  for (int seed = 0; seed < kBenchRoutings; ++seed) {
    const std::vector<float> logits = bench_logits(routing, tokens, c.num_experts, seed);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(c.top_k));
    std::vector<float> weights(ids.size());
    cpu::route(c.routing, logits.data(), nullptr, tokens, c.num_experts, c.top_k, ids.data(), weights.data());
    std::vector<int> rows(static_cast<std::size_t>(c.num_experts));
    for (const std::int32_t id : ids) ++rows[static_cast<std::size_t>(id)];
    load.touched_experts +=
        static_cast<double>(rows.size()) - static_cast<double>(std::count(rows.begin(), rows.end(), 0));
    load.largest_load += *std::max_element(rows.begin(), rows.end());
  }
  load.touched_experts /= kBenchRoutings;
  load.largest_load /= kBenchRoutings;
  return load;
}

}  // namespace moesaic::cli
