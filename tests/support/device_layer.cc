// SPDX-License-Identifier: Apache-2.0
// A host layer brought to a GPU: weights uploaded, prepared, run with poisoned buffers.
#include "support/device_layer.h"

#include <cstdio>
#include <stdexcept>

#include "backend_cuda/device.h"
#include "backend_cuda/device_weights.h"
#include "module/kernel_instance.h"
#include "support/poisoned_buffer.h"
#include "tables/given_codes.h"

namespace moesaic::testing {
namespace {

/// Device copies of what a run is given.
struct GivenBuffers {
  PoisonedBuffer x, logits, ids, weights, token_ids, codes, scale, row_scale;

  GivenBuffers(Device device, const LayerInput& input)
      : x(device, input.x.bytes),
        logits(device, input.logits),
        ids(device, input.ids),
        weights(device, input.weights),
        token_ids(device, input.token_ids),
        codes(device, input.codes),
        scale(device, input.scale),
        row_scale(device, input.row_scale) {}

  /// Views of those that are given. `tokens` rows.
  void add_to(MoeRun& run, const LayerInput& input, const MoeConfig& c, std::int64_t tokens) const {
    run.x = TensorView(x.data(), input.x.dtype, {tokens, c.hidden});
    if (!input.codes.empty()) add_codes(run, input, c, tokens);
    if (!input.logits.empty()) run.router_logits = TensorView(logits.data(), DType::kF32, {tokens, c.num_experts});
    if (!input.token_ids.empty()) run.token_ids = TensorView(token_ids.data(), DType::kI64, {tokens});
    if (input.ids.empty()) return;
    run.topk_ids = TensorView(ids.data(), DType::kI32, {tokens, c.top_k});
    run.topk_weights = TensorView(weights.data(), DType::kF32, {tokens, c.top_k});
  }

 private:
  void add_codes(MoeRun& run, const LayerInput& input, const MoeConfig& c, std::int64_t tokens) const {
    const auto form = tables::given_codes(c.recipe, tokens, c.hidden).value();
    const auto view = [](const PoisonedBuffer& buffer, const tables::GivenTensor& t) {
      return t.rank == 1 ? TensorView(buffer.data(), t.dtype, {t.shape[0]})
                         : TensorView(buffer.data(), t.dtype, {t.shape[0], t.shape[1]});
    };
    run.x = view(codes, form.codes);
    const bool one_for_all = form.common_scale && input.scale.size() == dtype_size(form.scale.dtype);
    run.x_scale = one_for_all ? TensorView(scale.data(), form.scale.dtype, {1}) : view(scale, form.scale);
    if (form.row_scale) {
      run.x_row_scale = TensorView(row_scale.data(), DType::kF32, {static_cast<std::int64_t>(input.row_scale.size())});
    }
  }
};

std::int64_t token_count(const LayerInput& input, const MoeConfig& c) {
  if (input.codes.empty()) return input.x.size() / c.hidden;
  return input.ids.empty() ? static_cast<std::int64_t>(input.logits.size()) / c.num_experts
                           : static_cast<std::int64_t>(input.ids.size()) / c.top_k;
}

}  // namespace

bool have_gpu() {
  const std::string why = cuda::why_no_cuda();
  if (!why.empty()) std::printf("no GPU: %s\n", why.c_str());
  return why.empty();
}

std::optional<ModuleOptions> modules_that_serve(const tables::KernelRow& row, int recipe) {
  ModuleOptions modules;
  const tables::ArchRow* arch = tables::find_arch(cuda::device_info(0).sm);
  if (arch != nullptr && tables::why_not(row, *arch, recipe).empty()) return modules;
  if (!tables::why_not(row, tables::kArchTable.front(), recipe).empty()) return std::nullopt;
  modules.force_target = module::portable_ptx_target().name;
  return modules;
}

DeviceLayer::DeviceLayer(const MoeWeights& host, const MoeConfig& config, const ModuleOptions& modules)
    : layer_(FusedMoe::create(config, modules)) {
  PoisonedBuffer memory(config.device, layer_.prepared_bytes());
  const cuda::DeviceWeights weights(config.device, host);
  layer_.prepare(weights.views(), memory.data());
  cuda::synchronize(config.device);
  if (!memory.intact()) throw std::runtime_error("prepare wrote behind its buffer");
  prepared_ = memory.release();
}

std::vector<unsigned char> DeviceLayer::prepared_bytes() const {
  std::vector<unsigned char> bytes(layer_.prepared_bytes());
  prepared_.download(bytes.data(), bytes.size());
  return bytes;
}

DeviceOutput DeviceLayer::run_into(DType out, const LayerInput& input, void* stream) const {
  const MoeConfig& c = layer_.config();
  const std::int64_t tokens = token_count(input, c);
  const auto slots = static_cast<std::size_t>(tokens * c.top_k);
  const bool computes_logits = input.logits.empty() && input.ids.empty();
  const GivenBuffers given(device(), input);
  const PoisonedBuffer y(device(), static_cast<std::size_t>(tokens * c.hidden) * dtype_size(out)),
      ids(device(), slots * 4), weights(device(), slots * 4), workspace(device(), layer_.workspace_bytes(tokens)),
      logits(device(), computes_logits ? static_cast<std::size_t>(tokens * c.num_experts) * 4 : 0);
  MoeRun run;
  given.add_to(run, input, c, tokens);
  run.out = TensorView(y.data(), out, {tokens, c.hidden});
  run.prepared = prepared_.data();
  run.workspace = workspace.data();
  run.workspace_bytes = workspace.size();
  if (computes_logits) run.logits_out = TensorView(logits.data(), DType::kF32, {tokens, c.num_experts});
  run.topk_ids_out = TensorView(ids.data(), DType::kI32, {tokens, c.top_k});
  run.topk_weights_out = TensorView(weights.data(), DType::kF32, {tokens, c.top_k});
  layer_.run(run, stream);
  cuda::synchronize(device());
  return {{out, y.fetch<unsigned char>()},
          logits.fetch<float>(),
          ids.fetch<int>(),
          weights.fetch<float>(),
          workspace.intact() && y.intact() && logits.intact() && ids.intact() && weights.intact()};
}

DeviceResult DeviceLayer::run(const HostArray& x, const std::vector<float>& logits, const std::vector<int>& ids,
                              const std::vector<float>& weights, const std::vector<std::int64_t>& token_ids) const {
  const LayerInput input{x, logits, ids, weights, token_ids};
  const DeviceOutput wide = run_into(DType::kF32, input),
                     rounded = run_into(tables::get_recipe(layer_.config().recipe).io, input);
  return {to_floats(wide.y), to_floats(rounded.y), wide.logits,
          wide.ids,          wide.weights,         wide.guard_intact && rounded.guard_intact};
}

}  // namespace moesaic::testing
