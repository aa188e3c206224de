// SPDX-License-Identifier: Apache-2.0
// Scores of candidates and the choice of each step.
#include "plan/moe_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/abi/params.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic::plan {

using tables::ArchRow;
using tables::KernelRow;
using tables::Op;

namespace {

/// Which GEMM of the layer; the first one gathers its rows, or they lie in its order.
enum class Gemm { kFirst, kFirstInOrder, kSecond };

/// Experts that T tokens touch on average when routing is uniform.
double touched_experts(const GemmShape& s) {
  return s.held_experts *
             (1.0 - std::pow(1.0 - static_cast<double>(s.top_k) / s.num_experts, static_cast<double>(s.tokens))) +
         s.shared_experts;
}

/// Tiles of one expert's rows: kernels/common/tiles.cuh.
double tiles_of(double rows, int tile, int slack) {
  return rows <= 0 ? 0.0 : std::max(1.0, std::ceil((rows - slack) / tile));
}

/// What of(rows of an expert) becomes on average, over all experts: rows per expert taken as Poisson.
template <typename Of>
double expected(const GemmShape& s, Of of) {
  const double mean = static_cast<double>(s.tokens) * s.top_k / s.num_experts;
  const double shared = s.shared_experts * of(static_cast<double>(s.tokens));
  constexpr double kMany = 8192;  // where the last tile of an expert does not matter
  if (s.num_experts == 1 || mean > kMany) return s.held_experts * of(mean) + shared;
  // The sum over n of P(rows > n) where one row more makes a difference. Numbers far from the mean do not happen.
  const double spread = 12.0 * std::sqrt(mean) + 12.0;
  const int first = std::max(0, static_cast<int>(mean - spread)), last = static_cast<int>(mean + spread);
  double at_n = of(first), sum = at_n, below = 0;
  double term = std::exp(first * std::log(mean) - mean - std::lgamma(first + 1.0));
  for (int n = first; n <= last; ++n) {
    below += term;
    const double one_more = of(n + 1);
    sum += (one_more - at_n) * std::max(0.0, 1.0 - below);
    at_n = one_more;
    term *= mean / (n + 1);
  }
  return s.held_experts * sum + shared;
}

double expected_tiles(const GemmShape& s, const abi::KernelConfig& c) {
  return expected(s, [&](double rows) { return tiles_of(rows, c.tile_tokens, c.tile_slack); });
}

/// Whether a persistent kernel's blocks take an expert's rows alone, not shared by a cluster.
bool is_narrow(double rows, const abi::KernelConfig& c) { return c.cluster == 1 || rows <= abi::narrow_rows(c); }

/// Blocks that have tiles of a persistent kernel, for as many weight rows as a block takes.
double expected_blocks(const GemmShape& s, const abi::KernelConfig& c) {
  return expected(s, [&](double rows) {
    return tiles_of(rows, c.tile_tokens, c.tile_slack) * (is_narrow(rows, c) ? 1 : c.cluster);
  });
}

/// Experts of so many rows that the blocks of a cluster share their tiles.
double expected_wide(const GemmShape& s, const abi::KernelConfig& c) {
  return expected(s, [&](double rows) { return is_narrow(rows, c) ? 0.0 : 1.0; });
}

/// What a token costs a block that takes an expert's rows alone, of what it costs a cluster.
constexpr double kNarrowWork = 1.08;

/// Tiles' worth of tokens that a persistent kernel multiplies.
double expected_multiplied(const GemmShape& s, const abi::KernelConfig& c) {
  return expected(s, [&](double rows) {
    if (rows > 0 && c.cluster > 1 && is_narrow(rows, c)) {
      return kNarrowWork * abi::multiplied_tokens(c, static_cast<int>(std::ceil(rows))) / c.tile_tokens;
    }
    const double before = std::max(0.0, tiles_of(rows, c.tile_tokens, c.tile_slack) - 1.0);
    const double last = rows - before * c.tile_tokens;
    if (last <= 0) return before;
    const int of_block = static_cast<int>(std::ceil(last / c.cluster));
    return before + static_cast<double>(c.cluster * abi::multiplied_tokens(c, of_block)) / c.tile_tokens;
  });
}

/// Rows of all held experts.
double expected_rows(const GemmShape& s) {
  const auto tokens = static_cast<double>(s.tokens);
  return tokens * s.top_k * s.held_experts / s.num_experts + tokens * s.shared_experts;
}

/// What kernels of each kind of weights take (docs/performance-log.md, H200), in microseconds for a million weights
/// brought into operands, on a device of kCostFlops. `tiled`: by tiles of 8, 16, 32, 64, 128 tokens, 0 where there is
/// none; `stream`: of 8 and 16. A tiled block alone on its SM waits for memory: `blocks` an SM do not. `stream_rows`:
/// what streaming kernels' reads of activations cost beside all that, of the time that L2 takes for them.
struct KindCosts {
  double tiled[5], stream[2], blocks, stream_rows;
};
constexpr double kCostFlops = 4.0e8;
constexpr KindCosts kKindCosts[] = {
    {{0, 0, 0.295, 0.425, 0.700}, {0.294, 0.305}, 1.0, 0.12},  // kWeights16
    {{0, 0.205, 0.277, 0.500, 0.853}, {0.232, 0}, 1.2, 0},     // kWeightsE4m3
    {{0, 0.230, 0.315, 0, 0}, {0.223, 0}, 1.2, 0},             // kWeightsE4m3Block
    {{0.135, 0.172, 0.242, 0.368, 0}, {0.159, 0}, 1.2, 0},     // kWeightsE2m1
    {{0.154, 0.200, 0.265, 0.440, 0}, {0.156, 0}, 4.0, 0},     // kWeightsInt4
};
/// The same of wgmma, by tiles of 64 tokens and 128 weight rows and of 256 of both, all of whose tokens exist.
constexpr double kSmallWgmmaCost = 0.36, kWgmmaCost = 0.91;
/// What of it is left when GEMM 1 need not gather its rows; and what that costs: tokens read and rows written at this
/// part of DRAM's rate, and a launch (docs/performance-log.md, H200). It must gain half as much again, for where DRAM
/// bounds GEMM 1, too, it gains less. At T = 8192 it pays for Mixtral-8x7B (8713 us with, 8816 without), not for
/// Qwen3-235B (4367, 4313), gpt-oss-120b (3220, 3195) and DeepSeek-V3's 32 experts (10573, 10518).
constexpr double kInOrderWork = 0.97, kGatherRate = 0.88, kGatherLaunch = 3.0, kGatherWorth = 1.5;
/// How much longer they take for what DRAM bounds, by blocks that have weights of their own and by clusters that share
/// them. When others have ended, a block reads kAloneDram times its share of DRAM.
constexpr double kWgmmaDram = 1.03, kClusterDram = 1.3, kPairedDram = 1.015, kAloneDram = 2.5;
constexpr double kNear = 8.0;  // bounds that are near each other add up: a norm of them
/// Microseconds that a launch takes besides: the first stages of one block an SM, and of two.
constexpr double kAloneLaunch = 5.0, kPairedLaunch = 1.0;
/// Of two blocks an SM: what is lost as the last ones end, in rounds of all (the next GEMM's weights make up for most
/// of it); and how much longer fewer blocks than SMs take than as many of all: they come up where SMs are free first.
constexpr double kPairedRound = 0.06, kPairedCrowd = 1.3;
/// What such tiles are taken to cost more where experts of kBusy times the average fill one, since loads are not as
/// even as assumed: by Zipf's routings clusters are 4% faster there that are 1% slower by even ones.
constexpr double kPairedSkew = 1.02, kBusy = 2.5;
/// How much longer tiled kernels take for what DRAM bounds: they keep less of its latency in flight. And what work that
/// does not bound the time still costs of it, of streaming and of tiled kernels.
constexpr double kTiledDram = 1.10, kStreamRest = 0.01, kTiledRest = 0.02;

/// Predicted time of one grouped GEMM: weights from DRAM once per touched expert; each tile brings all of its expert's
/// into operands and multiplies tile_tokens rows whether they are used or not.
double gemm_score(const abi::KernelConfig& c, const GemmShape& s, Gemm gemm, const DeviceRates& rates) {
  const bool first = gemm != Gemm::kSecond;
  const double rows = first ? (s.gated ? 2.0 : 1.0) * s.intermediate : s.hidden;
  const double k = first ? s.hidden : s.intermediate;
  const double bytes = abi::weight_bits(c.weights) / 8.0 * rows * k;
  const double tiles = expected_tiles(s, c);
  const double dram = touched_experts(s) * bytes / rates.dram_bytes_per_us;
  const bool streaming = c.stages == 0;
  // Activations are read again for every 16 to 128 weight rows, those that exist.
  const double activation_bytes = 2.0 * expected_rows(s) * k * rows / c.tile_rows;
  const double l2 = (tiles * bytes + activation_bytes) / rates.l2_bytes_per_us;
  const double multiplied = abi::is_persistent(c) ? expected_multiplied(s, c) : tiles;
  const double in_order = gemm == Gemm::kFirstInOrder ? kInOrderWork : 1.0;
  const double work = multiplied * rows * k * 1e-6 * weights_cost(c) * in_order * kCostFlops / rates.mma_flops_per_us;
  if (abi::is_persistent(c)) {
    const double wide = std::min(1.0, expected_wide(s, c) / touched_experts(s));
    const double bound = dram * (c.min_blocks > 1 ? kPairedDram : kWgmmaDram + wide * (kClusterDram - kWgmmaDram));
    const double blocks = expected_blocks(s, c) * std::ceil(rows / c.tile_rows), rounds = blocks / rates.sm_count;
    const double full = std::pow(std::pow(bound, kNear) + std::pow(l2, kNear) + std::pow(work, kNear), 1.0 / kNear);
    if (c.min_blocks == 1) {
      // The last round leaves SMs idle; what it has multiplies as fast as ever, but gets more of DRAM.
      const double whole = std::floor(rounds), part = rounds - whole;
      const double alone = std::max({work, l2, bound / kAloneDram}) / full;
      return full / rounds * (whole + (part > 0 ? std::max(part, alone) : 0.0)) + kAloneLaunch;
    }
    const double skew =
        kBusy * static_cast<double>(s.tokens) * s.top_k >= 1.0 * s.num_experts * c.tile_tokens ? kPairedSkew : 1.0;
    return full * skew * (rounds < 1.0 ? kPairedCrowd / rounds : 1.0 + kPairedRound * c.min_blocks / rounds) +
           kPairedLaunch;
  }
  const double full = std::max({dram * (streaming ? 1.0 : kTiledDram), l2, work}) +
                      (streaming ? kStreamRest : kTiledRest) * (l2 + work) +
                      (streaming ? kKindCosts[c.weights].stream_rows * activation_bytes / rates.l2_bytes_per_us : 0.0);
  const double blocks = tiles * std::ceil(rows / c.tile_rows) / rates.sm_count;
  return streaming ? full : full * std::max(1.0, kKindCosts[c.weights].blocks / blocks);
}

std::string join_reasons(const std::vector<Candidate>& all) {
  std::string text;
  for (const Candidate& c : all) {
    const std::string line = fmt::format("{}: {}", c.choice.row->name, c.why_not);
    if (text.find(line) != std::string::npos) continue;
    text += (text.empty() ? "" : "; ") + line;
  }
  return text.empty() ? "no kernel row has this op" : text;
}

[[noreturn]] void throw_no_kernel(Op op, const ArchRow& arch, int recipe, const std::vector<Candidate>& all) {
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{}({}): no kernel for SM{}: {}; `moesaic explain` lists what is served", tables::op_name(op),
                          tables::kRecipeTable[static_cast<std::size_t>(recipe)].name, arch.sm, join_reasons(all)));
}

GemmShape shared_shape(const MoeConfig& c, std::int64_t tokens) {
  return {tokens, c.hidden, c.shared.intermediate, 1, 1, is_gated(c.activation.kind), 1, c.int4.f32_scales};
}

int recipe_of(const MoeConfig& config) {
  tables::get_recipe(config.recipe);  // throws on an unknown name
  return tables::recipe_index(config.recipe);
}

bool cuts_alike(const abi::KernelConfig& a, const abi::KernelConfig& b) {
  return a.tile_tokens == b.tile_tokens && a.tile_slack == b.tile_slack;
}

/// Both GEMMs share the tile list, hence how rows are cut: pairs that cut them alike, with the sum of their scores.
/// Their order does not depend on the shape.
struct GemmPair {
  Choice first, second;
  double score_us;
};
std::vector<GemmPair> gemm_pairs(const ArchRow& arch, int recipe, const GemmShape& shape, const DeviceRates& rates,
                                 const std::string& force) {
  const std::vector<Candidate> all = candidates(Op::kGemm, arch, recipe, shape, rates, force);
  std::vector<GemmPair> pairs;
  for (const Candidate& a : all) {
    for (const Candidate& b : all) {
      if (!a.why_not.empty() || !b.why_not.empty()) continue;
      if (!cuts_alike(a.choice.config(), b.choice.config())) continue;
      const double second = gemm_score(b.choice.config(), shape, Gemm::kSecond, rates);
      pairs.push_back({a.choice, b.choice, a.score_us + second});
    }
  }
  if (pairs.empty()) throw_no_kernel(Op::kGemm, arch, recipe, all);
  return pairs;
}

/// The pair that is best for the shape; of several shapes, the one that is least slower than the best of each.
GemmPair pick_gemms(const ArchRow& arch, int recipe, const std::vector<GemmShape>& shapes, const DeviceRates& rates,
                    const std::string& force) {
  std::vector<GemmPair> pairs;
  std::vector<double> worst;
  for (const GemmShape& shape : shapes) {
    pairs = gemm_pairs(arch, recipe, shape, rates, force);
    worst.resize(pairs.size(), 0.0);
    double best = INFINITY;
    for (const GemmPair& pair : pairs) best = std::min(best, pair.score_us);
    for (std::size_t i = 0; i < pairs.size(); ++i) worst[i] = std::max(worst[i], pairs[i].score_us / best);
  }
  return pairs[static_cast<std::size_t>(std::min_element(worst.begin(), worst.end()) - worst.begin())];
}

/// Whether GEMM 1 gains more by rows in its order than it takes to put them there.
bool gather_pays(const abi::KernelConfig& gemm1, const GemmShape& s, const DeviceRates& rates) {
  if (!abi::is_persistent(gemm1)) return false;
  const double bytes = (static_cast<double>(s.tokens) + expected_rows(s)) * s.hidden * 2.0;
  const double takes = bytes / (kGatherRate * rates.dram_bytes_per_us) + kGatherLaunch;
  return gemm_score(gemm1, s, Gemm::kFirst, rates) - gemm_score(gemm1, s, Gemm::kFirstInOrder, rates) >
         kGatherWorth * takes;
}

/// Numbers of tokens that one plan must be good at.
std::vector<std::int64_t> planned_tokens(const MoeConfig& config, std::int64_t tokens) {
  if (!config.batch_invariant) return {tokens};
  std::vector<std::int64_t> all = {config.max_tokens};
  for (std::int64_t t = 1; t < config.max_tokens; t *= 2) all.push_back(t);
  return all;
}

}  // namespace

GemmShape routed_shape(const MoeConfig& c, std::int64_t tokens) {
  return {tokens,
          c.hidden,
          c.intermediate,
          c.num_experts,
          c.top_k,
          is_gated(c.activation.kind),
          num_local_experts(c),
          c.int4.f32_scales,
          shared_is_expert(c) ? 1 : 0};
}

Choice pick(Op op, const ArchRow& arch, int recipe, const GemmShape& shape, const DeviceRates& rates,
            const std::string& force, const std::function<bool(const Choice&)>& wanted) {
  const std::vector<Candidate> all = candidates(op, arch, recipe, shape, rates, force);
  for (const Candidate& c : all) {
    if (c.why_not.empty() && wanted(c.choice)) return c.choice;
  }
  throw_no_kernel(op, arch, recipe, all);
}

double weights_cost(const abi::KernelConfig& c) noexcept {
  if (abi::is_persistent(c)) return c.cluster > 1 ? kWgmmaCost : kSmallWgmmaCost;
  const KindCosts& kind = kKindCosts[c.weights];
  const auto size = static_cast<std::size_t>(std::countr_zero(static_cast<unsigned>(c.tile_tokens / kSmallestTile)));
  if (c.stages == 0) return size < std::size(kind.stream) ? kind.stream[size] : 0.0;
  return size < std::size(kind.tiled) ? kind.tiled[size] : 0.0;
}

bool routing_is_fused(std::int64_t tokens, int slots) noexcept {
  return tokens <= 128 && tokens * slots <= abi::kMaxFusedEntries;
}

MoeConfig dispatched_config(MoeConfig config) {
  config.max_tokens *= config.top_k;
  config.top_k = 1;
  config.shared = {};
  config.router = false;
  return config;
}

Choice plan_dispatched(const MoeConfig& config, const ArchRow& arch, const std::string& force) {
  return pick(Op::kRouting, arch, recipe_of(config), routed_shape(config, 1), {}, force,
              [](const Choice& c) { return c.config().role == 3; });
}

Choice plan_activation(const ArchRow& arch, const std::string& force) {
  // Types are run-time fields: one row, listed with the recipes of 16-bit operands.
  return pick(Op::kActivation, arch, tables::recipe_index("bf16"), {}, {}, force, [](const Choice&) { return true; });
}

RouteSteps plan_route(const RouterConfig& config, const ArchRow& arch, const std::string& force) {
  MoeConfig layer = routing_only(config);
  // Shared slots are chosen and sorted like experts.
  layer.num_experts += config.shared_slots;
  layer.top_k += config.shared_slots;
  const int recipe = recipe_of(layer);
  const GemmShape shape = routed_shape(layer, 1);
  const auto with_role = [&](int role) {
    return pick(Op::kRouting, arch, recipe, shape, {}, force,
                [role](const Choice& c) { return c.config().role == role; });
  };
  return {with_role(0), with_role(1), with_role(2)};
}

const KernelRow* forced_row(const std::string& force_kernel) {
  if (force_kernel.empty()) return nullptr;
  const std::string name = force_kernel.substr(0, force_kernel.find('/'));
  const KernelRow* forced = tables::find_kernel(name);
  if (forced == nullptr) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("MOESAIC_FORCE_KERNEL: no kernel row is called '{}'; `moesaic kernels` lists them", name));
  }
  if (name == force_kernel) return forced;
  std::string known;
  for (const abi::KernelConfig& config : forced->configs) {
    const std::string full = fmt::format("{}/{}", name, tables::config_name(*forced, config));
    if (full == force_kernel) return forced;
    known += " " + full;
  }
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("MOESAIC_FORCE_KERNEL: got {}, wanted one of{}", force_kernel, known));
}

namespace {

/// Whether `force_kernel`, checked by forced_row, leaves this configuration in.
bool is_wanted(const KernelRow& row, const abi::KernelConfig& config, const std::string& force_kernel) {
  return force_kernel.find('/') == std::string::npos ||
         force_kernel == fmt::format("{}/{}", row.name, tables::config_name(row, config));
}

}  // namespace

std::vector<Candidate> candidates(Op op, const ArchRow& arch, int recipe, const GemmShape& shape,
                                  const DeviceRates& rates, const std::string& force_kernel) {
  const KernelRow* forced = forced_row(force_kernel);
  const tables::Problem problem{shape.tokens, shape.hidden, shape.intermediate, shape.num_experts, shape.top_k};
  std::vector<Candidate> all;
  for (const KernelRow& row : tables::kernel_table()) {
    if (row.op != op) continue;
    std::string why = tables::why_not(row, arch, recipe);
    if (why.empty()) {
      if (const char* reason = row.supports(problem)) why = reason;
    }
    if (why.empty() && forced != nullptr && forced->op == op && forced != &row) {
      why = fmt::format("MOESAIC_FORCE_KERNEL asks for {}", force_kernel);
    }
    for (std::size_t i = 0; i < row.configs.size(); ++i) {
      Candidate candidate{{&row, static_cast<int>(i)}, 0, why};
      if (why.empty() && abi::smem_bytes(row.configs[i]) > arch.smem_per_block) {
        candidate.why_not = fmt::format("needs {} bytes of shared memory, SM{} has {}", abi::smem_bytes(row.configs[i]),
                                        arch.sm, arch.smem_per_block);
      }
      if (candidate.why_not.empty() && shape.float_groups && row.configs[i].weights == abi::kWeightsInt4 &&
          !abi::keeps_float_groups(row.configs[i])) {
        candidate.why_not = "reads no int4 scales in FP32";
      }
      if (candidate.why_not.empty() && forced == &row && !is_wanted(row, row.configs[i], force_kernel)) {
        candidate.why_not = fmt::format("MOESAIC_FORCE_KERNEL asks for {}", force_kernel);
      }
      if (candidate.why_not.empty() && op == Op::kGemm) {
        candidate.score_us = gemm_score(row.configs[i], shape, Gemm::kFirst, rates);
      }
      all.push_back(std::move(candidate));
    }
  }
  return all;
}

std::vector<Choice> MoeSteps::all() const {
  std::vector<Choice> set;
  for (const Choice& c : {project, route, scatter, operand, gather, gemm1, gemm2, shared_gemm1, shared_gemm2, sum}) {
    if (c.row != nullptr) set.push_back(c);
  }
  return set;
}

namespace {

/// Whether GEMM 1 can quantise its result: by a static scale, which the weights bring; every other scale of a recipe
/// needs more of a row than a tile has.
bool gives_operand(const MoeConfig& config, const tables::RecipeRow& recipe, const Choice& gemm1) {
  return config.static_scales && tables::takes_static_scales(recipe) &&
         abi::quantises_hidden(gemm1.config(), is_gated(config.activation.kind));
}

}  // namespace

MoeSteps plan_moe(const MoeConfig& config, std::int64_t tokens, const ArchRow& arch, const DeviceRates& rates,
                  const std::string& force) {
  const int recipe = recipe_of(config);
  const GemmShape shape = routed_shape(config, std::max<std::int64_t>(tokens, 1));
  MoeSteps steps;
  const auto with_role = [](int role) { return [role](const Choice& c) { return c.config().role == role; }; };
  const bool fused = routing_is_fused(shape.tokens, slots_of(config));
  steps.route = pick(Op::kRouting, arch, recipe, shape, rates, force, with_role(fused ? 0 : 1));
  if (!fused) steps.scatter = pick(Op::kRouting, arch, recipe, shape, rates, force, with_role(2));
  if (config.router || config.shared.gated) {
    const bool few = shape.tokens <= 512 || config.batch_invariant;
    steps.project = pick(Op::kProjection, arch, recipe, shape, rates, force,
                         [few](const Choice& c) { return (c.config().tile_tokens <= 8) == few; });
  }
  std::vector<GemmShape> routed, shared_shapes;
  for (const std::int64_t t : planned_tokens(config, shape.tokens)) {
    routed.push_back(routed_shape(config, t));
    shared_shapes.push_back(shared_shape(config, t));
  }
  const GemmPair gemms = pick_gemms(arch, recipe, routed, rates, force);
  steps.gemm1 = gemms.first;
  steps.gemm2 = gemms.second;
  const KernelRow* forced = forced_row(force);
  if ((forced != nullptr && forced->op == Op::kGather) || gather_pays(steps.gemm1.config(), shape, rates)) {
    steps.gather = pick(Op::kGather, arch, recipe, shape, rates, force, [](const Choice&) { return true; });
  }
  const tables::RecipeRow& routed_recipe = tables::kRecipeTable[static_cast<std::size_t>(recipe)];
  steps.hidden_is_operand = gives_operand(config, routed_recipe, steps.gemm1);
  int quantised = tables::quantises_activations(routed_recipe) ? recipe : -1;
  if (has_shared_gemms(config)) {
    const tables::RecipeRow& shared = tables::get_recipe(tables::shared_recipe(config));
    const int shared_recipe = tables::recipe_index(shared.name);
    const GemmPair shared_gemms = pick_gemms(arch, shared_recipe, shared_shapes, rates, force);
    steps.shared_gemm1 = shared_gemms.first;
    steps.shared_gemm2 = shared_gemms.second;
    steps.shared_hidden_is_operand = gives_operand(config, shared, steps.shared_gemm1);
    if (quantised < 0 && tables::quantises_activations(shared)) quantised = shared_recipe;
  }
  if (quantised >= 0) {
    steps.operand = pick(Op::kOperand, arch, quantised, shape, rates, force, [](const Choice&) { return true; });
  }
  steps.sum = pick(Op::kWeightedSum, arch, recipe, shape, rates, force, [](const Choice&) { return true; });
  return steps;
}

std::vector<PlanRange> plan_ranges(const MoeConfig& config, const ArchRow& arch, const DeviceRates& rates,
                                   const std::string& force_kernel) {
  std::vector<PlanRange> ranges;
  const int slots = slots_of(config);
  // Every T up to 1024, then steps of 1/16: the predictions are smooth, and a range's plan serves any T in it.
  for (std::int64_t tokens = 1; tokens <= config.max_tokens;) {
    const std::int64_t step = std::max<std::int64_t>(1, tokens >= 1024 ? tokens / 16 : tokens / 64);
    const std::int64_t last = std::min<std::int64_t>(tokens + step - 1, config.max_tokens);
    // Decisions by exact T (routing form, projection) hold at both ends of a range only if the range does not cross
    // them; the cut is where they change.
    std::int64_t end = tokens;
    while (end < last && routing_is_fused(end + 1, slots) == routing_is_fused(tokens, slots) &&
           (end + 1 <= 512) == (tokens <= 512)) {
      ++end;
    }
    MoeSteps steps = plan_moe(config, tokens, arch, rates, force_kernel);
    if (!ranges.empty() && ranges.back().steps == steps) {
      ranges.back().last_tokens = end;
    } else {
      ranges.push_back({end, steps});
    }
    tokens = end + 1;
  }
  return ranges;
}

}  // namespace moesaic::plan
