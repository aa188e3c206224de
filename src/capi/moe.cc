// SPDX-License-Identifier: Apache-2.0
// The layer, its reference and its explanation in the C interface.
#include "moesaic/explain.h"

#include <fmt/format.h>

#include "capi/handles.h"
#include "capi/structs.h"
#include "capi/tensors.h"

namespace moesaic::capi {
namespace {

static_assert(MOESAIC_EXACT == int(ReferenceMode::kExact) && MOESAIC_ORACLE == int(ReferenceMode::kOracle));

MoeRun read_run(const char* operation, const moesaic_moe_run* run, const MoeConfig& config, Device device) {
  const moesaic_moe_run r = read_struct(operation, "run", run);
  TensorReader reader(operation, device);
  MoeRun to;
  check_given(operation, "run.x", r.x, "a tensor");
  check_given(operation, "run.out", r.out, "a tensor");
  // Rows and columns do not matter: x is looked at when the layer is called.
  const auto codes = tables::given_codes(config.recipe, 0, 0);
  to.x = reader.activations("run.x", r.x, codes);
  to.x_scale = reader.activation_scales("run.x_scale", r.x_scale, codes);
  to.x_row_scale = reader.compact("run.x_row_scale", r.x_row_scale);
  to.router_logits = reader.compact("run.router_logits", r.router_logits);
  to.topk_ids = reader.compact("run.topk_ids", r.topk_ids);
  to.topk_weights = reader.compact("run.topk_weights", r.topk_weights);
  to.out = reader.compact("run.out", r.out);
  to.prepared = r.prepared;
  to.workspace = r.workspace;
  to.workspace_bytes = r.workspace_bytes;
  to.logits_out = reader.compact("run.logits_out", r.logits_out);
  to.topk_ids_out = reader.compact("run.topk_ids_out", r.topk_ids_out);
  to.topk_weights_out = reader.compact("run.topk_weights_out", r.topk_weights_out);
  to.token_ids = reader.compact("run.token_ids", r.token_ids);
  to.expert_offsets = reader.compact("run.expert_offsets", r.expert_offsets);
  to.expert_counts = reader.compact("run.expert_counts", r.expert_counts);
  return to;
}

void check_weights_device(const char* operation, const moesaic_weights* weights, Device device) {
  check_given(operation, "weights", weights, "a handle");
  if (weights->device.type == device.type && weights->device.index == device.index) return;
  refuse(operation, "weights", "on " + device_name(weights->device), "on " + device_name(device));
}

}  // namespace
}  // namespace moesaic::capi

// The functions of the C interface.
using namespace moesaic;        // NOLINT(google-build-using-namespace): C names outside of every namespace
using namespace moesaic::capi;  // NOLINT(google-build-using-namespace)

moesaic_status moesaic_moe_create(const moesaic_moe_config* config, const moesaic_module_options* modules,
                                  moesaic_moe** moe) {
  constexpr const char* kOperation = "moe_create";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "where the handle goes");
    *moe = nullptr;
    *moe = new moesaic_moe{FusedMoe::create(to_config(kOperation, config), to_modules(kOperation, modules))};
  });
}

void moesaic_moe_destroy(moesaic_moe* moe) { delete moe; }

moesaic_status moesaic_moe_prepared_bytes(const moesaic_moe* moe, size_t* bytes) {
  constexpr const char* kOperation = "moe_prepared_bytes";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "a handle");
    check_given(kOperation, "bytes", bytes, "where the size goes");
    *bytes = moe->moe.prepared_bytes();
  });
}

moesaic_status moesaic_moe_prepare(const moesaic_moe* moe, const moesaic_weights* weights, void* prepared,
                                   void* stream) {
  constexpr const char* kOperation = "moe_prepare";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "a handle");
    check_weights_device(kOperation, weights, moe->moe.config().device);
    moe->moe.prepare(weights->weights, prepared, stream);
  });
}

moesaic_status moesaic_moe_prepare_expert(const moesaic_moe* moe, int32_t expert, const moesaic_expert* weights,
                                          void* prepared, void* stream) {
  constexpr const char* kOperation = "moe_prepare_expert";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "a handle");
    TensorReader reader(kOperation, moe->moe.config().device);
    moe->moe.prepare_expert(expert, reader.expert("weights", weights), prepared, stream);
  });
}

moesaic_status moesaic_moe_save_prepared(const moesaic_moe* moe, const void* prepared, const char* path, void* stream) {
  constexpr const char* kOperation = "moe_save_prepared";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "a handle");
    check_given(kOperation, "path", path, "a path");
    moe->moe.save_prepared(prepared, path, stream);
  });
}

moesaic_status moesaic_moe_load_prepared(const moesaic_moe* moe, const char* path, void* prepared, void* stream) {
  constexpr const char* kOperation = "moe_load_prepared";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "a handle");
    check_given(kOperation, "path", path, "a path");
    moe->moe.load_prepared(path, prepared, stream);
  });
}

moesaic_status moesaic_moe_workspace_bytes(const moesaic_moe* moe, int64_t tokens, size_t* bytes) {
  constexpr const char* kOperation = "moe_workspace_bytes";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "a handle");
    check_given(kOperation, "bytes", bytes, "where the size goes");
    *bytes = moe->moe.workspace_bytes(tokens);
  });
}

moesaic_status moesaic_moe_dispatched_workspace_bytes(const moesaic_moe* moe, int64_t rows, size_t* bytes) {
  constexpr const char* kOperation = "moe_dispatched_workspace_bytes";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "a handle");
    check_given(kOperation, "bytes", bytes, "where the size goes");
    *bytes = moe->moe.dispatched_workspace_bytes(rows);
  });
}

moesaic_status moesaic_moe_run_layer(const moesaic_moe* moe, const moesaic_moe_run* run, void* stream) {
  constexpr const char* kOperation = "moe_run_layer";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "a handle");
    moe->moe.run(read_run(kOperation, run, moe->moe.config(), moe->moe.config().device), stream);
  });
}

moesaic_status moesaic_moe_kernels(const moesaic_moe* moe, int64_t tokens, char* text, size_t capacity,
                                   size_t* needed) {
  constexpr const char* kOperation = "moe_kernels";
  return guarded(kOperation, [&] {
    check_given(kOperation, "moe", moe, "a handle");
    std::string names;
    for (const std::string& name : moe->moe.kernels(tokens)) names += name + "\n";
    write_text(kOperation, names, text, capacity, needed);
  });
}

moesaic_status moesaic_reference_moe(const moesaic_moe_config* config, const moesaic_weights* weights, int32_t mode,
                                     const moesaic_moe_run* run) {
  constexpr const char* kOperation = "reference_moe";
  return guarded(kOperation, [&] {
    check_weights_device(kOperation, weights, Device{});
    const auto which = enumerator(kOperation, "mode", mode, ReferenceMode::kOracle);
    const MoeConfig c = to_config(kOperation, config);
    reference_moe(c, weights->weights, which, read_run(kOperation, run, c, Device{}));
  });
}

moesaic_status moesaic_explain(const moesaic_moe_config* config, int64_t tokens, char* text, size_t capacity,
                               size_t* needed) {
  constexpr const char* kOperation = "explain";
  return guarded(kOperation, [&] {
    write_text(kOperation, explain(to_config(kOperation, config), tokens), text, capacity, needed);
  });
}
