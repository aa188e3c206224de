// SPDX-License-Identifier: Apache-2.0
// Activations that the caller has quantised, through the C interface, compiled as C11.
#include <stdlib.h>

#include "check.h"

static const DLDevice kCpu = {kDLCPU, 0};

static int has_four_bits(int format) {
  return format == MOESAIC_NVFP4 || format == MOESAIC_NVFP4_ROW || format == MOESAIC_MXFP4;
}

void capi_quantise(capi_codes* q, int format, void* numbers, int64_t rows, int64_t cols, int typed) {
  moesaic_quant_spec spec;
  moesaic_quant_sizes sizes;
  moesaic_quantize_run run;
  moesaic_quantizer* quantizer = NULL;
  capi_tensor x, codes, global;
  const int wide = format >= MOESAIC_FP8_STATIC && format <= MOESAIC_FP8_BLOCK_128X128;
  const int fp4_scales = format == MOESAIC_NVFP4 || format == MOESAIC_NVFP4_ROW;
  CHECK_OK(moesaic_quant_spec_init(&spec, sizeof(spec)));
  CHECK_OK(moesaic_quant_sizes_init(&sizes, sizeof(sizes)));
  CHECK_OK(moesaic_quantize_run_init(&run, sizeof(run)));
  spec.format = format;
  CHECK_OK(moesaic_quantizer_create(&spec, kCpu, NULL, &quantizer));
  CHECK_OK(moesaic_quant_sizes_of(&spec, rows, cols, &sizes));
  CHECK((size_t)sizes.code_bytes <= sizeof(q->codes) && (size_t)sizes.scale_bytes <= sizeof(q->scales));
  capi_make(&x, numbers, kDLBfloat, 16, 2, rows, cols, 0);
  capi_make(&codes, q->codes, kDLUInt, 8, 2, rows, sizes.code_bytes / rows, 0);
  capi_make(&q->scale, q->scales, wide ? kDLFloat : kDLUInt, wide ? 32 : 8, 2, sizes.scale_rows, sizes.scale_cols, 0);
  capi_make(&q->row_scale, q->row_scales, kDLFloat, 32, 1, rows, 0, 0);
  capi_make(&global, &q->global_scale, kDLFloat, 32, 1, 1, 0, 0);
  run.x = &x.t;
  run.codes = &codes.t;
  run.scales = &q->scale.t;
  if (format == MOESAIC_NVFP4_ROW) run.row_scales = &q->row_scale.t;
  if (format == MOESAIC_NVFP4 || format == MOESAIC_FP8_STATIC) run.global_scale = &global.t;
  CHECK_OK(moesaic_quantizer_quantize(quantizer, &run, NULL));
  moesaic_quantizer_destroy(quantizer);

  capi_make(&q->x, q->codes, kDLUInt, 8, 2, rows, codes.shape[1], 0);
  if (typed && has_four_bits(format)) capi_make(&q->x, q->codes, 17, 4, 2, rows, cols, 0);
  if (typed && !has_four_bits(format)) q->x.t.dtype.code = format == MOESAIC_MXFP8_E5M2 ? 12 : 10;
  if (typed && !wide) q->scale.t.dtype.code = fp4_scales ? 10 : 14;
  // As activations a scale for each row, or one for all, is a vector.
  if (format == MOESAIC_FP8_ROW) q->scale.t.ndim = 1;
  if (format == MOESAIC_FP8_STATIC) capi_make(&q->scale, &q->global_scale, kDLFloat, 32, 1, 1, 0, 0);
}

static void* aligned_memory(size_t bytes) { return aligned_alloc(256, (bytes + 255) / 256 * 256 + 256); }

// A run of numbers with logits given, and the memory of it.
typedef struct coded_run {
  moesaic_moe* moe;
  void *prepared, *workspace;
  capi_tensor x, logits, out;
  moesaic_moe_run run;
} coded_run;

static void make_run(coded_run* r, const char* recipe, capi_data* d) {
  moesaic_moe_config config;
  moesaic_weights *weights = capi_fused_weights(d), *converted = NULL;
  size_t prepared_bytes = 0;
  capi_config(&config);
  config.recipe = recipe;
  CHECK_OK(moesaic_weights_convert(&config, weights, &converted));
  CHECK_OK(moesaic_moe_run_init(&r->run, sizeof(r->run)));
  CHECK_OK(moesaic_moe_create(&config, NULL, &r->moe));
  CHECK_OK(moesaic_moe_prepared_bytes(r->moe, &prepared_bytes));
  CHECK_OK(moesaic_moe_workspace_bytes(r->moe, kTokens, &r->run.workspace_bytes));
  r->prepared = aligned_memory(prepared_bytes);
  r->workspace = aligned_memory(r->run.workspace_bytes);
  CHECK_OK(moesaic_moe_prepare(r->moe, converted, r->prepared, NULL));
  moesaic_weights_destroy(weights);
  moesaic_weights_destroy(converted);
  capi_make(&r->x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  capi_make(&r->logits, d->logits, kDLFloat, 32, 2, kTokens, kExperts, 0);
  capi_make(&r->out, NULL, kDLFloat, 32, 2, kTokens, kHidden, 0);
  r->run.x = &r->x.t;
  r->run.router_logits = &r->logits.t;
  r->run.out = &r->out.t;
  r->run.prepared = r->prepared;
  r->run.workspace = r->workspace;
}

static void free_run(coded_run* r) {
  moesaic_moe_destroy(r->moe);
  free(r->prepared);
  free(r->workspace);
}

void capi_given_codes(capi_data* d, const char* recipe, int format, int typed, float* numbers, float* codes) {
  static capi_codes q;
  coded_run r;
  make_run(&r, recipe, d);
  r.out.t.data = numbers;
  CHECK_OK(moesaic_moe_run_layer(r.moe, &r.run, NULL));
  capi_quantise(&q, format, d->x, kTokens, kHidden, typed);
  r.run.x = &q.x.t;
  r.run.x_scale = &q.scale.t;
  if (format == MOESAIC_NVFP4_ROW) r.run.x_row_scale = &q.row_scale.t;
  r.out.t.data = codes;
  CHECK_OK(moesaic_moe_run_layer(r.moe, &r.run, NULL));
  // Shorter, the struct is one of a header that had no codes: what lies behind it is not read.
  r.run.struct_size = offsetof(moesaic_moe_run, x_scale);
  CHECK_REFUSED(moesaic_moe_run_layer(r.moe, &r.run, NULL), MOESAIC_INVALID_ARGUMENT, "x_scale is empty");
  free_run(&r);
}

void capi_wrong_codes(capi_data* d) {
  static capi_codes q;
  static float y[kTokens][kHidden];
  coded_run r;
  make_run(&r, "nvfp4", d);
  r.out.t.data = y;
  capi_quantise(&q, MOESAIC_NVFP4_ROW, d->x, kTokens, kHidden, 1);
#define REFUSED_CODES(word) CHECK_REFUSED(moesaic_moe_run_layer(r.moe, &r.run, NULL), MOESAIC_INVALID_ARGUMENT, word)
  r.run.x_scale = &q.scale.t;
  REFUSED_CODES("x_scale is u8 [7, 4]");  // of numbers
  r.run.x = &q.x.t;
  REFUSED_CODES("x_row_scale is empty");
  r.run.x_row_scale = &q.row_scale.t;
  q.x.t.dtype.bits = 8;
  q.x.t.dtype.code = 10;
  REFUSED_CODES("run.x is f8_e4m3fn");
  q.x.t.dtype.bits = 4;
  q.x.t.dtype.code = 17;
  q.scale.t.dtype.code = 14;
  REFUSED_CODES("run.x_scale is f8_e8m0fnu");
  q.scale.t.dtype.code = 10;
  q.scale.shape[1] -= 1;
  REFUSED_CODES("x_scale is u8 [7, 3], wanted u8 [7, 4]");
  q.scale.shape[1] += 1;
  q.row_scale.t.device.device_type = kDLCUDA;
  REFUSED_CODES("run.x_row_scale is on cuda:0");
  q.row_scale.t.device.device_type = kDLCPU;
  q.x.strides[0] = 2 * (int64_t)kHidden;
  q.x.strides[1] = 1;
  q.x.t.strides = q.x.strides;
  REFUSED_CODES("run.x is f4_e2m1fn [7, 32] with stride 64 in dimension 0");
  q.x.t.strides = NULL;
  r.run.router_logits = NULL;
  REFUSED_CODES("router_logits is empty");
  r.run.router_logits = &r.logits.t;
  CHECK(y[0][0] == 0);
  CHECK_OK(moesaic_moe_run_layer(r.moe, &r.run, NULL));
  CHECK(y[0][0] != 0);
  free_run(&r);
}
