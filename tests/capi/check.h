// SPDX-License-Identifier: Apache-2.0
// Checks in C whose failures GoogleTest reports, and the data that both languages use.
#pragma once

#include <stdint.h>
#include <string.h>

#include "moesaic/moesaic.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
  kTokens = 7,
  kHidden = 64,
  kIntermediate = 32,
  kExperts = 4,
  kTopK = 2,
  kVocabulary = 11,
  kSharedSlots = 1,
  kSlots = kTopK + kSharedSlots,
  // Products of w13's numbers: the last block of 128 is not whole.
  kGroups = 3,
  kGemmN = 32,
  kGemmK = 160,
  kMostCodes = kGemmN * kGemmK
};

/// Weights and input of one layer, bf16 unless said otherwise.
typedef struct capi_data {
  uint16_t w13[kExperts][2 * kIntermediate][kHidden];  // gate rows, then up rows
  uint16_t w2[kExperts][kHidden][kIntermediate];
  float b13[kExperts][2 * kIntermediate], b2[kExperts][kHidden];
  uint16_t router[kExperts][kHidden];
  uint16_t x[kTokens][kHidden];
  float logits[kTokens][kExperts], selection_bias[kExperts];
  int64_t token_ids[kTokens];  // the last is outside the table
  int32_t token_experts[kVocabulary][kTopK];
} capi_data;

/// What a router writes for kTokens tokens, kSharedSlots shared slots included.
typedef struct capi_routing {
  int32_t ids[kTokens][kSlots];
  float weights[kTokens][kSlots];
  int32_t row_offsets[kExperts + kSharedSlots + 1];  // as many as there are experts held
  int32_t row_token[kTokens * kSlots];
  float row_weight[kTokens * kSlots];
  int32_t slot_row[kTokens][kSlots];
} capi_routing;

/// Reports to GoogleTest.
void capi_fail(const char* file, int line, const char* what, const char* text);

#define CHECK(condition) ((condition) ? (void)0 : capi_fail(__FILE__, __LINE__, #condition, ""))
#define CHECK_OK(call) capi_check_ok(__FILE__, __LINE__, #call, (call))
#define CHECK_REFUSED(call, status, word) capi_check_refused(__FILE__, __LINE__, #call, (call), (status), (word))

void capi_check_ok(const char* file, int line, const char* what, moesaic_status got);
void capi_check_refused(const char* file, int line, const char* what, moesaic_status got, moesaic_status wanted,
                        const char* word);

/// A compact tensor on the CPU; the shape lies in the result. Views of it hold while it lives.
typedef struct capi_tensor {
  DLTensor t;
  int64_t shape[4], strides[4];
} capi_tensor;
void capi_make(capi_tensor* tensor, void* data, int code, int bits, int rank, int64_t a, int64_t b, int64_t c);

/// A matrix of bf16 as codes, and the tensors of a run that gives them.
typedef struct capi_codes {
  uint8_t codes[kMostCodes];
  float scales[kMostCodes / 32], row_scales[kGemmN], global_scale;  // `scales` are bytes where the format has those
  capi_tensor x, scale, row_scale;
} capi_codes;
/// Quantises numbers [rows, cols]; `typed`: tensors are of DLPack's fp8 and fp4 types, else u8. FP8_STATIC and NVFP4
/// read `global_scale`.
void capi_quantise(capi_codes* codes, int format, void* numbers, int64_t rows, int64_t cols, int typed);

void capi_fill(capi_data* data);
void capi_config(moesaic_moe_config* config);
/// Fused weights with biases and router.
moesaic_weights* capi_fused_weights(capi_data* data);
/// Experts as strided views of the same memory, at byte offsets.
moesaic_weights* capi_expert_weights(capi_data* data);
/// Experts `ids`, and of each the slice `rank` of `size` of I, as strided views.
moesaic_weights* capi_part_weights(capi_data* data, const int* ids, int count, int rank, int size);
/// Creates, prepares and runs; y [T, H] f32.
void capi_run(const moesaic_moe_config* config, const moesaic_weights* weights, capi_data* data, float* y);

// Each is one test; results are compared with the C++ interface's.
void capi_layer(capi_data* data, float* fused, float* views);
void capi_reference(capi_data* data, int mode, double* y);
void capi_converted(capi_data* data, const char* recipe, float* y);
void capi_quantized_views(capi_data* data, float* y);
void capi_quantizer(int format, capi_data* data, uint8_t* codes, uint8_t* scales, float* back);
void capi_swizzle(const uint8_t* linear, int rows, int cols, uint8_t* tiles);
void capi_checkpoint(const char* folder, int32_t* layers, float* y, int64_t tokens, uint16_t* x);
/// Prepares, saves, replaces an expert, loads: what a run then gives.
void capi_prepared_file(capi_data* data, const char* path, float* replaced, float* loaded);
/// Layers that hold a part; y [T, H] f32. `slots` [E]; slices of two ranks.
void capi_expert_slice(capi_data* data, int first, int count, float* y);
void capi_expert_slots(capi_data* data, const int32_t* slots, float* y);
void capi_tensor_slice(capi_data* data, int rank, float* y);
/// Rows of experts 1 to 3: `numbers` are their counts of rows [3, max, H], or where `max` is 0 offsets of rows [R, H].
void capi_dispatched(capi_data* data, int64_t max, int64_t rows, int32_t* numbers, float* y);
/// Routing by token id, then by ids that are given.
void capi_token_ids(capi_data* data, float* y);
void capi_wrong_parts(capi_data* data);
/// A layer of a recipe on data->x and on codes of it in `format`, with logits given; y [T, H] f32.
void capi_given_codes(capi_data* data, const char* recipe, int format, int typed, float* numbers, float* codes);
void capi_wrong_codes(capi_data* data);
/// Products of rows of w2's numbers, quantised by `x_format`, and w13's as `w_format` (-1: as they are). `numbers`:
/// counts of rows [groups, max, k]; where `max` is 0 offsets of rows [rows, k]; NULL: one group. out [rows, n] f32 of
/// rows that the op quantises, and of codes of them. FP8_STATIC quantises by `input_scale`.
typedef struct capi_product {
  const char* recipe;
  int x_format, w_format, typed;
  float alpha, input_scale;
  int64_t max, rows;
  int32_t* numbers;
} capi_product;
void capi_gemm(capi_data* data, const capi_product* product, float* own, float* given);
void capi_wrong_gemm_arguments(capi_data* data);
/// Routes with every method; experts as `slots` has them, all where it is NULL.
void capi_router(capi_data* data, int method, const int32_t* slots, capi_routing* routing);
void capi_wrong_router_arguments(capi_data* data);
/// data->x as [T, columns] through an activation; out [T, I] f32.
void capi_activation(capi_data* data, int kind, int order, float limit, int64_t outputs, float* out);
void capi_wrong_activation_arguments(capi_data* data);
void capi_memory(capi_data* data);
/// The format of a recipe's weights, -1 for 16 bits.
int capi_weight_format(const char* recipe, int group, int zero_points);
void capi_texts(void);
void capi_struct_sizes(void);
void capi_null_pointers(void);
void capi_wrong_tensors(capi_data* data);
void capi_wrong_quantizer_arguments(void);
void capi_wrong_matrices(void);
/// `warn` logs the warning "one line".
void capi_log(void (*warn)(void));
/// Fails with a text that names `number`; the thread's own text must be there after `wait`.
void capi_thread(int number, void (*wait)(void));

#ifdef __cplusplus
}
#endif
