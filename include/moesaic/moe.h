// SPDX-License-Identifier: Apache-2.0
// One Mixture-of-Experts layer: configuration, weights, and the layer itself on the CPU or a GPU.
//
// Notation: T tokens, H hidden size, I intermediate size of one routed expert, E experts, k experts per token.
//
//     logits[t,e] = sum_h x[t,h] * router[e,h] + router_bias[e]                   FP32, no rounding of operands
//     ids[t,s], weights[t,s] = routing(logits[t,:])                               s = 0..k-1, falling selection score
//     h = act(x gate^T + gate_bias, x up^T + up_bias)                             FP32 until one rounding to `io`
//     y[t,:] = sum_s weights[t,s] * (h down^T + down_bias) + shared(x[t,:])       FP32 in slot order, one rounding
// A GPU that writes y in bf16 rounds each h down^T + down_bias, and shared(x[t,:]), to bf16 before they are summed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moesaic/error.h"
#include "moesaic/module.h"
#include "moesaic/tensor.h"

#pragma GCC visibility push(default)
namespace moesaic {

/// Numbers and formulas: reference list of FlashInfer 0.6.18 `ActivationType`; g = gate half, u = up half, all FP32.
enum class ActivationKind : std::uint8_t {
  kGelu = 0,        // 0.5 g (1 + erf(g / sqrt 2))
  kRelu = 1,        // max(g, 0)
  kSilu = 2,        // g sigmoid(g)
  kSwiglu = 3,      // silu(g) u
  kGeglu = 4,       // gelu(g) u
  kSwigluBias = 5,  // g' = min(g, limit), u' = clamp(u, -limit, limit): g' sigmoid(alpha g') (u' + beta)   (gpt-oss)
  kRelu2 = 6,       // max(g, 0)^2
  kSwigluStep = 7,  // min(silu(g), limit) clamp(u, -limit, limit)
  kGegluTanh = 8,   // 0.5 g (1 + tanh(0.7978845608 (g + 0.044715 g^3))) u
  kIdentity = 9,    // g
  kSitu = 10,       // [alpha tanh(g / alpha) sigmoid(g)] [beta tanh(u / beta)]
};

/// An activation with its scalar parameters. min, max and clamp propagate NaN; no value is flushed.
/// Defaults of alpha, beta, limit by kind: kSwigluBias 1, 0, +inf; kSwigluStep limit 7; kSitu alpha 4, beta 25.
struct Activation {
  ActivationKind kind = ActivationKind::kSwiglu;
  std::optional<float> alpha, beta, limit;
};

/// Parameters of a formula with the defaults filled in.
struct ActivationParameters {
  float alpha, beta, limit;
};
/// The parameters of an activation: those given, else the defaults of its kind.
ActivationParameters activation_parameters(const Activation& activation) noexcept;

/// True for the kinds that combine a gate and an up projection.
bool is_gated(ActivationKind kind) noexcept;
/// "swiglu", "swiglu_bias", ...
const char* activation_name(ActivationKind kind) noexcept;

/// How experts are chosen and weighted. sig(x) = 1 / (1 + exp(-x)). Ties go to the lower expert id (and group).
enum class RoutingMethod : std::uint8_t {
  kSoftmaxTopK,        // softmax over E, top-k of it; weight = probability (not renormalised)
  kSoftmaxTopKRenorm,  // the same, divided by the sum over the k selected
  kTopKSoftmax,        // top-k of the logits; weight = softmax over the k selected
  kDeepSeekV3,         // select by sig + bias within the topk_group best of n_group groups (group score: sum of the
                       // two largest); weight = sig, / (sum + 1e-20) if renormalize, * scaling. n_group 1: no groups
  kDeepSeekV2,         // softmax; groups scored by their maximum; weight = probability, renormalised or * scaling
  kLlama4,             // top-k of the logits; weight = sig(logit)
  kTopK,               // top-k of the logits; weight = logit
  kSigmoid,            // top-k of sig; weight = sig, / max(sum, 1e-20) if renormalize
  kMiniMax2,           // top-k of sig + bias; weight = sig / (sum + 1e-20) * scaling
  kHash,               // ids = MoeWeights::token_experts[token id]; weight = sqrt(log(1 + exp(logit))) / (sum over the
                       // k) * scaling. Slots whose id is outside [0, E) weigh 0 and are not in the sum; a token id
                       // outside the table gives ids of -1
};
inline constexpr int kNumRoutingMethods = static_cast<int>(RoutingMethod::kHash) + 1;
/// "softmax_topk", "deepseek_v3", ...: the names that JSON output uses.
const char* routing_method_name(RoutingMethod method) noexcept;
/// True for the methods that choose by score + MoeWeights::selection_bias.
bool has_selection_bias(RoutingMethod method) noexcept;

/// A routing method with its parameters; methods that have no use for one ignore it.
struct Routing {
  RoutingMethod method = RoutingMethod::kSoftmaxTopKRenorm;
  int n_group = 1, topk_group = 1;  // kDeepSeekV2, kDeepSeekV3
  float scaling = 1.0f;             // routed_scaling_factor: kDeepSeekV2, kDeepSeekV3, kMiniMax2, kHash
  bool renormalize = true;          // kDeepSeekV2, kDeepSeekV3, kSigmoid
  int vocabulary = 0;               // kHash: rows of MoeWeights::token_experts
};

/// Expert parallelism: which of the E experts a layer holds. Routing is over all E; ids of experts that it does not
/// hold contribute nothing, so the outputs of layers that hold every expert once between them add up to the whole.
struct ExpertMap {
  int first = 0, count = 0;     // experts [first, first + count); count 0: all
  std::vector<int> slots = {};  // instead, [E]: index in MoeWeights::experts of every expert, -1: not held
};

/// Tensor parallelism: this layer has one of `size` slices of I (rows of gate and up, columns of down), and of the
/// shared experts' I. The outputs of all ranks add up to the whole; only rank 0 adds down_bias.
struct TensorParallel {
  int rank = 0, size = 1;
};

/// Experts that every token uses, run as one expert of `intermediate` rows; `gated`: times sig(x . shared_gate).
struct SharedExperts {
  int intermediate = 0;  // 0 = none; several shared experts are one with their sizes added
  bool gated = false;
  std::string recipe = {};  // empty: the layer's. Published models often leave shared experts in 16 bits
};

/// Groups of int4 weights: elements of K that share a scale (32, 64 or 128), whether they have zero points, and whether
/// prepared weights keep scales in FP32: those that neither bf16 nor fp16 holds.
struct Int4Groups {
  int size = 32;
  bool zero_points = false;  // false: the zero point is 8
  bool f32_scales = false;   // false: 16 bits a scale, less memory to read. Quantizer makes bf16 scales in any case
};

/// One layer; immutable once given to `FusedMoe::create`.
struct MoeConfig {
  int hidden = 0, intermediate = 0, num_experts = 0, top_k = 0;
  std::string recipe = "bf16";  // a name of `moesaic recipes`
  Int4Groups int4;              // recipes with int4 weights
  Activation activation;
  Routing routing;
  SharedExperts shared;
  bool router = true;             // `prepare` gets router weights, `run` may be called with x alone
  bool weights_on_input = false;  // the routing weight multiplies the expert's input (FP32 result of GEMM 1, before
                                  // its bias) instead of its output (Llama-4)
  int max_tokens = 8192;          // `run` refuses more; kernels for every T up to it are loaded by `create`
  // One configuration of every kernel for all T: a token's output has the same bits in every batch. Else that holds
  // only where the same configurations serve (`kernels`). Costs speed where T is far from what they are best at.
  bool batch_invariant = false;
  // All experts, shared ones too where their recipe takes them, have both static scales (see ExpertWeights): `prepare`
  // refuses others, and on a GPU GEMM 1 then quantises its result itself. Without, the weights decide, and a launch
  // between the GEMMs quantises: the same bits. Only with recipes that take them, fp8_tensor and nvfp4.
  bool static_scales = false;
  ExpertMap experts;
  TensorParallel tp;  // `intermediate` and `shared.intermediate` are this rank's
  Device device;
};

/// Experts that the layer holds, L: all, or those of MoeConfig::experts.
int num_local_experts(const MoeConfig& config) noexcept;

/// The weights of one expert. Gated: `gate` goes through the non-linearity, `up` multiplies. Not gated: `up` is empty.
/// Element types of matrices: what the recipe's weights are (`convert_weights` makes that of anything); bf16 and fp16
/// recipes take bf16, fp16 and fp32. Any strides: rows may be interleaved, matrices transposed.
struct ExpertWeights {
  MatrixView gate;                           // [I, H]
  MatrixView up;                             // [I, H] or empty
  MatrixView down;                           // [H, I]
  VectorView gate_bias, up_bias, down_bias;  // [I], [I], [H] or empty
  // Static scales of activations (value = code * scale), for GEMM 1's and GEMM 2's input; 0: none, scales are made per
  // token. fp8_tensor and nvfp4 use them: the largest of all experts', for tokens are quantised once for all experts.
  float input_scale = 0.0f, down_input_scale = 0.0f;
};

/// All weights of a layer as views; the caller keeps them alive until `prepare` is done (stream order on a GPU).
/// All views lie on the layer's device, or all on the host for `reference_moe`.
struct MoeWeights {
  std::vector<ExpertWeights> experts;  // L: those that the layer holds
  MatrixView router;                   // [E, H], bf16, fp16 or fp32; empty when MoeConfig::router is false
  VectorView router_bias;              // [E] or empty, added to the logits
  VectorView selection_bias;           // [E] or empty: e_score_correction_bias, used for choosing only
  TensorView token_experts;            // [vocabulary, k] i32: the experts of every token id, kHash only
  ExpertWeights shared;                // shared experts as one expert, or empty views
  VectorView shared_gate;              // [H] or empty
};

/// How fused gate-up weights [E, 2I, H] order their rows.
enum class GateUpOrder : std::uint8_t { kGateFirst, kUpFirst, kInterleavedGateFirst, kInterleavedUpFirst };

/// Views into fused tensors. `w13` [E, 2I, H] (or [E, I, H] when not gated), or [E, H, 2I] with `transposed`;
/// `w2` [E, H, I], or [E, I, H] with `transposed`; `b13` [E, 2I], `b2` [E, H], both or neither.
/// Throws Error(kInvalidArgument) on shapes that do not fit each other.
std::vector<ExpertWeights> expert_views(const TensorView& w13, const TensorView& w2, GateUpOrder order, bool gated,
                                        bool transposed, const TensorView& b13 = {}, const TensorView& b2 = {});

/// Arguments of one run. Memory is the caller's and on the layer's device.
struct MoeRun {
  TensorView x;              // [T, H] io type of the recipe, or codes, see x_scale; T = 0 is legal
  TensorView router_logits;  // [T, E] f32, or empty: computed from the prepared router
  TensorView token_ids;      // [T] i64 or i32: kHash, unless routing is skipped
  TensorView topk_ids;       // [T, k] i32 with topk_weights [T, k] f32: routing is skipped; ids outside [0, E) count
  TensorView topk_weights;   //   nothing, an id listed twice counts twice
  TensorView out;            // [T, H] io type or f32
  // x that the caller has quantised as the recipe's activations are: codes u8 [T, H], of 4 bits [T, H / 2] with the
  // even column in the low nibble. Scales: fp8 per token [T] f32, in recipe fp8_tensor also [1] f32 for all; 1 x 128
  // [T, ceil(H / 128)] f32; MX [T, H / 32] u8; NVFP4 [T, H / 16] u8 and x_row_scale. Codes cannot be projected, so
  // router_logits or topk_ids is given, and shared experts have no gate; theirs is the same format of activations.
  TensorView x_scale;
  TensorView x_row_scale;  // NVFP4: f32 [T] or [1], value = code * scale * x_row_scale
  // Rows that were dispatched before, instead of routing; T, above, is not theirs. No weights, no weighted sum, no
  // shared experts: out has the rows of x. Rows of no expert become 0. At most max_tokens * k rows.
  TensorView expert_offsets;  // [L + 1] i32: x, out [R, H]; rows [offsets[e], offsets[e + 1]) are local expert e's;
                              //   offsets[0] = 0, ascending, none above R
  TensorView expert_counts;  // [L] i32: x, out [L, max, H]; the first counts[e] of expert e's rows, 0 to max, are used.
                             //   Scales of codes: [L * max, ...] or [L, max, ...]
  const void* prepared = nullptr;
  void* workspace = nullptr;  // any content
  std::size_t workspace_bytes = 0;
  // Optional results (empty: not wanted).
  TensorView logits_out;        // [T, E] f32
  TensorView topk_ids_out;      // [T, k] i32
  TensorView topk_weights_out;  // [T, k] f32
};

/// True when the run's rows were dispatched before.
bool is_dispatched(const MoeRun& run) noexcept;

/// True when the run's x are codes.
bool gives_codes(const MoeRun& run) noexcept;

/// A layer bound to a device: kernels chosen and loaded, nothing else held. Copies share the kernels.
/// `run` is const and reentrant: one layer, many threads and streams, one workspace each.
class FusedMoe {
 public:
  /// Checks the configuration, plans, and loads every kernel that `run` can need for T <= max_tokens: from a bundle,
  /// the cache or NVRTC. Throws Error: kInvalidArgument, kUnsupported (with what would work), kCompile, kCuda, kIo.
  static FusedMoe create(const MoeConfig& config, const ModuleOptions& modules = {});

  FusedMoe(FusedMoe&&) noexcept;
  FusedMoe& operator=(FusedMoe&&) noexcept;
  FusedMoe(const FusedMoe&);
  FusedMoe& operator=(const FusedMoe&);
  ~FusedMoe();

  /// The configuration given to `create`.
  const MoeConfig& config() const noexcept;

  /// Bytes of the kernels' own form of all weights; 256-byte aligned memory of that size is the caller's to give.
  std::size_t prepared_bytes() const noexcept;
  /// Writes the prepared form of `weights` (on the layer's device) to `prepared`. `stream`: CUstream, ignored on CPU.
  void prepare(const MoeWeights& weights, void* prepared, void* stream = nullptr) const;
  /// The same for one expert of memory that `prepare` or `load_prepared` filled; the rest stays. Static input scales
  /// are again the largest of all experts'. No run may use `prepared` meanwhile. Throws Error as `prepare`, and
  /// Error(kInvalidArgument) on an index outside [0, L), L the experts held, and on memory that was not prepared (seen
  /// on the CPU alone).
  void prepare_expert(int expert, const ExpertWeights& weights, void* prepared, void* stream = nullptr) const;
  /// Writes what `prepare` made to a file, whole or not at all: a header that names layout, recipe and shapes, the
  /// bytes, their SHA-256. Waits for `stream`. Throws Error(kIo).
  void save_prepared(const void* prepared, const std::string& path, void* stream = nullptr) const;
  /// Fills `prepared` from such a file; done on return, for every stream. Throws Error: kInvalidArgument (written for
  /// another layer, device or version: says which field differs; `prepared` is untouched), kIo (missing, truncated or
  /// damaged; `prepared` holds nothing usable).
  void load_prepared(const std::string& path, void* prepared, void* stream = nullptr) const;
  /// Workspace that a run of `tokens` tokens needs, bytes; grows with tokens. 256-byte aligned.
  std::size_t workspace_bytes(std::int64_t tokens) const;
  /// The same for a run of `rows` dispatched rows (R, or L * max).
  std::size_t dispatched_workspace_bytes(std::int64_t rows) const;
  /// Enqueues the layer. On a GPU: only kernel launches, no allocation, synchronisation, environment read or lock;
  /// capturable in a CUDA graph, the first run included. Throws Error before anything is enqueued.
  void run(const MoeRun& run, void* stream = nullptr) const;

  /// The kernels (row and config) that a run of `tokens` uses, in launch order; for the CPU its code path.
  std::vector<std::string> kernels(std::int64_t tokens) const;

 private:
  struct Impl;
  explicit FusedMoe(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

/// `kExact`: stored weights, FP64, no rounding but the output's own type. `kOracle`: FP64 loops with the recipe's
/// roundings (operands, GEMM 1's result, output). Both slow, single purpose: to be right.
enum class ReferenceMode : std::uint8_t { kExact, kOracle };

/// Runs a layer on the CPU by plain loops. `run.x` may be f32 or the io type; `run.out` f32, f64 or the io type;
/// `prepared` and `workspace` are not used. Throws Error as `run` does, and on offsets or counts that do not fit x.
void reference_moe(const MoeConfig& config, const MoeWeights& weights, ReferenceMode mode, const MoeRun& run);

}  // namespace moesaic
#pragma GCC visibility pop
