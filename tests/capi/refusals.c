// SPDX-License-Identifier: Apache-2.0
// What the C interface refuses: null pointers, struct sizes, tensors of other types, shapes, strides and devices.
#include <stdio.h>
#include <stdlib.h>

#include "check.h"

// Every struct at today's size, at its first header's, smaller than that, larger.
#define CHECK_STRUCT(Struct, first_size)                                                      \
  do {                                                                                        \
    Struct* s = (Struct*)(void*)aligned_alloc(16, 1024);                                      \
    memset(s, 0xee, 1024);                                                                    \
    CHECK_OK(Struct##_init(s, first_size));                                                   \
    CHECK(s->struct_size == (first_size) && ((unsigned char*)s)[first_size] == 0xee);         \
    CHECK_OK(Struct##_init(s, sizeof(Struct)));                                               \
    CHECK(s->struct_size == sizeof(Struct));                                                  \
    CHECK_REFUSED(Struct##_init(s, (first_size)-1), MOESAIC_INVALID_ARGUMENT, "struct_size"); \
    CHECK_REFUSED(Struct##_init(s, 0), MOESAIC_INVALID_ARGUMENT, "struct_size");              \
    CHECK_REFUSED(Struct##_init(NULL, sizeof(Struct)), MOESAIC_INVALID_ARGUMENT, "NULL");     \
    CHECK_OK(Struct##_init(s, sizeof(Struct) + 8));                                           \
    CHECK(s->struct_size == sizeof(Struct) + 8);                                              \
    for (size_t i = 0; i < 8; ++i) CHECK(((unsigned char*)s)[sizeof(Struct) + i] == 0);       \
    free(s);                                                                                  \
  } while (0)

void capi_struct_sizes(void) {
  CHECK_STRUCT(moesaic_moe_config, 120);
  CHECK_STRUCT(moesaic_module_options, 64);
  CHECK_STRUCT(moesaic_matrix, 136);
  CHECK_STRUCT(moesaic_expert, 64);
  CHECK_STRUCT(moesaic_weight_views, 112);
  CHECK_STRUCT(moesaic_moe_run, 96);
  CHECK_STRUCT(moesaic_quant_spec, 48);
  CHECK_STRUCT(moesaic_quant_sizes, 48);
  CHECK_STRUCT(moesaic_quantize_run, 64);
  CHECK_STRUCT(moesaic_router_config, 88);
  CHECK_STRUCT(moesaic_route_run, 120);
  CHECK_STRUCT(moesaic_activation_spec, 32);
  CHECK_STRUCT(moesaic_activation_run, 24);
  CHECK_STRUCT(moesaic_gemm_config, 56);
  CHECK_STRUCT(moesaic_gemm_weights, 24);
  CHECK_STRUCT(moesaic_gemm_run, 96);
  // Configurations of other headers. The first had nothing behind the device; its padding is anything.
  moesaic_moe* moe = NULL;
  moesaic_moe_config whole;
  capi_config(&whole);
  whole.struct_size = 120;
  moesaic_moe_config* first = (moesaic_moe_config*)malloc(120);
  memcpy(first, &whole, 120);
  memset((char*)first + 116, 0xff, 4);
  CHECK_OK(moesaic_moe_create(first, NULL, &moe));
  moesaic_moe_destroy(moe);
  free(first);
  // One of a newer header is served while what it adds is 0.
  struct {
    moesaic_moe_config config;
    int64_t added;
  } newer;
  moe = NULL;
  capi_config(&newer.config);
  newer.config.struct_size = sizeof(newer);
  newer.added = 0;
  CHECK_OK(moesaic_moe_create(&newer.config, NULL, &moe));
  moesaic_moe_destroy(moe);
  newer.added = 1;
  CHECK_REFUSED(moesaic_moe_create(&newer.config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, "newer header");
  CHECK(moe == NULL);
  newer.config.struct_size = 8;
  CHECK_REFUSED(moesaic_moe_create(&newer.config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, "config.struct_size is 8");
}

void capi_null_pointers(void) {
  moesaic_moe_config config;
  moesaic_moe_run run;
  moesaic_module_options modules;
  moesaic_weight_views views;
  moesaic_moe* moe = NULL;
  moesaic_weights* weights = NULL;
  moesaic_checkpoint* checkpoint = NULL;
  size_t bytes = 0;
  capi_config(&config);
  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  CHECK_OK(moesaic_weight_views_init(&views, sizeof(views)));
  CHECK_REFUSED(moesaic_moe_create(NULL, NULL, &moe), MOESAIC_INVALID_ARGUMENT, "config is NULL");
  CHECK_REFUSED(moesaic_moe_create(&config, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "moe is NULL");
  config.recipe = NULL;
  CHECK_REFUSED(moesaic_moe_create(&config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, "recipe");
  config.recipe = "bf17";
  CHECK_REFUSED(moesaic_moe_create(&config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, "bf17");
  config.recipe = "bf16";
  config.activation = 11;
  CHECK_REFUSED(moesaic_moe_create(&config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, "activation is 11");
  config.activation = MOESAIC_SWIGLU;
  config.routing = -1;
  CHECK_REFUSED(moesaic_moe_create(&config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, "routing is -1");
  config.routing = MOESAIC_HASH + 1;
  CHECK_REFUSED(moesaic_moe_create(&config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, "routing is 10");
  config.routing = MOESAIC_LLAMA4;
  config.device.device_type = kDLMetal;
  CHECK_REFUSED(moesaic_moe_create(&config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, "device");
  config.device.device_type = kDLCPU;
  CHECK_OK(moesaic_module_options_init(&modules, sizeof(modules)));
  modules.jit = 7;
  CHECK_REFUSED(moesaic_moe_create(&config, &modules, &moe), MOESAIC_INVALID_ARGUMENT, "jit");
  modules.jit = 0;
  modules.num_bundles = 1;
  CHECK_REFUSED(moesaic_moe_create(&config, &modules, &moe), MOESAIC_INVALID_ARGUMENT, "bundles");
  CHECK(moe == NULL);
  CHECK_OK(moesaic_moe_create(&config, NULL, &moe));
  CHECK_REFUSED(moesaic_moe_prepared_bytes(NULL, &bytes), MOESAIC_INVALID_ARGUMENT, "moe is NULL");
  CHECK_REFUSED(moesaic_moe_prepared_bytes(moe, NULL), MOESAIC_INVALID_ARGUMENT, "bytes is NULL");
  CHECK_REFUSED(moesaic_moe_prepare(moe, NULL, &bytes, NULL), MOESAIC_INVALID_ARGUMENT, "weights is NULL");
  CHECK_REFUSED(moesaic_moe_workspace_bytes(moe, -1, &bytes), MOESAIC_INVALID_ARGUMENT, "-1");
  CHECK_REFUSED(moesaic_moe_run_layer(moe, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "run is NULL");
  CHECK_REFUSED(moesaic_moe_run_layer(NULL, &run, NULL), MOESAIC_INVALID_ARGUMENT, "moe is NULL");
  CHECK_REFUSED(moesaic_moe_run_layer(moe, &run, NULL), MOESAIC_INVALID_ARGUMENT, "run.x is NULL");
  CHECK_REFUSED(moesaic_moe_kernels(moe, 1, NULL, 0, NULL), MOESAIC_INVALID_ARGUMENT, "needed");
  moesaic_moe_destroy(moe);
  views.num_experts = 2;
  CHECK_REFUSED(moesaic_weights_create(&views, &weights), MOESAIC_INVALID_ARGUMENT, "views.experts is NULL");
  CHECK_REFUSED(moesaic_weights_create(NULL, &weights), MOESAIC_INVALID_ARGUMENT, "views is NULL");
  CHECK_REFUSED(moesaic_weights_create(&views, NULL), MOESAIC_INVALID_ARGUMENT, "weights is NULL");
  CHECK_REFUSED(moesaic_weights_convert(&config, NULL, &weights), MOESAIC_INVALID_ARGUMENT, "weights is NULL");
  CHECK_REFUSED(moesaic_checkpoint_open(NULL, &checkpoint), MOESAIC_INVALID_ARGUMENT, "folder");
  CHECK_REFUSED(moesaic_checkpoint_open("/no/such/folder", &checkpoint), MOESAIC_IO, "/no/such/folder");
  CHECK_REFUSED(moesaic_checkpoint_load(NULL, 0, &config, &weights), MOESAIC_INVALID_ARGUMENT, "checkpoint is NULL");
  CHECK(weights == NULL && checkpoint == NULL);
  moesaic_moe_destroy(NULL);
  moesaic_weights_destroy(NULL);
  moesaic_quantizer_destroy(NULL);
  moesaic_router_destroy(NULL);
  moesaic_activation_op_destroy(NULL);
  moesaic_gemm_destroy(NULL);
  moesaic_checkpoint_close(NULL);
}

// What a change of run.x makes moesaic_moe_run_layer say.
static void refused_x(moesaic_moe* moe, moesaic_moe_run* run, capi_tensor* x, const char* word) {
  run->x = &x->t;
  CHECK_REFUSED(moesaic_moe_run_layer(moe, run, NULL), MOESAIC_INVALID_ARGUMENT, word);
}

void capi_wrong_tensors(capi_data* d) {
  moesaic_moe_config config;
  moesaic_moe* moe = NULL;
  moesaic_moe_run run;
  capi_tensor x, out;
  float y[kTokens * kHidden];
  capi_config(&config);
  CHECK_OK(moesaic_moe_create(&config, NULL, &moe));
  CHECK_OK(moesaic_moe_run_init(&run, sizeof(run)));
  capi_make(&out, y, kDLFloat, 32, 2, kTokens, kHidden, 0);
  run.out = &out.t;
#define MAKE_X() capi_make(&x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0)
  MAKE_X();
  x.t.dtype.bits = 8;
  refused_x(moe, &run, &x, "DLPack type 4 of 8 bits");
  MAKE_X();
  x.t.dtype.lanes = 2;
  refused_x(moe, &run, &x, "16 bits x 2");
  MAKE_X();
  x.t.dtype.code = kDLFloat;
  refused_x(moe, &run, &x, "f16");
  MAKE_X();
  x.t.dtype.code = 10;
  x.t.dtype.bits = 8;
  refused_x(moe, &run, &x, "f8_e4m3fn");
  MAKE_X();
  x.t.ndim = 5;
  refused_x(moe, &run, &x, "5 dimensions");
  MAKE_X();
  x.t.ndim = 0;
  refused_x(moe, &run, &x, "0 dimensions");
  MAKE_X();
  x.t.ndim = -1;
  refused_x(moe, &run, &x, "-1 dimensions");
  MAKE_X();
  x.t.shape = NULL;
  refused_x(moe, &run, &x, "shape is NULL");
  MAKE_X();
  x.shape[1] = -64;
  refused_x(moe, &run, &x, "-64");
  MAKE_X();
  x.shape[0] = x.shape[1] = INT64_MAX / 2;
  refused_x(moe, &run, &x, "2^63");
  MAKE_X();
  x.shape[1] = kHidden - 1;
  refused_x(moe, &run, &x, "63");
  MAKE_X();
  x.t.data = NULL;
  refused_x(moe, &run, &x, "null pointer");
  MAKE_X();
  x.t.byte_offset = 1;
  refused_x(moe, &run, &x, "multiple of 2 bytes");
  MAKE_X();
  x.t.device.device_type = kDLCUDA;
  x.t.device.device_id = 3;
  refused_x(moe, &run, &x, "on cuda:3");
  MAKE_X();
  x.t.device.device_type = kDLROCM;
  refused_x(moe, &run, &x, "device type 10");
  MAKE_X();
  x.strides[0] = 2 * (int64_t)kHidden;
  x.strides[1] = 1;
  x.t.strides = x.strides;
  refused_x(moe, &run, &x, "stride 128 in dimension 0");
  x.strides[0] = INT64_MAX;
  refused_x(moe, &run, &x, "2^60");
  x.strides[0] = INT64_MIN;
  refused_x(moe, &run, &x, "2^60");
  MAKE_X();
  out.t.data = NULL;
  refused_x(moe, &run, &x, "run.out");
  moesaic_moe_destroy(moe);
}

void capi_wrong_matrices(void) {
  static uint8_t codes[64 * 64];
  static float scales[64];
  capi_tensor values, scale_tensor, zeros;
  moesaic_matrix m;
  moesaic_expert expert;
  const moesaic_expert* pointer = &expert;
  moesaic_weight_views views;
  moesaic_weights* weights = NULL;
  CHECK_OK(moesaic_weight_views_init(&views, sizeof(views)));
  views.experts = &pointer;
  views.num_experts = 1;
#define RESET()                                                 \
  do {                                                          \
    CHECK_OK(moesaic_expert_init(&expert, sizeof(expert)));     \
    CHECK_OK(moesaic_matrix_init(&m, sizeof(m)));               \
    capi_make(&values, codes, kDLUInt, 8, 2, 8, 16, 0);         \
    capi_make(&scale_tensor, scales, kDLFloat, 32, 2, 8, 1, 0); \
    capi_make(&zeros, codes, kDLUInt, 8, 1, 4, 0, 0);           \
    m.values = &values.t;                                       \
    m.codes = MOESAIC_CODES_INT4;                               \
    m.scales = &scale_tensor.t;                                 \
    m.block_cols = 32;                                          \
    expert.gate = &m;                                           \
  } while (0)
#define REFUSED(word) \
  CHECK_REFUSED(moesaic_weights_create(&views, &weights), MOESAIC_INVALID_ARGUMENT, "views.experts[0].gate" word)
  RESET();
  CHECK_OK(moesaic_weights_create(&views, &weights));
  moesaic_weights_destroy(weights);
  weights = NULL;
  RESET();
  m.values = NULL;
  REFUSED(".values is NULL");
  RESET();
  m.codes = 5;
  REFUSED(".codes is 5");
  RESET();
  m.codes = MOESAIC_CODES_NONE;
  REFUSED(".scales is given for numbers");
  RESET();
  m.scale_format = MOESAIC_SCALES_E8M0;
  REFUSED(".scales is f32");
  RESET();
  scale_tensor.shape[0] = 7;
  REFUSED(".scales is f32 [7, 1], wanted [8, 1]");
  RESET();
  m.block_cols = 0;
  REFUSED(".block_rows, block_cols");
  RESET();
  m.cols = 64;
  REFUSED(".rows, cols is 0, 64");
  RESET();
  values.t.dtype.code = 17;
  values.t.dtype.bits = 4;
  REFUSED(".values is f4_e2m1fn");
  RESET();
  values.t.dtype.code = 17;
  values.t.dtype.bits = 4;
  values.shape[1] = 31;
  REFUSED(".values is f4_e2m1fn [8, 31]");
  RESET();
  m.nibble_order = MOESAIC_NIBBLES_AWQ;
  REFUSED(".values");
  RESET();
  m.nibble_order = MOESAIC_NIBBLES_AWQ;
  m.rows = 8;
  m.cols = 32;
  m.col_stride = 9;
  REFUSED(".rows, cols, strides is 8, 32, 0, 9");
  RESET();
  m.rows = INT64_MAX;
  m.cols = INT64_MAX;
  m.row_stride = INT64_MAX;
  m.col_stride = 1;
  REFUSED(".rows, cols, strides");
  RESET();
  m.zeros = &zeros.t;
  m.zero_row_stride = 2;
  REFUSED(".zeros is u8 [4] with strides 2, 0");
  RESET();
  expert.gate_bias = &scale_tensor.t;
  CHECK_REFUSED(moesaic_weights_create(&views, &weights), MOESAIC_INVALID_ARGUMENT, "gate_bias is f32 [8, 1]");
  CHECK(weights == NULL);
}

static void count_line(moesaic_log_level level, const char* message, void* user) {
  CHECK(level == MOESAIC_LOG_WARNING && strcmp(message, "one line") == 0);
  ++*(int*)user;
}

void capi_log(void (*warn)(void)) {
  int lines = 0;
  CHECK_OK(moesaic_set_log_callback(count_line, &lines));
  warn();
  CHECK(lines == 1);
  CHECK_OK(moesaic_set_log_callback(NULL, NULL));
  warn();
  CHECK(lines == 1);
}

void capi_thread(int number, void (*wait)(void)) {
  char wanted[64];
  moesaic_moe_config config;
  moesaic_moe* moe = NULL;
  capi_config(&config);
  config.top_k = number;
  CHECK(strcmp(moesaic_last_error(), "") == 0);
  snprintf(wanted, sizeof(wanted), "top_k is %d", number);
  CHECK_REFUSED(moesaic_moe_create(&config, NULL, &moe), MOESAIC_INVALID_ARGUMENT, wanted);
  wait();
  CHECK(strstr(moesaic_last_error(), wanted) != NULL);
}
