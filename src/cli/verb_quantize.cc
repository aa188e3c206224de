// SPDX-License-Identifier: Apache-2.0
// `moesaic quantize`: a checkpoint folder again, with its experts in the format of another recipe.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/cli.h"
#include "cli/interrupt.h"
#include "moesaic/checkpoint.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

struct QuantizeVerbOptions {
  std::string model, out;
  QuantizeCheckpointOptions quantize;
  bool json = false;
};

// A line that is written over on a terminal; elsewhere one line for every tenth of the work.
class ProgressLine {
 public:
  void show(std::int64_t done, std::int64_t total, const std::string& what) {
    const std::int64_t tenth = 10 * done / total;
    if (terminal_) {
      fmt::print(stderr, "\r{:3}% {}\x1b[K", 100 * done / total, what);
      std::fflush(stderr);
      open_ = true;
    } else if (tenth != last_tenth_) {
      fmt::print(stderr, "{}%: {}\n", 10 * tenth, what);
    }
    last_tenth_ = tenth;
  }
  void finish() {
    if (open_) fmt::print(stderr, "\n");
    open_ = false;
  }

 private:
  bool terminal_ = ::isatty(STDERR_FILENO) == 1, open_ = false;
  std::int64_t last_tenth_ = 0;
};

int quantize(QuantizeVerbOptions options) {
  const InterruptGuard guard;
  ProgressLine line;
  options.quantize.progress = [&](std::int64_t done, std::int64_t total, const std::string& what) {
    if (InterruptGuard::interrupted()) {
      throw Error(ErrorKind::kIo, fmt::format("quantize: interrupted; {} was not made", options.out));
    }
    line.show(done, total, what);
  };
  const auto begin = std::chrono::steady_clock::now();
  QuantizedCheckpoint made;
  try {
    made = quantize_checkpoint(options.model, options.out, options.quantize);
  } catch (...) {
    line.finish();
    throw;
  }
  line.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (options.json) {
    const nlohmann::ordered_json json = {{"model", options.model},
                                         {"out", options.out},
                                         {"recipe", options.quantize.recipe},
                                         {"format", made.format},
                                         {"layers", made.layers},
                                         {"matrices", made.matrices},
                                         {"expert_bytes_written", made.bytes_written},
                                         {"seconds", seconds}};
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("{}: {} matrices of {} layers as {}, {} bytes, {:.1f} s\n", options.out, made.matrices, made.layers,
               made.format, made.bytes_written, seconds);
  }
  return 0;
}

}  // namespace

void add_quantize(CLI::App& app, Action& action) {
  CLI::App* verb =
      app.add_subcommand("quantize", "Write a checkpoint folder again with its experts in another recipe's format");
  const auto options = std::make_shared<QuantizeVerbOptions>();
  verb->add_option("--model", options->model, "Folder with config.json and safetensors files")->required();
  verb->add_option("--recipe", options->quantize.recipe, "Recipe whose weights are written; bf16 and fp16 dequantise")
      ->required()
      ->check([](const std::string& name) -> std::string {
        return tables::recipe_index(name) >= 0 ? "" : fmt::format("recipe '{}' is not known", name);
      });
  verb->add_option("--out", options->out, "Folder to make; must not exist")->required();
  verb->add_option("--int4-group", options->quantize.int4.size, "int4: elements of K that share a scale")
      ->capture_default_str()
      ->check(CLI::IsMember({32, 64, 128}));
  verb->add_flag("--int4-zero-points", options->quantize.int4.zero_points, "int4: with zero points");
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([&action, options] { action = [options] { return quantize(*options); }; });
}

}  // namespace moesaic::cli
