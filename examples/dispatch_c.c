// SPDX-License-Identifier: Apache-2.0
// A layer in its steps, on the CPU through the C interface: route, gather each expert's rows, run the experts on them,
// add up. What a program does whose tokens come from other devices; here the whole layer must give the same.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moesaic/moesaic.h"

enum { kTokens = 6, kHidden = 128, kIntermediate = 64, kExperts = 8, kTopK = 2, kRows = kTokens * kTopK };

static uint16_t w13[kExperts][2 * kIntermediate][kHidden];  // gate rows, then up rows
static uint16_t w2[kExperts][kHidden][kIntermediate];
static uint16_t x[kTokens][kHidden], rows[kRows][kHidden];
static float logits[kTokens][kExperts];
static float row_outputs[kRows][kHidden], y[kTokens][kHidden], whole[kTokens][kHidden];

// What a router writes.
static int32_t ids[kTokens][kTopK], offsets[kExperts + 1], row_token[kRows], slot_row[kTokens][kTopK];
static float weights[kTokens][kTopK], row_weight[kRows];

static void check(moesaic_status status) {
  if (status == MOESAIC_OK) return;
  fprintf(stderr, "moesaic: %s: %s\n", moesaic_status_name(status), moesaic_last_error());
  exit(1);
}

static float any_number(float scale) { return ((float)rand() / ((float)RAND_MAX + 1.0f) * 2.0f - 1.0f) * scale; }

static void fill_bf16(uint16_t* to, size_t count, float scale) {
  for (size_t i = 0; i < count; ++i) {
    const float number = any_number(scale);
    uint32_t bits;
    memcpy(&bits, &number, sizeof(bits));
    to[i] = (uint16_t)(bits >> 16);
  }
}

// A compact tensor on the CPU with its shape.
typedef struct shaped {
  DLTensor tensor;
  int64_t shape[3];
} shaped;

static const DLTensor* make(shaped* s, void* data, DLDataTypeCode code, uint8_t bits, int rank, int64_t a, int64_t b,
                            int64_t c) {
  memset(s, 0, sizeof(*s));
  s->shape[0] = a;
  s->shape[1] = b;
  s->shape[2] = c;
  s->tensor.data = data;
  s->tensor.device.device_type = kDLCPU;
  s->tensor.ndim = rank;
  s->tensor.dtype.code = (uint8_t)code;
  s->tensor.dtype.bits = bits;
  s->tensor.dtype.lanes = 1;
  s->tensor.shape = s->shape;
  return &s->tensor;
}

static void route(void) {
  moesaic_router_config config;
  moesaic_router* router = NULL;
  moesaic_route_run run;
  shaped t[7];
  check(moesaic_router_config_init(&config, sizeof(config)));
  config.num_experts = kExperts;
  config.top_k = kTopK;
  check(moesaic_router_create(&config, NULL, &router));
  check(moesaic_route_run_init(&run, sizeof(run)));
  run.logits = make(&t[0], logits, kDLFloat, 32, 2, kTokens, kExperts, 0);
  run.ids = make(&t[1], ids, kDLInt, 32, 2, kTokens, kTopK, 0);
  run.weights = make(&t[2], weights, kDLFloat, 32, 2, kTokens, kTopK, 0);
  run.row_offsets = make(&t[3], offsets, kDLInt, 32, 1, kExperts + 1, 0, 0);
  run.row_token = make(&t[4], row_token, kDLInt, 32, 1, kRows, 0, 0);
  run.row_weight = make(&t[5], row_weight, kDLFloat, 32, 1, kRows, 0, 0);
  run.slot_row = make(&t[6], slot_row, kDLInt, 32, 2, kTokens, kTopK, 0);
  check(moesaic_router_workspace_bytes(router, kTokens, &run.workspace_bytes));
  run.workspace = aligned_alloc(256, run.workspace_bytes + 256 - run.workspace_bytes % 256);
  check(moesaic_router_route(router, &run, NULL));
  free(run.workspace);
  moesaic_router_destroy(router);
}

static moesaic_weights* make_weights(void) {
  moesaic_weight_views views;
  moesaic_weights* handle = NULL;
  shaped t[2];
  check(moesaic_weight_views_init(&views, sizeof(views)));
  views.w13 = make(&t[0], w13, kDLBfloat, 16, 3, kExperts, 2 * kIntermediate, kHidden);
  views.w2 = make(&t[1], w2, kDLBfloat, 16, 3, kExperts, kHidden, kIntermediate);
  check(moesaic_weights_create(&views, &handle));
  return handle;
}

// Prints, and compares y with the whole layer's output.
static int is_the_layer(void) {
  double distance = 0, norm = 0;
  for (int token = 0; token < kTokens; ++token) {
    for (int h = 0; h < kHidden; ++h) {
      const double apart = (double)y[token][h] - whole[token][h];
      distance += apart * apart;
      norm += (double)whole[token][h] * whole[token][h];
    }
    printf("token %d: experts %d %d, % .6f % .6f ...\n", token, ids[token][0], ids[token][1], y[token][0], y[token][1]);
  }
  printf("distance of the steps from the layer: %.1e\n", sqrt(distance / norm));
  return norm > 0 && distance < 1e-5 * 1e-5 * norm;
}

static void add_up(void) {
  for (int token = 0; token < kTokens; ++token) {
    for (int slot = 0; slot < kTopK; ++slot) {
      const int row = slot_row[token][slot];
      for (int h = 0; h < kHidden; ++h) y[token][h] += weights[token][slot] * row_outputs[row][h];
    }
  }
}

int main(void) {
  fill_bf16(&w13[0][0][0], sizeof(w13) / 2, 0.125f);
  fill_bf16(&w2[0][0][0], sizeof(w2) / 2, 0.125f);
  fill_bf16(&x[0][0], sizeof(x) / 2, 1.0f);
  for (size_t i = 0; i < sizeof(logits) / sizeof(float); ++i) (&logits[0][0])[i] = any_number(3.0f);

  moesaic_moe_config config;
  check(moesaic_moe_config_init(&config, sizeof(config)));
  config.hidden = kHidden;
  config.intermediate = kIntermediate;
  config.num_experts = kExperts;
  config.top_k = kTopK;
  config.router = 0;
  config.max_tokens = 64;
  moesaic_moe* moe = NULL;
  size_t prepared_bytes = 0, tokens_bytes = 0, rows_bytes = 0;
  check(moesaic_moe_create(&config, NULL, &moe));
  check(moesaic_moe_prepared_bytes(moe, &prepared_bytes));
  check(moesaic_moe_workspace_bytes(moe, kTokens, &tokens_bytes));
  check(moesaic_moe_dispatched_workspace_bytes(moe, kRows, &rows_bytes));
  const size_t workspace_bytes = tokens_bytes > rows_bytes ? tokens_bytes : rows_bytes;
  void* prepared = aligned_alloc(256, prepared_bytes + 256 - prepared_bytes % 256);
  void* workspace = aligned_alloc(256, workspace_bytes + 256 - workspace_bytes % 256);
  moesaic_weights* handle = make_weights();
  check(moesaic_moe_prepare(moe, handle, prepared, NULL));

  // Each step alone.
  route();
  for (int r = 0; r < offsets[kExperts]; ++r) memcpy(rows[r], x[row_token[r]], sizeof(rows[r]));
  shaped t[3];
  moesaic_moe_run run;
  check(moesaic_moe_run_init(&run, sizeof(run)));
  run.x = make(&t[0], rows, kDLBfloat, 16, 2, kRows, kHidden, 0);
  run.out = make(&t[1], row_outputs, kDLFloat, 32, 2, kRows, kHidden, 0);
  run.expert_offsets = make(&t[2], offsets, kDLInt, 32, 1, kExperts + 1, 0, 0);
  run.prepared = prepared;
  run.workspace = workspace;
  run.workspace_bytes = workspace_bytes;
  check(moesaic_moe_run_layer(moe, &run, NULL));
  add_up();

  // The whole layer.
  run.x = make(&t[0], x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  run.out = make(&t[1], whole, kDLFloat, 32, 2, kTokens, kHidden, 0);
  run.router_logits = make(&t[2], logits, kDLFloat, 32, 2, kTokens, kExperts, 0);
  run.expert_offsets = NULL;
  check(moesaic_moe_run_layer(moe, &run, NULL));

  moesaic_weights_destroy(handle);
  moesaic_moe_destroy(moe);
  free(prepared);
  free(workspace);
  return is_the_layer() ? 0 : 1;
}
