// SPDX-License-Identifier: Apache-2.0
// Any bytes as a layer of the C interface: its weights, memory, prepared files and runs, and checkpoint folders.
// MOESAIC_OK, or a status with a text, and no byte outside of the given memory; a run that fails leaves a handle
// usable.
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>

#include "fuzz/capi_arguments.h"

namespace {

using namespace moesaic::testing;

constexpr std::size_t kMostBytes = 4'000'000;

template <typename Handle, void (*Destroy)(Handle*)>
struct Destroyer {
  void operator()(Handle* handle) const { Destroy(handle); }
};
using Moe = std::unique_ptr<moesaic_moe, Destroyer<moesaic_moe, moesaic_moe_destroy>>;
using Weights = std::unique_ptr<moesaic_weights, Destroyer<moesaic_weights, moesaic_weights_destroy>>;
using Memory = std::unique_ptr<moesaic_memory, Destroyer<moesaic_memory, moesaic_memory_destroy>>;
using Checkpoint = std::unique_ptr<moesaic_checkpoint, Destroyer<moesaic_checkpoint, moesaic_checkpoint_close>>;

/// What a function that makes a handle gave; null exactly where it failed.
template <typename Owner, typename Make>
Owner made(const Make& make) {
  typename Owner::pointer handle = nullptr;
  const bool done = ok(make(&handle));
  demand(done == (handle != nullptr), "a handle of a failure, or none of a success");
  return Owner(handle);
}

moesaic_moe_config choose_layer(Choices& c) {
  auto config = filled(c, moesaic_moe_config_init);
  config.hidden = c.of({64, 128, 5});
  config.intermediate = c.of({32, 64});
  config.num_experts = c.of({4, 2});
  config.top_k = c.of({2, 1});
  config.recipe = choose_recipe(c);
  config.activation = c.of({3, 4, 0, 6});
  config.routing = c.below(10);
  config.router = c.flag() ? 1 : 0;
  config.weights_on_input = c.rarely() ? 1 : 0;
  config.max_tokens = 16;
  config.device = choose_device(c);
  if (c.below(4) == 3) config.shared_intermediate = 32;
  if (config.routing == MOESAIC_HASH) config.vocabulary = 5;
  spoil_field(c, {&config.hidden, &config.intermediate, &config.num_experts, &config.top_k, &config.activation,
                  &config.routing, &config.shared_intermediate, &config.max_tokens, &config.experts_first,
                  &config.experts_count, &config.tp_rank, &config.tp_size});
  return config;
}

bool is_small(const moesaic_moe_config& config) {
  const auto up_to = [](std::int32_t value, std::int32_t most) { return value >= 0 && value <= most; };
  return up_to(config.hidden, 200) && up_to(config.intermediate, 200) && up_to(config.num_experts, 200) &&
         up_to(config.top_k, 200) && up_to(config.shared_intermediate, 200) && up_to(config.max_tokens, 200);
}

/// The structs of one call's weights, whose addresses stay.
struct WeightStructs {
  std::deque<moesaic_matrix> matrices;
  std::deque<moesaic_expert> experts;
  std::array<const moesaic_expert*, 8> pointers{};
};

const moesaic_expert* choose_expert(Choices& c, Arguments& a, const moesaic_moe_config& config, WeightStructs& structs,
                                    std::int64_t intermediate) {
  const auto matrix = [&](std::int64_t rows, std::int64_t cols) -> const moesaic_matrix* {
    structs.matrices.push_back(choose_matrix(c, a, rows, cols));
    return c.rarely() ? nullptr : &structs.matrices.back();
  };
  auto expert = filled(c, moesaic_expert_init);
  expert.gate = matrix(intermediate, config.hidden);
  if (config.activation == MOESAIC_SWIGLU || config.activation == MOESAIC_GEGLU) {
    expert.up = matrix(intermediate, config.hidden);
  }
  expert.down = matrix(config.hidden, intermediate);
  if (c.rarely()) expert.gate_bias = a.input(kF32, {intermediate});
  if (c.rarely()) expert.down_bias = a.input(kBf16, {config.hidden});
  if (c.rarely()) expert.input_scale = c.of({1.0f, -1.0f, std::nanf("")});
  structs.experts.push_back(expert);
  return &structs.experts.back();
}

moesaic_weight_views choose_views(Choices& c, Arguments& a, const moesaic_moe_config& config, WeightStructs& structs) {
  auto views = filled(c, moesaic_weight_views_init);
  const std::int64_t e = config.num_experts, i = config.intermediate, h = config.hidden;
  const bool gated = config.activation == MOESAIC_SWIGLU || config.activation == MOESAIC_GEGLU;
  if (c.flag()) {
    views.gated = c.rarely() ? c.below(4) : gated;
    views.transposed = c.rarely() ? 1 : 0;
    const std::int64_t rows = gated ? 2 * i : i;
    views.w13 = views.transposed != 0 ? a.input(kBf16, {e, h, rows}) : a.input(kBf16, {e, rows, h});
    views.w2 = views.transposed != 0 ? a.input(kBf16, {e, i, h}) : a.input(kBf16, {e, h, i});
    if (c.rarely()) views.b13 = a.input(kF32, {e, rows}), views.b2 = a.input(kF32, {e, h});
    spoil_field(c, {&views.gate_up_order, &views.gated, &views.transposed});
  } else {
    views.num_experts = std::min<std::size_t>(static_cast<std::size_t>(e), structs.pointers.size());
    for (std::size_t n = 0; n < views.num_experts; ++n) {
      structs.pointers[n] = c.rarely() ? nullptr : choose_expert(c, a, config, structs, i);
    }
    views.experts = c.rarely() ? nullptr : structs.pointers.data();
    if (c.rarely()) views.num_experts = 1;
  }
  if (config.router != 0 || c.rarely()) views.router = a.input(c.of({kBf16, kF32}), {e, h});
  if (config.routing == MOESAIC_DEEPSEEK_V3) views.selection_bias = a.input(kF32, {e});
  if (config.routing == MOESAIC_HASH) views.token_experts = a.input(kI32, {config.vocabulary, config.top_k});
  if (config.shared_intermediate > 0) {
    views.shared = choose_expert(c, a, config, structs, config.shared_intermediate);
  }
  return views;
}

moesaic_moe_run choose_run(Choices& c, Arguments& a, const moesaic_moe_config& config) {
  const std::int64_t t = c.of({3, 1, 16, 0}), e = config.num_experts, k = config.top_k;
  auto run = filled(c, moesaic_moe_run_init);
  const DLDataType io = {static_cast<std::uint8_t>(c.rarely() ? kDLFloat : kDLBfloat), 16, 1};
  run.x = a.input(io, {t, config.hidden});
  run.out = a.output(c.of({io, kF32}), {t, config.hidden});
  switch (c.below(6)) {
    case 0:
      run.topk_ids = a.input(kI32, {t, k});
      run.topk_weights = a.input(kF32, {t, k});
      break;
    case 1:
      run.expert_offsets = a.input(kI32, {e + 1});
      break;
    case 2:
      run.expert_counts = a.input(kI32, {e});
      break;
    case 3:
      if (config.router != 0) break;
      [[fallthrough]];
    default:
      run.router_logits = a.input(kF32, {t, e});
  }
  if (config.routing == MOESAIC_HASH) run.token_ids = a.input(c.of({kI64, kI32}), {t});
  if (c.rarely()) run.x_scale = a.input(kF32, {t}), run.x_row_scale = a.input(kF32, {t});
  if (c.rarely()) run.logits_out = a.output(kF32, {t, e});
  if (c.flag()) run.topk_ids_out = a.output(kI32, {t, k}), run.topk_weights_out = a.output(kF32, {t, k});
  return run;
}

/// Prepared weights to a file and back: the same bytes, in memory of the layer's own size.
void fuzz_prepared_file(Choices& c, const moesaic_moe* moe, GuardedMemory& prepared, std::size_t bytes) {
  namespace fs = std::filesystem;
  const std::string file = fs::temp_directory_path() / ("moesaic-fuzz-" + std::to_string(::getpid()));
  const char* path = c.rarely() ? c.of<const char*>({nullptr, "", "/nowhere/file"}) : file.c_str();
  if (ok(moesaic_moe_save_prepared(moe, prepared.data(), path, nullptr))) {
    if (c.rarely()) fs::resize_file(file, fs::file_size(file) / 2);
    GuardedMemory again(bytes);
    if (ok(moesaic_moe_load_prepared(moe, path, again.data(), nullptr))) {
      demand(std::memcmp(again.data(), prepared.data(), bytes) == 0, "a file that gives other bytes");
    }
    demand(again.intact(), "bytes outside of the given memory written");
  }
  std::error_code error;
  fs::remove(file, error);
}

void fuzz_layer(Choices& c) {
  const moesaic_moe_config config = choose_layer(c);
  if (!is_small(config)) return;
  const auto moe = made<Moe>([&](moesaic_moe** to) { return moesaic_moe_create(&config, nullptr, to); });
  Arguments a(c);
  WeightStructs structs;
  const moesaic_weight_views views = choose_views(c, a, config, structs);
  auto weights =
      made<Weights>([&](moesaic_weights** to) { return moesaic_weights_create(c.rarely() ? nullptr : &views, to); });
  if (!c.rarely()) {
    weights = made<Weights>([&](moesaic_weights** to) { return moesaic_weights_convert(&config, weights.get(), to); });
  }
  // A GPU that no machine has; the CPU is none.
  const DLDevice nowhere = {c.flag() ? kDLCUDA : kDLCPU, 64};
  made<Weights>([&](moesaic_weights** to) { return moesaic_weights_to_device(weights.get(), nowhere, to); });
  std::size_t bytes = 0;
  const bool sized = ok(moesaic_moe_prepared_bytes(moe.get(), &bytes));
  demand(sized == (moe != nullptr), "a size of nothing, or none of a layer");
  if (!sized || bytes > kMostBytes) return;
  GuardedMemory prepared(bytes, 0xff, c.rarely() ? 64 : 0);
  const bool ready = ok(moesaic_moe_prepare(moe.get(), weights.get(), c.rarely() ? nullptr : prepared.data(), nullptr));
  if (c.below(4) == 3) {
    const moesaic_expert* expert = choose_expert(c, a, config, structs, config.intermediate);
    ok(moesaic_moe_prepare_expert(moe.get(), c.below(6) - 1, c.rarely() ? nullptr : expert, prepared.data(), nullptr));
  }
  if (ready && c.below(8) == 7) fuzz_prepared_file(c, moe.get(), prepared, bytes);
  moesaic_moe_run run = choose_run(c, a, config);
  run.prepared = ready || c.rarely() ? prepared.data() : nullptr;
  const auto space = made<Memory>([&](moesaic_memory** to) {
    return moesaic_memory_create(c.rarely() ? choose_device(c) : DLDevice{kDLCPU, 0}, kMostBytes, to);
  });
  run.workspace = moesaic_memory_data(space.get());
  run.workspace_bytes = c.rarely() ? 16 : kMostBytes;
  ok(moesaic_moe_run_layer(moe.get(), c.rarely() ? nullptr : &run, nullptr));
  ok(moesaic_synchronize(choose_device(c)));
  if (c.flag()) ok(moesaic_reference_moe(&config, weights.get(), c.rarely() ? c.of({-1, 2}) : c.below(2), &run));
  demand(a.intact() && prepared.intact(), "bytes outside of the given memory written");
}

void fuzz_checkpoint(Choices& c) {
  const std::string data = MOESAIC_TEST_DATA "/checkpoints/";
  const std::string folder = data + c.of<const char*>({"mixtral", "deepseek_v3", "gpt_oss", "none", ""});
  const auto checkpoint = made<Checkpoint>([&](moesaic_checkpoint** to) {
    return moesaic_checkpoint_open(c.rarely() ? c.of<const char*>({nullptr, ""}) : folder.c_str(), to);
  });
  const char* family = nullptr;
  demand(!ok(moesaic_checkpoint_family(checkpoint.get(), c.rarely() ? nullptr : &family)) || *family != '\0',
         "a family without a name");
  const std::int32_t* layers = nullptr;
  std::size_t count = 0;
  const bool listed = ok(moesaic_checkpoint_moe_layers(checkpoint.get(), &layers, c.rarely() ? nullptr : &count));
  const std::int32_t layer = listed && count > 0 && c.flag()
                                 ? layers[static_cast<std::size_t>(c.next()) % count]
                                 : c.of<std::int32_t>({-1, 0, 1, -2, 99, std::numeric_limits<std::int32_t>::max()});
  auto config = filled(c, moesaic_moe_config_init);
  const auto weights = made<Weights>([&](moesaic_weights** to) {
    return moesaic_checkpoint_load(checkpoint.get(), layer, c.rarely() ? nullptr : &config, to);
  });
  if (weights == nullptr) return;
  config.max_tokens = 16;
  const auto moe = made<Moe>([&](moesaic_moe** to) { return moesaic_moe_create(&config, nullptr, to); });
  std::size_t bytes = 0;
  if (!ok(moesaic_moe_prepared_bytes(moe.get(), &bytes)) || bytes > kMostBytes) return;
  GuardedMemory prepared(bytes);
  demand(ok(moesaic_moe_prepare(moe.get(), weights.get(), prepared.data(), nullptr)), "a checkpoint's own weights");
  demand(prepared.intact(), "bytes outside of the given memory written");
}

void look_at_line(moesaic_log_level level, const char* message, void* user) {
  demand(level >= MOESAIC_LOG_DEBUG && level <= MOESAIC_LOG_WARNING && message != nullptr && user != nullptr,
         "a log line of no level, without text or without its user");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  demand(moesaic_abi_version() == MOESAIC_ABI_VERSION && *moesaic_version() != '\0', "another library");
  Choices c(data, size);
  demand(ok(moesaic_set_log_callback(look_at_line, &c)), "a log callback is refused");
  c.below(6) == 5 ? fuzz_checkpoint(c) : fuzz_layer(c);
  demand(ok(moesaic_set_log_callback(nullptr, nullptr)), "the default log is refused");
  return 0;
}
