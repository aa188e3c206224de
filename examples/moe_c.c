// SPDX-License-Identifier: Apache-2.0
// A small bf16 MoE layer on the CPU through the C interface: create, prepare, run, print. Set config.device to
// {kDLCUDA, 0} and give device memory, and the same calls run it on a GPU.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moesaic/moesaic.h"

enum { kTokens = 4, kHidden = 128, kIntermediate = 64, kExperts = 8, kTopK = 2 };

static uint16_t w13[kExperts][2 * kIntermediate][kHidden];  // gate rows, then up rows
static uint16_t w2[kExperts][kHidden][kIntermediate];
static uint16_t router[kExperts][kHidden];
static uint16_t x[kTokens][kHidden];
static float y[kTokens][kHidden], reference[kTokens][kHidden];

static void check(moesaic_status status) {
  if (status == MOESAIC_OK) return;
  fprintf(stderr, "moesaic: %s: %s\n", moesaic_status_name(status), moesaic_last_error());
  exit(1);
}

// Any numbers will do: bf16 values in [-1/8, 1/8).
static void fill(uint16_t* to, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float number = (float)rand() / ((float)RAND_MAX + 1.0f) * 0.25f - 0.125f;
    uint32_t bits;
    memcpy(&bits, &number, sizeof(bits));
    to[i] = (uint16_t)(bits >> 16);
  }
}

static DLTensor tensor(void* data, DLDataTypeCode code, uint8_t bits, int rank, int64_t* shape) {
  DLTensor t;
  memset(&t, 0, sizeof(t));
  t.data = data;
  t.device.device_type = kDLCPU;
  t.ndim = rank;
  t.dtype.code = (uint8_t)code;
  t.dtype.bits = bits;
  t.dtype.lanes = 1;
  t.shape = shape;  // strides NULL: compact
  return t;
}

static moesaic_weights* make_weights(void) {
  int64_t w13_shape[] = {kExperts, 2 * kIntermediate, kHidden}, w2_shape[] = {kExperts, kHidden, kIntermediate};
  int64_t router_shape[] = {kExperts, kHidden};
  const DLTensor w13_tensor = tensor(w13, kDLBfloat, 16, 3, w13_shape);
  const DLTensor w2_tensor = tensor(w2, kDLBfloat, 16, 3, w2_shape);
  const DLTensor router_tensor = tensor(router, kDLBfloat, 16, 2, router_shape);
  moesaic_weight_views views;
  moesaic_weights* weights = NULL;
  check(moesaic_weight_views_init(&views, sizeof(views)));
  views.w13 = &w13_tensor;
  views.w2 = &w2_tensor;
  views.router = &router_tensor;
  check(moesaic_weights_create(&views, &weights));
  return weights;
}

static void* aligned(size_t bytes) { return aligned_alloc(256, (bytes + 255) / 256 * 256 + 256); }

int main(void) {
  fill(&w13[0][0][0], sizeof(w13) / 2);
  fill(&w2[0][0][0], sizeof(w2) / 2);
  fill(&router[0][0], sizeof(router) / 2);
  fill(&x[0][0], sizeof(x) / 2);

  moesaic_moe_config config;
  check(moesaic_moe_config_init(&config, sizeof(config)));
  config.hidden = kHidden;
  config.intermediate = kIntermediate;
  config.num_experts = kExperts;
  config.top_k = kTopK;
  config.max_tokens = 64;
  moesaic_moe* moe = NULL;
  check(moesaic_moe_create(&config, NULL, &moe));

  size_t prepared_bytes = 0, workspace_bytes = 0;
  check(moesaic_moe_prepared_bytes(moe, &prepared_bytes));
  check(moesaic_moe_workspace_bytes(moe, kTokens, &workspace_bytes));
  void* prepared = aligned(prepared_bytes);
  void* workspace = aligned(workspace_bytes);
  moesaic_weights* weights = make_weights();
  check(moesaic_moe_prepare(moe, weights, prepared, NULL));

  int64_t shape[] = {kTokens, kHidden};
  const DLTensor x_tensor = tensor(x, kDLBfloat, 16, 2, shape);
  DLTensor out = tensor(y, kDLFloat, 32, 2, shape);
  moesaic_moe_run run;
  check(moesaic_moe_run_init(&run, sizeof(run)));
  run.x = &x_tensor;
  run.out = &out;
  run.prepared = prepared;
  run.workspace = workspace;
  run.workspace_bytes = workspace_bytes;
  check(moesaic_moe_run_layer(moe, &run, NULL));

  out.data = reference;
  check(moesaic_reference_moe(&config, weights, MOESAIC_ORACLE, &run));
  double distance = 0, norm = 0;
  for (int t = 0; t < kTokens; ++t) {
    for (int h = 0; h < kHidden; ++h) {
      distance += ((double)y[t][h] - reference[t][h]) * ((double)y[t][h] - reference[t][h]);
      norm += (double)reference[t][h] * reference[t][h];
    }
    printf("token %d: % .6f % .6f % .6f ...\n", t, y[t][0], y[t][1], y[t][2]);
  }
  char kernels[256];
  size_t needed = 0;
  check(moesaic_moe_kernels(moe, kTokens, kernels, sizeof(kernels), &needed));
  printf("moesaic %s, %sdistance from the reference: %.1e\n", moesaic_version(), kernels, sqrt(distance / norm));

  moesaic_weights_destroy(weights);
  moesaic_moe_destroy(moe);
  free(prepared);
  free(workspace);
  return norm > 0 && distance < 6e-3 * 6e-3 * norm ? 0 : 1;
}
