// SPDX-License-Identifier: Apache-2.0
// Quantisers and quantised weights through the C interface, compiled as C11.
#include <stdlib.h>

#include "check.h"

static const DLDevice kCpu = {kDLCPU, 0};

// Tensors of a quantisation of data->x: [T, H].
typedef struct quant_tensors {
  capi_tensor x, codes, scales, global, rows, zeros;
  moesaic_quantize_run run;
  float global_scale, row_scales[kTokens];
  uint8_t zero_bytes[kTokens * kHidden];
} quant_tensors;

static void make_tensors(quant_tensors* q, const moesaic_quant_spec* spec, const moesaic_quant_sizes* sizes, void* x,
                         int x_code, int x_bits, uint8_t* codes, uint8_t* scales) {
  const int wide = spec->format >= MOESAIC_FP8_STATIC && spec->format <= MOESAIC_FP8_BLOCK_128X128;
  const int int4 = spec->format == MOESAIC_INT4;
  CHECK_OK(moesaic_quantize_run_init(&q->run, sizeof(q->run)));
  capi_make(&q->x, x, x_code, x_bits, 2, kTokens, kHidden, 0);
  capi_make(&q->codes, codes, kDLUInt, 8, 2, kTokens, sizes->code_bytes / kTokens, 0);
  capi_make(&q->scales, scales,
            wide   ? kDLFloat
            : int4 ? kDLBfloat
                   : kDLUInt,
            wide   ? 32
            : int4 ? 16
                   : 8,
            2, sizes->scale_rows, sizes->scale_cols, 0);
  q->global_scale = spec->format == MOESAIC_NVFP4 ? 2688.0f : 0.5f;
  capi_make(&q->global, &q->global_scale, kDLFloat, 32, 1, 1, 0, 0);
  capi_make(&q->rows, q->row_scales, kDLFloat, 32, 1, kTokens, 0, 0);
  capi_make(&q->zeros, q->zero_bytes, kDLUInt, 8, 2, kTokens, sizes->scale_cols, 0);
  q->run.x = &q->x.t;
  q->run.codes = &q->codes.t;
  q->run.scales = &q->scales.t;
  if (spec->format == MOESAIC_NVFP4 || spec->format == MOESAIC_FP8_STATIC) q->run.global_scale = &q->global.t;
  if (spec->format == MOESAIC_NVFP4_ROW) q->run.row_scales = &q->rows.t;
  if (int4 && spec->int4_zero_points) q->run.zeros = &q->zeros.t;
}

void capi_quantizer(int format, capi_data* d, uint8_t* codes, uint8_t* scales, float* back) {
  moesaic_quant_spec spec;
  moesaic_quant_sizes sizes;
  moesaic_quantizer* quantizer = NULL;
  quant_tensors q;
  CHECK_OK(moesaic_quant_spec_init(&spec, sizeof(spec)));
  CHECK_OK(moesaic_quant_sizes_init(&sizes, sizeof(sizes)));
  spec.format = format;
  CHECK_OK(moesaic_quant_sizes_of(&spec, kTokens, kHidden, &sizes));
  CHECK_OK(moesaic_quantizer_create(&spec, kCpu, NULL, &quantizer));
  make_tensors(&q, &spec, &sizes, d->x, kDLBfloat, 16, codes, scales);
  CHECK_OK(moesaic_quantizer_quantize(quantizer, &q.run, NULL));
  q.x.t.data = back;
  q.x.t.dtype.code = kDLFloat;
  q.x.t.dtype.bits = 32;
  CHECK_OK(moesaic_quantizer_dequantize(quantizer, &q.run, NULL));
  moesaic_quantizer_destroy(quantizer);
}

void capi_swizzle(const uint8_t* linear, int rows, int cols, uint8_t* tiles) {
  moesaic_quant_spec spec;
  moesaic_quantizer* quantizer = NULL;
  capi_tensor from, to, back;
  uint8_t copy[4096];
  memset(copy, 0xee, sizeof(copy));
  CHECK_OK(moesaic_quant_spec_init(&spec, sizeof(spec)));
  spec.layout = MOESAIC_LAYOUT_128X4;
  CHECK_OK(moesaic_quantizer_create(&spec, kCpu, NULL, &quantizer));
  capi_make(&from, (void*)linear, 10, 8, 2, rows, cols, 0);  // e4m3 as DLPack names it
  capi_make(&to, tiles, kDLUInt, 8, 1, (int64_t)(rows + 127) / 128 * 128 * ((cols + 3) / 4 * 4), 0, 0);
  capi_make(&back, copy, kDLUInt, 8, 2, rows, cols, 0);
  CHECK_OK(moesaic_quantizer_swizzle(quantizer, &from.t, &to.t, NULL));
  CHECK_OK(moesaic_quantizer_unswizzle(quantizer, &to.t, &back.t, NULL));
  CHECK(memcmp(copy, linear, (size_t)rows * (size_t)cols) == 0);
  from.t.dtype.code = 12;  // e5m2 is not what NVFP4's scales are
  CHECK_REFUSED(moesaic_quantizer_swizzle(quantizer, &from.t, &to.t, NULL), MOESAIC_INVALID_ARGUMENT, "f8_e5m2");
  CHECK_REFUSED(moesaic_quantizer_swizzle(quantizer, NULL, &to.t, NULL), MOESAIC_INVALID_ARGUMENT, "linear is NULL");
  CHECK_REFUSED(moesaic_quantizer_unswizzle(quantizer, NULL, &from.t, NULL), MOESAIC_INVALID_ARGUMENT, "layout_scales");
  moesaic_quantizer_destroy(quantizer);
}

// One matrix of `rows` x `cols` as MXFP4 codes, fp4 as DLPack names it where `typed`.
typedef struct mxfp4_matrix {
  uint8_t codes[2 * kIntermediate * kHidden / 2], scales[2 * kIntermediate * kHidden / 32];
  capi_tensor code_tensor, scale_tensor;
  moesaic_matrix matrix;
} mxfp4_matrix;

static void make_mxfp4(moesaic_quantizer* quantizer, mxfp4_matrix* m, void* numbers, int64_t rows, int64_t cols,
                       int typed) {
  capi_tensor x, codes;
  moesaic_quantize_run run;
  CHECK_OK(moesaic_quantize_run_init(&run, sizeof(run)));
  capi_make(&x, numbers, kDLBfloat, 16, 2, rows, cols, 0);
  capi_make(&codes, m->codes, kDLUInt, 8, 2, rows, cols / 2, 0);
  capi_make(&m->scale_tensor, m->scales, typed ? 14 : kDLUInt, 8, 2, rows, cols / 32, 0);
  run.x = &x.t;
  run.codes = &codes.t;
  run.scales = &m->scale_tensor.t;
  CHECK_OK(moesaic_quantizer_quantize(quantizer, &run, NULL));
  if (typed) {
    capi_make(&m->code_tensor, m->codes, 17, 4, 2, rows, cols, 0);
  } else {
    m->code_tensor = codes;
    m->code_tensor.t.shape = m->code_tensor.shape;
  }
  CHECK_OK(moesaic_matrix_init(&m->matrix, sizeof(m->matrix)));
  m->matrix.values = &m->code_tensor.t;
  m->matrix.codes = MOESAIC_CODES_E2M1;
  m->matrix.scales = &m->scale_tensor.t;
  m->matrix.scale_format = MOESAIC_SCALES_E8M0;
  m->matrix.block_cols = 32;
}

void capi_quantized_views(capi_data* d, float* y) {
  static mxfp4_matrix matrices[kExperts][3];
  moesaic_quant_spec spec;
  moesaic_quantizer* quantizer = NULL;
  moesaic_expert experts[kExperts];
  const moesaic_expert* pointers[kExperts];
  capi_tensor biases[kExperts][3], router;
  moesaic_weight_views views;
  moesaic_weights* weights = NULL;
  moesaic_moe_config config;
  CHECK_OK(moesaic_quant_spec_init(&spec, sizeof(spec)));
  spec.format = MOESAIC_MXFP4;
  CHECK_OK(moesaic_quantizer_create(&spec, kCpu, NULL, &quantizer));
  for (int e = 0; e < kExperts; ++e) {
    make_mxfp4(quantizer, &matrices[e][0], d->w13[e], kIntermediate, kHidden, e % 2);
    make_mxfp4(quantizer, &matrices[e][1], d->w13[e][kIntermediate], kIntermediate, kHidden, e % 2);
    make_mxfp4(quantizer, &matrices[e][2], d->w2[e], kHidden, kIntermediate, e % 2);
    capi_make(&biases[e][0], d->b13[e], kDLFloat, 32, 1, kIntermediate, 0, 0);
    capi_make(&biases[e][1], d->b13[e] + kIntermediate, kDLFloat, 32, 1, kIntermediate, 0, 0);
    capi_make(&biases[e][2], d->b2[e], kDLFloat, 32, 1, kHidden, 0, 0);
    CHECK_OK(moesaic_expert_init(&experts[e], sizeof(experts[e])));
    experts[e].gate = &matrices[e][0].matrix;
    experts[e].up = &matrices[e][1].matrix;
    experts[e].down = &matrices[e][2].matrix;
    experts[e].gate_bias = &biases[e][0].t;
    experts[e].up_bias = &biases[e][1].t;
    experts[e].down_bias = &biases[e][2].t;
    pointers[e] = &experts[e];
  }
  moesaic_quantizer_destroy(quantizer);
  CHECK_OK(moesaic_weight_views_init(&views, sizeof(views)));
  capi_make(&router, d->router, kDLBfloat, 16, 2, kExperts, kHidden, 0);
  views.experts = pointers;
  views.num_experts = kExperts;
  views.router = &router.t;
  CHECK_OK(moesaic_weights_create(&views, &weights));
  capi_config(&config);
  config.recipe = "bf16_mxfp4";
  capi_run(&config, weights, d, y);
  moesaic_weights_destroy(weights);
}

void capi_wrong_quantizer_arguments(void) {
  static capi_data data;
  static uint8_t codes[kTokens * kHidden], scales[4 * kTokens * kHidden];
  moesaic_quant_spec spec;
  moesaic_quant_sizes sizes;
  moesaic_quantizer* quantizer = NULL;
  quant_tensors q;
  const DLDevice vulkan = {kDLVulkan, 0};
  CHECK_OK(moesaic_quant_spec_init(&spec, sizeof(spec)));
  CHECK_OK(moesaic_quant_sizes_init(&sizes, sizeof(sizes)));
  spec.format = 11;
  CHECK_REFUSED(moesaic_quantizer_create(&spec, kCpu, NULL, &quantizer), MOESAIC_INVALID_ARGUMENT, "0 to 10");
  spec.format = MOESAIC_MXFP8;
  CHECK_REFUSED(moesaic_quantizer_create(&spec, vulkan, NULL, &quantizer), MOESAIC_INVALID_ARGUMENT, "kDLCUDA");
  spec.activation = MOESAIC_RELU;
  CHECK_REFUSED(moesaic_quantizer_create(&spec, kCpu, NULL, &quantizer), MOESAIC_INVALID_ARGUMENT, "gated");
  CHECK(quantizer == NULL);
  spec.activation = -1;
  CHECK_REFUSED(moesaic_quant_sizes_of(&spec, 3, 33, &sizes), MOESAIC_INVALID_ARGUMENT, "33");
  CHECK_REFUSED(moesaic_quant_sizes_of(&spec, 3, 32, NULL), MOESAIC_INVALID_ARGUMENT, "sizes is NULL");
  CHECK_OK(moesaic_quant_sizes_of(&spec, kTokens, kHidden, &sizes));
  CHECK_OK(moesaic_quantizer_create(&spec, kCpu, NULL, &quantizer));
  make_tensors(&q, &spec, &sizes, data.x, kDLBfloat, 16, codes, scales);
  q.codes.t.dtype.code = 12;
  CHECK_REFUSED(moesaic_quantizer_quantize(quantizer, &q.run, NULL), MOESAIC_INVALID_ARGUMENT, "run.codes");
  q.codes.t.dtype.code = 10;
  q.scales.t.dtype.code = 14;
  CHECK_OK(moesaic_quantizer_quantize(quantizer, &q.run, NULL));
  q.x.t.device.device_type = kDLCUDA;
  CHECK_REFUSED(moesaic_quantizer_quantize(quantizer, &q.run, NULL), MOESAIC_INVALID_ARGUMENT, "run.x is on cuda:0");
  q.x.t.device.device_type = kDLCPU;
  q.run.codes = NULL;
  CHECK_REFUSED(moesaic_quantizer_quantize(quantizer, &q.run, NULL), MOESAIC_INVALID_ARGUMENT, "codes");
  CHECK_REFUSED(moesaic_quantizer_dequantize(quantizer, &q.run, NULL), MOESAIC_INVALID_ARGUMENT, "codes");
  CHECK_REFUSED(moesaic_quantizer_quantize(NULL, &q.run, NULL), MOESAIC_INVALID_ARGUMENT, "quantizer is NULL");
  moesaic_quantizer_destroy(quantizer);
}
