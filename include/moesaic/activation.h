// SPDX-License-Identifier: Apache-2.0
// The activation alone: what GEMM 1 gives -> h, element by element in FP32 with one rounding.
#pragma once

#include <memory>

#include "moesaic/module.h"
#include "moesaic/moe.h"
#include "moesaic/tensor.h"

#pragma GCC visibility push(default)
namespace moesaic {

/// Arguments of one run. Memory is the caller's and on the op's device; x and out do not overlap.
struct ActivationRun {
  TensorView x;    // bf16, f16 or f32: gated kinds [T, 2I], gate and up as the op's order says; others [T, I]
  TensorView out;  // [T, I] bf16, f16 or f32
};

/// An activation bound to a device; `run` is const and reentrant.
class ActivationOp {
 public:
  /// `order`: how the columns of x hold gate and up; read by gated kinds only. Loads a kernel on a GPU. Throws Error as
  /// FusedMoe::create.
  static ActivationOp create(const Activation& activation, Device device, const ModuleOptions& modules = {},
                             GateUpOrder order = GateUpOrder::kGateFirst);

  ActivationOp(ActivationOp&&) noexcept;
  ActivationOp& operator=(ActivationOp&&) noexcept;
  ~ActivationOp();

  /// Enqueues; on a GPU one launch, capturable in a graph. Throws Error(kInvalidArgument) before anything is enqueued.
  void run(const ActivationRun& run, void* stream = nullptr) const;

 private:
  struct Impl;
  explicit ActivationOp(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace moesaic
#pragma GCC visibility pop
