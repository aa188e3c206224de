// SPDX-License-Identifier: Apache-2.0
// Layers that hold a part of the experts or of each expert, dispatched rows, and routing by token id, compiled as C11.
#include <stdlib.h>

#include "check.h"

// A matrix [rows, cols] of bf16 at `data`, whose rows are `row_stride` apart.
typedef struct part_matrix {
  capi_tensor values;
  moesaic_matrix matrix;
} part_matrix;

static const moesaic_matrix* make_matrix(part_matrix* m, void* data, int64_t rows, int64_t cols, int64_t row_stride) {
  capi_make(&m->values, data, kDLBfloat, 16, 2, rows, cols, 0);
  m->values.strides[0] = row_stride;
  m->values.strides[1] = 1;
  m->values.t.strides = m->values.strides;
  CHECK_OK(moesaic_matrix_init(&m->matrix, sizeof(m->matrix)));
  m->matrix.values = &m->values.t;
  return &m->matrix;
}

moesaic_weights* capi_part_weights(capi_data* d, const int* ids, int count, int rank, int size) {
  part_matrix matrices[kExperts][3];
  capi_tensor biases[kExperts][3], router, table;
  moesaic_expert experts[kExperts];
  const moesaic_expert* pointers[kExperts];
  moesaic_weight_views views;
  moesaic_weights* weights = NULL;
  const int slice = kIntermediate / size, first = rank * slice;
  for (int i = 0; i < count; ++i) {
    const int e = ids[i];
    CHECK_OK(moesaic_expert_init(&experts[i], sizeof(experts[i])));
    experts[i].gate = make_matrix(&matrices[i][0], d->w13[e][first], slice, kHidden, kHidden);
    experts[i].up = make_matrix(&matrices[i][1], d->w13[e][kIntermediate + first], slice, kHidden, kHidden);
    experts[i].down = make_matrix(&matrices[i][2], &d->w2[e][0][first], kHidden, slice, kIntermediate);
    capi_make(&biases[i][0], &d->b13[e][first], kDLFloat, 32, 1, slice, 0, 0);
    capi_make(&biases[i][1], &d->b13[e][kIntermediate + first], kDLFloat, 32, 1, slice, 0, 0);
    capi_make(&biases[i][2], d->b2[e], kDLFloat, 32, 1, kHidden, 0, 0);
    experts[i].gate_bias = &biases[i][0].t;
    experts[i].up_bias = &biases[i][1].t;
    experts[i].down_bias = &biases[i][2].t;
    pointers[i] = &experts[i];
  }
  CHECK_OK(moesaic_weight_views_init(&views, sizeof(views)));
  capi_make(&router, d->router, kDLBfloat, 16, 2, kExperts, kHidden, 0);
  capi_make(&table, d->token_experts, kDLInt, 32, 2, kVocabulary, kTopK, 0);
  views.experts = pointers;
  views.num_experts = (size_t)count;
  views.router = &router.t;
  views.token_experts = &table.t;
  CHECK_OK(moesaic_weights_create(&views, &weights));
  return weights;
}

static void* aligned_memory(size_t bytes) { return aligned_alloc(256, (bytes + 255) / 256 * 256 + 256); }

// Prepares and runs with a workspace of exactly the size asked for; `run` has x and what goes with it.
static void run_part(const moesaic_moe_config* config, moesaic_weights* weights, moesaic_moe_run* run) {
  moesaic_moe* moe = NULL;
  size_t prepared_bytes = 0;
  const int64_t tokens = run->x->shape[0];
  CHECK_OK(moesaic_moe_create(config, NULL, &moe));
  CHECK_OK(moesaic_moe_prepared_bytes(moe, &prepared_bytes));
  if (run->expert_offsets != NULL || run->expert_counts != NULL) {
    const int64_t rows = run->x->ndim == 3 ? tokens * run->x->shape[1] : tokens;
    CHECK_OK(moesaic_moe_dispatched_workspace_bytes(moe, rows, &run->workspace_bytes));
  } else {
    CHECK_OK(moesaic_moe_workspace_bytes(moe, tokens, &run->workspace_bytes));
  }
  void* prepared = aligned_memory(prepared_bytes);
  run->workspace = aligned_memory(run->workspace_bytes);
  run->prepared = prepared;
  CHECK_OK(moesaic_moe_prepare(moe, weights, prepared, NULL));
  CHECK_OK(moesaic_moe_run_layer(moe, run, NULL));
  moesaic_moe_destroy(moe);
  moesaic_weights_destroy(weights);
  free(prepared);
  free(run->workspace);
}

static void run_tokens(const moesaic_moe_config* config, moesaic_weights* weights, capi_data* d, float* y) {
  moesaic_moe_run run;
  capi_tensor x, out;
  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  capi_make(&x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  capi_make(&out, y, kDLFloat, 32, 2, kTokens, kHidden, 0);
  run.x = &x.t;
  run.out = &out.t;
  run_part(config, weights, &run);
}

void capi_expert_slice(capi_data* d, int first, int count, float* y) {
  moesaic_moe_config config;
  int ids[kExperts];
  for (int i = 0; i < count; ++i) ids[i] = first + i;
  capi_config(&config);
  config.experts_first = first;
  config.experts_count = count;
  run_tokens(&config, capi_part_weights(d, ids, count, 0, 1), d, y);
}

void capi_expert_slots(capi_data* d, const int32_t* slots, float* y) {
  moesaic_moe_config config;
  int ids[kExperts], count = 0;
  for (int e = 0; e < kExperts; ++e) {
    if (slots[e] < 0) continue;
    ids[slots[e]] = e;
    ++count;
  }
  capi_config(&config);
  config.expert_slots = slots;
  config.num_expert_slots = kExperts;
  run_tokens(&config, capi_part_weights(d, ids, count, 0, 1), d, y);
}

void capi_tensor_slice(capi_data* d, int rank, float* y) {
  moesaic_moe_config config;
  const int ids[kExperts] = {0, 1, 2, 3};
  capi_config(&config);
  config.intermediate = kIntermediate / 2;
  config.tp_rank = rank;
  config.tp_size = 2;
  run_tokens(&config, capi_part_weights(d, ids, kExperts, rank, 2), d, y);
}

void capi_dispatched(capi_data* d, int64_t max, int64_t rows, int32_t* numbers, float* y) {
  moesaic_moe_config config;
  moesaic_moe_run run;
  capi_tensor x, out, held;
  const int ids[] = {1, 2, 3};
  capi_config(&config);
  config.experts_first = 1;
  config.experts_count = 3;
  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  // Any numbers will do as rows: there are more of w13's than of x's.
  const int rank = max > 0 ? 3 : 2;
  capi_make(&x, d->w13, kDLBfloat, 16, rank, max > 0 ? 3 : rows, max > 0 ? max : kHidden, kHidden);
  capi_make(&out, y, kDLFloat, 32, rank, x.shape[0], x.shape[1], x.shape[2]);
  capi_make(&held, numbers, kDLInt, 32, 1, max > 0 ? 3 : 4, 0, 0);
  run.x = &x.t;
  run.out = &out.t;
  if (max > 0) {
    run.expert_counts = &held.t;
  } else {
    run.expert_offsets = &held.t;
  }
  run_part(&config, capi_part_weights(d, ids, 3, 0, 1), &run);
}

void capi_token_ids(capi_data* d, float* y) {
  moesaic_moe_config config;
  moesaic_moe_run run;
  capi_tensor x, out, tokens;
  const int ids[kExperts] = {0, 1, 2, 3};
  capi_config(&config);
  config.routing = MOESAIC_HASH;
  config.vocabulary = kVocabulary;
  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  capi_make(&x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  capi_make(&out, y, kDLFloat, 32, 2, kTokens, kHidden, 0);
  capi_make(&tokens, d->token_ids, kDLInt, 64, 1, kTokens, 0, 0);
  run.x = &x.t;
  run.out = &out.t;
  run.token_ids = &tokens.t;
  run_part(&config, capi_part_weights(d, ids, kExperts, 0, 1), &run);
}

static void refused_config(const moesaic_moe_config* config, const char* word) {
  moesaic_moe* moe = NULL;
  CHECK_REFUSED(moesaic_moe_create(config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, word);
  CHECK(moe == NULL);
}

static void wrong_maps(void) {
  moesaic_moe_config config;
  int32_t slots[kExperts] = {0, -1, 1, -1};
  capi_config(&config);
  config.expert_slots = slots;
  refused_config(&config, "config.num_expert_slots is 0, wanted num_experts, 4");
  config.num_expert_slots = kExperts - 1;
  refused_config(&config, "config.num_expert_slots is 3");
  config.num_expert_slots = kExperts;
  config.num_experts = -1;
  refused_config(&config, "config.num_expert_slots is 4");
  config.num_experts = kExperts;
  config.experts_count = 2;
  refused_config(&config, "config.expert_slots is given together with experts_first and experts_count");
  config.experts_count = 0;
  slots[3] = 1;
  refused_config(&config, "experts.slots is 1");
  slots[3] = -1;
  config.expert_slots = NULL;
  refused_config(&config, "config.expert_slots is NULL");
  config.num_expert_slots = 0;
  config.experts_first = 3;
  config.experts_count = 2;
  refused_config(&config, "experts.count is 2");
  config.experts_first = config.experts_count = 0;
  config.tp_size = 0;
  refused_config(&config, "tp.size (0)");
  config.tp_size = 2;
  config.tp_rank = 2;
  refused_config(&config, "tp.rank is 2");
  config.tp_size = 1;
  config.tp_rank = 0;
  config.routing = MOESAIC_HASH;
  refused_config(&config, "vocabulary");
}

void capi_wrong_parts(capi_data* d) {
  moesaic_moe_config config;
  moesaic_moe_run run;
  moesaic_moe* moe = NULL;
  capi_tensor x, out, numbers;
  int32_t offsets[kExperts + 1] = {0, 2, 2, 5, 7};
  float y[kTokens][kHidden];
  size_t bytes = 0;
  wrong_maps();
  capi_config(&config);
  config.routing = MOESAIC_HASH;
  config.vocabulary = kVocabulary;
  CHECK_OK(moesaic_moe_create(&config, NULL, &moe));
  CHECK_REFUSED(moesaic_moe_dispatched_workspace_bytes(NULL, 1, &bytes), MOESAIC_INVALID_ARGUMENT, "moe is NULL");
  CHECK_REFUSED(moesaic_moe_dispatched_workspace_bytes(moe, 1, NULL), MOESAIC_INVALID_ARGUMENT, "bytes is NULL");
  CHECK_REFUSED(moesaic_moe_dispatched_workspace_bytes(moe, 33, &bytes), MOESAIC_INVALID_ARGUMENT, "33 rows");
  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  capi_make(&x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  capi_make(&out, y, kDLFloat, 32, 2, kTokens, kHidden, 0);
  capi_make(&numbers, offsets, kDLInt, 32, 1, kExperts, 0, 0);
  run.x = &x.t;
  run.out = &out.t;
  run.expert_offsets = &numbers.t;
  CHECK_REFUSED(moesaic_moe_run_layer(moe, &run, NULL), MOESAIC_INVALID_ARGUMENT, "expert_offsets");
  numbers.shape[0] = kExperts + 1;
  numbers.t.device.device_type = kDLCUDA;
  CHECK_REFUSED(moesaic_moe_run_layer(moe, &run, NULL), MOESAIC_INVALID_ARGUMENT, "run.expert_offsets is on cuda:0");
  numbers.t.device.device_type = kDLCPU;
  run.expert_counts = &numbers.t;
  CHECK_REFUSED(moesaic_moe_run_layer(moe, &run, NULL), MOESAIC_INVALID_ARGUMENT, "expert_counts");
  run.expert_offsets = NULL;
  CHECK_REFUSED(moesaic_moe_run_layer(moe, &run, NULL), MOESAIC_INVALID_ARGUMENT, "expert_counts");
  run.expert_counts = NULL;
  CHECK_REFUSED(moesaic_moe_run_layer(moe, &run, NULL), MOESAIC_INVALID_ARGUMENT, "token_ids is empty");
  run.token_ids = &numbers.t;
  CHECK_REFUSED(moesaic_moe_run_layer(moe, &run, NULL), MOESAIC_INVALID_ARGUMENT, "token_ids is i32 [5]");
  moesaic_moe_destroy(moe);
}
