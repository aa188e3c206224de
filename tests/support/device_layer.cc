// SPDX-License-Identifier: Apache-2.0
// A host layer brought to a GPU: weights uploaded, prepared, run with poisoned buffers.
#include "support/device_layer.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "backend_cuda/device.h"

namespace moesaic::testing {
namespace {

constexpr std::size_t kGuard = 4096;
constexpr unsigned char kPoison = 0xff;  // NaN in every float type, -1 as an integer

bool all_poison(const cuda::DeviceBuffer& buffer, std::size_t from) {
  std::vector<unsigned char> bytes(buffer.size() - from);
  buffer.download(bytes.data(), bytes.size(), from);
  for (const unsigned char b : bytes) {
    if (b != kPoison) return false;
  }
  return true;
}

cuda::DeviceBuffer poisoned(Device device, std::size_t bytes) {
  cuda::DeviceBuffer buffer(device, bytes + kGuard);
  buffer.fill(kPoison);
  return buffer;
}

template <typename T>
std::vector<T> fetch(const cuda::DeviceBuffer& buffer, std::size_t count) {
  std::vector<T> values(count);
  buffer.download(values.data(), count * sizeof(T));
  return values;
}

}  // namespace

bool have_gpu() {
  const std::string why = cuda::why_no_cuda();
  if (!why.empty()) std::printf("no GPU: %s\n", why.c_str());
  return why.empty();
}

template <typename Visit>
void DeviceWeights::for_each(MoeWeights& w, Visit visit) {
  const auto expert = [&](ExpertWeights& e) {
    visit(e.gate), visit(e.up), visit(e.down);
    visit(e.gate_bias), visit(e.up_bias), visit(e.down_bias);
  };
  for (ExpertWeights& e : w.experts) expert(e);
  expert(w.shared);
  visit(w.router), visit(w.router_bias), visit(w.selection_bias), visit(w.shared_gate);
}

void DeviceWeights::measure(const MatrixView& m) {
  if (m.empty()) return;
  const auto last = static_cast<std::size_t>((m.rows - 1) * m.row_stride + (m.cols - 1) * m.col_stride + 1);
  std::size_t& extent = extents_[static_cast<const char*>(m.data)];
  extent = std::max(extent, last * dtype_size(m.dtype));
}

void DeviceWeights::measure(const VectorView& v) {
  if (!v.empty()) measure(MatrixView{v.data, v.dtype, 1, v.size, 0, v.stride});
}

MatrixView DeviceWeights::rebase(MatrixView m) const {
  if (!m.empty()) m.data = buffers_.at(static_cast<const char*>(m.data)).data();
  return m;
}

VectorView DeviceWeights::rebase(VectorView v) const {
  if (!v.empty()) v.data = buffers_.at(static_cast<const char*>(v.data)).data();
  return v;
}

MoeWeights DeviceWeights::upload(const MoeWeights& host) {
  MoeWeights device = host;
  for_each(device, [this](auto& view) { measure(view); });
  for (const auto& [start, bytes] : extents_) {
    cuda::DeviceBuffer buffer(device_, bytes);
    buffer.upload(start, bytes);
    buffers_.emplace(start, std::move(buffer));
  }
  for_each(device, [this](auto& view) { view = rebase(view); });
  if (!host.token_experts.empty()) {
    const auto bytes = static_cast<std::size_t>(host.token_experts.num_elements()) * 4;
    cuda::DeviceBuffer buffer(device_, bytes);
    buffer.upload(host.token_experts.data, bytes);
    device.token_experts.data = buffer.data();
    buffers_.emplace(static_cast<const char*>(host.token_experts.data), std::move(buffer));
  }
  return device;
}

DeviceLayer::DeviceLayer(const HostLayer& host, const MoeConfig& config, const ModuleOptions& modules)
    : layer_(FusedMoe::create(config, modules)), prepared_(poisoned(config.device, layer_.prepared_bytes())) {
  DeviceWeights weights(config.device);
  layer_.prepare(weights.upload(host.weights), prepared_.data());
  cuda::synchronize(config.device);
  if (!all_poison(prepared_, layer_.prepared_bytes())) throw std::runtime_error("prepare wrote behind its buffer");
}

DeviceResult DeviceLayer::run(const HostArray& x, const std::vector<float>& logits, const std::vector<int>& ids,
                              const std::vector<float>& weights, const std::vector<std::int64_t>& token_ids) const {
  const MoeConfig& c = layer_.config();
  const std::int64_t tokens = x.size() / c.hidden;
  const auto n = static_cast<std::size_t>(x.size());
  const auto slots = static_cast<std::size_t>(tokens * c.top_k);
  const auto scores = static_cast<std::size_t>(tokens * c.num_experts);
  cuda::DeviceBuffer dx = poisoned(device(), x.bytes.size());
  dx.upload(x.bytes.data(), x.bytes.size());
  cuda::DeviceBuffer given_logits = poisoned(device(), logits.size() * 4),
                     given_ids = poisoned(device(), ids.size() * 4),
                     given_weights = poisoned(device(), weights.size() * 4);
  given_logits.upload(logits.data(), logits.size() * 4);
  given_ids.upload(ids.data(), ids.size() * 4);
  given_weights.upload(weights.data(), weights.size() * 4);
  cuda::DeviceBuffer out = poisoned(device(), n * 4), rounded = poisoned(device(), n * 2);
  cuda::DeviceBuffer logits_out = poisoned(device(), scores * 4), ids_out = poisoned(device(), slots * 4),
                     weights_out = poisoned(device(), slots * 4);
  const std::size_t workspace_bytes = layer_.workspace_bytes(tokens);
  cuda::DeviceBuffer workspace = poisoned(device(), workspace_bytes);

  MoeRun run;
  run.x = TensorView(dx.data(), x.dtype, {tokens, c.hidden});
  if (!logits.empty()) run.router_logits = TensorView(given_logits.data(), DType::kF32, {tokens, c.num_experts});
  cuda::DeviceBuffer given_tokens(device(), token_ids.size() * 8);
  if (!token_ids.empty()) {
    given_tokens.upload(token_ids.data(), token_ids.size() * 8);
    run.token_ids = TensorView(given_tokens.data(), DType::kI64, {tokens});
  }
  if (!ids.empty()) {
    run.topk_ids = TensorView(given_ids.data(), DType::kI32, {tokens, c.top_k});
    run.topk_weights = TensorView(given_weights.data(), DType::kF32, {tokens, c.top_k});
  }
  run.out = TensorView(out.data(), DType::kF32, {tokens, c.hidden});
  run.prepared = prepared_.data();
  run.workspace = workspace.data();
  run.workspace_bytes = workspace_bytes;
  const bool computes_logits = logits.empty() && ids.empty();
  if (computes_logits) run.logits_out = TensorView(logits_out.data(), DType::kF32, {tokens, c.num_experts});
  run.topk_ids_out = TensorView(ids_out.data(), DType::kI32, {tokens, c.top_k});
  run.topk_weights_out = TensorView(weights_out.data(), DType::kF32, {tokens, c.top_k});
  layer_.run(run);
  run.out = TensorView(rounded.data(), tables::get_recipe(c.recipe).io, {tokens, c.hidden});
  layer_.run(run);
  cuda::synchronize(device());

  DeviceResult result;
  result.out = fetch<float>(out, n);
  HostArray io{tables::get_recipe(c.recipe).io, fetch<unsigned char>(rounded, n * 2)};
  result.rounded = to_floats(io);
  if (computes_logits) result.logits = fetch<float>(logits_out, scores);
  result.ids = fetch<int>(ids_out, slots);
  result.weights = fetch<float>(weights_out, slots);
  result.guard_intact = all_poison(workspace, workspace_bytes) && all_poison(out, n * 4) &&
                        all_poison(rounded, n * 2) && all_poison(ids_out, slots * 4) &&
                        all_poison(weights_out, slots * 4);
  return result;
}

}  // namespace moesaic::testing
