// SPDX-License-Identifier: Apache-2.0
// Weights on the device -> the prepared buffer, and what the kernels ask of pointers.
#pragma once

#include <string>

#include "backend_cuda/kernel.h"
#include "moesaic/moe.h"
#include "plan/prepared_layout.h"

namespace moesaic::ops {

/// A loaded kernel with the block size of its configuration.
struct PrepareKernel {
  const cuda::Kernel* kernel = nullptr;
  int threads = 0;
};
/// Those of plan::PreparePlan.
struct PrepareKernels {
  PrepareKernel matrix, vector, shared_matrix, static_scales;
};

/// Enqueues the preparation of one matrix, or of gate and up, into its parts. The device must be current.
void prepare_matrix(const plan::WeightForm& form, const plan::MatrixParts& parts, const MatrixView& gate,
                    const MatrixView& up, const PrepareKernel& kernel, char* prepared, void* stream);
/// The same of its biases: FP32 in the order of prepared rows, zeros where `gate` is empty.
void prepare_bias(const plan::MatrixParts& parts, const VectorView& gate, const VectorView& up, bool gated,
                  const PrepareKernel& kernel, char* prepared, void* stream);

/// Throws Error(kUnsupported) on int4 scales of FP32 numbers unless they are kept; it begins with `operation`.
void check_group_scales(const char* operation, const Int4Groups& int4, const std::string& name,
                        const MatrixView& matrix);

/// Enqueues the preparation of all weights. The device must be current.
void prepare_weights(const MoeConfig& config, const plan::PreparedLayout& layout, const MoeWeights& weights,
                     const PrepareKernels& kernels, char* prepared, void* stream);

/// Enqueues the preparation of expert number `expert` alone. The device must be current.
void prepare_expert_weights(const MoeConfig& config, const plan::PreparedLayout& layout, int expert,
                            const ExpertWeights& weights, const PrepareKernels& kernels, char* prepared, void* stream);

/// Throws Error(kInvalidArgument) on prepared memory that is null or not aligned.
void check_prepared_memory(const char* operation, const void* prepared);

/// Throws Error(kInvalidArgument) on pointers that are not aligned as the kernels read them.
void check_alignment(const MoeRun& run);

}  // namespace moesaic::ops
