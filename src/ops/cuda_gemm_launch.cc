// SPDX-License-Identifier: Apache-2.0
// Weights and grids of grouped GEMM kernels.
#include "ops/cuda_gemm_launch.h"

#include <algorithm>
#include <bit>

#include "backend_cuda/tensor_map.h"

namespace moesaic::ops {
namespace {

/// A part of prepared weights, nullptr where the recipe has none.
template <typename T>
const T* part_of(const void* prepared, const plan::Part& part) {
  if (part.bytes == 0) return nullptr;
  return reinterpret_cast<const T*>(static_cast<const char*>(prepared) + part.at);
}

}  // namespace

void set_weights(const plan::WeightForm& form, const plan::MatrixParts& parts, const void* prepared, int k,
                 abi::GemmParams& p) {
  p.weights = part_of<void>(prepared, parts.weights);
  p.weight_scales = part_of<void>(prepared, parts.scales);
  p.zeros = part_of<unsigned char>(prepared, parts.zeros);
  p.multipliers = part_of<float>(prepared, parts.multipliers);
  p.bias = part_of<float>(prepared, parts.bias);
  p.biased = part_of<int>(prepared, parts.biased);
  p.block_scale = form.block_scale;
  p.group_shift = form.group > 0 ? std::countr_zero(static_cast<unsigned>(form.group)) : 0;
  p.units = abi::div_up(k, abi::unit_k(form.weights));
}

void launch_gemm(cuda::LaunchChain& chain, const cuda::Kernel& kernel, const abi::KernelConfig& config,
                 const abi::GemmParams& p, TileList list, int sm_count) {
  const int tiles = p.tiles != nullptr ? list.max_tiles : abi::div_up(p.rows, config.tile_tokens);
  const int columns = abi::div_up(p.row_blocks, config.tile_rows / abi::kBlockRows);
  unsigned blocks = static_cast<unsigned>(tiles) * static_cast<unsigned>(columns);
  if (!abi::is_persistent(config)) return chain.launch(kernel, {blocks}, abi::threads(config), p);
  const auto resident = static_cast<unsigned>(sm_count * config.min_blocks / config.cluster);  // clusters
  blocks = std::min(blocks, resident) * static_cast<unsigned>(config.cluster);
  abi::TensorGemmParams with_map{p, {}};
  // Those of one expert, so that its weights are read once; of more than eight, activations leave too little of L2.
  const int expert_rows = p.tiles != nullptr ? list.expert_rows : p.rows;
  with_map.gemm.raster_tiles = std::clamp(abi::div_up(expert_rows, config.tile_tokens), 2, 8);
  if (p.row_token == nullptr) {
    with_map.activations = cuda::tensor_map(p.activations, p.activation_rows, p.k, p.activation_stride);
  }
  chain.launch(kernel, {blocks}, abi::threads(config), with_map, config.cluster);
}

}  // namespace moesaic::ops
