// SPDX-License-Identifier: Apache-2.0
// `moesaic run`: one MoE layer of a hub checkpoint on given inputs, compared with expected outputs.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/log.h"
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/layer_run.h"
#include "cli/run_files.h"
#include "moesaic/checkpoint.h"
#include "moesaic/quantize.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

using Json = nlohmann::ordered_json;

struct RunOptions {
  std::string model, input, expect, recipe, out, topk_ids, topk_weights, experts;
  std::string device = "cpu", mode = "fast";
  Int4Groups int4;
  int layer = -1;
  std::vector<std::string> bundles;
  bool json = false;
};

// What is printed, filled as far as the run came.
struct Report {
  CheckpointLayer layer;
  std::vector<int> moe_layers;
  std::int64_t tokens = 0;
  LayerOutputs outputs;
  std::optional<Comparison> comparison;
  std::optional<std::int64_t> tokens_routed_otherwise;
  double tolerance = 0;
  double convert_seconds = 0;

  bool passed() const { return !comparison || comparison->within(tolerance); }
};

void check_use(const RunOptions& options) {
  if (options.topk_ids.empty() != options.topk_weights.empty()) {
    throw UsageError("run: --top-k-ids and --top-k-weights go together");
  }
  if (!options.experts.empty() && !options.expect.empty()) {
    throw UsageError("run: --experts gives a part of the sum, --expect compares the whole: leave one out");
  }
  if (parse_device(options.device).type != DeviceType::kCpu && options.mode != "fast") {
    throw UsageError(
        fmt::format("run: --mode {} is computed on the CPU only; leave out --device {}", options.mode, options.device));
  }
}

// Takes another recipe than the checkpoint's. Shared experts that the checkpoint leaves in 16 bits stay so, unless
// everything is to be 16 bits.
void choose_recipe(const RunOptions& options, MoeConfig* config) {
  if (options.recipe.empty() || options.recipe == config->recipe) return;
  config->recipe = options.recipe;
  config->static_scales = false;                    // weights that are converted lose them
  const bool f32_scales = config->int4.f32_scales;  // of weights that may stay as they are
  config->int4 = options.int4;
  config->int4.f32_scales = f32_scales;
  const bool quantises = weight_spec(options.recipe, config->int4).has_value();
  if (!quantises || config->shared.recipe != "bf16") config->shared.recipe.clear();
}

// Keeps experts FIRST-LAST of a layer that has `count`, as one of several devices would. Shared experts stay with the
// first expert, so that all parts add up to the whole.
void keep_experts(const std::string& range, MoeConfig* config, MoeWeights* weights) {
  if (range.empty()) return;
  int first = -1, last = -1;
  const std::size_t dash = range.find('-');
  const auto number = [&range](std::size_t begin, std::size_t end, int* value) {
    const auto [rest, error] = std::from_chars(range.data() + begin, range.data() + end, *value);
    return error == std::errc() && rest == range.data() + end;
  };
  const bool parsed =
      dash != std::string::npos && number(0, dash, &first) && number(dash + 1, range.size(), &last) && first >= 0;
  if (!parsed || last < first || last >= config->num_experts) {
    throw UsageError(
        fmt::format("run: --experts is '{}', wanted FIRST-LAST within 0-{}", range, config->num_experts - 1));
  }
  config->experts.first = first;
  config->experts.count = last - first + 1;
  std::vector<ExpertWeights>& all = weights->experts;
  all = {all.begin() + first, all.begin() + last + 1};
  if (first == 0) return;
  config->shared = {};
  weights->shared = {};
  weights->shared_gate = {};
}

bool weights_fit(const MoeConfig& config, const MoeWeights& weights) {
  for (const ExpertWeights& expert : weights.experts) {
    for (const MatrixView* matrix : {&expert.gate, &expert.up, &expert.down}) {
      if (!matrix->empty() && !fits_recipe(config.recipe, config.int4, *matrix)) return false;
    }
  }
  return true;
}

double tolerance_of(const RunOptions& options, const MoeConfig& config, bool converted) {
  const tables::Tolerance& tolerance = tables::get_recipe(config.recipe).tolerance;
  if (converted) return tolerance.converted_row_l2;
  return options.mode == "exact" ? kExactRowL2 : tolerance.exact_row_l2;
}

void warn_of_other_layer(const std::string& file, int layer) {
  std::optional<int> recorded = layer_in_metadata(file);
  if (!recorded || *recorded == layer) return;
  base::log_warning(
      fmt::format("{} says that it belongs to layer {}, but layer {} runs; --layer chooses", file, *recorded, layer));
}

Report run_layer(const RunOptions& options) {
  Report report;
  Checkpoint checkpoint = Checkpoint::open(options.model);
  report.moe_layers = checkpoint.moe_layers();
  report.layer = checkpoint.load(options.layer);
  MoeConfig& config = report.layer.config;
  choose_recipe(options, &config);
  keep_experts(options.experts, &config, &report.layer.weights);
  config.device = parse_device(options.device);
  const bool converted = !weights_fit(config, report.layer.weights);
  const auto begin = std::chrono::steady_clock::now();
  const OwnedWeights owned = convert_weights(config, report.layer.weights);
  report.convert_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  warn_of_other_layer(options.input, report.layer.layer);
  LayerInputs inputs = read_inputs(options.input, config);
  if (!options.topk_ids.empty()) read_routing(options.topk_ids, options.topk_weights, config, &inputs);
  std::optional<Expected> expected;
  if (!options.expect.empty()) {
    warn_of_other_layer(options.expect, report.layer.layer);
    expected = read_expected(options.expect, config, inputs.tokens);
  }
  report.tokens = inputs.tokens;
  if (inputs.tokens > std::numeric_limits<int>::max()) throw UsageError("run: more tokens than a run can take");
  config.max_tokens = std::max(1, static_cast<int>(inputs.tokens));

  if (options.mode == "fast") {
    ModuleOptions modules;
    modules.bundles = options.bundles;
    report.outputs = run_fused(config, owned.weights, modules, inputs);
  } else {
    ReferenceMode mode = options.mode == "exact" ? ReferenceMode::kExact : ReferenceMode::kOracle;
    report.outputs = run_reference(config, owned.weights, mode, inputs);
  }
  if (expected) {
    report.comparison = compare_rows(report.outputs.y, expected->y, inputs.tokens, config.hidden);
    report.tolerance = tolerance_of(options, config, converted);
    if (!expected->topk_ids.empty()) {
      report.tokens_routed_otherwise =
          rows_that_differ(report.outputs.topk_ids, expected->topk_ids, inputs.tokens, config.top_k);
    }
  }
  return report;
}

void write_outputs(const std::string& path, const Report& report) {
  LayerOutputs outputs = report.outputs;
  const MoeConfig& config = report.layer.config;
  const std::int64_t tokens = report.tokens;
  std::vector<std::uint16_t> bits;
  void* y = outputs.y.data();
  if (outputs.dtype != DType::kF32) {
    bits = encode_io(outputs.y, outputs.dtype);
    y = bits.data();
  }
  std::vector<std::pair<std::string, TensorView>> tensors = {
      {"y", TensorView(y, outputs.dtype, {tokens, config.hidden})},
      {"topk_ids", TensorView(outputs.topk_ids.data(), DType::kI32, {tokens, config.top_k})},
      {"topk_weights", TensorView(outputs.topk_weights.data(), DType::kF32, {tokens, config.top_k})}};
  if (!outputs.logits.empty()) {
    tensors.emplace_back("router_logits", TensorView(outputs.logits.data(), DType::kF32, {tokens, config.num_experts}));
  }
  write_tensors(path, tensors);
}

Json finite_or_text(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : "inf";
}

Json to_json(const RunOptions& options, const Report& report) {
  const MoeConfig& config = report.layer.config;
  const LayerOutputs& outputs = report.outputs;
  Json json = {{"model", options.model},
               {"family", report.layer.family},
               {"layer", report.layer.layer},
               {"moe_layers", report.moe_layers},
               {"tokens", report.tokens},
               {"hidden", config.hidden},
               {"intermediate", config.intermediate},
               {"num_experts", config.num_experts},
               {"top_k", config.top_k},
               {"first_expert", config.experts.first},
               {"held_experts", num_local_experts(config)},
               {"shared_intermediate", config.shared.intermediate},
               {"stored", report.layer.stored},
               {"layout", report.layer.layout},
               {"routing", routing_method_name(config.routing.method)},
               {"activation", activation_name(config.activation.kind)},
               {"recipe", config.recipe},
               {"mode", options.mode},
               {"device", device_name(config.device)},
               {"kernels", outputs.kernels},
               {"rounded_inputs", outputs.rounded_inputs},
               {"prepared_bytes", outputs.prepared_bytes},
               {"workspace_bytes", outputs.workspace_bytes},
               {"convert_seconds", report.convert_seconds},
               {"create_seconds", outputs.create_seconds},
               {"prepare_seconds", outputs.prepare_seconds},
               {"first_run_seconds", outputs.first_run_seconds},
               {"median_seconds", outputs.median_seconds},
               {"timed_runs", outputs.timed_runs}};
  if (report.comparison) {
    const Comparison& c = *report.comparison;
    json["relative_l2"] = finite_or_text(c.relative_l2);
    json["worst_row_l2"] = finite_or_text(c.worst_row_l2);
    json["worst_row"] = c.worst_row;
    json["max_abs"] = finite_or_text(c.max_abs);
    json["max_abs_at"] = {c.max_row, c.max_col};
    json["tolerance"] = report.tolerance;
    json["verdict"] = report.passed() ? "pass" : "fail";
  }
  if (report.tokens_routed_otherwise) json["tokens_routed_otherwise"] = *report.tokens_routed_otherwise;
  return json;
}

std::string duration(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.2f} s", seconds);
}

std::string shared_text(const SharedExperts& shared) {
  if (shared.intermediate == 0) return "";
  return fmt::format(", shared {}{}", shared.intermediate, shared.gated ? " gated" : "");
}

void print_comparison(const Report& report) {
  const Comparison& c = *report.comparison;
  fmt::print("error      relative L2 {:.2e}, worst row {:.2e} (row {}), max {:.2e} (row {}, column {})\n",
             c.relative_l2, c.worst_row_l2, c.worst_row, c.max_abs, c.max_row, c.max_col);
  if (report.tokens_routed_otherwise) {
    fmt::print("routing    {} of {} tokens go to other experts than in the expected file\n",
               *report.tokens_routed_otherwise, report.tokens);
  }
  fmt::print("verdict    {}: worst row {:.2e}, tolerance {:.0e}\n", report.passed() ? "pass" : "FAIL", c.worst_row_l2,
             report.tolerance);
}

void print_text(const RunOptions& options, const Report& report) {
  const MoeConfig& config = report.layer.config;
  const LayerOutputs& outputs = report.outputs;
  fmt::print("model      {} ({}), layer {} of MoE layers {}\n", options.model, report.layer.family, report.layer.layer,
             fmt::join(report.moe_layers, ", "));
  fmt::print("shapes     tokens {}, hidden {}, intermediate {}, experts {}, top-k {}{}\n", report.tokens, config.hidden,
             config.intermediate, config.num_experts, config.top_k, shared_text(config.shared));
  fmt::print("weights    {}, {}\n", report.layer.stored, report.layer.layout);
  fmt::print("layer      routing {}, activation {}\n", routing_method_name(config.routing.method),
             activation_name(config.activation.kind));
  fmt::print("recipe     {}, mode {}, device {}\n", config.recipe, options.mode, device_name(config.device));
  if (outputs.rounded_inputs > 0) {
    fmt::print("input      {} values are not exact in {} and were rounded\n", outputs.rounded_inputs,
               dtype_name(outputs.dtype));
  }
  fmt::print("kernels    {}\n", fmt::join(outputs.kernels, "\n           "));
  fmt::print("time       {} (median of {}); first run {}, create {}, prepare {}\n", duration(outputs.median_seconds),
             outputs.timed_runs, duration(outputs.first_run_seconds), duration(outputs.create_seconds),
             duration(outputs.prepare_seconds));
  if (report.comparison) print_comparison(report);
}

int run(const RunOptions& options) {
  check_use(options);
  Report report = run_layer(options);
  if (!options.out.empty()) write_outputs(options.out, report);
  if (options.json) {
    fmt::print("{}\n", to_json(options, report).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print_text(options, report);
  }
  return report.passed() ? 0 : 1;
}

// A check of CLI11: the message of the Error that `parse` throws, or nothing.
template <class Parse>
auto accepted_by(Parse parse) {
  return [parse](const std::string& text) -> std::string {
    try {
      parse(text);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  CLI::App* verb =
      app.add_subcommand("run", "Run one MoE layer of a hub checkpoint and compare it with expected output");
  const auto options = std::make_shared<RunOptions>();
  verb->add_option("--model", options->model, "Folder with config.json and safetensors files")->required();
  verb->add_option("--layer", options->layer, "Layer number; default: the first MoE layer")
      ->check(CLI::NonNegativeNumber);
  verb->add_option("--input", options->input, "FILE[:NAME] with x [tokens, hidden]; default: the only tensor, or x")
      ->required();
  verb->add_option("--expect", options->expect, "FILE[:NAME] with the expected output; default: the only tensor, or y");
  verb->add_option("--recipe", options->recipe,
                   "Recipe; default: the checkpoint's own. Another one converts the weights")
      ->check(accepted_by([](const std::string& name) { tables::get_recipe(name); }));
  verb->add_option("--int4-group", options->int4.size, "Converting to int4: elements of K that share a scale")
      ->capture_default_str()
      ->check(CLI::IsMember({32, 64, 128}));
  verb->add_flag("--int4-zero-points", options->int4.zero_points, "Converting to int4: with zero points");
  verb->add_option("--experts", options->experts,
                   "FIRST-LAST: hold these experts alone, as one device of several; shared experts stay with expert 0");
  verb->add_option("--out", options->out, "Write y, router_logits, topk_ids and topk_weights to this safetensors file");
  verb->add_option("--device", options->device, "cpu or cuda:N")
      ->capture_default_str()
      ->check(accepted_by(parse_device));
  verb->add_option("--mode", options->mode, "On the CPU: exact (FP64), oracle (the recipe's roundings) or fast")
      ->capture_default_str()
      ->check(CLI::IsMember({"exact", "oracle", "fast"}));
  verb->add_option("--top-k-ids", options->topk_ids, "FILE[:NAME] with expert ids [tokens, k]: routing is skipped");
  verb->add_option("--top-k-weights", options->topk_weights, "FILE[:NAME] with their weights [tokens, k]");
  verb->add_option("--bundle", options->bundles, "Kernel bundle to search first; may be given more than once");
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([&action, options] { action = [options] { return run(*options); }; });
}

}  // namespace moesaic::cli
