// SPDX-License-Identifier: Apache-2.0
// The activation as an op of its own on the CPU: rows in parallel, pieces of a row through the layer's own kernels.
#include <algorithm>
#include <cstdint>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_activation.h"
#include "backend_cpu/fast_kernels.h"
#include "backend_cpu/fast_read.h"
#include "backend_cpu/fast_threads.h"

namespace moesaic::cpu {
namespace {

constexpr int kPiece = 256;  // elements: buffers of three stay in the first cache

Io io_of(DType dtype) { return dtype == DType::kBF16 ? Io::kBf16 : Io::kFp16; }

// `count` elements from `index`, `step` apart, as fp32.
void load(const TensorView& x, std::int64_t index, int step, int count, float* to) {
  for (int i = 0; i < count; ++i) to[i] = read_float(x.data, x.dtype, index + static_cast<std::int64_t>(i) * step);
}

}  // namespace

void fast_activate(const Activation& activation, const GateUpColumns& columns, const ActivationRun& run) {
  const FastKernels& kernels = fast_kernels();
  const FastActivation formula = fast_activation(activation);
  const bool gated = is_gated(activation.kind);
  const std::int64_t rows = run.out.shape[0], cols = run.out.shape[1], stride = run.x.shape[1];
  const std::int64_t pieces = (cols + kPiece - 1) / kPiece;
  parallel_for(rows * pieces, [&](std::int64_t task, int) {
    const std::int64_t row = task / pieces, col = task % pieces * kPiece;
    const int count = static_cast<int>(std::min<std::int64_t>(kPiece, cols - col));
    float g[kPiece] = {}, u[kPiece] = {}, h[kPiece];
    const std::int64_t source = row * stride + col * columns.step;
    load(run.x, source + columns.gate, columns.step, count, g);
    if (gated) load(run.x, source + columns.up, columns.step, count, u);
    if (!kernels.activate(formula, g, u, (count + 15) / 16 * 16, h)) activate_scalar(formula, g, u, count, h);
    const std::int64_t target = row * cols + col;
    if (run.out.dtype == DType::kF32) {
      std::copy_n(h, count, static_cast<float*>(run.out.data) + target);
    } else {
      kernels.narrow(h, count, io_of(run.out.dtype), static_cast<std::uint16_t*>(run.out.data) + target);
    }
  });
}

}  // namespace moesaic::cpu
