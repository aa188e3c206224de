// SPDX-License-Identifier: Apache-2.0
// Any bytes as arguments of the C interface: MOESAIC_OK, or a status with a text, never "internal", and no byte outside
// of the given memory. Pointers are null, misaligned or good: a wild one is the caller's to avoid.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <limits>
#include <string>

#include "fuzz/choices.h"
#include "moesaic/moesaic.h"
#include "support/guarded_memory.h"

namespace {

using namespace moesaic::testing;

constexpr std::size_t kOutBytes = 64 << 10;

/// A status, looked at.
bool ok(moesaic_status status) {
  if (status == MOESAIC_OK) return true;
  demand(status > MOESAIC_OK && status < MOESAIC_INTERNAL, "an internal error, or no status at all");
  demand(*moesaic_last_error() != '\0' && std::strlen(moesaic_last_error()) < 4096, "a failure without a text");
  demand(std::string(moesaic_status_name(status)) != "unknown status", "a status without a name");
  return false;
}

/// Tensors of one call, and the structs that hold them.
class Arguments {
 public:
  explicit Arguments(Choices& c) : c_(c), workspace_(1 << 20) {}

  DLTensor* input(DLDataType type, std::initializer_list<std::int64_t> shape) {
    // Never written: the oracle and the fast path take them as const.
    return tensor(const_cast<char*>(numbers().middle()), type, shape);
  }
  DLTensor* output(DLDataType type, std::initializer_list<std::int64_t> shape) {
    outs_.emplace_back(kOutBytes);
    return tensor(outs_.back().data(), type, shape);
  }
  GuardedMemory& workspace() { return workspace_; }
  bool intact() const {
    return workspace_.intact() &&
           std::all_of(outs_.begin(), outs_.end(), [](const GuardedMemory& memory) { return memory.intact(); });
  }

 private:
  struct Owned {
    DLTensor tensor{};
    std::array<std::int64_t, 8> shape{}, strides{};
  };

  DLTensor* tensor(void* data, DLDataType type, std::initializer_list<std::int64_t> shape) {
    owned_.emplace_back();
    Owned& o = owned_.back();
    o.tensor.data = data;
    o.tensor.device = {kDLCPU, 0};
    o.tensor.dtype = type;
    o.tensor.ndim = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), o.shape.begin());
    o.tensor.shape = o.shape.data();
    if (c_.rarely()) compact_strides(o);
    if (c_.below(8) == 7) spoil_one(o);
    return c_.rarely() ? nullptr : &o.tensor;
  }
  static void compact_strides(Owned& o) {
    std::int64_t stride = 1;
    for (int i = o.tensor.ndim - 1; i >= 0; --i) {
      o.strides[static_cast<std::size_t>(i)] = stride;
      stride *= o.shape[static_cast<std::size_t>(i)];
    }
    o.tensor.strides = o.strides.data();
  }
  void spoil_one(Owned& o) {
    switch (c_.below(9)) {
      case 0:
        o.tensor.data = nullptr;
        break;
      case 1:
        o.tensor.byte_offset = c_.of<std::uint64_t>({1, 2, 64, 0});
        break;
      case 2:
        o.tensor.ndim = c_.of({-1, 0, 1, 2, 3, 4, 5, 100});
        if (o.tensor.ndim > 8) o.tensor.shape = nullptr;
        break;
      case 3:
        o.tensor.shape = nullptr;
        break;
      case 4:
        o.tensor.device = {static_cast<DLDeviceType>(c_.of({2, 0, 3, 99, 1})), c_.of({0, 1, -1})};
        break;
      case 5:
        o.tensor.dtype = {static_cast<std::uint8_t>(c_.below(20)), c_.of<std::uint8_t>({8, 4, 16, 32, 64, 0, 1}),
                          c_.of<std::uint16_t>({1, 2, 0, 65535})};
        break;
      case 6:
        compact_strides(o);
        o.strides[static_cast<std::size_t>(c_.below(3))] = c_.of<std::int64_t>({0, -1, 2, INT64_MAX, INT64_MIN});
        break;
      default:
        o.shape[static_cast<std::size_t>(c_.below(3))] =
            c_.of<std::int64_t>({-1, 0, 1, std::int64_t{1} << 40, INT64_MAX, INT64_MIN});
    }
  }

  Choices& c_;
  std::deque<Owned> owned_;  // addresses stay
  std::deque<GuardedMemory> outs_;
  GuardedMemory workspace_;
};

constexpr DLDataType kF32 = {kDLFloat, 32, 1}, kBf16 = {kDLBfloat, 16, 1}, kI32 = {kDLInt, 32, 1},
                     kU8 = {kDLUInt, 8, 1};

/// A struct as its _init function fills it, or of a size that no header has; never of more than is there.
template <typename Struct>
Struct filled(Choices& c, moesaic_status (*init)(Struct*, std::size_t)) {
  Struct value;
  std::memset(&value, 0x5a, sizeof(value));
  demand(ok(init(&value, sizeof(value))), "defaults are refused");
  if (c.rarely()) value.struct_size = c.of<std::size_t>({0, 8, sizeof(Struct) - 8, SIZE_MAX});
  return value;
}

/// One field of a struct's integers, rarely, to a number that is none of its values.
void spoil_field(Choices& c, std::initializer_list<std::int32_t*> fields) {
  if (!c.rarely()) return;
  *fields.begin()[c.below(static_cast<int>(fields.size()))] =
      c.of({std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min(), -1, 0, 200, 1 << 20});
}

DLDevice choose_device(Choices& c) {
  if (!c.rarely()) return {kDLCPU, 0};
  return {static_cast<DLDeviceType>(c.of({0, 3, 99, 1})), c.of({0, -1, 64})};
}

const char* choose_recipe(Choices& c) {
  return c.rarely() ? c.of<const char*>({nullptr, "", "none", "bf16 "})
                    : c.of<const char*>({"bf16", "fp16", "mxfp8", "fp8_tensor"});
}

void fuzz_router(Choices& c) {
  auto config = filled(c, moesaic_router_config_init);
  config.num_experts = c.of({8, 4, 1});
  config.top_k = c.of({2, 1, 9});
  config.routing = c.below(10);
  config.vocabulary = c.of({0, 5});
  config.shared_slots = c.of({0, 1});
  config.max_tokens = 16;
  config.device = choose_device(c);
  const std::int32_t slots[8] = {0, -1, 1, 2, -1, 3, 4, 5};
  if (c.below(4) == 3) {
    config.expert_slots = slots;
    config.num_expert_slots =
        c.rarely() ? c.of<std::size_t>({0, 7, SIZE_MAX}) : static_cast<std::size_t>(config.num_experts);
  }
  spoil_field(
      c, {&config.num_experts, &config.top_k, &config.routing, &config.n_group, &config.topk_group, &config.vocabulary,
          &config.experts_first, &config.experts_count, &config.shared_slots, &config.max_tokens});
  if (config.expert_slots != nullptr && config.num_experts > 8) return;  // the array has 8
  moesaic_router* router = nullptr;
  if (!ok(moesaic_router_create(c.rarely() ? nullptr : &config, nullptr, &router))) {
    demand(router == nullptr, "a handle of a failure");
    return;
  }
  Arguments a(c);
  const std::int64_t t = c.of({3, 1, 16, 0}), s = config.top_k + config.shared_slots, e = config.num_experts;
  if (s > 100 || e > 100) return moesaic_router_destroy(router);
  auto run = filled(c, moesaic_route_run_init);
  run.logits = a.input(kF32, {t, e});
  if (c.flag()) run.selection_bias = a.input(kF32, {e});
  run.ids = a.output(kI32, {t, s});
  run.weights = a.output(kF32, {t, s});
  std::size_t needed = 0;
  ok(moesaic_router_workspace_bytes(router, c.rarely() ? -1 : t, &needed));
  run.workspace = c.rarely() ? nullptr : a.workspace().data();
  run.workspace_bytes = a.workspace().size();
  ok(moesaic_router_route(c.rarely() ? nullptr : router, c.rarely() ? nullptr : &run, nullptr));
  demand(a.intact(), "bytes outside of the given memory written");
  moesaic_router_destroy(router);
}

void fuzz_activation(Choices& c) {
  auto spec = filled(c, moesaic_activation_spec_init);
  spec.activation = c.below(11);
  spec.gate_up_order = c.below(4);
  if (c.rarely()) spec.alpha = c.of({1.5f, 0.0f, std::nanf("")});
  spoil_field(c, {&spec.activation, &spec.gate_up_order});
  moesaic_activation_op* op = nullptr;
  if (!ok(moesaic_activation_op_create(c.rarely() ? nullptr : &spec, choose_device(c), nullptr, &op))) return;
  Arguments a(c);
  const std::int64_t t = c.of({3, 1, 0}), i = c.of({32, 8, 7});
  auto run = filled(c, moesaic_activation_run_init);
  run.x = a.input(c.of({kF32, kBf16}), {t, c.flag() ? 2 * i : i});
  run.out = a.output(c.of({kF32, kBf16}), {t, i});
  ok(moesaic_activation_op_run(op, &run, nullptr));
  demand(a.intact(), "bytes outside of the given memory written");
  moesaic_activation_op_destroy(op);
}

void fuzz_quantizer(Choices& c) {
  auto spec = filled(c, moesaic_quant_spec_init);
  spec.format = c.below(11);
  spec.layout = c.below(3);
  spec.e8m0 = c.below(2);
  spec.int4_group_size = c.of({32, 64, 0});
  if (c.rarely()) spec.activation = c.below(11);
  spoil_field(c, {&spec.format, &spec.layout, &spec.e8m0, &spec.int4_group_size, &spec.activation});
  const std::int64_t rows = c.of({3, 1, 0, 17}), cols = c.of({64, 128, 32, 33});
  auto sizes = filled(c, moesaic_quant_sizes_init);
  const bool sized = ok(moesaic_quant_sizes_of(&spec, c.rarely() ? INT64_MAX : rows, cols, &sizes));
  moesaic_quantizer* quantizer = nullptr;
  if (!ok(moesaic_quantizer_create(&spec, choose_device(c), nullptr, &quantizer))) return;
  if (!sized || rows > 17) return moesaic_quantizer_destroy(quantizer);
  Arguments a(c);
  auto run = filled(c, moesaic_quantize_run_init);
  run.x = a.output(c.of({kF32, kBf16}), {rows, cols});
  run.codes = a.output(kU8, {rows, spec.format >= 3 && spec.format < 10 ? cols : cols / 2});
  run.scales = a.output(c.of({kU8, kF32}), {sizes.scale_rows, sizes.scale_cols});
  if (c.flag()) run.scales = a.output(kU8, {sizes.scale_bytes});
  if (c.flag()) run.global_scale = a.input(kF32, {1});
  if (c.flag()) run.row_scales = a.output(kF32, {rows});
  if (c.flag()) run.zeros = a.output(kU8, {rows, sizes.scale_cols});
  ok(moesaic_quantizer_quantize(quantizer, c.rarely() ? nullptr : &run, nullptr));
  ok(moesaic_quantizer_dequantize(quantizer, &run, nullptr));
  ok(moesaic_quantizer_swizzle(quantizer, run.scales, a.output(kU8, {sizes.scale_bytes}), nullptr));
  demand(a.intact(), "bytes outside of the given memory written");
  moesaic_quantizer_destroy(quantizer);
}

/// A matrix of numbers; rarely, with fields of codes.
moesaic_matrix choose_matrix(Choices& c, Arguments& a, std::int64_t rows, std::int64_t cols) {
  auto m = filled(c, moesaic_matrix_init);
  m.values = a.input(kBf16, {rows, cols});
  if (c.rarely()) m.scales = a.input(c.of({kF32, kU8}), {1, 1});
  if (c.rarely()) m.rows = c.of<std::int64_t>({-1, 1, INT64_MAX}), m.cols = c.of<std::int64_t>({0, 1, INT64_MAX});
  if (c.rarely()) m.block_rows = c.of<std::int64_t>({0, -1, 32, INT64_MAX});
  if (c.rarely()) m.multiplier = c.of({0.5, 0.0, std::nan("")});
  if (c.rarely()) m.row_stride = c.of<std::int64_t>({-1, 1, INT64_MAX}), m.col_stride = c.of<std::int64_t>({0, 1, -1});
  spoil_field(c, {&m.codes, &m.nibble_order, &m.scale_format, &m.zero_order, &m.zero_offset});
  return m;
}

void fuzz_gemm(Choices& c) {
  auto config = filled(c, moesaic_gemm_config_init);
  config.n = c.of({24, 1, 64});
  config.k = c.of({64, 32, 5});
  config.groups = c.of({1, 2});
  config.recipe = choose_recipe(c);
  config.max_rows = 16;
  config.device = choose_device(c);
  spoil_field(c, {&config.n, &config.k, &config.groups, &config.int4_group_size, &config.max_rows});
  moesaic_gemm* gemm = nullptr;
  if (!ok(moesaic_gemm_create(&config, nullptr, &gemm))) return;
  Arguments a(c);
  std::size_t bytes = 0;
  const bool small = ok(moesaic_gemm_prepared_bytes(gemm, &bytes)) && bytes <= a.workspace().size() && config.n <= 64 &&
                     config.k <= 64 && config.groups <= 2;
  if (!small) return moesaic_gemm_destroy(gemm);
  GuardedMemory prepared(bytes, 0xff, c.rarely() ? 64 : 0);
  const moesaic_matrix w[2] = {choose_matrix(c, a, config.n, config.k), choose_matrix(c, a, config.n, config.k)};
  moesaic_gemm_weights weights[2] = {filled(c, moesaic_gemm_weights_init), filled(c, moesaic_gemm_weights_init)};
  for (int g = 0; g < 2; ++g) weights[g].w = c.rarely() ? nullptr : &w[g];
  const moesaic_gemm_weights* pointers[2] = {&weights[0], c.rarely() ? nullptr : &weights[1]};
  const bool ready = ok(moesaic_gemm_prepare(gemm, pointers, c.rarely() ? 1 : static_cast<std::size_t>(config.groups),
                                             prepared.data(), nullptr));
  const std::int64_t m = c.of({3, 1, 16, 0});
  auto run = filled(c, moesaic_gemm_run_init);
  run.x = a.input(kBf16, {m, config.k});
  run.out = a.output(c.of({kF32, kBf16}), {m, config.n});
  if (c.rarely()) run.x_scale = a.input(kF32, {m});
  run.prepared = ready || c.rarely() ? prepared.data() : nullptr;
  run.workspace = a.workspace().data();
  run.workspace_bytes = c.rarely() ? 16 : a.workspace().size();
  spoil_field(c, {&run.scale_major});
  ok(moesaic_gemm_multiply(gemm, &run, nullptr));
  demand(a.intact() && prepared.intact(), "bytes outside of the given memory written");
  moesaic_gemm_destroy(gemm);
}

void fuzz_texts(Choices& c) {
  auto config = filled(c, moesaic_moe_config_init);
  config.hidden = c.of({64, 128, 5});
  config.intermediate = c.of({32, 64});
  config.num_experts = c.of({4, 8});
  config.top_k = c.of({2, 1});
  config.recipe = choose_recipe(c);
  config.activation = c.below(11);
  config.routing = c.below(10);
  config.max_tokens = 16;
  config.device = choose_device(c);
  spoil_field(c, {&config.hidden, &config.intermediate, &config.num_experts, &config.top_k, &config.activation,
                  &config.routing, &config.n_group, &config.shared_intermediate, &config.max_tokens,
                  &config.experts_first, &config.experts_count, &config.tp_rank, &config.tp_size, &config.vocabulary});
  auto modules = filled(c, moesaic_module_options_init);
  modules.jit = c.of({-1, 0, 1, 2});
  modules.cache_dir = "/nowhere";
  modules.force_kernel = c.rarely() ? "none" : nullptr;
  modules.num_bundles = c.rarely() ? 1 : 0;
  moesaic_moe* moe = nullptr;
  const bool made = ok(moesaic_moe_create(&config, c.flag() ? &modules : nullptr, &moe));
  demand(made == (moe != nullptr), "a handle of a failure, or none of a success");
  std::array<char, 64> text{};
  std::size_t needed = 0;
  const std::size_t capacity = c.of<std::size_t>({0, 1, 64});
  char* buffer = c.flag() ? text.data() : nullptr;
  const std::int64_t tokens = c.of<std::int64_t>({1, 0, -1, INT64_MAX, 16});
  if (ok(moesaic_moe_kernels(moe, tokens, buffer, capacity, c.rarely() ? nullptr : &needed)) && buffer != nullptr) {
    demand(needed <= capacity && std::strlen(buffer) + 1 == needed, "a text of another length");
  }
  if (c.rarely()) ok(moesaic_explain(&config, tokens, buffer, capacity, &needed));
  std::size_t bytes = 0;
  ok(moesaic_moe_workspace_bytes(moe, tokens, &bytes));
  ok(moesaic_moe_dispatched_workspace_bytes(moe, tokens, &bytes));
  moesaic_moe_destroy(moe);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Choices c(data, size);
  constexpr std::array kParts = {fuzz_texts, fuzz_router, fuzz_activation, fuzz_quantizer, fuzz_gemm};
  kParts[static_cast<std::size_t>(c.below(static_cast<int>(kParts.size())))](c);
  return 0;
}
