// SPDX-License-Identifier: Apache-2.0
// The C interface (C11): MoE layers, products, routers, activations, quantisers and checkpoints over DLTensor views,
// mirroring the C++ headers, whose comments say what shapes and values mean.
//
// Calls return a moesaic_status; moesaic_last_error() has the text of this thread's last failure. No call throws or
// aborts. Tensors are views of the caller's memory: shapes, strides (in elements; NULL: compact) and byte_offset are
// honoured; what must be compact says so when it is not. Element types: bf16, f16, f32, f64, i32, i64, u8; codes and
// byte scales are u8 or DLPack's fp8 (e4m3fn 10, e5m2 12, e8m0fnu 14) and fp4 (e2m1fn 17) codes. Handles may be used
// from any thread; destroying one while it is in use is the caller's mistake.
//
// Structs begin with their size, so that they can grow. The *_init functions fill in the size and every default.
#pragma once

#include <dlpack/dlpack.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Bumped when a function or struct changes in a way that callers must follow; the shared library's soname ends in it.
#define MOESAIC_ABI_VERSION 1

/// What kind of failure it was: moesaic::ErrorKind + 1.
typedef enum moesaic_status {
  MOESAIC_OK = 0,
  MOESAIC_INVALID_ARGUMENT = 1,
  MOESAIC_UNSUPPORTED = 2,
  MOESAIC_COMPILE = 3,
  MOESAIC_CUDA = 4,
  MOESAIC_IO = 5,
  MOESAIC_INTERNAL = 6  // also: out of memory
} moesaic_status;

/// moesaic::ActivationKind, by number.
typedef enum moesaic_activation {
  MOESAIC_GELU = 0,
  MOESAIC_RELU = 1,
  MOESAIC_SILU = 2,
  MOESAIC_SWIGLU = 3,
  MOESAIC_GEGLU = 4,
  MOESAIC_SWIGLU_BIAS = 5,
  MOESAIC_RELU2 = 6,
  MOESAIC_SWIGLU_STEP = 7,
  MOESAIC_GEGLU_TANH = 8,
  MOESAIC_IDENTITY = 9,
  MOESAIC_SITU = 10
} moesaic_activation;

/// moesaic::RoutingMethod, by number.
typedef enum moesaic_routing {
  MOESAIC_SOFTMAX_TOPK = 0,
  MOESAIC_SOFTMAX_TOPK_RENORM = 1,
  MOESAIC_TOPK_SOFTMAX = 2,
  MOESAIC_DEEPSEEK_V3 = 3,
  MOESAIC_DEEPSEEK_V2 = 4,
  MOESAIC_LLAMA4 = 5,
  MOESAIC_TOPK = 6,
  MOESAIC_SIGMOID = 7,
  MOESAIC_MINIMAX2 = 8,
  MOESAIC_HASH = 9
} moesaic_routing;

/// moesaic::GateUpOrder, by number.
typedef enum moesaic_gate_up_order {
  MOESAIC_GATE_FIRST = 0,
  MOESAIC_UP_FIRST = 1,
  MOESAIC_INTERLEAVED_GATE_FIRST = 2,
  MOESAIC_INTERLEAVED_UP_FIRST = 3
} moesaic_gate_up_order;

/// moesaic::ReferenceMode, by number.
typedef enum moesaic_reference_mode { MOESAIC_EXACT = 0, MOESAIC_ORACLE = 1 } moesaic_reference_mode;

/// moesaic::CodeFormat, by number.
typedef enum moesaic_code_format {
  MOESAIC_CODES_NONE = 0,  // numbers
  MOESAIC_CODES_E4M3 = 1,
  MOESAIC_CODES_E5M2 = 2,
  MOESAIC_CODES_E2M1 = 3,
  MOESAIC_CODES_INT4 = 4
} moesaic_code_format;

/// moesaic::ScaleFormat, by number.
typedef enum moesaic_scale_format {
  MOESAIC_SCALES_F32 = 0,
  MOESAIC_SCALES_BF16 = 1,
  MOESAIC_SCALES_F16 = 2,
  MOESAIC_SCALES_E4M3 = 3,
  MOESAIC_SCALES_E8M0 = 4
} moesaic_scale_format;

/// moesaic::NibbleOrder, by number.
typedef enum moesaic_nibble_order {
  MOESAIC_NIBBLES_LINEAR = 0,
  MOESAIC_NIBBLES_WORDS_ALONG_C = 1,
  MOESAIC_NIBBLES_WORDS_ALONG_R = 2,
  MOESAIC_NIBBLES_AWQ = 3
} moesaic_nibble_order;

/// moesaic::QuantFormat, by number.
typedef enum moesaic_quant_format {
  MOESAIC_NVFP4 = 0,
  MOESAIC_NVFP4_ROW = 1,
  MOESAIC_MXFP4 = 2,
  MOESAIC_MXFP8 = 3,
  MOESAIC_MXFP8_E5M2 = 4,
  MOESAIC_FP8_STATIC = 5,
  MOESAIC_FP8_TENSOR = 6,
  MOESAIC_FP8_ROW = 7,
  MOESAIC_FP8_BLOCK_1X128 = 8,
  MOESAIC_FP8_BLOCK_128X128 = 9,
  MOESAIC_INT4 = 10
} moesaic_quant_format;

/// moesaic::ScaleLayout, by number.
typedef enum moesaic_scale_layout {
  MOESAIC_LAYOUT_LINEAR = 0,
  MOESAIC_LAYOUT_128X4 = 1,
  MOESAIC_LAYOUT_8X4 = 2
} moesaic_scale_layout;

/// Order of FP32 scales of given codes, per 1 x 128: [M, ceil(k / 128)], or [ceil(k / 128), M].
typedef enum moesaic_scale_major { MOESAIC_SCALES_K_MAJOR = 0, MOESAIC_SCALES_MN_MAJOR = 1 } moesaic_scale_major;

/// moesaic::E8m0Rounding, by number.
typedef enum moesaic_e8m0_rounding { MOESAIC_E8M0_UP = 0, MOESAIC_E8M0_FLOOR = 1 } moesaic_e8m0_rounding;

/// moesaic::LogLevel, by number.
typedef enum moesaic_log_level {
  MOESAIC_LOG_DEBUG = 0,
  MOESAIC_LOG_NOTICE = 1,
  MOESAIC_LOG_WARNING = 2
} moesaic_log_level;

/// A layer on a device (moesaic::FusedMoe).
typedef struct moesaic_moe moesaic_moe;
/// Views of a layer's weights, and the memory behind those that were converted or loaded (moesaic::MoeWeights).
typedef struct moesaic_weights moesaic_weights;
/// A quantiser on a device (moesaic::Quantizer).
typedef struct moesaic_quantizer moesaic_quantizer;
/// A router on a device (moesaic::Router).
typedef struct moesaic_router moesaic_router;
/// An activation on a device (moesaic::ActivationOp).
typedef struct moesaic_activation_op moesaic_activation_op;
/// `gemm` and `grouped_gemm` on a device (moesaic::Gemm).
typedef struct moesaic_gemm moesaic_gemm;
/// Memory of a device, for callers without an allocator of their own.
typedef struct moesaic_memory moesaic_memory;
/// A checkpoint folder (moesaic::Checkpoint).
typedef struct moesaic_checkpoint moesaic_checkpoint;

/// moesaic::MoeConfig. alpha, beta, limit: NaN is the kind's default.
typedef struct moesaic_moe_config {
  size_t struct_size;
  int32_t hidden, intermediate, num_experts, top_k;
  const char* recipe;       // a name of `moesaic recipes`
  int32_t int4_group_size;  // recipes with int4 weights
  int32_t int4_zero_points;
  int32_t activation;  // moesaic_activation
  float alpha, beta, limit;
  int32_t routing;  // moesaic_routing
  int32_t n_group, topk_group;
  float scaling;
  int32_t renormalize;
  int32_t shared_intermediate;  // 0: no shared experts
  int32_t shared_gated;
  const char* shared_recipe;  // NULL: the layer's
  int32_t router, weights_on_input;
  int32_t max_tokens;
  DLDevice device;  // kDLCPU or kDLCUDA
  // moesaic::ExpertMap: experts [experts_first, experts_first + experts_count), count 0: all; or instead expert_slots
  // [num_experts]: the index of every expert in the weights, -1: not held. The array is copied.
  const int32_t* expert_slots;
  size_t num_expert_slots;  // num_experts; 0 where expert_slots is NULL
  int32_t experts_first, experts_count;
  int32_t tp_rank, tp_size;  // moesaic::TensorParallel; `intermediate` and `shared_intermediate` are this rank's
  int32_t vocabulary;        // MOESAIC_HASH: rows of the weights' token_experts
  int32_t batch_invariant;   // 1: the same bits in every batch, moesaic::MoeConfig
  int32_t int4_f32_scales;   // 1: prepared int4 weights keep scales in FP32, moesaic::Int4Groups
  int32_t static_scales;     // 1: all experts have static scales of activations, moesaic::MoeConfig
} moesaic_moe_config;

/// moesaic::ModuleOptions: where kernels come from. NULL and -1: the environment, then defaults.
typedef struct moesaic_module_options {
  size_t struct_size;
  const char* const* bundles;
  size_t num_bundles;
  const char* cache_dir;
  int32_t jit;  // -1, 0 or 1
  const char* nvrtc;
  const char* force_kernel;
  const char* force_target;
} moesaic_module_options;

/// A matrix [R, C] of numbers (`values` [R, C], any strides) or of codes (moesaic::MatrixView). 8-bit codes: `values`
/// [R, C], any strides. 4-bit codes in linear order: `values` bytes [R, C / 2], compact within a row, or fp4 [R, C].
/// 4-bit codes in another order: `values` compact u8 or i32 words of any shape, with rows, cols and strides given.
typedef struct moesaic_matrix {
  size_t struct_size;
  const DLTensor* values;
  int32_t codes;                   // moesaic_code_format
  int32_t nibble_order;            // moesaic_nibble_order
  int64_t rows, cols;              // 0: from `values`
  int64_t row_stride, col_stride;  // of 4-bit codes, in nibbles; 0 and 0: from `values` (linear order)
  const DLTensor* scales;          // [ceil(R / block_rows), ceil(C / block_cols)], any strides; NULL: 1
  int32_t scale_format;            // moesaic_scale_format; must agree with the type of `scales`
  int64_t block_rows, block_cols;
  double multiplier;      // value = code * scale * multiplier
  const DLTensor* zeros;  // int4: compact bytes or words with 4 bits for every scale; NULL: the zero point is 8
  int32_t zero_order;     // moesaic_nibble_order
  int64_t zero_row_stride, zero_col_stride;  // in nibbles
  int32_t zero_offset;                       // added to what is stored
} moesaic_matrix;

/// moesaic::ExpertWeights. NULL: not given. Biases are tensors [n] of any stride.
typedef struct moesaic_expert {
  size_t struct_size;
  const moesaic_matrix* gate;  // [I, H]
  const moesaic_matrix* up;    // [I, H], gated activations
  const moesaic_matrix* down;  // [H, I]
  const DLTensor *gate_bias, *up_bias, *down_bias;
  float input_scale, down_input_scale;  // 0: none
} moesaic_expert;

/// moesaic::MoeWeights, of the experts that the layer holds (below, E is their number, but for the router). Experts one
/// by one, or fused tensors (moesaic::expert_views), not both.
typedef struct moesaic_weight_views {
  size_t struct_size;
  const moesaic_expert* const* experts;  // [num_experts]
  size_t num_experts;
  const DLTensor *w13, *w2;   // fused: [E, 2I, H] and [E, H, I], or transposed [E, H, 2I] and [E, I, H]; compact
  const DLTensor *b13, *b2;   // [E, 2I] and [E, H], or both NULL; compact
  int32_t gate_up_order;      // moesaic_gate_up_order
  int32_t gated, transposed;  // of the fused tensors
  const DLTensor* router;     // [E, H], any strides, or NULL
  const DLTensor *router_bias, *selection_bias;  // [E] or NULL
  const moesaic_expert* shared;
  const DLTensor* shared_gate;    // [H]
  const DLTensor* token_experts;  // [vocabulary, k] i32, compact: MOESAIC_HASH
} moesaic_weight_views;

/// moesaic::MoeRun. NULL: not given. Tensors are compact and on the layer's device. T tokens that are routed, or rows
/// that were dispatched before: x and out are [R, H] with expert_offsets, [L, max, H] with expert_counts; L is the
/// number of experts held.
typedef struct moesaic_moe_run {
  size_t struct_size;
  const DLTensor* x;                        // [T, H], or codes, see x_scale
  const DLTensor* router_logits;            // [T, E] f32
  const DLTensor *topk_ids, *topk_weights;  // [T, k] i32, f32
  const DLTensor* out;                      // [T, H]
  const void* prepared;
  void* workspace;
  size_t workspace_bytes;
  const DLTensor *logits_out, *topk_ids_out, *topk_weights_out;
  const DLTensor* token_ids;       // [T] i64 or i32: MOESAIC_HASH
  const DLTensor* expert_offsets;  // [L + 1] i32: rows [offsets[e], offsets[e + 1]) are local expert e's
  const DLTensor* expert_counts;   // [L] i32: the first counts[e] of expert e's rows are used
  // x as codes, u8 or the recipe's own type, quantised as its activations are; scales as moesaic::MoeRun says.
  const DLTensor* x_scale;
  const DLTensor* x_row_scale;  // NVFP4: f32 [T] or [1]
} moesaic_moe_run;

/// moesaic::QuantSpec, and an optional gated activation that is applied first (moesaic_activation, or -1).
typedef struct moesaic_quant_spec {
  size_t struct_size;
  int32_t format;  // moesaic_quant_format
  int32_t layout;  // moesaic_scale_layout
  int32_t e8m0;    // moesaic_e8m0_rounding
  int32_t int4_group_size, int4_zero_points;
  int32_t activation;
  float alpha, beta, limit;  // of the activation; NaN: its default
} moesaic_quant_spec;

/// moesaic::QuantSizes: bytes and scales of a quantised matrix.
typedef struct moesaic_quant_sizes {
  size_t struct_size;
  int64_t code_bytes, scale_rows, scale_cols, scale_bytes, zero_bytes;
} moesaic_quant_sizes;

/// moesaic::QuantizeRun. NULL: not given. Tensors are compact and on the quantiser's device.
typedef struct moesaic_quantize_run {
  size_t struct_size;
  const DLTensor *x, *codes, *scales, *zeros, *global_scale, *row_scales, *group_offsets;
} moesaic_quantize_run;

/// moesaic::RouterConfig. The fields of routing and of the experts held are those of moesaic_moe_config.
typedef struct moesaic_router_config {
  size_t struct_size;
  int32_t num_experts, top_k;
  int32_t routing;  // moesaic_routing
  int32_t n_group, topk_group;
  float scaling;
  int32_t renormalize;
  int32_t vocabulary;           // MOESAIC_HASH: rows of token_experts
  const int32_t* expert_slots;  // [num_experts] or NULL; copied
  size_t num_expert_slots;
  int32_t experts_first, experts_count;
  int32_t shared_slots;  // appended to every token: ids E, E + 1, ...
  float shared_weight;
  int32_t max_tokens;
  DLDevice device;  // kDLCPU or kDLCUDA
} moesaic_router_config;

/// moesaic::RouteRun. NULL: not given. Tensors are compact and on the router's device. S = top_k + shared_slots; L is
/// the number of experts held. Either logits (with what the method needs) or given ids; of the last four all or none.
typedef struct moesaic_route_run {
  size_t struct_size;
  const DLTensor* logits;                     // [T, E] f32
  const DLTensor* selection_bias;             // [E] f32
  const DLTensor* token_ids;                  // [T] i64 or i32: MOESAIC_HASH
  const DLTensor* token_experts;              // [vocabulary, k] i32: MOESAIC_HASH
  const DLTensor *given_ids, *given_weights;  // [T, S] i32, f32
  const DLTensor *ids, *weights;              // [T, S] i32, f32, written
  const DLTensor* row_offsets;                // [L + shared_slots + 1] i32, written
  const DLTensor *row_token, *row_weight;     // [T * S] i32, f32, written
  const DLTensor* slot_row;                   // [T, S] i32, written
  void* workspace;
  size_t workspace_bytes;
} moesaic_route_run;

/// moesaic::Activation, and how columns hold gate and up. alpha, beta, limit: NaN is the kind's default.
typedef struct moesaic_activation_spec {
  size_t struct_size;
  int32_t activation;  // moesaic_activation
  float alpha, beta, limit;
  int32_t gate_up_order;  // moesaic_gate_up_order; read by gated kinds only
} moesaic_activation_spec;

/// moesaic::ActivationRun. Tensors are compact, on the op's device, and do not overlap.
typedef struct moesaic_activation_run {
  size_t struct_size;
  const DLTensor* x;    // bf16, f16 or f32: gated kinds [T, 2I], others [T, I]
  const DLTensor* out;  // [T, I] bf16, f16 or f32, written
} moesaic_activation_run;

/// moesaic::GemmConfig.
typedef struct moesaic_gemm_config {
  size_t struct_size;
  int32_t n, k;  // of every group's W [n, k]
  int32_t groups;
  int32_t e5m2;             // activations of mxfp8 and mxfp8_mxfp4 are e5m2 instead of e4m3
  const char* recipe;       // a name of `moesaic recipes`
  int32_t int4_group_size;  // recipes with int4 weights
  int32_t int4_zero_points;
  int32_t max_rows;
  DLDevice device;          // kDLCPU or kDLCUDA
  int32_t int4_f32_scales;  // as in moesaic_moe_config
} moesaic_gemm_config;

/// moesaic::GemmWeights: one group's.
typedef struct moesaic_gemm_weights {
  size_t struct_size;
  const moesaic_matrix* w;  // [n, k] in the recipe's format
  const DLTensor* bias;     // [n] of any stride, or NULL
} moesaic_gemm_weights;

/// moesaic::GemmRun. NULL: not given. Tensors are compact and on the op's device; out overlaps nothing. M rows: those
/// of x, or groups * max with counts.
typedef struct moesaic_gemm_run {
  size_t struct_size;
  const DLTensor* x;                      // [M, k], with counts [groups, max, k]; or codes, u8 or the recipe's own type
  const DLTensor *x_scale, *x_row_scale;  // of codes, as moesaic::GemmRun says
  int32_t scale_major;                    // moesaic_scale_major
  float alpha;
  const DLTensor* input_scale;    // f32 [1]: x is quantised by it
  const DLTensor* group_offsets;  // [groups + 1] i32: rows [offsets[g], offsets[g + 1]) are group g's
  const DLTensor* group_counts;   // [groups] i32: the first counts[g] of group g's rows are used
  const DLTensor* out;            // [M, n], with counts [groups, max, n]: bf16, f16 or f32, written
  const void* prepared;
  void* workspace;
  size_t workspace_bytes;
} moesaic_gemm_run;

/// Called with each log line; from any thread, one call at a time.
typedef void (*moesaic_log_callback)(moesaic_log_level level, const char* message, void* user);

// Functions alone: templates would be exported with a struct that they are specialised for.
#pragma GCC visibility push(default)

// --- the library ----------------------------------------------------------------------------------------------------

/// MOESAIC_ABI_VERSION of the library that runs.
uint32_t moesaic_abi_version(void);
/// "0.1.0".
const char* moesaic_version(void);
/// Of a moesaic_status: "ok", "invalid argument", ...; "unknown status" for other numbers.
const char* moesaic_status_name(int32_t status);
/// What this thread's last failed call said: operation, argument, got, wanted, what would work. "" when none failed.
/// Valid until this thread's next failure; successes leave it.
const char* moesaic_last_error(void);
/// Replaces the log callback (default: stderr); NULL restores the default.
moesaic_status moesaic_set_log_callback(moesaic_log_callback callback, void* user);

// --- defaults: each writes `size` bytes, sizeof the struct ----------------------------------------------------------

/// Defaults of moesaic::MoeConfig; sizes are 0.
moesaic_status moesaic_moe_config_init(moesaic_moe_config* config, size_t size);
/// Everything from the environment.
moesaic_status moesaic_module_options_init(moesaic_module_options* options, size_t size);
/// Numbers, blocks of 1 x 1, multiplier 1.
moesaic_status moesaic_matrix_init(moesaic_matrix* matrix, size_t size);
/// Nothing given.
moesaic_status moesaic_expert_init(moesaic_expert* expert, size_t size);
/// Nothing given; gated.
moesaic_status moesaic_weight_views_init(moesaic_weight_views* views, size_t size);
/// Nothing given.
moesaic_status moesaic_moe_run_init(moesaic_moe_run* run, size_t size);
/// NVFP4, linear scales, no activation.
moesaic_status moesaic_quant_spec_init(moesaic_quant_spec* spec, size_t size);
/// Zeros.
moesaic_status moesaic_quant_sizes_init(moesaic_quant_sizes* sizes, size_t size);
/// Nothing given.
moesaic_status moesaic_quantize_run_init(moesaic_quantize_run* run, size_t size);
/// Defaults of moesaic::RouterConfig; sizes are 0.
moesaic_status moesaic_router_config_init(moesaic_router_config* config, size_t size);
/// Nothing given.
moesaic_status moesaic_route_run_init(moesaic_route_run* run, size_t size);
/// SwiGLU, gate first.
moesaic_status moesaic_activation_spec_init(moesaic_activation_spec* spec, size_t size);
/// Nothing given.
moesaic_status moesaic_activation_run_init(moesaic_activation_run* run, size_t size);
/// Defaults of moesaic::GemmConfig; n and k are 0.
moesaic_status moesaic_gemm_config_init(moesaic_gemm_config* config, size_t size);
/// Nothing given.
moesaic_status moesaic_gemm_weights_init(moesaic_gemm_weights* weights, size_t size);
/// Nothing given; alpha 1.
moesaic_status moesaic_gemm_run_init(moesaic_gemm_run* run, size_t size);

// --- memory ---------------------------------------------------------------------------------------------------------

/// `bytes` of a device's memory (kDLCPU or kDLCUDA) at a multiple of 256 bytes, any content: for prepared weights,
/// workspaces and tensors. 0 bytes are one.
moesaic_status moesaic_memory_create(DLDevice device, size_t bytes, moesaic_memory** memory);
/// Where the memory begins; NULL for NULL.
void* moesaic_memory_data(const moesaic_memory* memory);
/// NULL is legal. No work of the device may still use it: moesaic_synchronize.
void moesaic_memory_destroy(moesaic_memory* memory);
/// Waits for all work of a device; on the CPU there is none.
moesaic_status moesaic_synchronize(DLDevice device);

// --- weights --------------------------------------------------------------------------------------------------------

/// Weights from views, all on one device; the tensors' memory must outlive the handle's use, the structs need not.
/// Tensors without elements are refused.
moesaic_status moesaic_weights_create(const moesaic_weight_views* views, moesaic_weights** weights);
/// Host weights in the formats of the configuration's recipes (moesaic::convert_weights). The result owns what was
/// converted and keeps views of the rest: the memory of `weights` must outlive it, the handle need not.
moesaic_status moesaic_weights_convert(const moesaic_moe_config* config, const moesaic_weights* weights,
                                       moesaic_weights** converted);
/// Host weights on a CUDA device: the memory under their views is copied, done on return, for every stream. The result
/// owns the copy.
moesaic_status moesaic_weights_to_device(const moesaic_weights* weights, DLDevice device, moesaic_weights** copy);
/// NULL is legal.
void moesaic_weights_destroy(moesaic_weights* weights);

// --- a layer --------------------------------------------------------------------------------------------------------

/// moesaic::FusedMoe::create. `modules` NULL: everything from the environment.
moesaic_status moesaic_moe_create(const moesaic_moe_config* config, const moesaic_module_options* modules,
                                  moesaic_moe** moe);
/// NULL is legal.
void moesaic_moe_destroy(moesaic_moe* moe);
/// Bytes of the prepared weights; memory of that size at a multiple of 256 bytes is the caller's to give.
moesaic_status moesaic_moe_prepared_bytes(const moesaic_moe* moe, size_t* bytes);
/// Writes the prepared form of `weights` (on the layer's device) to `prepared`. `stream`: CUstream; NULL on the CPU.
moesaic_status moesaic_moe_prepare(const moesaic_moe* moe, const moesaic_weights* weights, void* prepared,
                                   void* stream);
/// Replaces one expert in memory that was prepared or loaded; its tensors lie on the layer's device.
moesaic_status moesaic_moe_prepare_expert(const moesaic_moe* moe, int32_t expert, const moesaic_expert* weights,
                                          void* prepared, void* stream);
/// Writes prepared memory to a file, whole or not at all (moesaic::FusedMoe::save_prepared).
moesaic_status moesaic_moe_save_prepared(const moesaic_moe* moe, const void* prepared, const char* path, void* stream);
/// Fills prepared memory from such a file, or refuses it with the reason (moesaic::FusedMoe::load_prepared).
moesaic_status moesaic_moe_load_prepared(const moesaic_moe* moe, const char* path, void* prepared, void* stream);
/// Workspace of a run of `tokens` tokens, bytes, at a multiple of 256 bytes.
moesaic_status moesaic_moe_workspace_bytes(const moesaic_moe* moe, int64_t tokens, size_t* bytes);
/// The same for a run of `rows` dispatched rows: R, or L * max.
moesaic_status moesaic_moe_dispatched_workspace_bytes(const moesaic_moe* moe, int64_t rows, size_t* bytes);
/// Enqueues the layer. Fails before anything is enqueued.
moesaic_status moesaic_moe_run_layer(const moesaic_moe* moe, const moesaic_moe_run* run, void* stream);
/// Kernels that a run of `tokens` uses, one a line. `needed`: bytes with the final NUL; `text` may be NULL to ask for
/// that alone, else a `capacity` below it is refused.
moesaic_status moesaic_moe_kernels(const moesaic_moe* moe, int64_t tokens, char* text, size_t capacity, size_t* needed);
/// The layer on the CPU by plain loops (moesaic::reference_moe). `mode`: moesaic_reference_mode.
moesaic_status moesaic_reference_moe(const moesaic_moe_config* config, const moesaic_weights* weights, int32_t mode,
                                     const moesaic_moe_run* run);
/// What serves each step of the layer on every architecture, or why nothing does (moesaic::explain). Text as in
/// moesaic_moe_kernels.
moesaic_status moesaic_explain(const moesaic_moe_config* config, int64_t tokens, char* text, size_t capacity,
                               size_t* needed);

// --- routing alone --------------------------------------------------------------------------------------------------

/// moesaic::Router::create. `modules` NULL: everything from the environment.
moesaic_status moesaic_router_create(const moesaic_router_config* config, const moesaic_module_options* modules,
                                     moesaic_router** router);
/// NULL is legal.
void moesaic_router_destroy(moesaic_router* router);
/// Workspace of a run of `tokens` tokens with sorted rows, bytes, at a multiple of 256 bytes; without them none.
moesaic_status moesaic_router_workspace_bytes(const moesaic_router* router, int64_t tokens, size_t* bytes);
/// Enqueues: ids and weights, and the rows of every expert in order where asked for. Fails before anything is enqueued.
moesaic_status moesaic_router_route(const moesaic_router* router, const moesaic_route_run* run, void* stream);
/// Kernels that a run with sorted rows uses, one a line. Text as in moesaic_moe_kernels.
moesaic_status moesaic_router_kernels(const moesaic_router* router, int64_t tokens, char* text, size_t capacity,
                                      size_t* needed);

// --- the activation alone -------------------------------------------------------------------------------------------

/// moesaic::ActivationOp::create. `modules` NULL: everything from the environment.
moesaic_status moesaic_activation_op_create(const moesaic_activation_spec* spec, DLDevice device,
                                            const moesaic_module_options* modules, moesaic_activation_op** op);
/// NULL is legal.
void moesaic_activation_op_destroy(moesaic_activation_op* op);
/// Enqueues. Fails before anything is enqueued.
moesaic_status moesaic_activation_op_run(const moesaic_activation_op* op, const moesaic_activation_run* run,
                                         void* stream);

// --- products alone -------------------------------------------------------------------------------------------------

/// moesaic::Gemm::create. `modules` NULL: everything from the environment.
moesaic_status moesaic_gemm_create(const moesaic_gemm_config* config, const moesaic_module_options* modules,
                                   moesaic_gemm** gemm);
/// NULL is legal.
void moesaic_gemm_destroy(moesaic_gemm* gemm);
/// Bytes of the prepared weights; memory of that size at a multiple of 256 bytes is the caller's to give.
moesaic_status moesaic_gemm_prepared_bytes(const moesaic_gemm* gemm, size_t* bytes);
/// Writes the prepared form of weights [count], one a group and all on the op's device. On the CPU that is views: the
/// tensors' memory must stay as long as the op runs on them; the structs need not.
moesaic_status moesaic_gemm_prepare(const moesaic_gemm* gemm, const moesaic_gemm_weights* const* weights, size_t count,
                                    void* prepared, void* stream);
/// Workspace of a run of `rows` rows (M, or groups * max), bytes, at a multiple of 256 bytes.
moesaic_status moesaic_gemm_workspace_bytes(const moesaic_gemm* gemm, int64_t rows, size_t* bytes);
/// Enqueues (moesaic::Gemm::run). Fails before anything is enqueued.
moesaic_status moesaic_gemm_multiply(const moesaic_gemm* gemm, const moesaic_gemm_run* run, void* stream);
/// Kernels that a run of `rows` uses, one a line. Text as in moesaic_moe_kernels.
moesaic_status moesaic_gemm_kernels(const moesaic_gemm* gemm, int64_t rows, char* text, size_t capacity,
                                    size_t* needed);

// --- quantisers -----------------------------------------------------------------------------------------------------

/// moesaic::Quantizer::create. `modules` NULL: everything from the environment.
moesaic_status moesaic_quantizer_create(const moesaic_quant_spec* spec, DLDevice device,
                                        const moesaic_module_options* modules, moesaic_quantizer** quantizer);
/// NULL is legal.
void moesaic_quantizer_destroy(moesaic_quantizer* quantizer);
/// Sizes of the quantised form of [rows, cols]; `sizes` was initialised.
moesaic_status moesaic_quant_sizes_of(const moesaic_quant_spec* spec, int64_t rows, int64_t cols,
                                      moesaic_quant_sizes* sizes);
/// The quantiser that makes a recipe's weights (moesaic::weight_spec), into a spec that was initialised. `quantized` is
/// 0, and the spec as it was, for recipes whose weights have 16 bits.
moesaic_status moesaic_weight_spec(const char* recipe, int32_t int4_group_size, int32_t int4_zero_points,
                                   moesaic_quant_spec* spec, int32_t* quantized);
/// x to codes and scales.
moesaic_status moesaic_quantizer_quantize(const moesaic_quantizer* quantizer, const moesaic_quantize_run* run,
                                          void* stream);
/// Codes and scales to x.
moesaic_status moesaic_quantizer_dequantize(const moesaic_quantizer* quantizer, const moesaic_quantize_run* run,
                                            void* stream);
/// Byte scales from linear order [rows, cols] to the spec's layout [bytes]; padding becomes 0.
moesaic_status moesaic_quantizer_swizzle(const moesaic_quantizer* quantizer, const DLTensor* linear,
                                         const DLTensor* layout_scales, void* stream);
/// The other way round.
moesaic_status moesaic_quantizer_unswizzle(const moesaic_quantizer* quantizer, const DLTensor* layout_scales,
                                           const DLTensor* linear, void* stream);

// --- checkpoints ----------------------------------------------------------------------------------------------------

/// Opens a folder with config.json and safetensors files.
moesaic_status moesaic_checkpoint_open(const char* folder, moesaic_checkpoint** checkpoint);
/// NULL is legal. Weights that were loaded stay usable.
void moesaic_checkpoint_close(moesaic_checkpoint* checkpoint);
/// config.json's model type; the handle owns the text.
moesaic_status moesaic_checkpoint_family(const moesaic_checkpoint* checkpoint, const char** family);
/// The model's MoE layers, ascending; the handle owns the array.
moesaic_status moesaic_checkpoint_moe_layers(const moesaic_checkpoint* checkpoint, const int32_t** layers,
                                             size_t* count);
/// Configuration and weights of a layer (-1: the first MoE layer). `config` was initialised and is filled, its texts
/// are the library's own; the weights keep the files mapped.
moesaic_status moesaic_checkpoint_load(const moesaic_checkpoint* checkpoint, int32_t layer, moesaic_moe_config* config,
                                       moesaic_weights** weights);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
