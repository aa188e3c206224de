// SPDX-License-Identifier: Apache-2.0
// What the enumerators of moe.h mean in words, and views into fused expert tensors.
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/tensor_text.h"
#include "moesaic/moe.h"

namespace moesaic {

ActivationParameters activation_parameters(const Activation& activation) noexcept {
  ActivationParameters defaults{1.0f, 0.0f, std::numeric_limits<float>::infinity()};
  if (activation.kind == ActivationKind::kSwigluStep) defaults.limit = 7.0f;
  if (activation.kind == ActivationKind::kSitu) {
    defaults.alpha = 4.0f;
    defaults.beta = 25.0f;
  }
  return {activation.alpha.value_or(defaults.alpha), activation.beta.value_or(defaults.beta),
          activation.limit.value_or(defaults.limit)};
}

bool is_gated(ActivationKind kind) noexcept {
  switch (kind) {
    case ActivationKind::kSwiglu:
    case ActivationKind::kGeglu:
    case ActivationKind::kSwigluBias:
    case ActivationKind::kSwigluStep:
    case ActivationKind::kGegluTanh:
    case ActivationKind::kSitu:
      return true;
    case ActivationKind::kGelu:
    case ActivationKind::kRelu:
    case ActivationKind::kSilu:
    case ActivationKind::kRelu2:
    case ActivationKind::kIdentity:
      return false;
  }
  return false;
}

const char* activation_name(ActivationKind kind) noexcept {
  switch (kind) {
    case ActivationKind::kGelu:
      return "gelu";
    case ActivationKind::kRelu:
      return "relu";
    case ActivationKind::kSilu:
      return "silu";
    case ActivationKind::kSwiglu:
      return "swiglu";
    case ActivationKind::kGeglu:
      return "geglu";
    case ActivationKind::kSwigluBias:
      return "swiglu_bias";
    case ActivationKind::kRelu2:
      return "relu2";
    case ActivationKind::kSwigluStep:
      return "swiglu_step";
    case ActivationKind::kGegluTanh:
      return "geglu_tanh";
    case ActivationKind::kIdentity:
      return "identity";
    case ActivationKind::kSitu:
      return "situ";
  }
  return "unknown";
}

const char* routing_method_name(RoutingMethod method) noexcept {
  switch (method) {
    case RoutingMethod::kSoftmaxTopK:
      return "softmax_topk";
    case RoutingMethod::kSoftmaxTopKRenorm:
      return "softmax_topk_renorm";
    case RoutingMethod::kTopKSoftmax:
      return "topk_softmax";
    case RoutingMethod::kDeepSeekV3:
      return "deepseek_v3";
    case RoutingMethod::kDeepSeekV2:
      return "deepseek_v2";
    case RoutingMethod::kLlama4:
      return "llama4";
    case RoutingMethod::kTopK:
      return "topk";
    case RoutingMethod::kSigmoid:
      return "sigmoid";
    case RoutingMethod::kMiniMax2:
      return "minimax2";
    case RoutingMethod::kHash:
      return "hash";
  }
  return "unknown";
}

bool has_selection_bias(RoutingMethod method) noexcept {
  return method == RoutingMethod::kDeepSeekV3 || method == RoutingMethod::kMiniMax2;
}

bool gives_codes(const MoeRun& run) noexcept { return run.x.dtype == DType::kU8; }
bool is_dispatched(const MoeRun& run) noexcept { return !run.expert_offsets.empty() || !run.expert_counts.empty(); }

int num_local_experts(const MoeConfig& config) noexcept {
  if (config.experts.slots.empty()) return config.experts.count == 0 ? config.num_experts : config.experts.count;
  int held = 0;
  for (const int slot : config.experts.slots) held += slot >= 0 ? 1 : 0;
  return held;
}

namespace {

using base::tensor_text;

bool is_weight_type(DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32; }

void check_fused(const TensorView& tensor, const char* name, const std::vector<std::int64_t>& wanted,
                 const char* layout) {
  bool same = tensor.rank == static_cast<int>(wanted.size());
  for (int i = 0; same && i < tensor.rank; ++i) same = tensor.shape[i] == wanted[i];
  if (!same) {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("expert_views: {} is {}, wanted {} = [{}]", name,
                                                         tensor_text(tensor), layout, fmt::join(wanted, ", ")));
  }
  if (!is_weight_type(tensor.dtype)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("expert_views: {} has type {}, wanted bf16, f16 or f32", name, dtype_name(tensor.dtype)));
  }
  if (tensor.data == nullptr) {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("expert_views: {} has no memory (null pointer)", name));
  }
  if (!base::is_aligned_for(tensor.data, tensor.dtype)) {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("expert_views: {} is at {}, wanted a multiple of {} bytes",
                                                         name, tensor.data, dtype_size(tensor.dtype)));
  }
}

const void* element_address(const TensorView& tensor, std::int64_t index) {
  return static_cast<const std::byte*>(tensor.data) + index * static_cast<std::int64_t>(dtype_size(tensor.dtype));
}

// Rows first, first + step, ... of expert `expert`'s matrix; with `transposed` the rows are the stored columns.
MatrixView row_view(const TensorView& w, std::int64_t expert, std::int64_t first, std::int64_t step, std::int64_t rows,
                    bool transposed) {
  const std::int64_t stored_rows = w.shape[1], stored_cols = w.shape[2];
  const std::int64_t row_stride = transposed ? 1 : stored_cols;
  MatrixView view;
  view.data = element_address(w, expert * stored_rows * stored_cols + first * row_stride);
  view.dtype = w.dtype;
  view.rows = rows;
  view.cols = transposed ? stored_rows : stored_cols;
  view.row_stride = step * row_stride;
  view.col_stride = transposed ? stored_cols : 1;
  return view;
}

VectorView bias_view(const TensorView& bias, std::int64_t expert, std::int64_t first, std::int64_t step,
                     std::int64_t size) {
  VectorView view;
  view.data = element_address(bias, expert * bias.shape[1] + first);
  view.dtype = bias.dtype;
  view.size = size;
  view.stride = step;
  return view;
}

struct Rows {
  std::int64_t gate, up, step;  // first gate row, first up row, distance between rows of one kind
};

Rows fused_rows(GateUpOrder order, std::int64_t intermediate) {
  switch (order) {
    case GateUpOrder::kGateFirst:
      return {0, intermediate, 1};
    case GateUpOrder::kUpFirst:
      return {intermediate, 0, 1};
    case GateUpOrder::kInterleavedGateFirst:
      return {0, 1, 2};
    case GateUpOrder::kInterleavedUpFirst:
      return {1, 0, 2};
  }
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("expert_views: order has value {}, wanted an enumerator", static_cast<int>(order)));
}

}  // namespace

std::vector<ExpertWeights> expert_views(const TensorView& w13, const TensorView& w2, GateUpOrder order, bool gated,
                                        bool transposed, const TensorView& b13, const TensorView& b2) {
  if (w2.rank != 3) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("expert_views: w2 is {}, wanted three dimensions", tensor_text(w2)));
  }
  const std::int64_t experts = w2.shape[0];
  const std::int64_t hidden = transposed ? w2.shape[2] : w2.shape[1];
  const std::int64_t intermediate = transposed ? w2.shape[1] : w2.shape[2];
  if (experts <= 0 || hidden <= 0 || intermediate <= 0) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("expert_views: w2 is {}, wanted sizes above 0", tensor_text(w2)));
  }
  const std::int64_t rows = gated ? 2 * intermediate : intermediate;
  const auto w13_shape = transposed ? std::vector{experts, hidden, rows} : std::vector{experts, rows, hidden};
  check_fused(w2, "w2", {experts, w2.shape[1], w2.shape[2]}, transposed ? "E, I, H" : "E, H, I");
  check_fused(w13, "w13", w13_shape, "from w2: E, rows, H or transposed");
  if (b13.empty() != b2.empty()) {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("expert_views: {} is given without {}, wanted both or neither",
                                                         b13.empty() ? "b2" : "b13", b13.empty() ? "b13" : "b2"));
  }
  if (!b13.empty()) {
    check_fused(b13, "b13", {experts, rows}, "E, rows of w13");
    check_fused(b2, "b2", {experts, hidden}, "E, H");
  }

  const Rows first = gated ? fused_rows(order, intermediate) : Rows{0, 0, 1};
  std::vector<ExpertWeights> views(static_cast<std::size_t>(experts));
  for (std::int64_t e = 0; e < experts; ++e) {
    ExpertWeights& expert = views[static_cast<std::size_t>(e)];
    expert.gate = row_view(w13, e, first.gate, first.step, intermediate, transposed);
    if (gated) expert.up = row_view(w13, e, first.up, first.step, intermediate, transposed);
    expert.down = row_view(w2, e, 0, 1, hidden, transposed);
    if (b13.empty()) continue;
    expert.gate_bias = bias_view(b13, e, first.gate, first.step, intermediate);
    if (gated) expert.up_bias = bias_view(b13, e, first.up, first.step, intermediate);
    expert.down_bias = bias_view(b2, e, 0, 1, hidden);
  }
  return views;
}

}  // namespace moesaic
