// SPDX-License-Identifier: Apache-2.0
// One layer run once or a few times, on the CPU or a GPU.
#include "cli/layer_run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>

#include "backend_cpu/fast_number.h"
#include "backend_cuda/device_memory.h"
#include "backend_cuda/device_weights.h"
#include "tables/recipe_table.h"

namespace moesaic::cli {
namespace {

constexpr int kTimedRuns = 7;

double seconds_of(const auto& work) {
  auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

cpu::Io io_of(DType dtype) { return dtype == DType::kF16 ? cpu::Io::kFp16 : cpu::Io::kBf16; }

// Elements whose value the io type changed. NaN stays NaN.
std::int64_t count_rounded(const std::vector<float>& before, const std::vector<float>& after) {
  std::int64_t changed = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    changed += before[i] != after[i] && !(std::isnan(before[i]) && std::isnan(after[i]));
  }
  return changed;
}

// Host memory for every tensor of a run, and the views over it. Outputs begin as NaN and -1: what is not written shows.
struct HostRun {
  HostRun(const MoeConfig& config, const LayerInputs& inputs, DType io) : x(inputs.x), io(io) {
    std::size_t tokens = static_cast<std::size_t>(inputs.tokens);
    if (io != DType::kF32) {
      x16 = encode_io(inputs.x, io);
      y16.assign(x.size(), 0xFFFF);  // NaN in both types
    }
    y.assign(x.size(), std::numeric_limits<float>::quiet_NaN());
    ids = inputs.topk_ids;
    weights = inputs.topk_weights;
    routing_given = !ids.empty() || !weights.empty();
    if (routing_given) return;
    logits.assign(tokens * static_cast<std::size_t>(config.num_experts), std::numeric_limits<float>::quiet_NaN());
    ids.assign(tokens * static_cast<std::size_t>(config.top_k), -1);
    weights.assign(ids.size(), std::numeric_limits<float>::quiet_NaN());
  }

  std::vector<float> x, y, logits, weights;
  std::vector<std::uint16_t> x16, y16;
  std::vector<std::int32_t> ids;
  DType io;
  bool routing_given = false;

  void* x_data() { return io == DType::kF32 ? static_cast<void*>(x.data()) : x16.data(); }
  void* y_data() { return io == DType::kF32 ? static_cast<void*>(y.data()) : y16.data(); }
  std::size_t x_bytes() const { return x.size() * dtype_size(io); }

  LayerOutputs outputs() {
    LayerOutputs result;
    result.dtype = io;
    if (io != DType::kF32) {
      result.rounded_inputs = count_rounded(x, decode_io(x16, io));
      y = decode_io(y16, io);
    }
    result.y = std::move(y);
    result.logits = std::move(logits);
    result.topk_ids = std::move(ids);
    result.topk_weights = std::move(weights);
    return result;
  }
};

struct RunPointers {
  void *x, *y, *logits, *ids, *weights;
};

MoeRun views(const MoeConfig& config, std::int64_t tokens, DType io, bool routing_given, const RunPointers& at) {
  MoeRun run;
  run.x = TensorView(at.x, io, {tokens, config.hidden});
  run.out = TensorView(at.y, io, {tokens, config.hidden});
  TensorView ids(at.ids, DType::kI32, {tokens, config.top_k}), weights(at.weights, DType::kF32, {tokens, config.top_k});
  if (routing_given) {
    run.topk_ids = ids;
    run.topk_weights = weights;
  } else {
    run.logits_out = TensorView(at.logits, DType::kF32, {tokens, config.num_experts});
    run.topk_ids_out = ids;
    run.topk_weights_out = weights;
  }
  return run;
}

using AlignedMemory = std::unique_ptr<void, void (*)(void*)>;

AlignedMemory aligned_memory(std::size_t bytes) {
  void* memory = std::aligned_alloc(256, (bytes / 256 + 1) * 256);
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, std::free};
}

void time_runs(LayerOutputs* outputs, const auto& one_run) {
  std::vector<double> seconds;
  for (int i = 0; i < kTimedRuns; ++i) seconds.push_back(one_run());
  outputs->median_seconds = median(seconds);
  outputs->timed_runs = kTimedRuns;
}

LayerOutputs run_on_cpu(const FusedMoe& moe, const MoeWeights& weights, const LayerInputs& inputs, HostRun& host) {
  LayerOutputs facts;
  AlignedMemory prepared = aligned_memory(moe.prepared_bytes());
  facts.prepare_seconds = seconds_of([&] { moe.prepare(weights, prepared.get()); });
  facts.workspace_bytes = moe.workspace_bytes(inputs.tokens);
  AlignedMemory workspace = aligned_memory(facts.workspace_bytes);
  MoeRun run = views(moe.config(), inputs.tokens, host.io, host.routing_given,
                     {host.x_data(), host.y_data(), host.logits.data(), host.ids.data(), host.weights.data()});
  run.prepared = prepared.get();
  run.workspace = workspace.get();
  run.workspace_bytes = facts.workspace_bytes;
  auto one_run = [&] { return seconds_of([&] { moe.run(run); }); };
  facts.first_run_seconds = one_run();
  time_runs(&facts, one_run);
  return facts;
}

// A device copy of a host array; an empty array gets a byte, so that T = 0 has pointers.
template <class T>
cuda::DeviceBuffer device_copy(Device device, const std::vector<T>& host) {
  std::size_t bytes = host.size() * sizeof(T);
  cuda::DeviceBuffer buffer(device, std::max<std::size_t>(bytes, 1));
  if (bytes > 0) buffer.upload(host.data(), bytes);
  return buffer;
}

template <class T>
void download(const cuda::DeviceBuffer& buffer, std::vector<T>* host) {
  if (!host->empty()) buffer.download(host->data(), host->size() * sizeof(T));
}

LayerOutputs run_on_cuda(const FusedMoe& moe, const MoeWeights& weights, const LayerInputs& inputs, HostRun& host) {
  const Device device = moe.config().device;
  LayerOutputs facts;
  cuda::Stream stream(device);
  cuda::DeviceBuffer prepared(device, std::max<std::size_t>(moe.prepared_bytes(), 1));
  {
    cuda::DeviceWeights on_device(device, weights);
    facts.prepare_seconds = seconds_of([&] {
      moe.prepare(on_device.views(), prepared.data(), stream.get());
      stream.synchronize();
    });
  }
  facts.workspace_bytes = moe.workspace_bytes(inputs.tokens);
  cuda::DeviceBuffer workspace(device, std::max<std::size_t>(facts.workspace_bytes, 1));
  cuda::DeviceBuffer x = device_copy(device, host.x16), y = device_copy(device, host.y16),
                     logits = device_copy(device, host.logits), ids = device_copy(device, host.ids),
                     weights_out = device_copy(device, host.weights);
  MoeRun run = views(moe.config(), inputs.tokens, host.io, host.routing_given,
                     {x.data(), y.data(), logits.data(), ids.data(), weights_out.data()});
  run.prepared = prepared.data();
  run.workspace = workspace.data();
  run.workspace_bytes = facts.workspace_bytes;
  facts.first_run_seconds = seconds_of([&] {
    moe.run(run, stream.get());
    stream.synchronize();
  });
  download(y, &host.y16);
  download(logits, &host.logits);
  download(ids, &host.ids);
  download(weights_out, &host.weights);
  cuda::Timer timer(device);
  time_runs(&facts, [&] {
    timer.start(stream);
    moe.run(run, stream.get());
    return timer.stop_us(stream) * 1e-6;
  });
  return facts;
}

}  // namespace

std::vector<std::uint16_t> encode_io(const std::vector<float>& values, DType dtype) {
  std::vector<std::uint16_t> bits(values.size());
  std::transform(values.begin(), values.end(), bits.begin(),
                 [io = io_of(dtype)](float value) { return cpu::from_float(value, io); });
  return bits;
}

std::vector<float> decode_io(const std::vector<std::uint16_t>& bits, DType dtype) {
  std::vector<float> values(bits.size());
  std::transform(bits.begin(), bits.end(), values.begin(),
                 [io = io_of(dtype)](std::uint16_t value) { return cpu::to_float(value, io); });
  return values;
}

LayerOutputs run_reference(const MoeConfig& config, const MoeWeights& weights, ReferenceMode mode,
                           const LayerInputs& inputs) {
  DType io = mode == ReferenceMode::kExact ? DType::kF32 : tables::get_recipe(config.recipe).io;
  HostRun host(config, inputs, io);
  MoeRun run = views(config, inputs.tokens, io, host.routing_given,
                     {host.x_data(), host.y_data(), host.logits.data(), host.ids.data(), host.weights.data()});
  double seconds = seconds_of([&] { reference_moe(config, weights, mode, run); });
  LayerOutputs outputs = host.outputs();
  outputs.kernels = {mode == ReferenceMode::kExact ? "cpu_exact" : "cpu_oracle"};
  outputs.first_run_seconds = outputs.median_seconds = seconds;
  outputs.timed_runs = 1;
  return outputs;
}

LayerOutputs run_fused(const MoeConfig& config, const MoeWeights& weights, const ModuleOptions& modules,
                       const LayerInputs& inputs) {
  std::optional<FusedMoe> moe;
  double create_seconds = seconds_of([&] { moe.emplace(FusedMoe::create(config, modules)); });
  HostRun host(config, inputs, tables::get_recipe(config.recipe).io);
  bool on_cpu = config.device.type == DeviceType::kCpu;
  LayerOutputs facts = (on_cpu ? run_on_cpu : run_on_cuda)(*moe, weights, inputs, host);
  LayerOutputs outputs = host.outputs();
  outputs.kernels = moe->kernels(inputs.tokens);
  outputs.create_seconds = create_seconds;
  outputs.prepare_seconds = facts.prepare_seconds;
  outputs.first_run_seconds = facts.first_run_seconds;
  outputs.median_seconds = facts.median_seconds;
  outputs.timed_runs = facts.timed_runs;
  outputs.prepared_bytes = moe->prepared_bytes();
  outputs.workspace_bytes = facts.workspace_bytes;
  return outputs;
}

}  // namespace moesaic::cli
