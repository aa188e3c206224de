// SPDX-License-Identifier: Apache-2.0
// Launches the kernels that bring weights into their prepared form.
#include "ops/cuda_prepare.h"

#include <fmt/format.h>

#include <algorithm>

#include "backend_cuda/device_memory.h"
#include "kernels/abi/params.h"
#include "ops/cuda_serve.h"
#include "tables/kernel_table.h"
#include "tables/quant_table.h"

namespace moesaic::ops {
namespace {

// The kernels' numbers (kernels/warp/prepare_codes.cuh) are those of tensor.h.
static_assert(static_cast<int>(NibbleOrder::kWordsAlongC) == 1 && static_cast<int>(NibbleOrder::kWordsAlongR) == 2 &&
              static_cast<int>(NibbleOrder::kAwq) == 3);
static_assert(static_cast<int>(ScaleFormat::kF32) == abi::kSourceF32 &&
              static_cast<int>(ScaleFormat::kBF16) == abi::kSourceBf16 &&
              static_cast<int>(ScaleFormat::kF16) == abi::kSourceFp16 && static_cast<int>(ScaleFormat::kE4M3) == 3 &&
              static_cast<int>(ScaleFormat::kE8M0) == 4);

template <typename T = char>
T* at(char* prepared, const plan::Part& part) {
  return part.bytes == 0 ? nullptr : reinterpret_cast<T*>(prepared + part.at);
}

// One thread for each of `pieces`.
void launch_for(const PrepareKernel& kernel, long long pieces, const void* params, void* stream) {
  const auto blocks = static_cast<unsigned>((pieces + kernel.threads - 1) / kernel.threads);
  kernel.kernel->launch({blocks}, kernel.threads, params, stream);
}

void prepare_numbers(const plan::MatrixParts& parts, const MatrixView& gate, const MatrixView& up,
                     const PrepareKernel& kernel, char* prepared, void* stream) {
  abi::PrepareParams p{};
  p.gate = gate.data;
  p.gate_row_stride = gate.row_stride;
  p.gate_col_stride = gate.col_stride;
  p.gate_type = source_type(gate.dtype);
  p.up = up.data;
  p.up_row_stride = up.row_stride;
  p.up_col_stride = up.col_stride;
  p.up_type = source_type(up.dtype);
  p.rows = static_cast<int>(gate.rows);
  p.k = static_cast<int>(gate.cols);
  p.out = at(prepared, parts.weights);
  const long long row_blocks = abi::gate_up_blocks(p.rows, p.up != nullptr);
  launch_for(kernel, row_blocks * abi::div_up(p.k, abi::kBlockK) * 64, &p, stream);
}

/// Blocks that are at least the matrix may be any number.
int block_size(std::int64_t size, std::int64_t extent) {
  return static_cast<int>(std::clamp<std::int64_t>(size, 1, std::max<std::int64_t>(extent, 1)));
}

abi::CodeSource code_source(const MatrixView& m) {
  const Quantization& q = m.quantization;
  abi::CodeSource s{};
  s.codes = m.data;
  s.row_stride = m.row_stride;
  s.col_stride = m.col_stride;
  s.order = static_cast<int>(q.order);
  s.scales = q.scales;
  s.scale_format = static_cast<int>(q.scale_format);
  s.scale_row_stride = q.scale_row_stride;
  s.scale_col_stride = q.scale_col_stride;
  s.block_rows = block_size(q.block_rows, m.rows);
  s.block_cols = block_size(q.block_cols, m.cols);
  s.zeros = q.zeros;
  s.zero_order = static_cast<int>(q.zero_order);
  s.zero_row_stride = q.zero_row_stride;
  s.zero_col_stride = q.zero_col_stride;
  s.zero_offset = q.zero_offset;
  s.multiplier = static_cast<float>(q.multiplier);
  return s;
}

void prepare_codes(const plan::WeightForm& form, const plan::MatrixParts& parts, const MatrixView& gate,
                   const MatrixView& up, const PrepareKernel& kernel, char* prepared, void* stream) {
  abi::PrepareCodesParams p{};
  p.gate = code_source(gate);
  if (!up.empty()) p.up = code_source(up);
  p.rows = static_cast<int>(gate.rows);
  p.k = static_cast<int>(gate.cols);
  p.block_scale = form.block_scale;
  p.group = form.group;
  p.codes = at(prepared, parts.weights);
  p.scales = at(prepared, parts.scales);
  p.zeros = at<unsigned char>(prepared, parts.zeros);
  p.multipliers = at<float>(prepared, parts.multipliers);
  const auto row_blocks = static_cast<unsigned>(abi::gate_up_blocks(p.rows, !up.empty()));
  kernel.kernel->launch({row_blocks}, kernel.threads, &p, stream);
}

/// Vectors -> FP32. `interleave`: in the order of prepared rows, gate and up in turn.
void prepare_vector(const VectorView& gate, const VectorView& up, bool interleave, std::size_t padded, char* out,
                    int* given, const PrepareKernel& kernel, void* stream) {
  if (padded == 0) return;
  abi::PrepareVectorParams p{};
  p.gate = gate.data;
  p.gate_stride = gate.stride;
  p.gate_type = source_type(gate.dtype);
  p.up = up.data;
  p.up_stride = up.stride;
  p.up_type = source_type(up.dtype);
  p.size = static_cast<int>(gate.empty() ? up.empty() ? 0 : up.size : gate.size);
  p.padded = static_cast<int>(padded);
  p.interleave = interleave ? 1 : 0;
  p.out = reinterpret_cast<float*>(out);
  p.given = given;
  launch_for(kernel, p.padded, &p, stream);
}

void check_expert_scales(const MoeConfig& c, const std::string& name, const ExpertWeights& e) {
  for (const auto& [part, matrix] :
       {std::pair{".gate", &e.gate}, std::pair{".up", &e.up}, std::pair{".down", &e.down}}) {
    check_group_scales("fused_moe", c.int4, name + part, *matrix);
  }
}

/// Launches the kernels that prepare one layer.
class Preparer {
 public:
  Preparer(const MoeConfig& config, const plan::PreparedLayout& layout, const PrepareKernels& kernels, char* prepared,
           void* stream)
      : c_(config), layout_(layout), kernels_(kernels), prepared_(prepared), stream_(stream) {}

  /// Expert number `e` of those held. `last`: static scales are complete with it.
  void expert(std::size_t e, const ExpertWeights& weights, bool last) const {
    routed_matrices(e, weights);
    static_scales(c_.recipe, e, weights, last, 0, num_local_experts(c_));
  }

  void shared(const ExpertWeights& weights) const {
    if (plan::shared_is_expert(c_)) return routed_matrices(layout_.experts - 1, weights);
    matrices(layout_.shared_form, layout_.shared_w13, layout_.shared_w2, weights, kernels_.shared_matrix);
    static_scales(tables::shared_recipe(c_), static_cast<std::size_t>(num_local_experts(c_)), weights, true, 1, 1);
  }

  /// A vector in its own order, zeros where it is empty.
  void vector(const VectorView& v, std::size_t size, std::size_t offset) const {
    prepare_vector(v, {}, false, size, prepared_ + offset, nullptr, kernels_.vector, stream_);
  }

  /// A matrix as FP32 [rows][cols], row by row.
  void rows(const MatrixView& m, std::size_t offset) const {
    for (std::int64_t r = 0; r < m.rows; ++r) {
      const char* row =
          static_cast<const char*>(m.data) + r * m.row_stride * static_cast<std::int64_t>(dtype_size(m.dtype));
      vector({row, m.dtype, m.cols, m.col_stride}, static_cast<std::size_t>(m.cols),
             offset + static_cast<std::size_t>(r * m.cols) * 4);
    }
  }

 private:
  void routed_matrices(std::size_t index, const ExpertWeights& weights) const {
    const plan::MatrixParts w13 = layout_.w13.share(index, layout_.experts),
                            w2 = layout_.w2.share(index, layout_.experts);
    matrices(layout_.form, w13, w2, weights, kernels_.matrix);
  }

  void matrices(const plan::WeightForm& form, const plan::MatrixParts& w13, const plan::MatrixParts& w2,
                const ExpertWeights& e, const PrepareKernel& kernel) const {
    const bool gated = is_gated(c_.activation.kind);
    prepare_matrix(form, w13, e.gate, gated ? e.up : MatrixView{}, kernel, prepared_, stream_);
    prepare_matrix(form, w2, e.down, {}, kernel, prepared_, stream_);
    prepare_bias(w13, e.gate_bias, e.up_bias, gated, kernels_.vector, prepared_, stream_);
    prepare_bias(w2, e.down_bias, {}, false, kernels_.vector, prepared_, stream_);
  }

  /// `set`: 0, the routed experts; 1, the shared ones, which lie behind them.
  void static_scales(const std::string& recipe, std::size_t index, const ExpertWeights& e, bool last, int set,
                     int count) const {
    if (layout_.expert_scales.bytes == 0) return;
    const bool takes = tables::takes_static_scales(tables::get_recipe(recipe));
    auto* scales = at<float>(prepared_, layout_.expert_scales);
    abi::StaticScalesParams p{};
    p.values[0] = takes ? e.input_scale : 0.0f;
    p.values[1] = takes ? e.down_input_scale : 0.0f;
    p.scales = set == 0 ? scales : scales + 2 * index;
    p.index = set == 0 ? static_cast<int>(index) : 0;
    p.count = count;
    p.common = last ? at<float>(prepared_, layout_.common_scales) + 2 * set : nullptr;
    kernels_.static_scales.kernel->launch({1}, kernels_.static_scales.threads, &p, stream_);
  }

  const MoeConfig& c_;
  const plan::PreparedLayout& layout_;
  const PrepareKernels& kernels_;
  char* prepared_;
  void* stream_;
};

/// An expert as its rank adds it: GEMM 2's bias is rank 0's.
ExpertWeights adding(const TensorParallel& tp, ExpertWeights expert) {
  if (tp.rank != 0) expert.down_bias = {};
  return expert;
}

void check_pointer(const char* name, const void* data, std::uintptr_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(data) % alignment == 0) return;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("fused_moe: {} is at {}, wanted a multiple of {} bytes", name, data, alignment));
}

}  // namespace

void prepare_matrix(const plan::WeightForm& form, const plan::MatrixParts& parts, const MatrixView& gate,
                    const MatrixView& up, const PrepareKernel& kernel, char* prepared, void* stream) {
  if (form.weights == abi::kWeights16) {
    prepare_numbers(parts, gate, up, kernel, prepared, stream);
  } else {
    prepare_codes(form, parts, gate, up, kernel, prepared, stream);
  }
}

void prepare_bias(const plan::MatrixParts& parts, const VectorView& gate, const VectorView& up, bool gated,
                  const PrepareKernel& kernel, char* prepared, void* stream) {
  prepare_vector(gate, up, gated, parts.bias.bytes / 4, prepared + parts.bias.at, at<int>(prepared, parts.biased),
                 kernel, stream);
}

// Stored as fp16, group scales hold what bf16 and fp16 ones need. What FP32 ones hold is not known here: they lie on
// the device.
void check_group_scales(const char* operation, const Int4Groups& int4, const std::string& name, const MatrixView& m) {
  if (m.quantization.codes != CodeFormat::kInt4 || m.quantization.scale_format != ScaleFormat::kF32) return;
  if (int4.f32_scales) return;
  throw Error(
      ErrorKind::kUnsupported,
      fmt::format("{}: {} has int4 scales of type f32, wanted bf16 or f16 (as convert_weights and Quantizer make "
                  "them), or a configuration with int4.f32_scales",
                  operation, name));
}

void prepare_expert_weights(const MoeConfig& c, const plan::PreparedLayout& layout, int expert,
                            const ExpertWeights& weights, const PrepareKernels& kernels, char* prepared, void* stream) {
  check_expert_scales(c, fmt::format("weights of expert {}", expert), weights);
  Preparer(c, layout, kernels, prepared, stream).expert(static_cast<std::size_t>(expert), adding(c.tp, weights), true);
}

void check_prepared_memory(const char* operation, const void* prepared) {
  if (prepared != nullptr && reinterpret_cast<std::uintptr_t>(prepared) % 256 == 0) return;
  throw Error(
      ErrorKind::kInvalidArgument,
      fmt::format("{}: prepared is at {}, wanted device memory at a multiple of 256 bytes", operation, prepared));
}

void prepare_weights(const MoeConfig& c, const plan::PreparedLayout& layout, const MoeWeights& w,
                     const PrepareKernels& kernels, char* prepared, void* stream) {
  for (std::size_t e = 0; e < w.experts.size(); ++e) {
    check_expert_scales(c, fmt::format("weights.experts[{}]", e), w.experts[e]);
  }
  check_expert_scales(c, "weights.shared", w.shared);
  for (const plan::Part& gap : layout.gaps) cuda::fill_async(prepared + gap.at, 0, gap.bytes, stream);
  const Preparer preparer(c, layout, kernels, prepared, stream);
  for (std::size_t e = 0; e < w.experts.size(); ++e) {
    preparer.expert(e, adding(c.tp, w.experts[e]), e + 1 == w.experts.size());
  }
  const auto experts = static_cast<std::size_t>(c.num_experts);
  if (c.router) preparer.rows(w.router, layout.router);
  preparer.vector(w.router_bias, experts, layout.router_bias);
  preparer.vector(w.selection_bias, experts, layout.selection_bias);
  if (c.routing.method == RoutingMethod::kHash) {
    cuda::copy_async(prepared + layout.token_experts, w.token_experts.data,
                     static_cast<std::size_t>(w.token_experts.num_elements()) * 4, stream);
  }
  if (!c.experts.slots.empty()) {
    cuda::upload_async(prepared + layout.expert_slots, c.experts.slots.data(), c.experts.slots.size() * 4, stream);
  }
  if (c.shared.intermediate > 0) preparer.shared(adding(c.tp, w.shared));
  if (c.shared.gated) preparer.vector(w.shared_gate, static_cast<std::size_t>(c.hidden), layout.shared_gate);
}

void check_alignment(const MoeRun& run) {
  if (!gives_codes(run)) check_pointer("x", run.x.data, 16);  // codes are read at any address
  check_pointer("out", run.out.data, 16);
}

}  // namespace moesaic::ops
