// SPDX-License-Identifier: Apache-2.0
// Weights and checkpoints of the C interface.
#include <fmt/format.h>

#include "backend_cuda/device_weights.h"
#include "capi/handles.h"
#include "capi/structs.h"
#include "capi/tensors.h"

namespace moesaic::capi {
namespace {

static_assert(MOESAIC_GATE_FIRST == int(GateUpOrder::kGateFirst) && MOESAIC_UP_FIRST == int(GateUpOrder::kUpFirst) &&
              MOESAIC_INTERLEAVED_GATE_FIRST == int(GateUpOrder::kInterleavedGateFirst) &&
              MOESAIC_INTERLEAVED_UP_FIRST == int(GateUpOrder::kInterleavedUpFirst));
static_assert(MOESAIC_CODES_NONE == int(CodeFormat::kNone) && MOESAIC_CODES_E4M3 == int(CodeFormat::kE4M3) &&
              MOESAIC_CODES_E5M2 == int(CodeFormat::kE5M2) && MOESAIC_CODES_E2M1 == int(CodeFormat::kE2M1) &&
              MOESAIC_CODES_INT4 == int(CodeFormat::kInt4));
static_assert(MOESAIC_SCALES_F32 == int(ScaleFormat::kF32) && MOESAIC_SCALES_BF16 == int(ScaleFormat::kBF16) &&
              MOESAIC_SCALES_F16 == int(ScaleFormat::kF16) && MOESAIC_SCALES_E4M3 == int(ScaleFormat::kE4M3) &&
              MOESAIC_SCALES_E8M0 == int(ScaleFormat::kE8M0));
static_assert(MOESAIC_NIBBLES_LINEAR == int(NibbleOrder::kLinear) &&
              MOESAIC_NIBBLES_WORDS_ALONG_C == int(NibbleOrder::kWordsAlongC) &&
              MOESAIC_NIBBLES_WORDS_ALONG_R == int(NibbleOrder::kWordsAlongR) &&
              MOESAIC_NIBBLES_AWQ == int(NibbleOrder::kAwq));

std::vector<ExpertWeights> read_experts(const char* operation, const moesaic_weight_views& v, TensorReader& reader) {
  const bool fused = v.w13 != nullptr || v.w2 != nullptr;
  if (fused && v.num_experts > 0) refuse(operation, "views.experts", "given together with w13 and w2", "one of them");
  if (fused) {
    check_given(operation, "views.w13", v.w13, "a tensor, for w2 is given");
    check_given(operation, "views.w2", v.w2, "a tensor, for w13 is given");
    const auto order = enumerator(operation, "views.gate_up_order", v.gate_up_order, GateUpOrder::kInterleavedUpFirst);
    return expert_views(reader.compact("views.w13", v.w13), reader.compact("views.w2", v.w2), order, v.gated != 0,
                        v.transposed != 0, reader.compact("views.b13", v.b13), reader.compact("views.b2", v.b2));
  }
  if (v.num_experts > 0) check_given(operation, "views.experts", v.experts, "num_experts pointers");
  std::vector<ExpertWeights> experts;
  for (std::size_t e = 0; e < v.num_experts; ++e) {
    experts.push_back(reader.expert(fmt::format("views.experts[{}]", e), v.experts[e]));
  }
  return experts;
}

void check_on_host(const char* operation, const moesaic_weights* weights) {
  check_given(operation, "weights", weights, "a handle");
  if (weights->device.type == DeviceType::kCpu) return;
  refuse(operation, "weights", "on " + device_name(weights->device), "on the host");
}

}  // namespace
}  // namespace moesaic::capi

// The functions of the C interface.
using namespace moesaic;        // NOLINT(google-build-using-namespace): C names outside of every namespace
using namespace moesaic::capi;  // NOLINT(google-build-using-namespace)

moesaic_status moesaic_weights_create(const moesaic_weight_views* views, moesaic_weights** weights) {
  constexpr const char* kOperation = "weights_create";
  return guarded(kOperation, [&] {
    check_given(kOperation, "weights", weights, "where the handle goes");
    *weights = nullptr;
    const moesaic_weight_views v = read_struct(kOperation, "views", views);
    TensorReader reader(kOperation, std::nullopt);
    MoeWeights w;
    w.experts = read_experts(kOperation, v, reader);
    w.router = reader.numbers("views.router", v.router);
    w.router_bias = reader.vector("views.router_bias", v.router_bias);
    w.selection_bias = reader.vector("views.selection_bias", v.selection_bias);
    if (v.shared != nullptr) w.shared = reader.expert("views.shared", v.shared);
    w.shared_gate = reader.vector("views.shared_gate", v.shared_gate);
    w.token_experts = reader.compact("views.token_experts", v.token_experts);
    *weights = new moesaic_weights{std::move(w), reader.device(), nullptr};
  });
}

moesaic_status moesaic_weights_convert(const moesaic_moe_config* config, const moesaic_weights* weights,
                                       moesaic_weights** converted) {
  constexpr const char* kOperation = "weights_convert";
  return guarded(kOperation, [&] {
    check_given(kOperation, "converted", converted, "where the handle goes");
    *converted = nullptr;
    check_on_host(kOperation, weights);
    OwnedWeights owned = convert_weights(to_config(kOperation, config), weights->weights);
    // Matrices that had the format already are views into what the first handle owns.
    auto storage = std::make_shared<std::pair<std::shared_ptr<const void>, std::shared_ptr<const void>>>(
        weights->storage, std::move(owned.storage));
    *converted = new moesaic_weights{std::move(owned.weights), Device{}, std::move(storage)};
  });
}

moesaic_status moesaic_weights_to_device(const moesaic_weights* weights, DLDevice device, moesaic_weights** copy) {
  constexpr const char* kOperation = "weights_to_device";
  return guarded(kOperation, [&] {
    check_given(kOperation, "copy", copy, "where the handle goes");
    *copy = nullptr;
    check_on_host(kOperation, weights);
    const Device where = to_device(kOperation, device);
    if (where.type != DeviceType::kCuda) refuse(kOperation, "device", device_name(where), "a CUDA device");
    const auto there = std::make_shared<cuda::DeviceWeights>(where, weights->weights);
    *copy = new moesaic_weights{there->views(), where, there};
  });
}

void moesaic_weights_destroy(moesaic_weights* weights) { delete weights; }

moesaic_status moesaic_checkpoint_open(const char* folder, moesaic_checkpoint** checkpoint) {
  constexpr const char* kOperation = "checkpoint_open";
  return guarded(kOperation, [&] {
    check_given(kOperation, "checkpoint", checkpoint, "where the handle goes");
    *checkpoint = nullptr;
    check_given(kOperation, "folder", folder, "a path");
    *checkpoint = new moesaic_checkpoint{Checkpoint::open(folder)};
  });
}

void moesaic_checkpoint_close(moesaic_checkpoint* checkpoint) { delete checkpoint; }

moesaic_status moesaic_checkpoint_family(const moesaic_checkpoint* checkpoint, const char** family) {
  constexpr const char* kOperation = "checkpoint_family";
  return guarded(kOperation, [&] {
    check_given(kOperation, "checkpoint", checkpoint, "a handle");
    check_given(kOperation, "family", family, "where the text goes");
    *family = checkpoint->checkpoint.family().c_str();
  });
}

moesaic_status moesaic_checkpoint_moe_layers(const moesaic_checkpoint* checkpoint, const int32_t** layers,
                                             size_t* count) {
  constexpr const char* kOperation = "checkpoint_moe_layers";
  return guarded(kOperation, [&] {
    check_given(kOperation, "checkpoint", checkpoint, "a handle");
    check_given(kOperation, "layers", layers, "where the array goes");
    check_given(kOperation, "count", count, "where its size goes");
    *layers = checkpoint->checkpoint.moe_layers().data();
    *count = checkpoint->checkpoint.moe_layers().size();
  });
}

moesaic_status moesaic_checkpoint_load(const moesaic_checkpoint* checkpoint, int32_t layer, moesaic_moe_config* config,
                                       moesaic_weights** weights) {
  constexpr const char* kOperation = "checkpoint_load";
  return guarded(kOperation, [&] {
    check_given(kOperation, "weights", weights, "where the handle goes");
    *weights = nullptr;
    check_given(kOperation, "checkpoint", checkpoint, "a handle");
    CheckpointLayer loaded = checkpoint->checkpoint.load(layer);
    from_config(kOperation, loaded.config, config);
    *weights = new moesaic_weights{std::move(loaded.weights), Device{}, std::move(loaded.storage)};
  });
}
