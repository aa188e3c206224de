// SPDX-License-Identifier: Apache-2.0
// The layer through the C interface, compiled as C11.
#include <stdlib.h>

#include "check.h"

void capi_check_ok(const char* file, int line, const char* what, moesaic_status got) {
  if (got != MOESAIC_OK) capi_fail(file, line, what, moesaic_last_error());
}

void capi_check_refused(const char* file, int line, const char* what, moesaic_status got, moesaic_status wanted,
                        const char* word) {
  if (got != wanted) capi_fail(file, line, what, moesaic_status_name(got));
  if (got != MOESAIC_OK && strstr(moesaic_last_error(), word) == NULL) {
    capi_fail(file, line, word, moesaic_last_error());
  }
}

void capi_make(capi_tensor* tensor, void* data, int code, int bits, int rank, int64_t a, int64_t b, int64_t c) {
  memset(tensor, 0, sizeof(*tensor));
  tensor->shape[0] = a;
  tensor->shape[1] = b;
  tensor->shape[2] = c;
  tensor->t.data = data;
  tensor->t.device.device_type = kDLCPU;
  tensor->t.ndim = rank;
  tensor->t.dtype.code = (uint8_t)code;
  tensor->t.dtype.bits = (uint8_t)bits;
  tensor->t.dtype.lanes = 1;
  tensor->t.shape = tensor->shape;
}

static float next_number(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  return ((float)(*state >> 8) / 8388608.0f - 1.0f) * 0.5f;
}

static uint16_t next_bf16(uint32_t* state) {
  const float number = next_number(state);
  uint32_t bits = 0;
  memcpy(&bits, &number, 4);
  return (uint16_t)(bits >> 16);
}

static void fill_bf16(uint16_t* to, size_t count, uint32_t* state) {
  for (size_t i = 0; i < count; ++i) to[i] = next_bf16(state);
}

void capi_fill(capi_data* d) {
  uint32_t state = 4711;
  fill_bf16(&d->w13[0][0][0], sizeof(d->w13) / 2, &state);
  fill_bf16(&d->w2[0][0][0], sizeof(d->w2) / 2, &state);
  fill_bf16(&d->router[0][0], sizeof(d->router) / 2, &state);
  fill_bf16(&d->x[0][0], sizeof(d->x) / 2, &state);
  for (size_t i = 0; i < sizeof(d->b13) / 4; ++i) (&d->b13[0][0])[i] = next_number(&state);
  for (size_t i = 0; i < sizeof(d->b2) / 4; ++i) (&d->b2[0][0])[i] = next_number(&state);
  for (size_t i = 0; i < sizeof(d->logits) / 4; ++i) (&d->logits[0][0])[i] = 4 * next_number(&state);
  for (int e = 0; e < kExperts; ++e) d->selection_bias[e] = next_number(&state);
  for (int t = 0; t < kTokens; ++t) d->token_ids[t] = (5 * t + 3) % kVocabulary;
  d->token_ids[kTokens - 1] = kVocabulary;
  for (int v = 0; v < kVocabulary; ++v) {
    for (int s = 0; s < kTopK; ++s) d->token_experts[v][s] = (v / 3 + s + 1) % kExperts;
  }
}

void capi_config(moesaic_moe_config* c) {
  CHECK_OK(moesaic_moe_config_init(c, sizeof(*c)));
  c->hidden = kHidden;
  c->intermediate = kIntermediate;
  c->num_experts = kExperts;
  c->top_k = kTopK;
  c->max_tokens = 16;
}

moesaic_weights* capi_fused_weights(capi_data* d) {
  moesaic_weight_views views;
  capi_tensor w13, w2, b13, b2, router;
  moesaic_weights* weights = NULL;
  CHECK_OK(moesaic_weight_views_init(&views, sizeof(views)));
  capi_make(&w13, d->w13, kDLBfloat, 16, 3, kExperts, 2 * kIntermediate, kHidden);
  capi_make(&w2, d->w2, kDLBfloat, 16, 3, kExperts, kHidden, kIntermediate);
  capi_make(&b13, d->b13, kDLFloat, 32, 2, kExperts, 2 * kIntermediate, 0);
  capi_make(&b2, d->b2, kDLFloat, 32, 2, kExperts, kHidden, 0);
  capi_make(&router, d->router, kDLBfloat, 16, 2, kExperts, kHidden, 0);
  views.w13 = &w13.t;
  views.w2 = &w2.t;
  views.b13 = &b13.t;
  views.b2 = &b2.t;
  views.router = &router.t;
  CHECK_OK(moesaic_weights_create(&views, &weights));
  return weights;
}

moesaic_weights* capi_expert_weights(capi_data* d) {
  capi_tensor tensors[kExperts][6], router;
  moesaic_matrix matrices[kExperts][3];
  moesaic_expert experts[kExperts];
  const moesaic_expert* pointers[kExperts];
  moesaic_weight_views views;
  moesaic_weights* weights = NULL;
  // The matrices once more, transposed, so that strides matter.
  static uint16_t transposed[kExperts][kHidden][2 * kIntermediate];
  for (int e = 0; e < kExperts; ++e) {
    for (int r = 0; r < 2 * kIntermediate; ++r) {
      for (int c = 0; c < kHidden; ++c) transposed[e][c][r] = d->w13[e][r][c];
    }
    capi_tensor* t = tensors[e];
    capi_make(&t[0], transposed, kDLBfloat, 16, 2, kIntermediate, kHidden, 0);
    capi_make(&t[1], transposed, kDLBfloat, 16, 2, kIntermediate, kHidden, 0);
    for (int i = 0; i < 2; ++i) {
      t[i].strides[0] = 1;
      t[i].strides[1] = (int64_t)2 * kIntermediate;
      t[i].t.strides = t[i].strides;
      t[i].t.byte_offset = sizeof(uint16_t) * ((uint64_t)e * kHidden * 2 * kIntermediate + (uint64_t)i * kIntermediate);
    }
    capi_make(&t[2], d->w2, kDLBfloat, 16, 2, kHidden, kIntermediate, 0);
    t[2].t.byte_offset = sizeof(d->w2[0]) * (uint64_t)e;
    capi_make(&t[3], d->b13[e], kDLFloat, 32, 1, kIntermediate, 0, 0);
    capi_make(&t[4], d->b13[e] + kIntermediate, kDLFloat, 32, 1, kIntermediate, 0, 0);
    capi_make(&t[5], d->b2[e], kDLFloat, 32, 1, kHidden, 0, 0);
    CHECK_OK(moesaic_expert_init(&experts[e], sizeof(experts[e])));
    for (int i = 0; i < 3; ++i) {
      CHECK_OK(moesaic_matrix_init(&matrices[e][i], sizeof(matrices[e][i])));
      matrices[e][i].values = &t[i].t;
    }
    experts[e].gate = &matrices[e][0];
    experts[e].up = &matrices[e][1];
    experts[e].down = &matrices[e][2];
    experts[e].gate_bias = &t[3].t;
    experts[e].up_bias = &t[4].t;
    experts[e].down_bias = &t[5].t;
    pointers[e] = &experts[e];
  }
  CHECK_OK(moesaic_weight_views_init(&views, sizeof(views)));
  capi_make(&router, d->router, kDLBfloat, 16, 2, kExperts, kHidden, 0);
  views.experts = pointers;
  views.num_experts = kExperts;
  views.router = &router.t;
  CHECK_OK(moesaic_weights_create(&views, &weights));
  return weights;
}

static void* aligned_memory(size_t bytes) { return aligned_alloc(256, (bytes + 255) / 256 * 256 + 256); }

void capi_run(const moesaic_moe_config* config, const moesaic_weights* weights, capi_data* d, float* y) {
  moesaic_moe* moe = NULL;
  moesaic_moe_run run;
  capi_tensor x, out;
  size_t prepared_bytes = 0, workspace_bytes = 0;
  CHECK_OK(moesaic_moe_create(config, NULL, &moe));
  CHECK_OK(moesaic_moe_prepared_bytes(moe, &prepared_bytes));
  CHECK_OK(moesaic_moe_workspace_bytes(moe, kTokens, &workspace_bytes));
  CHECK(prepared_bytes > 0 && workspace_bytes > 0);
  void* prepared = aligned_memory(prepared_bytes);
  void* workspace = aligned_memory(workspace_bytes);
  CHECK_OK(moesaic_moe_prepare(moe, weights, prepared, NULL));
  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  capi_make(&x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  capi_make(&out, y, kDLFloat, 32, 2, kTokens, kHidden, 0);
  run.x = &x.t;
  run.out = &out.t;
  run.prepared = prepared;
  run.workspace = workspace;
  run.workspace_bytes = workspace_bytes;
  CHECK_OK(moesaic_moe_run_layer(moe, &run, NULL));
  // What the layer refuses comes through with its own text.
  run.workspace_bytes = workspace_bytes - 1;
  CHECK_REFUSED(moesaic_moe_run_layer(moe, &run, NULL), MOESAIC_INVALID_ARGUMENT, "workspace");
  moesaic_moe_destroy(moe);
  free(prepared);
  free(workspace);
}

void capi_layer(capi_data* d, float* fused, float* views) {
  moesaic_moe_config config;
  capi_config(&config);
  moesaic_weights* weights = capi_fused_weights(d);
  capi_run(&config, weights, d, fused);
  moesaic_weights_destroy(weights);
  weights = capi_expert_weights(d);
  capi_run(&config, weights, d, views);
  moesaic_weights_destroy(weights);
}

void capi_reference(capi_data* d, int mode, double* y) {
  moesaic_moe_config config;
  moesaic_moe_run run;
  capi_tensor x, out;
  capi_config(&config);
  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  capi_make(&x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  capi_make(&out, y, kDLFloat, 64, 2, kTokens, kHidden, 0);
  run.x = &x.t;
  run.out = &out.t;
  moesaic_weights* weights = capi_fused_weights(d);
  CHECK_OK(moesaic_reference_moe(&config, weights, mode, &run));
  CHECK_REFUSED(moesaic_reference_moe(&config, weights, 2, &run), MOESAIC_INVALID_ARGUMENT, "mode is 2");
  moesaic_weights_destroy(weights);
}

void capi_converted(capi_data* d, const char* recipe, float* y) {
  moesaic_moe_config config;
  moesaic_weights *weights = capi_fused_weights(d), *converted = NULL;
  capi_config(&config);
  config.recipe = recipe;
  CHECK_OK(moesaic_weights_convert(&config, weights, &converted));
  moesaic_weights_destroy(weights);
  capi_run(&config, converted, d, y);
  moesaic_weights_destroy(converted);
}

void capi_checkpoint(const char* folder, int32_t* layers, float* y, int64_t tokens, uint16_t* x_data) {
  moesaic_checkpoint* checkpoint = NULL;
  moesaic_weights* weights = NULL;
  moesaic_moe_config config;
  moesaic_moe_run run;
  const char* family = NULL;
  const int32_t* moe_layers = NULL;
  size_t count = 0;
  CHECK_OK(moesaic_checkpoint_open(folder, &checkpoint));
  CHECK_OK(moesaic_checkpoint_family(checkpoint, &family));
  CHECK(strcmp(family, "deepseek_v3") == 0);
  CHECK_OK(moesaic_checkpoint_moe_layers(checkpoint, &moe_layers, &count));
  CHECK(count == 2);
  memcpy(layers, moe_layers, 2 * sizeof(int32_t));
  CHECK_OK(moesaic_moe_config_init(&config, sizeof(config)));
  CHECK_REFUSED(moesaic_checkpoint_load(checkpoint, 77, &config, &weights), MOESAIC_INVALID_ARGUMENT, "77");
  CHECK(weights == NULL);
  CHECK_OK(moesaic_checkpoint_load(checkpoint, layers[1], &config, &weights));
  moesaic_checkpoint_close(checkpoint);  // the weights keep the files
  capi_tensor x, out;
  capi_make(&x, x_data, kDLBfloat, 16, 2, tokens, config.hidden, 0);
  capi_make(&out, y, kDLFloat, 32, 2, tokens, config.hidden, 0);
  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  run.x = &x.t;
  run.out = &out.t;
  CHECK_OK(moesaic_reference_moe(&config, weights, MOESAIC_EXACT, &run));
  moesaic_weights_destroy(weights);
}

void capi_texts(void) {
  moesaic_moe_config config;
  moesaic_moe* moe = NULL;
  char text[16384];
  size_t needed = 0, again = 0;
  capi_config(&config);
  CHECK(moesaic_abi_version() == MOESAIC_ABI_VERSION);
  CHECK(strchr(moesaic_version(), '.') != NULL);
  CHECK(strcmp(moesaic_status_name(MOESAIC_OK), "ok") == 0);
  CHECK(strcmp(moesaic_status_name(MOESAIC_INVALID_ARGUMENT), "invalid argument") == 0);
  CHECK(strcmp(moesaic_status_name(99), "unknown status") == 0);
  CHECK_OK(moesaic_moe_create(&config, NULL, &moe));
  CHECK_OK(moesaic_moe_kernels(moe, 4, NULL, 0, &needed));
  CHECK_OK(moesaic_moe_kernels(moe, 4, text, sizeof(text), &again));
  CHECK(needed == again && needed == strlen(text) + 1);
  CHECK(strncmp(text, "cpu_fast_", 9) == 0);
  CHECK_REFUSED(moesaic_moe_kernels(moe, 4, text, needed - 1, &again), MOESAIC_INVALID_ARGUMENT, "capacity");
  CHECK_OK(moesaic_moe_kernels(moe, 4, text, needed, &again));
  moesaic_moe_destroy(moe);
  CHECK_OK(moesaic_explain(&config, 4, text, sizeof(text), &needed));
  CHECK(strstr(text, "CPU:") != NULL && strstr(text, "SM90:") != NULL && strstr(text, "gemm") != NULL);
  CHECK_REFUSED(moesaic_explain(&config, 17, text, sizeof(text), &needed), MOESAIC_INVALID_ARGUMENT, "max_tokens 16");
}
