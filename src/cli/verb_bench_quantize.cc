// SPDX-License-Identifier: Apache-2.0
// `moesaic bench quantize`: time and rate of quantisers, against copying as many bytes on the same machine.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "backend_cuda/device.h"
#include "cli/bench_quantize.h"
#include "cli/kernel_masks.h"
#include "cli/text_table.h"
#include "moesaic/error.h"
#include "tables/quant_table.h"

namespace moesaic::cli {
namespace {

struct Arguments {
  std::vector<std::string> formats = {"all"}, bundles;
  std::string device = "cpu", layout = "linear", activation, type = "bf16";
  std::int64_t rows = 8192, cols = 4096;
  int group = 32;
  bool zero_points = false, floor = false, json = false;
};

DType parse_type(const std::string& name) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw UsageError(fmt::format("--type '{}' is not known; known: bf16, f16, f32", name));
}

std::optional<Activation> parse_activation(const std::string& name) {
  if (name.empty()) return std::nullopt;
  std::string known;
  for (int i = 0; i <= static_cast<int>(ActivationKind::kSitu); ++i) {
    const auto kind = static_cast<ActivationKind>(i);
    if (!is_gated(kind)) continue;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", activation_name(kind));
    if (name != activation_name(kind)) continue;
    Activation activation;
    activation.kind = kind;
    return activation;
  }
  throw UsageError(fmt::format("--activation '{}' is not a gated activation; known: {}", name, known));
}

/// Formats by name; a layout that some of "all" have not is linear there.
std::vector<QuantSpec> parse_specs(const Arguments& a) {
  std::vector<QuantSpec> specs;
  const ScaleLayout layout = parse_scale_layout(a.layout);
  for (const std::string& word : words_of(a.formats)) {
    for (const tables::QuantRow& row : tables::kQuantTable) {
      if (word != "all" && row.format != parse_quant_format(word)) continue;
      QuantSpec spec{.format = row.format, .layout = layout};
      if (word == "all" && !row.padded_layouts) spec.layout = ScaleLayout::kLinear;
      spec.e8m0 = a.floor ? E8m0Rounding::kFloor : E8m0Rounding::kUp;
      spec.int4.size = a.group;
      spec.int4.zero_points = a.zero_points;
      quant_sizes(spec, a.rows, a.cols);  // throws on what the format cannot take
      specs.push_back(spec);
    }
  }
  return specs;
}

nlohmann::json to_json(const QuantBenchOptions& o, const std::vector<QuantBenchPoint>& points,
                       const std::string& device) {
  nlohmann::json list = nlohmann::json::array();
  for (const QuantBenchPoint& p : points) {
    const double bytes = p.bytes_read + p.bytes_written;
    list.push_back({{"format", quant_format_name(p.spec.format)},
                    {"layout", scale_layout_name(p.spec.layout)},
                    {"bytes_read", p.bytes_read},
                    {"bytes_written", p.bytes_written},
                    {"time_us", p.time.us},
                    {"spread", p.time.spread},
                    {"gb_per_s", bytes / p.time.us / 1e3},
                    {"copy_gb_per_s", bytes / p.copy_us / 1e3},
                    {"fraction_of_copy", p.copy_us / p.time.us}});
  }
  return {{"rows", o.rows},
          {"cols", o.cols},
          {"type", dtype_name(o.dtype)},
          {"activation", o.activation ? nlohmann::json(activation_name(o.activation->kind)) : nlohmann::json()},
          {"device", device},
          {"points", list}};
}

void print_text(const QuantBenchOptions& o, const std::vector<QuantBenchPoint>& points, const std::string& device) {
  fmt::print("{} [{}, {}]{} on {}; bytes are read and written ones, copies measured now over as many\n",
             dtype_name(o.dtype), o.rows, o.cols,
             o.activation ? fmt::format(" after {}", activation_name(o.activation->kind)) : "", device);
  TextTable table({"format", "layout", "MB", "us", "spread", "GB/s", "copy GB/s", "of copy"});
  for (const QuantBenchPoint& p : points) {
    const double bytes = p.bytes_read + p.bytes_written;
    table.add({quant_format_name(p.spec.format), scale_layout_name(p.spec.layout), fmt::format("{:.1f}", bytes / 1e6),
               fmt::format("{:.1f}", p.time.us), fmt::format("{:.0f}%", 100 * p.time.spread),
               fmt::format("{:.1f}", bytes / p.time.us / 1e3), fmt::format("{:.1f}", bytes / p.copy_us / 1e3),
               fmt::format("{:.0f}%", 100 * p.copy_us / p.time.us)});
  }
  fmt::print("{}", table.aligned());
}

int bench_quantize(const Arguments& a) {
  QuantBenchOptions o;
  try {
    o.device = parse_device(a.device);
    o.specs = parse_specs(a);
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
  o.rows = a.rows;
  o.cols = a.cols;
  o.dtype = parse_type(a.type);
  o.activation = parse_activation(a.activation);
  o.modules.bundles = a.bundles;
  const bool on_cpu = o.device.type == DeviceType::kCpu;
  const std::vector<QuantBenchPoint> points = on_cpu ? bench_quantize_cpu(o) : bench_quantize_cuda(o);
  std::string device = device_name(o.device);
  if (!on_cpu) device += " (" + cuda::device_info(o.device.index).name + ")";
  if (a.json) {
    fmt::print("{}\n", to_json(o, points, device).dump(2));
  } else {
    print_text(o, points, device);
  }
  return 0;
}

}  // namespace

void add_bench_quantize(CLI::App& bench, Action& action) {
  CLI::App* verb = bench.add_subcommand("quantize", "Quantisers of [rows, cols], against a copy of as many bytes");
  const auto a = std::make_shared<Arguments>();
  verb->add_option("--format", a->formats, "Formats (nvfp4, mxfp8, fp8_1x128, ...) by comma or blank; default: all");
  verb->add_option("--rows", a->rows, "Rows")->check(CLI::Range(1, 1 << 28));
  verb->add_option("--cols", a->cols, "Columns of what is quantised")->check(CLI::Range(1, 1 << 28));
  verb->add_option("--type", a->type, "Type of x: bf16, f16 or f32");
  verb->add_option("--layout", a->layout, "Order of block scales: linear, 128x4 or 8x4");
  verb->add_option("--activation", a->activation, "A gated activation on the way (swiglu, geglu, ...)");
  verb->add_option("--group", a->group, "Elements of an int4 group: 32, 64 or 128");
  verb->add_flag("--zero-points", a->zero_points, "int4 with zero points");
  verb->add_flag("--floor", a->floor, "E8M0 scales by the OCP floor rule");
  verb->add_option("--device", a->device, "cpu or cuda:N");
  verb->add_option("--bundle", a->bundles, "Kernel bundle (zip); may be given more than once");
  verb->add_flag("--json", a->json, "Print JSON");
  verb->callback([&action, a] { action = [a] { return bench_quantize(*a); }; });
}

}  // namespace moesaic::cli
