// SPDX-License-Identifier: Apache-2.0
// Levels of the design, random layers of a case, and the comparison with both references.
#include "support/recipe_cases.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "backend_cpu/backend_cpu.h"
#include "support/pairwise.h"
#include "tables/kernel_table.h"
#include "tables/quant_table.h"

namespace moesaic::testing {
namespace {

constexpr std::array kTokens = {0, 1, 2, 7, 16, 33, 129, 512, 1024, 4096};
constexpr std::array kExperts = {1, 8, 128, 256};
constexpr std::array kTopK = {1, 2, 4, 8, 32};
// H and I before they become what the formats allow; small where experts are many, for the references' sake.
constexpr std::pair<int, int> kShapes[kExperts.size()][5] = {
    {{512, 384}, {520, 265}, {136, 37}, {96, 640}, {264, 129}},
    {{384, 256}, {200, 161}, {136, 67}, {96, 320}, {264, 129}},
    {{128, 96}, {136, 64}, {104, 37}, {64, 128}, {160, 48}},
    {{128, 64}, {72, 40}, {104, 37}, {64, 96}, {128, 33}},
};
constexpr int kSharedRows = 40;

/// A recipe with what int4 leaves open.
struct Format {
  const tables::RecipeRow* recipe;
  Int4Groups int4;
};

std::vector<Format> formats() {
  std::vector<Format> all;
  bool zero_points = false;  // every group size occurs with and without them
  for (const tables::RecipeRow& row : tables::kRecipeTable) {
    if (row.weight.number != tables::Number::kInt4) {
      all.push_back({&row, {}});
      continue;
    }
    for (const int group : {32, 64, 128}) {
      const bool f32_scales = group == (tables::quantises_activations(row) ? 32 : 64);
      all.push_back({&row, {group, zero_points, f32_scales}});
      zero_points = !zero_points;
    }
  }
  return all;
}

enum class SharedKind { kNone, kPlain, kGated, kOtherRecipe };

/// The factors of the design, in this order.
enum Factor : int {
  kFormat,
  kActivation,
  kTokenCount,
  kExpertCount,
  kSlots,
  kShape,
  kBiases,
  kShared,
  kOnInput,
  kLoad,
  kF32Out,
  kStaticScales,
  kStorage,
  kNumFactors
};

std::vector<int> level_counts() {
  std::vector<int> counts(kNumFactors, 2);
  counts[kFormat] = static_cast<int>(formats().size());
  counts[kActivation] = static_cast<int>(ActivationKind::kSitu) + 1;
  counts[kTokenCount] = static_cast<int>(kTokens.size());
  counts[kExpertCount] = static_cast<int>(kExperts.size());
  counts[kSlots] = static_cast<int>(kTopK.size());
  counts[kShape] = static_cast<int>(std::size(kShapes[0]));
  counts[kShared] = static_cast<int>(SharedKind::kOtherRecipe) + 1;
  counts[kLoad] = static_cast<int>(Load::kOneExpert) + 1;
  counts[kStorage] = static_cast<int>(cpu::Storage::kPaddedRows) + 1;
  return counts;
}

bool more_slots_than_experts(int factor, int level, int other, int other_level) {
  return factor == kExpertCount && other == kSlots &&
         kTopK[static_cast<std::size_t>(other_level)] > kExperts[static_cast<std::size_t>(level)];
}

Activation activation_of(int level) {
  Activation a{static_cast<ActivationKind>(level), {}, {}, {}};
  // Limits that clamp.
  if (a.kind == ActivationKind::kSwigluBias) a.alpha = 1.702f, a.beta = 1.0f, a.limit = 1.5f;
  if (a.kind == ActivationKind::kSwigluStep) a.limit = 0.7f;
  return a;
}

/// A recipe of the same io type; itself where there is no other.
std::string another_recipe(const tables::RecipeRow& recipe, std::size_t number) {
  std::vector<std::string> others;
  for (const tables::RecipeRow& row : tables::kRecipeTable) {
    if (row.io == recipe.io && &row != &recipe) others.push_back(row.name);
  }
  return others.empty() ? recipe.name : others[number % others.size()];
}

SharedExperts shared_of(SharedKind kind, const Format& format, std::size_t number) {
  if (kind == SharedKind::kNone) return {};
  SharedExperts shared{kSharedRows, kind != SharedKind::kPlain, {}};
  if (kind == SharedKind::kOtherRecipe) shared.recipe = another_recipe(*format.recipe, number);
  const std::string& recipe = shared.recipe.empty() ? std::string(format.recipe->name) : shared.recipe;
  shared.intermediate = (kSharedRows + depth_multiple(recipe, format.int4) - 1) / depth_multiple(recipe, format.int4) *
                        depth_multiple(recipe, format.int4);
  return shared;
}

int rounded_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

RecipeCase case_of(const std::vector<int>& row, std::size_t number) {
  const auto level = [&row](Factor factor) { return static_cast<std::size_t>(row[factor]); };
  const Format format = formats()[level(kFormat)];
  RecipeCase c;
  c.seed = static_cast<unsigned>(number) + 1;
  c.recipe = format.recipe;
  c.int4 = format.int4;
  c.activation = activation_of(row[kActivation]);
  c.tokens = kTokens[level(kTokenCount)];
  c.experts = kExperts[level(kExpertCount)];
  c.top_k = kTopK[level(kSlots)];
  c.biases = row[kBiases] != 0;
  c.shared = shared_of(static_cast<SharedKind>(row[kShared]), format, number);
  c.weights_on_input = row[kOnInput] != 0;
  c.load = static_cast<Load>(row[kLoad]);
  c.f32_out = row[kF32Out] != 0;
  c.static_scales = row[kStaticScales] != 0 && tables::takes_static_scales(*c.recipe);
  c.promised = c.static_scales && number % 2 == 0;
  c.storage = static_cast<cpu::Storage>(row[kStorage]);
  const auto [hidden, intermediate] = kShapes[level(kExpertCount)][level(kShape)];
  const int own = depth_multiple(c.recipe->name, c.int4);
  const int shared = c.shared.recipe.empty() ? 1 : depth_multiple(c.shared.recipe, c.int4);
  c.hidden = rounded_up(hidden, std::max({8, own, shared}));  // powers of two
  c.intermediate = rounded_up(intermediate, own);
  return c;
}

/// Scales with which hardly a value saturates: inputs are about N(0, 1), activations of them stay below 48.
void give_static_scales(const RecipeCase& c, MoeWeights& weights) {
  const float largest_code = c.recipe->activation.number == tables::Number::kE2m1 ? 2688.0f : 448.0f;
  float share = 0.7f;  // they differ; the largest of all counts
  const auto give = [&](ExpertWeights& expert) {
    expert.input_scale = share * 6.0f / largest_code;
    expert.down_input_scale = share * 48.0f / largest_code;
    share = share >= 1.0f ? 0.7f : share + 0.1f;
  };
  for (ExpertWeights& expert : weights.experts) give(expert);
  if (c.shared.intermediate > 0) give(weights.shared);
}

std::string load_name(Load load) {
  return load == Load::kUniform ? "" : load == Load::kSkewed ? "_skewed" : "_one_expert";
}

/// First, last and random tokens.
std::vector<int> sampled_tokens(const RecipeCase& c) {
  std::vector<int> tokens(static_cast<std::size_t>(c.tokens));
  std::iota(tokens.begin(), tokens.end(), 0);
  if (tokens.size() <= c.most_sampled) return tokens;
  std::mt19937 random(c.seed);
  std::shuffle(tokens.begin() + 1, tokens.end() - 1, random);
  std::swap(tokens[1], tokens.back());
  tokens.resize(c.most_sampled);
  return tokens;
}

/// Rows of an array [T, cols].
template <typename T>
std::vector<T> rows_of(const std::vector<T>& all, const std::vector<int>& tokens, std::size_t cols) {
  std::vector<T> rows;
  for (const int t : tokens) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(t) * cols);
    rows.insert(rows.end(), begin, begin + static_cast<std::ptrdiff_t>(cols));
  }
  return rows;
}

std::vector<double> values_of(const HostArray& array, const std::vector<int>& tokens, int cols) {
  std::vector<double> values;
  for (const int t : tokens) {
    for (std::int64_t c = 0; c < cols; ++c) {
      values.push_back(cpu::load_element(array.bytes.data(), array.dtype, std::int64_t{t} * cols + c));
    }
  }
  return values;
}

/// Sampled tokens with what the run chose for them.
struct Sample {
  std::vector<int> tokens;
  HostArray x;
  std::vector<std::int32_t> ids;
  std::vector<float> weights, logits;
};

Sample sample_of(const RecipeCase& c, const CaseInput& input, const CaseOutput& output) {
  Sample s;
  s.tokens = sampled_tokens(c);
  const auto k = static_cast<std::size_t>(c.top_k);
  s.x = {input.x.dtype,
         rows_of(input.x.bytes, s.tokens, static_cast<std::size_t>(c.hidden) * dtype_size(input.x.dtype))};
  s.ids = rows_of(output.ids, s.tokens, k);
  s.weights = rows_of(output.weights, s.tokens, k);
  s.logits = rows_of(input.logits, s.tokens, static_cast<std::size_t>(c.experts));
  return s;
}

/// `selection_bias`: FP32, or empty.
void expect_routed_by_logits(const MoeConfig& config, const VectorView& selection_bias, const Sample& s) {
  std::vector<std::int32_t> ids(s.ids.size());
  std::vector<float> weights(s.weights.size());
  cpu::route(config.routing, s.logits.data(), static_cast<const float*>(selection_bias.data),
             static_cast<std::int64_t>(s.tokens.size()), config.num_experts, config.top_k, ids.data(), weights.data());
  ASSERT_EQ(s.ids, ids);
  for (std::size_t i = 0; i < weights.size(); ++i) ASSERT_NEAR(s.weights[i], weights[i], 1e-5f) << "slot " << i;
}

/// A reference's output, rounded to `out`, of tokens whose experts are given: [tokens][c.top_k].
std::vector<double> run_reference(const MoeConfig& c, const MoeWeights& weights, ReferenceMode mode, const HostArray& x,
                                  const std::vector<std::int32_t>& ids, const std::vector<float>& slot_weights,
                                  DType out) {
  const std::int64_t tokens = x.size() / c.hidden;
  HostArray y{out, std::vector<unsigned char>(static_cast<std::size_t>(tokens * c.hidden) * dtype_size(out))};
  MoeRun run;
  run.x = TensorView(x.bytes.data(), x.dtype, {tokens, c.hidden});
  run.topk_ids = TensorView(ids.data(), DType::kI32, {tokens, c.top_k});
  run.topk_weights = TensorView(slot_weights.data(), DType::kF32, {tokens, c.top_k});
  run.out = TensorView(y.bytes.data(), out, {tokens, c.hidden});
  reference_moe(c, weights, mode, run);
  std::vector<int> all(static_cast<std::size_t>(tokens));
  std::iota(all.begin(), all.end(), 0);
  return values_of(y, all, c.hidden);
}

/// What slot `slot` of every token adds to the oracle's output: its row rounded to bf16, times its weight.
std::vector<double> rounded_slot(MoeConfig c, MoeWeights weights, const Sample& s, int slot) {
  const int slots = std::exchange(c.top_k, 1);
  c.shared = {};
  weights.shared = {}, weights.shared_gate = {};
  std::vector<std::int32_t> ids;
  std::vector<float> on_input, on_output;
  for (std::size_t i = static_cast<std::size_t>(slot); i < s.ids.size(); i += static_cast<std::size_t>(slots)) {
    ids.push_back(s.ids[i]);
    on_input.push_back(c.weights_on_input ? s.weights[i] : 1.0f);
    on_output.push_back(c.weights_on_input ? 1.0f : s.weights[i]);
  }
  std::vector<double> rows = run_reference(c, weights, ReferenceMode::kOracle, s.x, ids, on_input, DType::kBF16);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] *= on_output[i / static_cast<std::size_t>(c.hidden)];
  return rows;
}

/// The same of the shared experts. Their gate is what the oracle's FP64 rows with and without it are apart.
std::vector<double> rounded_shared(MoeConfig c, MoeWeights weights, const Sample& s) {
  const std::vector<std::int32_t> nobody(s.ids.size(), -1);
  const auto rows_as = [&](DType out) {
    return run_reference(c, weights, ReferenceMode::kOracle, s.x, nobody, s.weights, out);
  };
  const std::vector<double> gated = rows_as(DType::kF64);
  c.shared.gated = false;
  weights.shared_gate = {};
  const std::vector<double> open = rows_as(DType::kF64);
  std::vector<double> rows = rows_as(DType::kBF16);
  const auto width = static_cast<std::size_t>(c.hidden);
  for (std::size_t begin = 0; begin < rows.size(); begin += width) {
    std::size_t most = begin;
    for (std::size_t i = begin; i < begin + width; ++i) most = std::fabs(open[i]) > std::fabs(open[most]) ? i : most;
    if (open[most] == 0) continue;
    for (std::size_t i = begin; i < begin + width; ++i) rows[i] *= gated[most] / open[most];
  }
  return rows;
}

/// A reference's rows, rounded to `out`. The oracle's bf16 output is a sum of rows in bf16 where that of a GPU is.
std::vector<double> reference_rows(const MoeConfig& c, const MoeWeights& weights, ReferenceMode mode, const Sample& s,
                                   DType out) {
  const bool rounds_rows = c.device.type == DeviceType::kCuda && out == DType::kBF16;
  if (mode != ReferenceMode::kOracle || !rounds_rows) {
    return run_reference(c, weights, mode, s.x, s.ids, s.weights, out);
  }
  std::vector<float> sum(s.tokens.size() * static_cast<std::size_t>(c.hidden));
  const auto add = [&](const std::vector<double>& rows) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<float>(rows[i]);
  };
  for (int slot = 0; slot < c.top_k; ++slot) add(rounded_slot(c, weights, s, slot));
  if (c.shared.intermediate > 0) add(rounded_shared(c, weights, s));
  const std::vector<float> rounded = to_floats(to_array(sum, out));
  return {rounded.begin(), rounded.end()};
}

/// Relative L2 of each row; `outside`: whether an element is farther than the tolerance allows. NaN is far.
struct RowDistance {
  double l2 = 0;
  bool outside = false;
};
std::vector<RowDistance> row_distances(const std::vector<double>& got, const std::vector<double>& wanted, int cols,
                                       const tables::Tolerance& tolerance) {
  std::vector<RowDistance> rows;
  const auto width = static_cast<std::size_t>(cols);
  for (std::size_t begin = 0; begin < wanted.size(); begin += width) {
    double error = 0, norm = 0;
    for (std::size_t i = begin; i < begin + width; ++i) {
      error += (got[i] - wanted[i]) * (got[i] - wanted[i]);
      norm += wanted[i] * wanted[i];
    }
    RowDistance row;
    row.l2 = norm > 0 ? std::sqrt(error / norm) : error == 0 ? 0 : HUGE_VAL;
    if (std::isnan(row.l2)) row.l2 = HUGE_VAL;
    const double rms = std::sqrt(norm / cols);
    for (std::size_t i = begin; i < begin + width; ++i) {
      const double bound = tolerance.element_rel * std::fabs(wanted[i]) + tolerance.element_rms * rms;
      row.outside = row.outside || !(std::fabs(got[i] - wanted[i]) <= bound);
    }
    rows.push_back(row);
  }
  return rows;
}

double worst(const std::vector<RowDistance>& rows) {
  const auto less = [](const RowDistance& a, const RowDistance& b) { return a.l2 < b.l2; };
  return std::max_element(rows.begin(), rows.end(), less)->l2;
}

double median(std::vector<RowDistance> rows) {
  const auto middle = rows.begin() + static_cast<std::ptrdiff_t>(rows.size() / 2);
  std::nth_element(rows.begin(), middle, rows.end(),
                   [](const RowDistance& a, const RowDistance& b) { return a.l2 < b.l2; });
  return middle->l2;
}

/// Both sets of experts of a case.
struct Bounds {
  tables::Tolerance tolerance;
  bool quantises = false;
};
Bounds bounds_of(const RecipeCase& c) {
  Bounds b{c.recipe->tolerance, tables::quantises_activations(*c.recipe)};
  if (c.shared.recipe.empty()) return b;
  const tables::RecipeRow& shared = tables::get_recipe(c.shared.recipe);
  b.tolerance.exact_row_l2 = std::max(b.tolerance.exact_row_l2, shared.tolerance.exact_row_l2);
  b.quantises = b.quantises || tables::quantises_activations(shared);
  return b;
}

/// The oracle has the same roundings. Where GEMM 1's result is quantised again, another order of its sums can give
/// another code where two are equally near: a row in 200 may, and is then as far as a code is.
void expect_near_oracle(const RecipeCase& c, const std::vector<double>& got, const std::vector<double>& wanted) {
  const Bounds b = bounds_of(c);
  const std::vector<RowDistance> rows = row_distances(got, wanted, c.hidden, b.tolerance);
  const auto far = std::count_if(rows.begin(), rows.end(), [&](const RowDistance& row) {
    return row.outside || row.l2 > b.tolerance.oracle_row_l2;
  });
  const auto allowed = b.quantises ? std::max<std::ptrdiff_t>(1, static_cast<std::ptrdiff_t>(rows.size()) / 200) : 0;
  EXPECT_LE(far, allowed) << "worst row " << worst(rows) << " of " << rows.size();
  EXPECT_LE(worst(rows), b.quantises ? b.tolerance.exact_row_l2 : b.tolerance.oracle_row_l2);
  if (rows.size() <= 2) return;  // one code may be half of them
  EXPECT_LE(median(rows), b.tolerance.oracle_row_l2 / (b.quantises ? 10 : 1));
}

/// The recipe's tolerance is that of real layers; where rows of a few dozen numbers are unlucky, the oracle's own
/// distance counts.
void expect_near_exact(const RecipeCase& c, const std::vector<double>& got, const std::vector<double>& oracle,
                       const std::vector<double>& exact) {
  const tables::Tolerance tolerance = bounds_of(c).tolerance;
  const double of_oracle = worst(row_distances(oracle, exact, c.hidden, tolerance));
  EXPECT_LE(worst(row_distances(got, exact, c.hidden, tolerance)),
            std::max(tolerance.exact_row_l2, of_oracle + tolerance.oracle_row_l2));
}

}  // namespace

std::string RecipeCase::name() const {
  std::string text = fmt::format("{}", recipe->name);
  if (recipe->weight.number == tables::Number::kInt4) {
    text += fmt::format("_g{}{}{}", int4.size, int4.zero_points ? "z" : "", int4.f32_scales ? "_f32scales" : "");
  }
  if (static_scales) text += promised ? "_static_promised" : "_static";
  text += fmt::format("_{}_T{}_E{}_k{}_H{}_I{}", activation_name(activation.kind), tokens, experts, top_k, hidden,
                      intermediate);
  if (biases) text += "_bias";
  if (shared.intermediate > 0) {
    text += fmt::format("_shared{}{}{}{}", shared.intermediate, shared.gated ? "_gated" : "",
                        shared.recipe.empty() ? "" : "_", shared.recipe);
  }
  if (weights_on_input) text += "_on_input";
  text += load_name(load);
  text += f32_out ? "_f32" : "_io";
  if (!weight_spec(recipe->name, int4)) text += fmt::format("_storage{}", static_cast<int>(storage));
  return text;
}

int depth_multiple(const std::string& recipe, const Int4Groups& int4) {
  int multiple = 1;
  for (const auto& spec : {weight_spec(recipe, int4), activation_spec(recipe, true)}) {
    if (!spec) continue;
    const QuantTraits traits = quant_traits(*spec);
    if (traits.scales != ScaleFormat::kF32) multiple = std::max(multiple, traits.block_cols);
  }
  return multiple;
}

std::vector<RecipeCase> recipe_cases() {
  std::vector<RecipeCase> cases;
  for (const std::vector<int>& row : pairwise_design(level_counts(), more_slots_than_experts)) {
    cases.push_back(case_of(row, cases.size()));
  }
  return cases;
}

cpu::RandomLayer make_layer(const RecipeCase& c) {
  cpu::LayerShape shape;
  shape.hidden = c.hidden;
  shape.intermediate = c.intermediate;
  shape.num_experts = c.experts;
  shape.top_k = c.top_k;
  shape.recipe = c.recipe->name;
  shape.activation = c.activation;
  shape.shared = c.shared;
  shape.weights_on_input = c.weights_on_input;
  shape.biases = c.biases;
  shape.storage = c.storage;
  shape.stored = weight_spec(shape.recipe, c.int4) ? DType::kF32 : c.recipe->io;
  std::mt19937 random(c.seed);
  cpu::RandomLayer layer = cpu::quantized_layer(shape, c.int4, random, false);
  layer.config.max_tokens = std::max(1, c.tokens);
  if (c.static_scales) give_static_scales(c, layer.weights);
  layer.config.static_scales = c.promised;
  return layer;
}

CaseInput make_input(const RecipeCase& c) {
  std::mt19937 random(c.seed + 1000);
  CaseInput input;
  input.x = random_array(random, std::int64_t{c.tokens} * c.hidden, c.recipe->io, 1.0);
  std::normal_distribution<float> normal(0.0f, 1.5f);
  for (int t = 0; t < c.tokens; ++t) {
    for (int e = 0; e < c.experts; ++e) {
      float logit = normal(random);
      if (c.load == Load::kSkewed) logit += 8.0f * static_cast<float>(e) / static_cast<float>(c.experts);
      if (c.load == Load::kOneExpert && e == c.experts / 2) logit += 30.0f;
      input.logits.push_back(logit);
    }
  }
  return input;
}

void expect_right(const RecipeCase& c, const MoeConfig& config, const MoeWeights& weights, const CaseInput& input,
                  const CaseOutput& output) {
  if (c.tokens == 0) return;
  const std::vector<float> all = to_floats(output.y);
  EXPECT_TRUE(std::all_of(all.begin(), all.end(), [](float v) { return std::isfinite(v); }));
  const Sample sample = sample_of(c, input, output);
  ASSERT_NO_FATAL_FAILURE(expect_routed_by_logits(config, weights.selection_bias, sample));
  const std::vector<double> got = values_of(output.y, sample.tokens, c.hidden);
  const DType out = c.f32_out ? DType::kF64 : c.recipe->io;
  const std::vector<double> oracle = reference_rows(config, weights, ReferenceMode::kOracle, sample, out);
  expect_near_oracle(c, got, oracle);
  expect_near_exact(c, got, oracle, reference_rows(config, weights, ReferenceMode::kExact, sample, DType::kF64));
}

}  // namespace moesaic::testing
