// SPDX-License-Identifier: Apache-2.0
// Routing alone through the C interface, compiled as C11.
#include <stdlib.h>

#include "check.h"

// Inputs and outputs of a run as tensors.
typedef struct route_tensors {
  capi_tensor logits, bias, token_ids, token_experts, ids, weights, row_offsets, row_token, row_weight, slot_row;
  moesaic_route_run run;
} route_tensors;

static void make_tensors(route_tensors* r, capi_data* d, int method, int held, capi_routing* to) {
  CHECK_OK(moesaic_route_run_init(&r->run, sizeof(r->run)));
  capi_make(&r->logits, d->logits, kDLFloat, 32, 2, kTokens, kExperts, 0);
  capi_make(&r->bias, d->selection_bias, kDLFloat, 32, 1, kExperts, 0, 0);
  capi_make(&r->token_ids, d->token_ids, kDLInt, 64, 1, kTokens, 0, 0);
  capi_make(&r->token_experts, d->token_experts, kDLInt, 32, 2, kVocabulary, kTopK, 0);
  capi_make(&r->ids, to->ids, kDLInt, 32, 2, kTokens, kSlots, 0);
  capi_make(&r->weights, to->weights, kDLFloat, 32, 2, kTokens, kSlots, 0);
  capi_make(&r->row_offsets, to->row_offsets, kDLInt, 32, 1, held + kSharedSlots + 1, 0, 0);
  capi_make(&r->row_token, to->row_token, kDLInt, 32, 1, (int64_t)kTokens * kSlots, 0, 0);
  capi_make(&r->row_weight, to->row_weight, kDLFloat, 32, 1, (int64_t)kTokens * kSlots, 0, 0);
  capi_make(&r->slot_row, to->slot_row, kDLInt, 32, 2, kTokens, kSlots, 0);
  r->run.logits = &r->logits.t;
  if (method == MOESAIC_DEEPSEEK_V3 || method == MOESAIC_MINIMAX2) r->run.selection_bias = &r->bias.t;
  if (method == MOESAIC_HASH) {
    r->run.token_ids = &r->token_ids.t;
    r->run.token_experts = &r->token_experts.t;
  }
  r->run.ids = &r->ids.t;
  r->run.weights = &r->weights.t;
  r->run.row_offsets = &r->row_offsets.t;
  r->run.row_token = &r->row_token.t;
  r->run.row_weight = &r->row_weight.t;
  r->run.slot_row = &r->slot_row.t;
}

static void make_config(moesaic_router_config* c, int method, const int32_t* slots) {
  CHECK_OK(moesaic_router_config_init(c, sizeof(*c)));
  c->num_experts = kExperts;
  c->top_k = kTopK;
  c->routing = method;
  if (method == MOESAIC_DEEPSEEK_V2 || method == MOESAIC_DEEPSEEK_V3) c->n_group = 2;
  if (method == MOESAIC_DEEPSEEK_V2 || method == MOESAIC_DEEPSEEK_V3 || method == MOESAIC_HASH) c->scaling = 2.5f;
  if (method == MOESAIC_HASH) c->vocabulary = kVocabulary;
  c->expert_slots = slots;
  c->num_expert_slots = slots == NULL ? 0 : kExperts;
  c->shared_slots = kSharedSlots;
  c->shared_weight = 0.25f;
  c->max_tokens = 16;
}

void capi_router(capi_data* d, int method, const int32_t* slots, capi_routing* to) {
  moesaic_router_config config;
  moesaic_router* router = NULL;
  route_tensors tensors;
  capi_tensor given_ids, given_weights;
  capi_routing again;
  size_t bytes = 1;
  int held = 0;
  for (int e = 0; e < kExperts; ++e) held += slots == NULL || slots[e] >= 0;
  make_config(&config, method, slots);
  CHECK_OK(moesaic_router_create(&config, NULL, &router));
  CHECK_OK(moesaic_router_workspace_bytes(router, kTokens, &bytes));
  make_tensors(&tensors, d, method, held, to);
  tensors.run.workspace = aligned_alloc(256, bytes + 256);
  tensors.run.workspace_bytes = bytes;
  CHECK_OK(moesaic_router_route(router, &tensors.run, NULL));
  free(tensors.run.workspace);

  // What was chosen is sorted to the same rows when it is given.
  memset(&again, 0, sizeof(again));
  make_tensors(&tensors, d, method, held, &again);
  capi_make(&given_ids, to->ids, kDLInt, 32, 2, kTokens, kSlots, 0);
  capi_make(&given_weights, to->weights, kDLFloat, 32, 2, kTokens, kSlots, 0);
  tensors.run.logits = tensors.run.selection_bias = tensors.run.token_ids = tensors.run.token_experts = NULL;
  tensors.run.given_ids = &given_ids.t;
  tensors.run.given_weights = &given_weights.t;
  tensors.run.workspace_bytes = 0;
  tensors.run.workspace = NULL;
  CHECK_OK(moesaic_router_route(router, &tensors.run, NULL));
  CHECK(memcmp(&again, to, sizeof(again)) == 0);
  moesaic_router_destroy(router);
}

static void refused_run(const moesaic_router* router, const route_tensors* tensors, const char* word) {
  CHECK_REFUSED(moesaic_router_route(router, &tensors->run, NULL), MOESAIC_INVALID_ARGUMENT, word);
}

static void wrong_configs(void) {
  moesaic_router_config config;
  moesaic_router* router = NULL;
  const int32_t slots[kExperts] = {0, 0, -1, -1};
#define REFUSED_CONFIG(field, value, word)                                                        \
  do {                                                                                            \
    make_config(&config, MOESAIC_SOFTMAX_TOPK, NULL);                                             \
    config.field = value;                                                                         \
    CHECK_REFUSED(moesaic_router_create(&config, NULL, &router), MOESAIC_INVALID_ARGUMENT, word); \
    CHECK(router == NULL);                                                                        \
  } while (0)
  REFUSED_CONFIG(struct_size, 80, "config.struct_size is 80");
  REFUSED_CONFIG(num_experts, 0, "num_experts is 0");
  REFUSED_CONFIG(top_k, kExperts + 1, "top_k is 5");
  REFUSED_CONFIG(routing, 10, "config.routing is 10, wanted 0 to 9");
  REFUSED_CONFIG(routing, MOESAIC_HASH, "vocabulary is 0");
  REFUSED_CONFIG(shared_slots, -1, "shared_slots is -1");
  REFUSED_CONFIG(expert_slots, slots, "config.num_expert_slots is 0");
  REFUSED_CONFIG(num_expert_slots, 4, "config.expert_slots is NULL");
  REFUSED_CONFIG(experts_count, kExperts + 1, "experts.count is 5");
  REFUSED_CONFIG(device.device_type, kDLVulkan, "kDLCUDA");
  make_config(&config, MOESAIC_SOFTMAX_TOPK, slots);
  CHECK_REFUSED(moesaic_router_create(&config, NULL, &router), MOESAIC_INVALID_ARGUMENT, "experts.slots is 0");
  CHECK_REFUSED(moesaic_router_create(NULL, NULL, &router), MOESAIC_INVALID_ARGUMENT, "config is NULL");
  CHECK_REFUSED(moesaic_router_create(&config, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "router is NULL");
}

void capi_wrong_router_arguments(capi_data* d) {
  moesaic_router_config config;
  moesaic_router* router = NULL;
  route_tensors r;
  capi_routing to;
  char text[64];
  size_t bytes = 0;
  wrong_configs();
  make_config(&config, MOESAIC_HASH, NULL);
  CHECK_OK(moesaic_router_create(&config, NULL, &router));
  CHECK_OK(moesaic_router_kernels(router, kTokens, text, sizeof(text), &bytes));
  CHECK(strcmp(text, "cpu_route\n") == 0 && bytes == strlen(text) + 1);
  CHECK_REFUSED(moesaic_router_kernels(router, 1, text, 2, &bytes), MOESAIC_INVALID_ARGUMENT, "capacity is 2");
  CHECK_REFUSED(moesaic_router_kernels(NULL, 1, text, 2, &bytes), MOESAIC_INVALID_ARGUMENT, "router is NULL");
  CHECK_REFUSED(moesaic_router_workspace_bytes(router, 17, &bytes), MOESAIC_INVALID_ARGUMENT, "17");
  CHECK_REFUSED(moesaic_router_workspace_bytes(router, 1, NULL), MOESAIC_INVALID_ARGUMENT, "bytes is NULL");
  CHECK_REFUSED(moesaic_router_workspace_bytes(NULL, 1, &bytes), MOESAIC_INVALID_ARGUMENT, "router is NULL");
  make_tensors(&r, d, MOESAIC_HASH, kExperts, &to);
  CHECK_REFUSED(moesaic_router_route(NULL, &r.run, NULL), MOESAIC_INVALID_ARGUMENT, "router is NULL");
  CHECK_REFUSED(moesaic_router_route(router, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "run is NULL");
  r.run.ids = NULL;
  refused_run(router, &r, "run.ids is NULL");
  r.run.ids = &r.ids.t;
  r.run.weights = NULL;
  refused_run(router, &r, "run.weights is NULL");
  r.run.weights = &r.weights.t;
  r.run.token_experts = NULL;
  refused_run(router, &r, "token_experts");
  r.run.token_experts = &r.token_experts.t;
  r.run.given_ids = &r.ids.t;
  refused_run(router, &r, "given together with given_ids");
  r.run.given_ids = NULL;
  r.run.row_token = NULL;
  refused_run(router, &r, "row_token");
  r.run.row_token = &r.row_token.t;
  r.row_offsets.shape[0] -= 1;
  refused_run(router, &r, "row_offsets is i32 [5], wanted i32 [6]");
  r.row_offsets.shape[0] += 1;
  r.logits.t.dtype.bits = 16;
  refused_run(router, &r, "logits is f16");
  r.logits.t.dtype.bits = 32;
  r.token_ids.t.dtype.code = kDLUInt;
  refused_run(router, &r, "run.token_ids is DLPack type 1 of 64 bits");
  r.token_ids.t.dtype.code = kDLInt;
  r.slot_row.t.device.device_type = kDLCUDA;
  refused_run(router, &r, "run.slot_row is on cuda:0");
  r.slot_row.t.device.device_type = kDLCPU;
  CHECK_OK(moesaic_router_route(router, &r.run, NULL));
  moesaic_router_destroy(router);
}
