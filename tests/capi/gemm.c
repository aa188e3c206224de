// SPDX-License-Identifier: Apache-2.0
// Products alone through the C interface, compiled as C11.
#include <stdlib.h>

#include "check.h"

// W and biases of every group as a caller has them.
typedef struct gemm_weights {
  capi_codes codes[kGroups];
  capi_tensor values[kGroups], biases[kGroups];
  moesaic_matrix matrices[kGroups];
  moesaic_gemm_weights weights[kGroups];
  const moesaic_gemm_weights* pointers[kGroups];
} gemm_weights;

static float largest(const uint16_t* numbers, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = (uint32_t)(numbers[i] & 0x7fff) << 16;
    float number = 0;
    memcpy(&number, &bits, 4);
    if (number > most) most = number;
  }
  return most;
}

static void make_codes(moesaic_matrix* m, capi_codes* codes, int format, uint16_t* numbers) {
  if (format == MOESAIC_NVFP4) {
    const float multiplier = largest(numbers, (int64_t)kGemmN * kGemmK) / 2688.0f;
    m->multiplier = multiplier;
    codes->global_scale = 1.0f / multiplier;
  }
  capi_quantise(codes, format, numbers, kGemmN, kGemmK, 1);
  codes->scale.t.ndim = 2;
  m->values = &codes->x.t;
  m->scales = &codes->scale.t;
  m->codes = format == MOESAIC_NVFP4 || format == MOESAIC_MXFP4 ? MOESAIC_CODES_E2M1 : MOESAIC_CODES_E4M3;
  m->scale_format = format == MOESAIC_NVFP4                              ? MOESAIC_SCALES_E4M3
                    : format == MOESAIC_MXFP4 || format == MOESAIC_MXFP8 ? MOESAIC_SCALES_E8M0
                                                                         : MOESAIC_SCALES_F32;
  switch (format) {
    case MOESAIC_NVFP4:
      m->block_cols = 16;
      break;
    case MOESAIC_FP8_TENSOR:
      m->block_rows = kGemmN;
      m->block_cols = kGemmK;
      break;
    case MOESAIC_FP8_ROW:
      m->block_cols = kGemmK;
      break;
    case MOESAIC_FP8_BLOCK_128X128:
      m->block_rows = m->block_cols = 128;
      break;
    default:
      m->block_cols = 32;
  }
}

static void make_weights(gemm_weights* w, capi_data* d, int format) {
  for (int g = 0; g < kGroups; ++g) {
    uint16_t* numbers = &d->w13[0][0][0] + (int64_t)g * kGemmN * kGemmK;
    moesaic_matrix* m = &w->matrices[g];
    CHECK_OK(moesaic_matrix_init(m, sizeof(*m)));
    if (format < 0) {
      capi_make(&w->values[g], numbers, kDLBfloat, 16, 2, kGemmN, kGemmK, 0);
      m->values = &w->values[g].t;
    } else {
      make_codes(m, &w->codes[g], format, numbers);
    }
    capi_make(&w->biases[g], d->b13[g], kDLFloat, 32, 1, kGemmN, 0, 0);
    CHECK_OK(moesaic_gemm_weights_init(&w->weights[g], sizeof(w->weights[g])));
    w->weights[g].w = m;
    w->weights[g].bias = &w->biases[g].t;
    w->pointers[g] = &w->weights[g];
  }
}

static void make_config(moesaic_gemm_config* c, const char* recipe, int groups) {
  CHECK_OK(moesaic_gemm_config_init(c, sizeof(*c)));
  c->n = kGemmN;
  c->k = kGemmK;
  c->groups = groups;
  c->recipe = recipe;
  c->max_rows = 16;
}

// Tensors of a run.
typedef struct gemm_tensors {
  capi_tensor x, numbers, out, input_scale;
  float scale;
  moesaic_gemm_run run;
} gemm_tensors;

static void make_tensors(gemm_tensors* t, capi_data* d, const capi_product* p) {
  CHECK_OK(moesaic_gemm_run_init(&t->run, sizeof(t->run)));
  CHECK(t->run.alpha == 1.0f);
  capi_make(&t->x, d->w2, kDLBfloat, 16, 2, p->rows, kGemmK, 0);
  capi_make(&t->out, NULL, kDLFloat, 32, 2, p->rows, kGemmN, 0);
  if (p->max > 0) {
    capi_make(&t->x, d->w2, kDLBfloat, 16, 3, kGroups, p->max, kGemmK);
    capi_make(&t->out, NULL, kDLFloat, 32, 3, kGroups, p->max, kGemmN);
  }
  capi_make(&t->numbers, p->numbers, kDLInt, 32, 1, p->max > 0 ? kGroups : kGroups + 1, 0, 0);
  t->scale = p->input_scale;
  capi_make(&t->input_scale, &t->scale, kDLFloat, 32, 1, 1, 0, 0);
  t->run.x = &t->x.t;
  t->run.out = &t->out.t;
  t->run.alpha = p->alpha;
  if (p->numbers != NULL && p->max > 0) t->run.group_counts = &t->numbers.t;
  if (p->numbers != NULL && p->max == 0) t->run.group_offsets = &t->numbers.t;
  if (p->x_format == MOESAIC_FP8_STATIC) t->run.input_scale = &t->input_scale.t;
}

static void* aligned_memory(size_t bytes) { return aligned_alloc(256, (bytes + 255) / 256 * 256 + 256); }

// The codes with their scales in the other order.
static void run_transposed(const moesaic_gemm* gemm, gemm_tensors* t, const capi_codes* q, float* out) {
  const int64_t rows = q->scale.shape[0], cols = q->scale.shape[1];
  float scales[kMostCodes / 32];
  capi_tensor scale;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) scales[c * rows + r] = q->scales[r * cols + c];
  }
  capi_make(&scale, scales, kDLFloat, 32, 2, cols, rows, 0);
  t->out.t.data = out;
  moesaic_gemm_run run = t->run;
  run.scale_major = MOESAIC_SCALES_MN_MAJOR;
  CHECK_REFUSED(moesaic_gemm_multiply(gemm, &run, NULL), MOESAIC_INVALID_ARGUMENT, "x_scale");
  run.x_scale = &scale.t;
  CHECK_OK(moesaic_gemm_multiply(gemm, &run, NULL));
}

static void run_codes(const moesaic_gemm* gemm, gemm_tensors* t, capi_data* d, const capi_product* p, float* out) {
  static capi_codes q;
  const size_t bytes = (size_t)p->rows * kGemmN * sizeof(float);
  float* again = (float*)malloc(bytes);
  memcpy(again, out, bytes);  // what rows of no group keep
  q.global_scale = p->input_scale;
  capi_quantise(&q, p->x_format, d->w2, p->rows, kGemmK, p->typed);
  if (p->max > 0) {
    q.x.t.ndim = 3;
    q.x.shape[2] = q.x.shape[1];
    q.x.shape[1] = p->max;
    q.x.shape[0] = kGroups;
  }
  t->run.x = &q.x.t;
  t->run.x_scale = &q.scale.t;
  if (p->x_format == MOESAIC_NVFP4_ROW) t->run.x_row_scale = &q.row_scale.t;
  t->run.input_scale = NULL;
  t->out.t.data = out;
  CHECK_OK(moesaic_gemm_multiply(gemm, &t->run, NULL));
  if (p->x_format == MOESAIC_FP8_BLOCK_1X128) {
    run_transposed(gemm, t, &q, again);
    CHECK(memcmp(again, out, bytes) == 0);
  }
  free(again);
}

void capi_gemm(capi_data* d, const capi_product* p, float* own, float* given) {
  static gemm_weights weights;
  moesaic_gemm_config config;
  moesaic_gemm* gemm = NULL;
  gemm_tensors tensors;
  size_t prepared_bytes = 0;
  const int groups = p->numbers == NULL ? 1 : kGroups;
  make_config(&config, p->recipe, groups);
  config.e5m2 = p->x_format == MOESAIC_MXFP8_E5M2;
  CHECK_OK(moesaic_gemm_create(&config, NULL, &gemm));
  CHECK_OK(moesaic_gemm_prepared_bytes(gemm, &prepared_bytes));
  CHECK(prepared_bytes > 0);
  make_weights(&weights, d, p->w_format);
  make_tensors(&tensors, d, p);
  CHECK_OK(moesaic_gemm_workspace_bytes(gemm, p->rows, &tensors.run.workspace_bytes));
  void* prepared = aligned_memory(prepared_bytes);
  tensors.run.workspace = aligned_memory(tensors.run.workspace_bytes);
  CHECK_OK(moesaic_gemm_prepare(gemm, weights.pointers, (size_t)groups, prepared, NULL));
  tensors.run.prepared = prepared;
  tensors.out.t.data = own;
  CHECK_OK(moesaic_gemm_multiply(gemm, &tensors.run, NULL));
  if (p->x_format >= 0) run_codes(gemm, &tensors, d, p, given);
  moesaic_gemm_destroy(gemm);
  free(prepared);
  free(tensors.run.workspace);
}

static void wrong_configs(void) {
  moesaic_gemm_config config;
  moesaic_gemm* gemm = NULL;
#define REFUSED_CONFIG(field, value, word)                                                    \
  do {                                                                                        \
    make_config(&config, "bf16", kGroups);                                                    \
    config.field = value;                                                                     \
    CHECK_REFUSED(moesaic_gemm_create(&config, NULL, &gemm), MOESAIC_INVALID_ARGUMENT, word); \
    CHECK(gemm == NULL);                                                                      \
  } while (0)
  REFUSED_CONFIG(struct_size, 48, "config.struct_size is 48");
  REFUSED_CONFIG(n, 0, "n is 0");
  REFUSED_CONFIG(k, -1, "k is -1");
  REFUSED_CONFIG(groups, 0, "groups is 0");
  REFUSED_CONFIG(max_rows, 0, "max_rows is 0");
  REFUSED_CONFIG(recipe, NULL, "config.recipe is NULL");
  REFUSED_CONFIG(recipe, "bf17", "bf17");
  REFUSED_CONFIG(e5m2, 1, "e5m2");
  REFUSED_CONFIG(device.device_type, kDLVulkan, "kDLCUDA");
  CHECK_REFUSED(moesaic_gemm_create(NULL, NULL, &gemm), MOESAIC_INVALID_ARGUMENT, "config is NULL");
  CHECK_REFUSED(moesaic_gemm_create(&config, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "gemm is NULL");
}

static void wrong_weights(const moesaic_gemm* gemm, gemm_weights* w, void* prepared) {
#define REFUSED_WEIGHTS(op, pointers, count, memory, word) \
  CHECK_REFUSED(moesaic_gemm_prepare(op, pointers, count, memory, NULL), MOESAIC_INVALID_ARGUMENT, word)
  REFUSED_WEIGHTS(NULL, w->pointers, kGroups, prepared, "gemm is NULL");
  REFUSED_WEIGHTS(gemm, NULL, kGroups, prepared, "weights is NULL");
  REFUSED_WEIGHTS(gemm, w->pointers, kGroups - 1, prepared, "count is 2, wanted 3");
  REFUSED_WEIGHTS(gemm, w->pointers, kGroups, NULL, "prepared");
  w->pointers[1] = NULL;
  REFUSED_WEIGHTS(gemm, w->pointers, kGroups, prepared, "weights[1] is NULL");
  w->pointers[1] = &w->weights[1];
  w->weights[2].w = NULL;
  REFUSED_WEIGHTS(gemm, w->pointers, kGroups, prepared, "weights[2].w");
  w->weights[2].w = &w->matrices[2];
  w->biases[0].shape[0] -= 1;
  REFUSED_WEIGHTS(gemm, w->pointers, kGroups, prepared, "weights[0].bias");
  w->biases[0].shape[0] += 1;
  w->codes[1].x.t.device.device_type = kDLCUDA;
  REFUSED_WEIGHTS(gemm, w->pointers, kGroups, prepared, "weights[1].w.values is on cuda:0");
  w->codes[1].x.t.device.device_type = kDLCPU;
  CHECK_OK(moesaic_gemm_prepare(gemm, w->pointers, kGroups, prepared, NULL));
}

static void wrong_questions(const moesaic_gemm* gemm) {
  char text[64];
  size_t bytes = 0;
  CHECK_OK(moesaic_gemm_kernels(gemm, 4, text, sizeof(text), &bytes));
  CHECK(strcmp(text, "cpu_oracle\n") == 0 && bytes == strlen(text) + 1);
  CHECK_REFUSED(moesaic_gemm_kernels(gemm, 4, text, 2, &bytes), MOESAIC_INVALID_ARGUMENT, "capacity is 2");
  CHECK_REFUSED(moesaic_gemm_kernels(NULL, 4, text, 2, &bytes), MOESAIC_INVALID_ARGUMENT, "gemm is NULL");
  CHECK_REFUSED(moesaic_gemm_workspace_bytes(gemm, 17, &bytes), MOESAIC_INVALID_ARGUMENT, "17 rows");
  CHECK_REFUSED(moesaic_gemm_workspace_bytes(gemm, 1, NULL), MOESAIC_INVALID_ARGUMENT, "bytes is NULL");
  CHECK_REFUSED(moesaic_gemm_workspace_bytes(NULL, 1, &bytes), MOESAIC_INVALID_ARGUMENT, "gemm is NULL");
  CHECK_REFUSED(moesaic_gemm_prepared_bytes(gemm, NULL), MOESAIC_INVALID_ARGUMENT, "bytes is NULL");
  CHECK_REFUSED(moesaic_gemm_prepared_bytes(NULL, &bytes), MOESAIC_INVALID_ARGUMENT, "gemm is NULL");
}

static void wrong_runs(const moesaic_gemm* gemm, gemm_tensors* t, capi_codes* q) {
#define REFUSED_RUN(word) CHECK_REFUSED(moesaic_gemm_multiply(gemm, &t->run, NULL), MOESAIC_INVALID_ARGUMENT, word)
  CHECK_REFUSED(moesaic_gemm_multiply(NULL, &t->run, NULL), MOESAIC_INVALID_ARGUMENT, "gemm is NULL");
  CHECK_REFUSED(moesaic_gemm_multiply(gemm, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "run is NULL");
  t->run.x = NULL;
  REFUSED_RUN("run.x is NULL");
  t->run.x = &t->x.t;
  t->run.out = NULL;
  REFUSED_RUN("run.out is NULL");
  t->run.out = &t->out.t;
  t->run.scale_major = 2;
  REFUSED_RUN("run.scale_major is 2, wanted 0 to 1");
  t->run.scale_major = MOESAIC_SCALES_MN_MAJOR;
  REFUSED_RUN("scale_major");  // MX scales have one order
  t->run.scale_major = MOESAIC_SCALES_K_MAJOR;
  t->run.group_counts = &t->numbers.t;
  REFUSED_RUN("group_counts is given with group_offsets");
  t->run.group_counts = t->run.group_offsets = NULL;
  REFUSED_RUN("group_offsets is empty");
  t->run.group_offsets = &t->numbers.t;
  t->numbers.shape[0] = kGroups;
  REFUSED_RUN("group_offsets is i32 [3], wanted i32 [4]");
  t->numbers.shape[0] = kGroups + 1;
  t->run.input_scale = &t->input_scale.t;
  REFUSED_RUN("input_scale");  // no static scale of mxfp8
  t->run.input_scale = NULL;
  t->run.x_scale = &q->scale.t;
  REFUSED_RUN("x_scale");  // of numbers
  t->run.x = &q->x.t;
  q->x.t.dtype.code = 12;
  REFUSED_RUN("run.x is f8_e5m2");
  q->x.t.dtype.code = 10;
  q->scale.t.dtype.code = 10;
  REFUSED_RUN("run.x_scale is f8_e4m3fn");
  q->scale.t.dtype.code = 14;
  q->scale.t.device.device_type = kDLCUDA;
  REFUSED_RUN("run.x_scale is on cuda:0");
  q->scale.t.device.device_type = kDLCPU;
  t->out.t.dtype.bits = 64;
  REFUSED_RUN("out is f64");
  t->out.t.dtype.bits = 32;
}

void capi_wrong_gemm_arguments(capi_data* d) {
  static gemm_weights weights;
  static capi_codes codes;
  static float y[7][kGemmN];
  int32_t offsets[kGroups + 1] = {0, 2, 2, 7};
  const capi_product product = {"mxfp8", MOESAIC_MXFP8, MOESAIC_MXFP8, 1, 1.0f, 0.0f, 0, 7, offsets};
  moesaic_gemm_config config;
  moesaic_gemm* gemm = NULL;
  gemm_tensors tensors;
  size_t bytes = 0;
  wrong_configs();
  make_config(&config, "mxfp8", kGroups);
  CHECK_OK(moesaic_gemm_create(&config, NULL, &gemm));
  CHECK_OK(moesaic_gemm_prepared_bytes(gemm, &bytes));
  wrong_questions(gemm);
  make_weights(&weights, d, MOESAIC_MXFP8);
  void* prepared = aligned_memory(bytes);
  wrong_weights(gemm, &weights, prepared);
  make_tensors(&tensors, d, &product);
  tensors.out.t.data = y;
  capi_quantise(&codes, MOESAIC_MXFP8, d->w2, product.rows, kGemmK, 1);
  tensors.run.prepared = prepared;
  tensors.run.workspace = prepared;  // of no bytes
  wrong_runs(gemm, &tensors, &codes);
  offsets[1] = 3;
  CHECK_REFUSED(moesaic_gemm_multiply(gemm, &tensors.run, NULL), MOESAIC_INVALID_ARGUMENT, "group_offsets[2] is 2");
  offsets[1] = 2;
  CHECK(y[0][0] == 0);
  CHECK_OK(moesaic_gemm_multiply(gemm, &tensors.run, NULL));
  CHECK(y[0][0] != 0);
  moesaic_gemm_destroy(gemm);
  free(prepared);
}
