// SPDX-License-Identifier: Apache-2.0
// Launches the kernels that bring weights into their prepared form.
#include "ops/cuda_prepare.h"

#include <fmt/format.h>

#include "backend_cuda/device_memory.h"
#include "kernels/abi/params.h"
#include "ops/cuda_serve.h"

namespace moesaic::ops {
namespace {

// One thread for each of `pieces`.
void launch_for(const PrepareKernel& kernel, long long pieces, const void* params, void* stream) {
  const auto blocks = static_cast<unsigned>((pieces + kernel.threads - 1) / kernel.threads);
  kernel.kernel.launch({blocks}, kernel.threads, params, stream);
}

/// Launches the two prepare kernels of one layer.
class Preparer {
 public:
  Preparer(const PrepareKernel& matrix, const PrepareKernel& vector, char* prepared, void* stream)
      : matrix_(matrix), vector_(vector), prepared_(prepared), stream_(stream) {}

  void matrix(const MatrixView& gate, const MatrixView& up, std::size_t offset) const {
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
    p.out = prepared_ + offset;
    const long long row_blocks = abi::gate_up_blocks(p.rows, p.up != nullptr);
    const long long pieces = row_blocks * abi::div_up(p.k, abi::kBlockK) * 64;
    launch_for(matrix_, pieces, &p, stream_);
  }

  /// Bias of GEMM rows in prepared order; `up` empty and `interleave` false: one vector in its own order. An empty
  /// `gate` gives zeros.
  void vector(const VectorView& gate, const VectorView& up, bool interleave, std::size_t padded,
              std::size_t offset) const {
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
    p.out = reinterpret_cast<float*>(prepared_ + offset);
    launch_for(vector_, p.padded, &p, stream_);
  }

  void expert(const ExpertWeights& e, bool gated, std::size_t w13, std::size_t w2, std::size_t b13,
              std::size_t b13_floats, std::size_t b2, std::size_t b2_floats) const {
    matrix(e.gate, gated ? e.up : MatrixView{}, w13);
    matrix(e.down, {}, w2);
    vector(e.gate_bias, e.up_bias, gated, b13_floats, b13);
    vector(e.down_bias, {}, false, b2_floats, b2);
  }

  /// A matrix as FP32 [rows][cols], row by row.
  void rows(const MatrixView& m, std::size_t offset) const {
    for (std::int64_t r = 0; r < m.rows; ++r) {
      const char* row =
          static_cast<const char*>(m.data) + r * m.row_stride * static_cast<std::int64_t>(dtype_size(m.dtype));
      vector({row, m.dtype, m.cols, m.col_stride}, {}, false, static_cast<std::size_t>(m.cols),
             offset + static_cast<std::size_t>(r * m.cols) * 4);
    }
  }

 private:
  const PrepareKernel& matrix_;
  const PrepareKernel& vector_;
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

/// Expert number e, in its place.
void prepare_slot(const Preparer& preparer, const plan::PreparedLayout& layout, std::size_t e,
                  const ExpertWeights& weights, bool gated) {
  preparer.expert(weights, gated, layout.w13 + e * layout.w13_expert_bytes, layout.w2 + e * layout.w2_expert_bytes,
                  layout.b13 + e * layout.b13_expert_floats * 4, layout.b13_expert_floats,
                  layout.b2 + e * layout.b2_expert_floats * 4, layout.b2_expert_floats);
}

}  // namespace

void prepare_expert_weights(const MoeConfig& c, const plan::PreparedLayout& layout, int expert,
                            const ExpertWeights& weights, const PrepareKernel& matrix, const PrepareKernel& vector,
                            char* prepared, void* stream) {
  prepare_slot(Preparer(matrix, vector, prepared, stream), layout, static_cast<std::size_t>(expert),
               adding(c.tp, weights), is_gated(c.activation.kind));
}

void check_prepared_memory(const char* operation, const void* prepared) {
  if (prepared != nullptr && reinterpret_cast<std::uintptr_t>(prepared) % 256 == 0) return;
  throw Error(
      ErrorKind::kInvalidArgument,
      fmt::format("{}: prepared is at {}, wanted device memory at a multiple of 256 bytes", operation, prepared));
}

void prepare_weights(const MoeConfig& c, const plan::PreparedLayout& layout, const MoeWeights& w,
                     const PrepareKernel& matrix, const PrepareKernel& vector, char* prepared, void* stream) {
  const bool gated = is_gated(c.activation.kind);
  const Preparer preparer(matrix, vector, prepared, stream);
  for (std::size_t e = 0; e < w.experts.size(); ++e) {
    prepare_slot(preparer, layout, e, adding(c.tp, w.experts[e]), gated);
  }
  const auto experts = static_cast<std::size_t>(c.num_experts);
  if (c.router) preparer.rows(w.router, layout.router);
  preparer.vector(w.router_bias, {}, false, experts, layout.router_bias);
  preparer.vector(w.selection_bias, {}, false, experts, layout.selection_bias);
  if (c.routing.method == RoutingMethod::kHash) {
    cuda::copy_async(prepared + layout.token_experts, w.token_experts.data,
                     static_cast<std::size_t>(w.token_experts.num_elements()) * 4, stream);
  }
  if (!c.experts.slots.empty()) {
    cuda::upload_async(prepared + layout.expert_slots, c.experts.slots.data(), c.experts.slots.size() * 4, stream);
  }
  if (c.shared.intermediate > 0) {
    const auto floats = static_cast<std::size_t>(abi::gate_up_blocks(c.shared.intermediate, gated)) * abi::kBlockRows;
    preparer.expert(adding(c.tp, w.shared), gated, layout.shared_w13, layout.shared_w2, layout.shared_b13, floats,
                    layout.shared_b2, layout.b2_expert_floats);
  }
  if (c.shared.gated) preparer.vector(w.shared_gate, {}, false, static_cast<std::size_t>(c.hidden), layout.shared_gate);
}

void check_alignment(const MoeRun& run) {
  check_pointer("x", run.x.data, 16);
  check_pointer("out", run.out.data, 16);
}

}  // namespace moesaic::ops
