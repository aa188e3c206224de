// SPDX-License-Identifier: Apache-2.0
// Prepared weights through the C interface, compiled as C11: files, and one expert at a time.
#include <stdlib.h>

#include "check.h"

void capi_prepared_file(capi_data* d, const char* path, float* replaced, float* loaded) {
  moesaic_moe_config config;
  moesaic_moe* moe = NULL;
  moesaic_moe_run run;
  moesaic_expert expert;
  moesaic_matrix gate, up, down;
  capi_tensor x, out, gate_values, up_values, down_values;
  size_t prepared_bytes = 0, workspace_bytes = 0;
  capi_config(&config);
  CHECK_OK(moesaic_moe_create(&config, NULL, &moe));
  CHECK_OK(moesaic_moe_prepared_bytes(moe, &prepared_bytes));
  CHECK_OK(moesaic_moe_workspace_bytes(moe, kTokens, &workspace_bytes));
  void* prepared = aligned_alloc(256, (prepared_bytes + 255) / 256 * 256);
  void* workspace = aligned_alloc(256, (workspace_bytes + 255) / 256 * 256);
  moesaic_weights* weights = capi_fused_weights(d);
  CHECK_OK(moesaic_moe_prepare(moe, weights, prepared, NULL));
  CHECK_OK(moesaic_moe_save_prepared(moe, prepared, path, NULL));

  // Expert 0 becomes expert 1 without biases.
  CHECK_OK(moesaic_expert_init(&expert, sizeof(expert)));
  CHECK_OK(moesaic_matrix_init(&gate, sizeof(gate)));
  CHECK_OK(moesaic_matrix_init(&up, sizeof(up)));
  CHECK_OK(moesaic_matrix_init(&down, sizeof(down)));
  capi_make(&gate_values, d->w13[1], kDLBfloat, 16, 2, kIntermediate, kHidden, 0);
  capi_make(&up_values, d->w13[1][kIntermediate], kDLBfloat, 16, 2, kIntermediate, kHidden, 0);
  capi_make(&down_values, d->w2[1], kDLBfloat, 16, 2, kHidden, kIntermediate, 0);
  gate.values = &gate_values.t;
  up.values = &up_values.t;
  down.values = &down_values.t;
  expert.gate = &gate;
  expert.down = &down;
  CHECK_REFUSED(moesaic_moe_prepare_expert(moe, 0, &expert, prepared, NULL), MOESAIC_INVALID_ARGUMENT, ".up");
  expert.up = &up;
  CHECK_REFUSED(moesaic_moe_prepare_expert(moe, kExperts, &expert, prepared, NULL), MOESAIC_INVALID_ARGUMENT, "0 to 3");
  CHECK_REFUSED(moesaic_moe_prepare_expert(moe, 0, NULL, prepared, NULL), MOESAIC_INVALID_ARGUMENT, "weights is NULL");
  CHECK_REFUSED(moesaic_moe_prepare_expert(moe, 0, &expert, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "null pointer");
  gate_values.t.device.device_type = kDLCUDA;
  CHECK_REFUSED(moesaic_moe_prepare_expert(moe, 0, &expert, prepared, NULL), MOESAIC_INVALID_ARGUMENT, "on cuda:0");
  gate_values.t.device.device_type = kDLCPU;
  CHECK_OK(moesaic_moe_prepare_expert(moe, 0, &expert, prepared, NULL));

  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  capi_make(&x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  capi_make(&out, replaced, kDLFloat, 32, 2, kTokens, kHidden, 0);
  run.x = &x.t;
  run.out = &out.t;
  run.prepared = prepared;
  run.workspace = workspace;
  run.workspace_bytes = workspace_bytes;
  CHECK_OK(moesaic_moe_run_layer(moe, &run, NULL));
  CHECK_REFUSED(moesaic_moe_load_prepared(moe, "/no/such/file", prepared, NULL), MOESAIC_IO, "/no/such/file");
  CHECK_REFUSED(moesaic_moe_load_prepared(moe, NULL, prepared, NULL), MOESAIC_INVALID_ARGUMENT, "path is NULL");
  CHECK_REFUSED(moesaic_moe_save_prepared(moe, prepared, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "path is NULL");
  CHECK_OK(moesaic_moe_load_prepared(moe, path, prepared, NULL));
  out.t.data = loaded;
  CHECK_OK(moesaic_moe_run_layer(moe, &run, NULL));
  moesaic_weights_destroy(weights);
  moesaic_moe_destroy(moe);
  free(prepared);
  free(workspace);
}
